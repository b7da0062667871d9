"""What the command shows: tables, pairs and progress, for a person, a pipe or a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TextIO

import click


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at it; `None` is a closed one."""
    return stream is not None and stream.isatty()


def progress(items: Sequence[Any], description: str) -> Iterable[Any]:
    """The items, with a bar and the time left on standard error where that is a terminal."""
    if not is_terminal(sys.stderr):
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, description, console=Console(stderr=True), transient=True)


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
    return "".join(c if c.isprintable() else " " for c in text)


def human_bytes(count: int) -> str:
    """A number of bytes in three digits, e.g. "1.48 MB"."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if value >= 1000:
            value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
