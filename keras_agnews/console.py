"""What the command shows: tables, pairs and progress, for a person, a pipe or a program."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, TextIO

import click

_LINE_SECONDS = 60.0
_WITHIN_WORDS = "\u200c\u200d\u00a0"  # joiners, of scripts and emoji, and the no-break space
# How many are done, and a word on it.
Advance = Callable[[int, str], None]


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at it; `None` is a closed one."""
    return stream is not None and stream.isatty()


@contextlib.contextmanager
def progress_bar(wanted: bool, total: int) -> Iterator[Advance]:
    """A function `advance(done, note)` that shows on standard error how far things are.

    On a terminal that is a bar; elsewhere, in a log, a line a minute.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    if not wanted or sys.stderr is None:
        yield lambda done, note: None
        return
    if not is_terminal(sys.stderr):  # which rich takes FORCE_COLOR's word for
        yield _line_a_minute(total)
        return
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, note: bar.update(task, completed=done, description=note)


def _line_a_minute(total: int) -> Advance:
    start = last = time.monotonic()
    first: int | None = None  # where a resumed run goes on

    def advance(done: int, note: str) -> None:
        nonlocal first, last
        first = done if first is None else first
        now = time.monotonic()
        if now - last < _LINE_SECONDS or done == first:
            return
        last = now
        left = (now - start) / (done - first) * (total - done)
        sys.stderr.write(f"{done:,} of {total:,}, {max(1, round(left / 60))} min left, {note}\n")
        sys.stderr.flush()

    return advance


def print_json(value: Any) -> None:
    """A value for a program, on standard output."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_pairs(values: dict[str, Any]) -> None:
    """Names and values, a line each, the values below one another."""
    width = max(map(len, values))
    for key, value in values.items():
        click.echo(printable(f"{key:{width}}  {value}".rstrip()))


def print_table(columns: dict[str, str], rows: list[tuple[str, ...]]) -> None:
    """A table; on a terminal with rich's colors and wrapping, elsewhere plain and whole.

    Args:
        columns: title to alignment, `"<"` or `">"`.
        rows: a str for each column.
    """
    rows = [tuple(map(printable, row)) for row in rows]
    if is_terminal(sys.stdout):
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False)
        for title, alignment in columns.items():
            side: Literal["left", "right"] = "right" if alignment == ">" else "left"
            table.add_column(title, justify=side, overflow="fold")
        for row in rows:
            table.add_row(*row)
        Console(markup=False, highlight=False, emoji=False).print(table)
        return
    lines = [tuple(columns), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(line, columns.values(), widths, strict=True)
        click.echo("  ".join(f"{cell:{side}{width}}" for cell, side, width in cells).rstrip())


def printable(text: str) -> str:
    """`text` on one line, without characters that would steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _WITHIN_WORDS else " " for c in text)


def human_bytes(count: int) -> str:
    """A number of bytes in three digits, e.g. "1.48 MB"."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if value >= 999.5:  # which three digits round to 1000
            value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
