"""Documents a second, strings in and probabilities out, against the same network padded.

    KERAS_BACKEND=jax python -m benchmarks.throughput --output results.csv

Seconds of one machine mean little on another, and on a busy one little at all, so the ways to do
the work take turns within a run, and what counts is their ratio. Results go to standard output,
progress to standard error.
"""

from __future__ import annotations

import csv
import functools
import importlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import keras_agnews
from keras_agnews import data
from keras_agnews.errors import DownloadError, InputError, KerasAgnewsError, MissingDependencyError

if TYPE_CHECKING:
    from keras_agnews import TextClassifier

# The AG News test split: 7,600 texts, their words log-normal.
TEXTS, MEAN_WORDS, SIGMA = 7_600, 38, 0.26
# The padded ways are many times slower, so they get fewer texts: what is compared is the rate.
PADDED_TEXTS = 512
# What a processor's cache likes, and what a GPU does: ours must beat the better of them.
PADDED_ROWS = (16, 256)
LATENCY_TEXTS = 50


@dataclass(frozen=True)
class Work:
    """One way to do the work, and how much of it a pass does.

    Attributes:
        method: what it is called.
        run: a pass; returns probabilities, float32 `(documents, classes)`, if it has a model.
        documents: texts.
        tokens: tokens of these texts.
        positions: what the model computes for them, padding included; 0 without a model.
        shapes: distinct shapes of the batches, each of which a backend compiles once.
    """

    method: str
    run: Callable[[], Any]
    documents: int
    tokens: int
    positions: int = 0
    shapes: int = 0


@dataclass
class Timing:
    """What the passes of one `Work` took.

    Attributes:
        first: seconds of the first pass, compilation included.
        peak_bytes: the most memory that the process had held at its end, if that is known.
        output: what it returned.
        passes: seconds of the others.
    """

    first: float
    peak_bytes: int | None
    output: Any
    passes: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """A line of the results; what does not apply to it is `None`.

    Attributes:
        method: what the `Work` is called.
        documents: texts a pass.
        passes: how many were timed, after a first one.
        docs_per_second: of the median pass.
        slowest: documents a second of the slowest pass.
        fastest: documents a second of the fastest pass.
        tokens_per_second: of the median pass, padding not counted.
        padding: share of the computed positions that hold no token.
        shapes: distinct shapes of the batches.
        ratio: documents a second of strings to probabilities, divided by those of this row.
        difference: the largest distance between a probability here and there.
        latency_ms: the median time of `predict` on one text.
        first_pass_s: seconds of the first pass, compilation included.
        peak_mb: the most memory that the process had held at its end.
    """

    method: str
    documents: int
    passes: int
    docs_per_second: float
    slowest: float
    fastest: float
    tokens_per_second: float
    padding: float | None
    shapes: int | None
    ratio: float | None
    difference: float | None
    latency_ms: float | None
    first_pass_s: float
    peak_mb: float | None


@dataclass(frozen=True)
class Environment:
    """What the rows of a run have in common.

    Attributes:
        entry: name of the model.
        parameters: its size.
        backend: "jax", "tensorflow" or "torch".
        device: where the weights are.
        cpus: processors that this process may use.
        threads: that the backend is set to use, 0 where it decides by itself.
        versions: of Python and of what computes.
        texts: what was read.
        date: of the end of the run, UTC, ISO 8601.
    """

    entry: str
    parameters: int
    backend: str
    device: str
    cpus: int
    threads: int
    versions: str
    texts: str
    date: str


# What is read.


def read_texts(path: str | None, vocabulary: Sequence[str]) -> tuple[list[str], str]:
    """The AG News test texts, and a word on what they are; generated ones if there are none.

    Only what cannot be had is replaced: a file that cannot be read is an error.

    Args:
        path: as `keras_agnews.data.load_agnews` takes it.
        vocabulary: of which texts are generated.
    """
    try:
        dataset = data.load_agnews("test", path)
    except (DownloadError, MissingDependencyError) as error:
        click.echo(f"AG News is not to be had: {error}", err=True)
        return generate_texts(vocabulary), "generated, as long as those of AG News"
    if not dataset.texts:
        raise InputError(f"{dataset.source} holds no text to measure on")
    return dataset.texts, f"AG News test, {dataset.note}"


def generate_texts(vocabulary: Sequence[str], count: int = TEXTS, seed: int = 0) -> list[str]:
    """Texts of words of a vocabulary, as long as those of AG News.

    Args:
        vocabulary: sorted by frequency; its tokens that are not letters alone are left out.
        count: how many texts.
        seed: of the random numbers.
    """
    words = np.array([token for token in vocabulary if token.isalpha()])
    if not len(words):
        raise InputError("the vocabulary holds no word to generate texts from: pass --data")
    rng = np.random.default_rng(seed)
    lengths = generate_lengths(count, rng)
    frequencies = 1 / np.arange(1, len(words) + 1)  # Zipf's law
    drawn = rng.choice(words, lengths.sum(), p=frequencies / frequencies.sum())
    return [" ".join(part) for part in np.split(drawn, np.cumsum(lengths)[:-1])]


def generate_lengths(count: int, rng: np.random.Generator) -> np.ndarray:
    """Words of `count` texts, int64, distributed as those of AG News."""
    lengths = rng.lognormal(np.log(MEAN_WORDS) - SIGMA**2 / 2, SIGMA, count)
    return np.maximum(1, lengths.round().astype(np.int64))


# What is measured.


def ways(clf: TextClassifier, texts: Sequence[str], sample: Sequence[str]) -> list[Work]:
    """Strings to probabilities, and then what it is compared with.

    Args:
        clf: the model.
        texts: what is predicted, and tokenized.
        sample: what the same network gets as token ids, padded to its full length.
    """
    from keras_agnews import batching
    from keras_agnews.classifier import WINDOW, softmax
    from keras_agnews.inference import compile_forward

    lengths = clf.tokenizer.batch(texts).lengths
    tokens = int(lengths.sum())
    batches = [
        batch
        for window in batching.windows(len(texts), WINDOW)
        for batch in batching.plan(lengths[window], clf.max_length)
    ]
    ids = clf.tokenizer.batch(sample)
    matrix = batching.pad(ids, np.arange(len(sample)), len(sample), clf.max_length)
    inputs = {name: np.zeros_like(matrix) for name in clf.model.input}
    inputs["input_word_ids"] = matrix
    forward = compile_forward(clf.model)

    def keras_predict(rows: int) -> np.ndarray:
        logits = clf.model.predict(inputs, batch_size=rows, verbose=0)
        return softmax(logits / clf.temperature)

    def our_forward(rows: int) -> np.ndarray:
        windows = batching.windows(len(sample), rows)
        parts = [forward({name: inputs[name][window] for name in inputs}) for window in windows]
        return softmax(np.concatenate(parts) / clf.temperature)

    padded = [
        Work(
            f"padded to {clf.max_length}, {name}, by {rows}",
            functools.partial(run, rows),
            documents=len(sample),
            tokens=int(ids.lengths.sum()),
            positions=matrix.size,
            shapes=len(
                {window.stop - window.start for window in batching.windows(len(sample), rows)}
            ),
        )
        for name, run in (("Keras's predict", keras_predict), ("our forward", our_forward))
        for rows in PADDED_ROWS
    ]
    return [
        Work(
            "strings to probabilities",
            lambda: clf.predict(texts),
            documents=len(texts),
            tokens=tokens,
            positions=sum(batch.positions for batch in batches),
            shapes=len({(batch.rows, batch.length) for batch in batches}),
        ),
        *padded,
        Work("tokenization alone", lambda: clf.tokenizer.batch(texts), len(texts), tokens),
    ]


def measure(works: Sequence[Work], repeats: int) -> list[Timing]:
    """Time each work `repeats` times, in turns, after a first pass; a bar on a terminal."""
    console = Console(stderr=True)
    turns = [work for _ in range(1 + repeats) for work in works]
    timings: dict[str, Timing] = {}
    for work in track(
        turns, "Measuring", console=console, transient=True, disable=not console.is_terminal
    ):
        start = time.perf_counter()
        output = work.run()
        seconds = time.perf_counter() - start
        if work.method in timings:
            timings[work.method].passes.append(seconds)
        else:
            timings[work.method] = Timing(seconds, peak_bytes(), output)
    return list(timings.values())


def latency(clf: TextClassifier, texts: Iterable[str]) -> float:
    """The median time of `predict` on one text alone, in seconds, its shape compiled before."""

    def seconds(text: str) -> float:
        clf.predict(text)
        start = time.perf_counter()
        clf.predict(text)
        return time.perf_counter() - start

    return statistics.median(map(seconds, texts))


def peak_bytes() -> int | None:
    """The most memory that this process has held, in bytes; `None` on Windows."""
    try:
        import resource
    except ImportError:
        return None
    kilobyte = 1 if sys.platform == "darwin" else 1_024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte


def benchmark(clf: TextClassifier, texts: Sequence[str], repeats: int) -> list[Row]:
    """Measure a model on texts, of which there must be one at least.

    Returns: the rows, strings to probabilities first.
    """
    chosen = np.random.default_rng(0).permutation(len(texts))[:PADDED_TEXTS]
    sample = [texts[i] for i in chosen]
    works = ways(clf, texts, sample)
    timings = measure(works, repeats)
    one = latency(clf, sample[:LATENCY_TEXTS])
    ours = statistics.median(timings[0].passes) / works[0].documents
    rows = []
    for work, timing in zip(works, timings, strict=True):
        middle = statistics.median(timing.passes)
        compared = work.positions and work is not works[0]
        rows.append(
            Row(
                method=work.method,
                documents=work.documents,
                passes=repeats,
                docs_per_second=work.documents / middle,
                slowest=work.documents / max(timing.passes),
                fastest=work.documents / min(timing.passes),
                tokens_per_second=work.tokens / middle,
                padding=1 - work.tokens / work.positions if work.positions else None,
                shapes=work.shapes or None,
                ratio=middle / work.documents / ours if compared else None,
                difference=float(np.abs(timing.output - timings[0].output[chosen]).max())
                if compared
                else None,
                latency_ms=1e3 * one if work is works[0] else None,
                first_pass_s=timing.first,
                peak_mb=timing.peak_bytes and timing.peak_bytes / 1e6,
            )
        )
    return rows


# Where it is measured.


def environment(clf: TextClassifier, texts: str) -> Environment:
    """What this process computes on and with; `texts` says what it read."""
    import keras

    backend = keras.backend.backend()
    versions = {"python": platform.python_version(), "keras_agnews": keras_agnews.__version__}
    for name in ("keras", backend, "numpy"):
        versions[name] = importlib.import_module(name).__version__
    device, threads = _PLACES[backend](clf.model.weights[0].value)
    return Environment(
        entry=clf.description.name,
        parameters=clf.description.parameters,
        backend=backend,
        device=device or f"CPU, {_processor()}",
        cpus=_cpus(),
        threads=threads,
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        texts=texts,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _jax_place(value: Any) -> tuple[str | None, int]:
    (device,) = value.devices()
    kind = device.platform.upper()
    return None if kind == "CPU" else f"{kind}, {device.device_kind}", 0


def _tensorflow_place(value: Any) -> tuple[str | None, int]:
    import tensorflow as tf

    threads = tf.config.threading.get_intra_op_parallelism_threads()
    spec = tf.DeviceSpec.from_string(value.device)
    if spec.device_type == "CPU":
        return None, threads
    device = tf.config.list_physical_devices(spec.device_type)[spec.device_index]
    details = tf.config.experimental.get_device_details(device)
    return f"{spec.device_type}, {details.get('device_name', device.name)}", threads


def _torch_place(value: Any) -> tuple[str | None, int]:
    import torch

    kind = value.device.type
    name = f"GPU, {torch.cuda.get_device_name(value.device)}" if kind == "cuda" else kind.upper()
    return None if kind == "cpu" else name, torch.get_num_threads()


# From a weight: the device that it is on, `None` for the processor, and the number of threads.
_PLACES: dict[str, Callable[[Any], tuple[str | None, int]]] = {
    "jax": _jax_place,
    "tensorflow": _tensorflow_place,
    "torch": _torch_place,
}


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


# What a person, or a program, reads.


def show(place: Environment, rows: Sequence[Row]) -> None:
    """Print the results to standard output."""
    # Wider than most terminals, since a table that is cut says less than one that is wrapped.
    console = Console(highlight=False, markup=False, emoji=False, width=200)
    console.print(
        f"{place.entry}, {place.parameters:,} parameters\n"
        f"backend   {place.backend}\n"
        f"device    {place.device}\n"
        f"cpus      {place.cpus}; threads {place.threads or 'as the backend decides'}\n"
        f"versions  {place.versions}\n"
        f"texts     {place.texts}\n"
    )
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("documents a second", no_wrap=True)
    for title in ("texts", "median", "min", "max", "tokens/s", "padding", "shapes", "ours is"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        rates = (row.docs_per_second, row.slowest, row.fastest, row.tokens_per_second)
        table.add_row(
            row.method,
            *(f"{value:,.0f}" for value in (row.documents, *rates)),
            "" if row.padding is None else f"{row.padding:.1%}",
            "" if row.shapes is None else str(row.shapes),
            "" if row.ratio is None else f"{row.ratio:.1f} x",
        )
    console.print(table)
    ours = rows[0]
    memory = "unknown" if ours.peak_mb is None else f"{ours.peak_mb:,.0f} MB"
    least = min(row.ratio for row in rows if row.ratio is not None)
    apart = max(row.difference for row in rows if row.difference is not None)
    console.print(
        f"\nratio          {least:.1f} to the best of the padded, which get token ids\n"
        f"probabilities  at most {apart:.1e} apart\n"
        f"one text       {ours.latency_ms:.2f} ms alone, in the median\n"
        f"first pass     {ours.first_pass_s:.1f} s, compilation included\n"
        f"peak memory    {memory} at its end"
    )


def write(output: Path, place: Environment, rows: Sequence[Row]) -> None:
    """Write the rows as CSV, each with its environment."""
    with output.open("w", newline="", encoding="utf-8") as stream:
        names = [part.name for kind in (Row, Environment) for part in fields(kind)]
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(asdict(row) | asdict(place) for row in rows)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", default="tiny-transformer", show_default=True, metavar="NAME_OR_PATH")
@click.option("--data", "path", metavar="PATH", help="AG News: a directory, CSV or parquet file.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="A CSV file for the rows; it is replaced.",
)
def main(model: str, path: str | None, repeats: int, output: Path | None) -> None:
    """Documents a second on the backend (KERAS_BACKEND) and device at hand.

    Without --data, AG News is found as the package finds it (HF_HUB_OFFLINE=1 asks no network);
    where it is not to be had, texts of the same lengths are generated.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        clf = keras_agnews.load(model)
        texts, origin = read_texts(path, clf.tokenizer.vocabulary)
        rows = benchmark(clf, texts, repeats)
        place = environment(clf, origin)
        if output is not None:
            write(output, place, rows)
    except (KerasAgnewsError, OSError) as error:
        raise click.ClickException(str(error)) from error
    show(place, rows)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.throughput")
