"""What the commands here take alike: lists of names, and weights for entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from keras_agnews import registry


def names_of(known: Sequence[str]) -> Callable[[Any, Any, str | None], list[str] | None]:
    """For click: a list of known names, separated by commas."""

    def check(_: Any, __: Any, value: str | None) -> list[str] | None:
        if value is None:
            return None
        names = [name for name in value.split(",") if name]
        if unknown := [name for name in names if name not in known]:
            raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return check


def entry_paths(_: Any, __: Any, values: Sequence[str]) -> dict[str, list[str]]:
    """For click: `ENTRY=PATH`, several for an entry where they are repeated."""
    found: dict[str, list[str]] = {}
    for value in values:
        name, _, source = value.partition("=")
        if name not in registry.list_models() or not source:
            raise click.BadParameter(f"{value!r}: pass ENTRY=PATH")
        found.setdefault(name, []).append(source)
    return found
