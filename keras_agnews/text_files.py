"""Text and JSON files: read with suspicion, and written whole."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from keras_agnews.errors import BundleError, located
from keras_agnews.files import locked, replacing

MAX_BYTES = 1 << 20  # of a JSON file
_MAX_NESTING = 32


def read_json(path: Path) -> Any:
    """A JSON file of at most 1 MiB, without duplicate keys, NaN, lone surrogates, deep nesting."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise BundleError(f"{path}: {size:,} bytes are more than a config has")
        text = path.read_bytes().decode("utf-8")
        values = json.loads(text, object_pairs_hook=_unique_keys)
        check_plain(values)
        return values
    except FileNotFoundError:
        raise BundleError(f"{path}: no such file") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BundleError(located(error, path)) from None


def check_plain(value: Any, where: str = "", depth: int = 0) -> None:
    """`BundleError` unless a value from JSON can be written as JSON in UTF-8 again."""
    if depth > _MAX_NESTING:
        raise BundleError(f"{where} is nested too deeply")
    if isinstance(value, str):
        if re.search("[\ud800-\udfff]", value):
            raise BundleError(f"{where} holds half a surrogate pair")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise BundleError(f"{where} is {value}, not a JSON number")
    elif isinstance(value, dict):
        for key, item in value.items():
            inner = f"{where}.{key}" if where else str(key)
            if not isinstance(key, str):
                raise BundleError(f"the key {inner!a} is a {type(key).__name__}, not a str")
            check_plain(key, f"the key {inner!a}", depth)
            check_plain(item, inner, depth + 1)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            check_plain(item, f"{where}[{i}]", depth + 1)
    elif value is not None and not isinstance(value, (bool, int)):
        raise BundleError(f"{where} is a {type(value).__name__}, which JSON has not")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise BundleError(f"the key {key!r} stands twice")
        values[key] = value
    return values


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file by rename: a crash leaves the old one or the new one."""
    write_text(path, json_text(values))


def json_text(values: Any) -> str:
    """A JSON file as this package writes it."""
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, by a rename."""
    # Locked, or another writer takes the new file for what a killed one has left.
    with locked(path.parent), replacing(path) as passing:
        passing.write_text(text, encoding="utf-8")
