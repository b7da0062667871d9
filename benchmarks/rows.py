"""The results as CSV files, named after device, backend and precision."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.cells import WORKS, Cell

RESULTS = Path(__file__).resolve().parent / "results"
ACCURACY_FILE = "accuracy.csv"


@dataclass(frozen=True, kw_only=True)
class Row(Cell):
    """A cell, whose fields it has too, and what came of it; what is not known is `None`.

    Attributes:
        work, entry, competitor, backend, batch, length, precision: as `Cell` has them.
        status: "ok", "failed", "timeout", "out of memory", "not installed" or "unsupported".
        note: why, where it is not "ok".
        turns: how many were timed: of a start all, else those after the first.
        documents: texts a turn.
        docs_per_second: of the median turn; sequences a second of "model".
        slowest, fastest: documents a second of the slowest and the fastest turn.
        ms_per_batch: of the median turn, where the batch is fixed.
        flops_per_second: that the answers need, by `cells.flops`; three times as many in training.
        peak_flops_per_second: of large matrix products in the same process.
        mfu: the share that the one is of the other.
        tokens_per_second: of the entry's tokenizer, padding not counted.
        padding: share of the computed positions that hold no token.
        agreement: share of the texts with the label that our first backend gives, in float32
            where that was measured beside it.
        difference: the largest distance between a probability here and there.
        accuracy: share of right labels on these texts, where the weights are trained.
        start_s: from the start of a process to its first answer.
        start_beyond_import_s: that, less the import of the backend alone.
        first_turn_s: of the first turn, with all that is compiled in it.
        peak_mb: the most memory that the process held.
        gpu_mb: the most memory of the GPU that it held.
        learn_s: seconds of learning, of the classics.
        parameters: of the entry.
        weights: what they are: "trained", "random weights", ...
        texts: which were read.
        device: where it ran.
        cpus: processors that the process may use.
        threads: that the backend is set to use, 0 where it decides by itself.
        versions: of Python and of what computes.
        commit: of this repository, "+" behind it where the code had changes.
        date: UTC, ISO 8601.
    """

    status: str
    note: str = ""
    turns: int | None = None
    documents: int | None = None
    docs_per_second: float | None = None
    slowest: float | None = None
    fastest: float | None = None
    ms_per_batch: float | None = None
    flops_per_second: float | None = None
    peak_flops_per_second: float | None = None
    mfu: float | None = None
    tokens_per_second: float | None = None
    padding: float | None = None
    agreement: float | None = None
    difference: float | None = None
    accuracy: float | None = None
    start_s: float | None = None
    start_beyond_import_s: float | None = None
    first_turn_s: float | None = None
    peak_mb: int | None = None
    gpu_mb: int | None = None
    learn_s: float | None = None
    parameters: int | None = None
    weights: str = ""
    texts: str = ""
    device: str = ""
    cpus: int | None = None
    threads: int | None = None
    versions: str = ""
    commit: str = ""
    date: str = ""

    @property
    def cell(self) -> Cell:
        """What was measured."""
        return Cell(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Cell)})

    @property
    def file(self) -> str:
        """The name of the file that it belongs to."""
        return f"{slug(self.device)}_{self.backend}_{self.precision}.csv"

    def to_dict(self) -> dict[str, str]:
        """As it stands in a file; five digits say more than a measurement knows."""
        values = dataclasses.asdict(self)
        return {name: _written(value) for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, str]) -> Self:
        """As `to_dict` has written it."""
        kinds = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        return cls(**{name: _read(kinds[name], text) for name, text in values.items()})


def slug(device: str) -> str:
    """A device's name, fit for a file's."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def _written(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _read(kind: str, text: str) -> Any:
    base = kind.removesuffix(" | None")
    if not text and base != kind:
        return None
    return {"int": int, "float": float, "str": str}[base](text)


def read(directory: Path) -> list[Row]:
    """Every row in the files of a directory, in the order of the works."""
    found = []
    for file in sorted(directory.glob("*.csv")):
        if file.name != ACCURACY_FILE:
            found += read_file(file)
    return found


def read_accuracies(directory: Path) -> list[dict[str, str]]:
    """The rows of accuracy.csv, none where there is no such file."""
    return _accuracies(directory / ACCURACY_FILE)


def _accuracies(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def merge_accuracies(file: Path, names: Sequence[str], new: Iterable[dict[str, str]]) -> None:
    """Put rows with these columns into a file; a row of the same model is replaced, others stay.

    So does a figure where the new row has none, e.g. of what is not installed this time, and the
    spread over more runs where the weights are the same, as accuracy and F1 tell. The entries come
    by their size, then what has none.
    """
    kept = {row["model"]: row for row in _accuracies(file)}
    for row in new:
        old = kept.get(row["model"], {})
        if not row.get("accuracy") and old.get("accuracy"):
            continue
        same = all(row.get(name) == old.get(name) for name in ("accuracy", "macro_f1"))
        if same:
            # But a remark is of its own measurement.
            row = old | {name: value for name, value in row.items() if value or name == "note"}
            if int(row.get("seeds") or 0) < int(old.get("seeds") or 0):
                row |= {name: old[name] for name in ("accuracy_min", "accuracy_max", "seeds")}
        kept[row["model"]] = row
    rows = [{name: row.get(name) or "" for name in names} for row in kept.values()]
    rows.sort(key=lambda row: int(row["parameters"]) if row["parameters"] else math.inf)
    write_csv(file, names, rows)


def read_file(file: Path) -> list[Row]:
    with file.open(newline="", encoding="utf-8") as stream:
        return [Row.from_dict(values) for values in csv.DictReader(stream)]


def merge(directory: Path, new: Iterable[Row]) -> None:
    """Put rows into their files; a row of the same cell is replaced, the others stay."""
    files: dict[str, list[Row]] = {}
    for row in new:
        files.setdefault(row.file, []).append(row)
    for name, rows in files.items():
        file = directory / name
        kept = {row.cell: row for row in (read_file(file) if file.exists() else [])}
        kept |= {row.cell: row for row in rows}
        names = [field.name for field in dataclasses.fields(Row)]
        write_csv(file, names, [row.to_dict() for row in sorted(kept.values(), key=_order)])


def write_csv(file: Path, names: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Replace a file as a whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    passing = file.with_suffix(".part")
    with passing.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(passing, file)


def _order(row: Row) -> tuple[Any, ...]:
    cell = row.cell
    place = WORKS.index(cell.work) if cell.work in WORKS else len(WORKS)
    return (place, *dataclasses.astuple(cell)[1:])
