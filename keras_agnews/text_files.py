"""Text and JSON files: read with suspicion, written whole, and by one writer at a time."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_agnews.errors import BundleError

_MAX_BYTES = 1 << 20
_MAX_NESTING = 32
_thread = threading.local()  # which directories a thread has locked


def read_json(path: Path) -> Any:
    """A JSON file of at most 1 MiB, without duplicate keys, NaN, lone surrogates, deep nesting."""
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
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
        detail = str(error) or "nested too deeply"
        raise BundleError(detail if str(path) in detail else f"{path}: {detail}") from None


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
            check_plain(key, f"the key {inner!a}", depth)
            check_plain(item, inner, depth + 1)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            check_plain(item, f"{where}[{i}]", depth + 1)


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
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}{path.name}")
    with locked(path.parent):  # or another writer takes it for what a killed one has left
        try:
            temporary.write_text(text, encoding="utf-8")
            flush(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[bool]:
    """Have a directory to oneself, but for readers, in a `with` block, and so those within it.

    The lock is on the directory: no file of it stays, and it ends with the process. Given is
    whether there is one, since Windows and some network file systems have none of that kind.
    """
    held: set[Path] = vars(_thread).setdefault("held", set())
    place = directory.resolve()
    if place in held:
        yield True
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            handle = os.open(place, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
            # A child that another thread has forked has the handle too.
            stack.callback(fcntl.flock, handle, fcntl.LOCK_UN)
            stack.callback(held.discard, place)
            held.add(place)
        yield place in held


def flush(path: Path) -> None:
    """Have a file on the disk before what follows."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
