"""What the parent tells a process to do, as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.cells import Cell


@dataclass(frozen=True)
class Job:
    """A cell, and what it needs.

    Attributes:
        cell: what is measured.
        directory: the entry's, as `prepare` has filled it.
        data: AG News, as `keras_agnews.data.load_agnews` takes it.
        texts: how many, of strings to labels and of training.
        gpu: whether there is one to compute on.
        scores: a file for the answers of the last pass, for comparison; "" for none.
        source: what a user of the entry gives `keras_agnews.load`; by default the bundle.
    """

    cell: Cell
    directory: str
    data: str | None = None
    texts: int = 0
    gpu: bool = False
    scores: str = ""
    source: str = ""

    def to_json(self) -> str:
        """In a line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        values: dict[str, Any] = json.loads(line)
        job = cls(**values | {"cell": Cell(**values["cell"])})
        return job if job.source else dataclasses.replace(job, source=str(job.bundle))

    @property
    def bundle(self) -> Path:
        """The entry with the weights that every competitor has."""
        return Path(self.directory) / "bundle"
