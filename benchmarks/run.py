"""Measure the zoo and its peers, a process for every cell: `python -m benchmarks.run`.

Seconds of one machine mean little on another, and on a busy one little at all. So competitors,
each a process of its own, take turns over the same work, and what counts is their ratio. What
fails, takes too long or is not installed is a row that says so. `--help` lists the options.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks import cells, place, rows
from benchmarks.cells import CLASSIC, OURS, Cell
from benchmarks.jobs import Job
from benchmarks.options import entry_paths, names_of
from benchmarks.peers import PEERS
from benchmarks.prepare import DRAWN
from benchmarks.processes import Child, ChildError
from benchmarks.rows import Row
from benchmarks.texts import Texts, read_texts
from keras_agnews import bundle, registry
from keras_agnews.device import cpus, gpu_name
from keras_agnews.errors import KerasAgnewsError

WORKER = (sys.executable, "-m", "benchmarks.worker")
PREPARE = (sys.executable, "-m", "benchmarks.prepare")
# Seconds: of a cell of token ids to logits in all; of the others, to get ready and for each turn.
LIMITS = (60.0, 300.0, 180.0)
GPU_FACTOR = 5  # there, it is the compilation that takes its time
SETTLE = 0.3  # seconds before a turn, in which threads that wait actively give up
ROUNDS = {"strings": 3, "model": 3, "start": 1, "training": 3}  # after a first turn


@dataclass
class Entry:
    """What a run knows of an entry.

    Attributes:
        directory: what `prepare` has filled.
        weights: a word on them.
        failure: why nothing of it can be measured.
    """

    directory: Path
    weights: str = ""
    failure: ChildError | None = None


@dataclass
class Runner:
    """A run: what is common to its cells.

    Attributes:
        output: where the CSV files are.
        scratch: for the entries, the answers and what the processes write to standard error.
        data: AG News.
        weights: from entry to what `keras_agnews.load` takes.
        rounds: timed turns by work.
        quick: fewer texts.
        gpu: whether there is one.
        step: called after each answer of a process.
        worker: the command of a cell's process.
        limits: of time, as `LIMITS`.
        settle: seconds between the turns of different processes.
        entries: what `prepare` knows of them.
    """

    output: Path
    scratch: Path
    data: str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    rounds: Mapping[str, int] = field(default_factory=lambda: ROUNDS)
    quick: bool = False
    gpu: bool = False
    step: Callable[[int], None] = lambda count: None
    worker: Sequence[str] = WORKER
    limits: tuple[float, float, float] = LIMITS
    settle: float = SETTLE
    entries: dict[str, Entry] = field(default_factory=dict)

    def prepare(self, wanted: Sequence[Cell]) -> None:
        """Write each entry's weights and texts for the processes to come."""
        for name in dict.fromkeys(cell.entry for cell in wanted):
            here = [cell for cell in wanted if cell.entry == name]
            entry = self.entries[name] = Entry(self.scratch / name)
            entry.directory.mkdir(parents=True, exist_ok=True)
            try:
                if name == CLASSIC:
                    read_texts(self.data, ["word"]).write(entry.directory)
                    continue
                self._write_texts(name, entry, here)
                self._write_weights(name, entry, here)
            except ChildError as error:
                entry.failure = error

    def _write_weights(self, name: str, entry: Entry, here: Sequence[Cell]) -> None:
        forms = {PEERS[cell.competitor].form for cell in here if cell.competitor in PEERS}
        source = self.weights.get(name)
        if source is not None and Path(source).exists():
            source = os.path.abspath(source)
        options = {
            "entry": name,
            "weights": source,
            "directory": str(entry.directory),
            "forms": sorted(forms - {""}),
        }
        backend = next((cell.backend for cell in here if cell.competitor == OURS), None)
        child = Child(PREPARE, _environment(backend, self.gpu), entry.directory / "prepare.log")
        try:
            entry.weights = child.ask(json.dumps(options), self.limits[1])["weights"]
        finally:
            child.close()

    def _write_texts(self, name: str, entry: Entry, here: Sequence[Cell]) -> None:
        directory = registry.find(name)
        assert directory is not None
        tokenizer = bundle.read_tokenizer(directory, bundle.read(directory))
        read_texts(self.data, tokenizer.vocabulary).write(entry.directory)
        learners = [cell for cell in here if cell.work == "training"]
        if not learners:
            return
        texts = read_texts(self.data, tokenizer.vocabulary, "train")
        if texts.labels is None:
            drawn = np.random.default_rng(0).integers(0, 4, len(texts.texts))
            texts = dataclasses.replace(texts, labels=drawn.tolist())
        count = max(cells.text_count(cell, self.quick, self.gpu) for cell in learners)
        lengths, size = tokenizer.batch(texts.texts).lengths, cells.TRAINING_BATCH
        texts.batches(lengths, size, count // size).write(entry.directory, "train")

    def run(self, group: Sequence[Cell]) -> list[Row]:
        """Let the cells of a group take turns; a row for each."""
        work = group[0].work
        rounds = self.rounds[work]
        answers: dict[Cell, list[dict[str, Any]]] = {cell: [] for cell in group}
        facts: dict[Cell, dict[str, Any]] = {}
        failures: dict[Cell, ChildError] = {}
        with contextlib.ExitStack() as stack:
            children: dict[Cell, Child] = {}

            def attempt(cell: Cell, line: str, limit: float) -> dict[str, Any] | None:
                """An answer, or `None` and the end of that process."""
                try:
                    return children[cell].ask(line, limit)
                except ChildError as error:
                    failures[cell] = error
                    children.pop(cell).close()
                    return None

            end = time.monotonic() + self._limit(0)

            def start(cell: Cell) -> None:
                entry = self.entries[cell.entry]
                if entry.failure is not None:
                    failures[cell] = entry.failure
                    return
                log = entry.directory / f"{cell.name}.log"
                children[cell] = Child(self.worker, _environment(cell.backend, self.gpu), log)
                stack.callback(children[cell].close)
                limit = end - time.monotonic() if work == "model" else self._limit(1)
                attempt(cell, self._job(cell).to_json(), limit)
                # The first turn at once, so that what it compiles disturbs nobody's timing.
                if cell in children:
                    limit = end - time.monotonic() if work == "model" else self._limit(1)
                    if (answer := attempt(cell, "turn", limit)) is not None:
                        answers[cell].append(answer)
                self.step(1)

            # Of many processors, several processes get ready beside each other; what is timed of a
            # start is just that.
            pool = ThreadPoolExecutor(1 if work == "start" else max(1, cpus() // 2))
            try:
                list(pool.map(start, group))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
            children = {cell: children[cell] for cell in group if cell in children}
            for _ in range(rounds):
                for cell in list(children):
                    time.sleep(self.settle if len(children) > 1 else 0)
                    limit = end - time.monotonic() if work == "model" else self._limit(2)
                    if (answer := attempt(cell, "turn", limit)) is not None:
                        answers[cell].append(answer)
                    self.step(1)
            for cell in list(children):
                if (answer := attempt(cell, "end", self._limit(2))) is not None:
                    facts[cell] = answer
        # With float32, where there is one: so the agreement tells what less precision costs.
        ours = [cell for cell in group if cell in facts and cell.competitor == OURS]
        reference = min(ours, key=lambda cell: cell.precision != "float32", default=None)
        return [
            self._row(cell, answers[cell], facts.get(cell), failures.get(cell), reference)
            for cell in group
        ]

    def _limit(self, which: int) -> float:
        return self.limits[which] * (GPU_FACTOR if self.gpu else 1)

    def _job(self, cell: Cell) -> Job:
        entry = self.entries[cell.entry]
        named = entry.weights not in ("", DRAWN) and cell.entry not in self.weights
        return Job(
            cell=cell,
            directory=str(entry.directory),
            data=self.data,
            texts=cells.text_count(cell, self.quick, self.gpu),
            gpu=self.gpu,
            scores=str(self._scores_file(cell)) if cell.work == "strings" else "",
            source=cell.entry if named else "",
        )

    def _scores_file(self, cell: Cell) -> Path:
        return self.entries[cell.entry].directory / f"{cell.name}.npy"

    def _row(
        self,
        cell: Cell,
        turns: Sequence[dict[str, Any]],
        facts: dict[str, Any] | None,
        failure: ChildError | None,
        reference: Cell | None,
    ) -> Row:
        entry = self.entries[cell.entry]
        values: dict[str, Any] = dataclasses.asdict(cell) | {
            "status": "ok",
            "weights": entry.weights,
            "device": place.device(self.gpu),
            "cpus": cpus(),
            "commit": place.commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if cell.entry != CLASSIC:
            values["parameters"] = cells.describe(cell.entry).parameters
        if facts is None:
            assert failure is not None
            return Row(**values | {"status": failure.status, "note": failure.note})
        positions = facts.pop("positions", 0)
        peak = facts.pop("peak_flops", None)
        learned = facts.pop("learn_seconds", None)
        values |= facts | {"learn_s": learned, "peak_flops_per_second": peak}
        if cell.work == "start":
            return Row(**values | _start_seconds(turns))
        values |= _rates(turns)
        seconds = values["documents"] / values["docs_per_second"]
        if cell.batch and cell.work == "model":
            values["ms_per_batch"] = 1e3 * cell.batch / values["docs_per_second"]
        if cell.entry != CLASSIC:
            lengths, work, values["texts"] = self._work(cell)
            tokens, scale = int(lengths.sum()), values["documents"] / len(lengths)
            values["tokens_per_second"] = tokens * scale / seconds
            values["flops_per_second"] = rate = work * scale / seconds
            values["mfu"] = rate / peak if peak else None
            if positions and cell.work != "model":
                values["padding"] = 1 - tokens / positions
        if cell.work == "strings":
            values |= self._compare(cell, reference)
        return Row(**values)

    def _work(self, cell: Cell) -> tuple[np.ndarray, int, str]:
        """Tokens of each text of a turn, floating-point operations, and what the texts are."""
        config = cells.describe(cell.entry).config
        if cell.work == "model":
            lengths, origin = np.full(cell.batch, cell.length), "token ids, drawn"
        else:
            split = "train" if cell.work == "training" else "test"
            entry = self.entries[cell.entry]
            count = cells.text_count(cell, self.quick, self.gpu)
            texts = Texts.read(entry.directory, split).sample(count)
            directory = entry.directory / "bundle"
            tokenizer = bundle.read_tokenizer(directory, bundle.read(directory))
            lengths, origin = tokenizer.batch(texts.texts).lengths, texts.origin
        passes = 3 if cell.work == "training" else 1
        sizes, counts = np.unique(lengths, return_counts=True)
        work = sum(
            cells.flops(config, int(size), int(count))
            for size, count in zip(sizes, counts, strict=True)
        )
        return lengths, passes * work, origin

    def _compare(self, cell: Cell, reference: Cell | None) -> dict[str, Any]:
        """How the answers compare with the reference's, if there is one, and the right ones."""
        entry, file = self.entries[cell.entry], self._scores_file(cell)
        every = Texts.read(entry.directory)
        count = cells.text_count(cell, self.quick, self.gpu)
        texts, scores = every.sample(count), np.load(file)
        found: dict[str, Any] = {"texts": every.origin}
        answers = scores.argmax(axis=1)
        if texts.labels is not None and (entry.weights == "trained" or cell.entry == CLASSIC):
            found["accuracy"] = float(np.mean(answers == np.array(texts.labels)))
        if reference is not None and reference != cell:
            theirs = np.load(self._scores_file(reference))
            more = cells.text_count(reference, self.quick, self.gpu)
            _, mine, other = np.intersect1d(
                every.drawn(count), every.drawn(more), return_indices=True
            )
            found["agreement"] = float(np.mean(answers[mine] == theirs[other].argmax(axis=1)))
            found["difference"] = float(np.abs(scores[mine] - theirs[other]).max())
        return found


def _rates(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the turns after the first one."""
    rates = [turn["count"] / turn["seconds"] for turn in turns[1:]]
    return {
        "turns": len(rates),
        "documents": turns[-1]["count"],
        "docs_per_second": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "first_turn_s": turns[0]["seconds"],
    }


def _start_seconds(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of a start, seconds say it all; no turn warms up another, since each is a new process."""
    return {
        "turns": len(turns),
        "start_s": statistics.median(turn["seconds"] for turn in turns),
        "start_beyond_import_s": statistics.median(
            turn["seconds"] - turn["import_seconds"] for turn in turns
        ),
    }


def _environment(backend: str | None, gpu: bool = False) -> dict[str, str]:
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONWARNINGS": "ignore",
        "TOKENIZERS_PARALLELISM": "true",
        # Several processes share a GPU, so none may take all of its memory beforehand.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    if gpu:
        # Float32 is to be that for all: JAX and TensorFlow would round it to TF32, PyTorch not.
        environment |= {"NVIDIA_TF32_OVERRIDE": "0", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    return environment | ({"KERAS_BACKEND": backend} if backend in cells.BACKENDS else {})


def remaining(wanted: Sequence[Cell], output: Path, commit: str, device: str) -> list[list[Cell]]:
    """The groups of which a row is missing that this commit has measured, on this device.

    The classics are at home on a processor wherever they run.
    """
    known = {
        row.cell
        for row in rows.read(output)
        if row.commit == commit and (row.device == device or row.entry == CLASSIC)
    }
    return [group for group in cells.groups(wanted) if not known.issuperset(group)]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--entries", callback=names_of(registry.list_models()), help="By default all.")
@click.option("--backends", callback=names_of(cells.BACKENDS), help="By default those installed.")
@click.option("--peers", callback=names_of(("", *PEERS)), help="By default all; '' for none.")
@click.option(
    "--works",
    default=",".join(cells.WORKS),
    show_default=True,
    callback=names_of(cells.WORKS),
    help="Texts to probabilities, token ids to logits, start, training.",
)
@click.option(
    "--precision",
    "precisions",
    default="float32",
    show_default=True,
    callback=names_of(cells.PRECISIONS),
    help="Of float32, bfloat16 and int8.",
)
@click.option("--quick", is_flag=True, help="Two entries, few texts: under 5 minutes on two cores.")
@click.option("--data", metavar="PATH", help="AG News; else as keras_agnews.data finds it.")
@click.option("--weights", multiple=True, metavar="ENTRY=PATH", callback=entry_paths)
@click.option(
    "--rounds", type=click.IntRange(min=1), help="Timed turns, after a first; by default 3."
)
@click.option("--patience", default=1.0, help="Multiplies the time limits, on a busy machine.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help=f"By default {rows.RESULTS}; of --quick, build/bench.",
)
@click.option("--scratch", type=click.Path(path_type=Path), help="Keeps what processes write.")
@click.option("--resume", is_flag=True, help="Leave out what this commit has measured.")
def main(
    entries: list[str] | None,
    backends: list[str] | None,
    peers: list[str] | None,
    works: list[str],
    precisions: list[str],
    quick: bool,
    data: str | None,
    weights: dict[str, list[str]],
    rounds: int | None,
    patience: float,
    output: Path | None,
    scratch: Path | None,
    resume: bool,
) -> None:
    """Measure entries of the zoo, and peers with the same weights on the same texts.

    Without --data, AG News is found as the package finds it (HF_HUB_OFFLINE=1 asks no network);
    where it is not to be had, texts of the same lengths are generated. Where an entry has no
    weights to be had, they are drawn, and the rows say so.
    """
    gpu = gpu_name() is not None
    if output is None:  # a few texts are no figures to publish
        output = Path("build/bench") if quick else rows.RESULTS
    if backends is None:
        backends = [name for name in cells.BACKENDS if place.installed(name)]
    if entries is None:
        entries = list(cells.QUICK_ENTRIES) if quick else registry.list_models()
    if quick:
        works = [work for work in works if work in ("strings", "model")]
    wanted = cells.all_cells(
        entries,
        backends=backends,
        peers=list(PEERS) if peers is None else peers,
        works=works,
        precisions=precisions,
        quick=quick,
        gpu=gpu,
    )
    if not wanted:
        raise click.ClickException(
            "nothing is of these entries, works, backends, peers and precisions at once: bfloat16 "
            "on a processor is measured on torch, and no training in int8"
        )
    groups = cells.groups(wanted)
    if resume:
        groups = remaining(wanted, output, place.commit(), place.device(gpu))
    turns = {work: rounds or (2 if quick else count) for work, count in ROUNDS.items()}
    done: list[Row] = []
    with contextlib.ExitStack() as stack:
        scratch = scratch or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sources = {name: paths[-1] for name, paths in weights.items()}
        runner = Runner(output, scratch.absolute(), data, sources, turns, quick, gpu)
        runner.limits = tuple(limit * patience for limit in LIMITS)  # type: ignore[assignment]
        try:
            _run_all(runner, groups, done)
        except KeyboardInterrupt:
            click.echo(f"Stopped; {len(done)} rows are kept, --resume goes on.", err=True)
            raise SystemExit(130) from None
        except KerasAgnewsError as error:
            raise click.ClickException(str(error)) from error
    show(done)


def _run_all(runner: Runner, groups: Sequence[Sequence[Cell]], done: list[Row]) -> None:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        total = sum(len(group) * (1 + runner.rounds[group[0].work]) for group in groups)
        task = bar.add_task("weights and texts", total=total)
        runner.prepare([cell for group in groups for cell in group])
        passed = 0
        for group in groups:
            first = group[0]
            bar.update(task, description=f"{first.entry}, {first.work}")
            runner.step = lambda count: bar.advance(task, count)
            found = runner.run(group)
            rows.merge(runner.output, found)
            done += found
            # Of a failed cell, some turns were never taken.
            passed += len(group) * (1 + runner.rounds[first.work])
            bar.update(task, completed=passed)
            if not console.is_terminal:
                click.echo(f"{first.entry}, {first.work}: {_summary(found)}", err=True)


def _summary(found: Sequence[Row]) -> str:
    bad = [row for row in found if row.status != "ok"]
    failed = "; ".join(f"{row.cell.name} {row.status}" for row in bad)
    return f"{len(found) - len(bad)} measured" + (f", {failed}" if failed else "")


def show(found: Sequence[Row]) -> None:
    """Print the rows to standard output."""
    # Wider than most terminals, since a table that is cut says less than one that is wrapped.
    console = Console(highlight=False, markup=False, emoji=False, width=180)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for title in ("work", "entry", "competitor", "backend", "precision"):
        table.add_column(title, no_wrap=True)
    for title in ("batch", "length", "docs/s", "min", "max", "MFU", "padding", "same labels"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", max_width=50)
    for row in found:
        share = (
            "" if value is None else f"{value:.1%}"
            for value in (row.mfu, row.padding, row.agreement)
        )
        rates = (
            "" if value is None else f"{value:,.1f}"
            for value in (row.docs_per_second, row.slowest, row.fastest)
        )
        start = "" if row.start_s is None else f"{row.start_s:.1f} s to the first answer"
        table.add_row(
            row.work,
            row.entry,
            row.competitor,
            row.backend,
            row.precision,
            str(row.batch or ""),
            str(row.length or ""),
            *rates,
            *share,
            start if row.status == "ok" else f"{row.status}: {row.note}",
        )
    console.print(table)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.run")
