"""How often the zoo and the classics are right: `python -m benchmarks.accuracy`.

Writes results/accuracy.csv, a row a model: every entry that has trained weights, and the peers
that learn by themselves; what is not measured this time keeps its row. The test split is for this
alone; nothing is chosen by it.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks import cells, peers, place, rows
from benchmarks.options import entry_paths, names_of
from keras_agnews import data, metrics, records, registry
from keras_agnews.device import cpu_name
from keras_agnews.errors import (
    DataError,
    DownloadError,
    InputError,
    KerasAgnewsError,
    NotFoundError,
)
from keras_agnews.files import check_writable

SEEDS = {"tfidf-svm": 1, "fasttext": 3}  # the first is the same for every seed
FIELDS = (
    "model",
    "title",
    "rows",
    "accuracy",
    "accuracy_min",
    "accuracy_max",
    "macro_f1",
    *(f"f1_{label}" for label in data.LABELS),
    "calibration_error",
    "titles_accuracy",
    "seeds",
    "train_rows",
    "cost_minutes",
    "cost_on",
    "parameters",
    "texts",
    "versions",
    "commit",
    "date",
    "note",
)


def score(scores: np.ndarray, labels: np.ndarray, probabilities: bool) -> dict[str, Any]:
    """What one model's scores `(n, classes)` are worth."""
    found = metrics.scores(labels, scores.argmax(axis=1), len(data.LABELS))
    error = metrics.calibration_error(scores, labels) if probabilities else None
    return {
        "accuracy": found.accuracy,
        "macro_f1": found.macro_f1,
        **{f"f1_{label}": value for label, value in zip(data.LABELS, found.f1, strict=True)},
        "calibration_error": error,
    }


def measure(
    predict: Callable[[Sequence[str]], np.ndarray],
    probabilities: bool,
    test: data.Dataset,
    titles: data.Dataset | None,
) -> dict[str, Any]:
    """The figures of one model, which gives scores `(n, classes)` to n texts."""
    figures = score(predict(test.texts), test.labels, probabilities)
    if titles is not None:
        alone = score(predict(titles.texts), titles.labels, probabilities)
        figures["titles_accuracy"] = alone["accuracy"]
    return figures


def titles_alone(test: data.Dataset, path: str | None) -> data.Dataset | None:
    """The rows that have a title, without the rest; `None` where the files do not part them."""
    try:
        parts = data.load_titles("test", path)
    except DataError:
        return None
    titles = {f"{title} {rest}": title for title, rest in zip(*parts, strict=True)}
    kept = [i for i, text in enumerate(test.texts) if text in titles]
    texts = [titles[test.texts[i]] for i in kept]
    return dataclasses.replace(test, texts=texts, labels=test.labels[kept])


def mean(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean over the seeds."""
    return {
        name: None if found[0][name] is None else statistics.fmean(one[name] for one in found)
        for name in found[0]
    }


def spread(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """From where to where accuracy goes with the seeds."""
    values = [one["accuracy"] for one in found]
    return {"accuracy_min": min(values), "accuracy_max": max(values), "seeds": len(found)}


def of_entry(
    name: str, sources: Sequence[str], test: data.Dataset, titles: data.Dataset | None = None
) -> dict[str, Any] | None:
    """The row of an entry as it is shipped; `None` where it has no trained weights.

    Its recipe with other seeds, whose weights `sources` has, gives the spread alone.
    """
    import keras_agnews

    found, description = [], None
    for source in ("best", *sources):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                clf = keras_agnews.load(name, weights=source)
            except (DownloadError, NotFoundError):
                if source != "best":
                    raise
                return None
        if any("untrained" in str(warning.message) for warning in caught):
            if source != "best":
                raise InputError(f"{source} has no trained head for the labels of {name}")
            return None
        columns = [clf.labels.index(label) for label in test.label_names]
        predict = functools.partial(_in_order, clf, columns)
        found.append(measure(predict, True, test, titles))
        description = description or clf.description
    assert description is not None
    minutes = [recipe.get("minutes") for recipe in records.lineage(description.recipe)]
    return {
        **found[0],
        **spread(found),
        "model": name,
        "title": f"`{name}`",
        "train_rows": description.recipe.get("rows"),
        # With the runs that it went on from, without its teachers'.
        "cost_minutes": None if None in minutes else sum(minutes),
        "cost_on": description.recipe.get("device"),
        "parameters": description.parameters,
        "versions": place.versions("keras_agnews", "keras", _backend()),
    }


def of_peer(
    name: str, path: str | None, test: data.Dataset, titles: data.Dataset | None = None
) -> dict[str, Any]:
    """The row of a peer that learns by itself."""
    peer = peers.PEERS[name]
    row: dict[str, Any] = {"model": name, "title": peer.title}
    found, seconds = [], []
    for seed in range(SEEDS[name]):
        start = time.perf_counter()
        try:
            predict = peers.load(name, peers.Model(Path(), data=path, seed=seed))
        except ImportError as error:
            return row | {"note": f"not installed: {error}"}
        seconds.append(time.perf_counter() - start)
        probabilities = predict(test.texts[:1]).probabilities
        found.append(measure(functools.partial(_scores, predict), probabilities, test, titles))
    return (
        row
        | mean(found)
        | spread(found)
        | {
            "train_rows": len(data.load_agnews("train", path).texts),
            "cost_minutes": statistics.median(seconds) / 60,
            "cost_on": cpu_name(),
            "versions": place.versions(peer.package),
        }
    )


def _in_order(clf: Any, columns: list[int], texts: Sequence[str]) -> np.ndarray:
    answers: np.ndarray = clf.predict(texts)[:, columns]
    return answers


def _scores(predict: Callable[[Sequence[str]], peers.Answer], texts: Sequence[str]) -> np.ndarray:
    found = predict(texts).scores
    assert found is not None
    return found


def _backend() -> str:
    import keras

    return str(keras.backend.backend())


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--entries",
    callback=names_of(registry.list_models()),
    help="Separated by commas; by default all.",
)
@click.option("--classics/--no-classics", default=True, help="The peers that learn by themselves.")
@click.option("--data", "path", metavar="PATH", help="AG News, both splits.")
@click.option(
    "--weights",
    multiple=True,
    metavar="ENTRY=PATH",
    callback=entry_paths,
    help="A run of the entry's recipe with another seed, for the spread; may be repeated.",
)
@click.option(
    "--output",
    default=rows.RESULTS / rows.ACCURACY_FILE,
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
)
def main(
    entries: list[str] | None,
    classics: bool,
    path: str | None,
    weights: dict[str, list[str]],
    output: Path,
) -> None:
    """Accuracy, F1 and calibration error on the AG News test split, on the backend at hand."""
    names = registry.list_models() if entries is None else entries
    names.sort(key=lambda name: cells.describe(name).parameters)
    learners = [name for name in SEEDS if classics]
    console = Console(stderr=True)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        check_writable(output.parent, f"--output {output}")
        test = data.load_agnews("test", path)
        titles = titles_alone(test, path)
        for name in track(
            names + learners, "Answering", console=console, disable=not console.is_terminal
        ):
            learns = name in SEEDS
            row = (
                of_peer(name, path, test, titles)
                if learns
                else of_entry(name, weights.get(name, ()), test, titles)
            )
            if row is None:
                click.echo(f"{name} has no trained weights: no row", err=True)
                continue
            row |= {
                "rows": len(test.texts),
                "texts": f"AG News test, {test.note}",
                "commit": place.commit(),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            written = {name: _written(row.get(name)) for name in FIELDS}
            rows.merge_accuracies(output, FIELDS, [written])  # at once: what follows may fail
            click.echo(f"{name:20} {written['accuracy'] or written['note']}")
    except (KerasAgnewsError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _written(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float | np.floating) else str(value)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.accuracy")
