"""Lines of standard input as they come: one by one from a slow writer, many from a fast one."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

# Standard input is read until there is so much, or so many seconds bring no more, and for so many
# seconds at the longest; and answered so many lines at a time.
_READ_BYTES = 1 << 20
_PATIENCE = 0.005
_LONGEST = 0.05
_BATCH_LINES = 4_096


def read_lines(stream: BinaryIO) -> Iterator[list[str]]:
    """The lines of a stream as they come: few at a time if they come slowly, else many.

    Lines end with LF or CRLF, the last one also without. They are UTF-8; what is not becomes
    U+FFFD, and a byte order mark at the start is left out.
    """
    first, rest = True, [b""]
    for chunk in _chunks(stream):
        head, newline, tail = chunk.rpartition(b"\n")
        if not newline:
            rest.append(chunk)
            continue
        lines = b"".join((*rest, head)).split(b"\n")
        rest = [tail]
        for start in range(0, len(lines), _BATCH_LINES):
            yield _decoded(lines[start : start + _BATCH_LINES], first)
            first = False
    if last := b"".join(rest):
        yield _decoded([last], first)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    """What a slow writer has written, at once; of a fast one, about `_READ_BYTES` at a time."""
    read: Callable[[int], bytes] = stream.read1  # type: ignore[attr-defined]
    # A parent may have left its pipe so that what is not there yet reads as the end.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        os.set_blocking(stream.fileno(), True)
    while chunk := read(_READ_BYTES):
        parts, size, end = [chunk], len(chunk), time.monotonic() + _LONGEST
        # A pipe holds 64 KiB, too little for a good batch, and is filled again in no time.
        while size < _READ_BYTES and time.monotonic() < end and _more_comes(stream):
            if not (chunk := read(_READ_BYTES)):
                break
            parts.append(chunk)
            size += len(chunk)
        yield b"".join(parts)


def _more_comes(stream: BinaryIO) -> bool:
    try:
        return bool(select.select([stream], [], [], _PATIENCE)[0])
    except (OSError, ValueError):  # not a file, or Windows, which selects sockets only
        return False


def _decoded(lines: list[bytes], first: bool) -> list[str]:
    texts = [line.removesuffix(b"\r").decode("utf-8", "replace") for line in lines]
    if first:
        texts[0] = texts[0].removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")  # a byte order mark
    return texts
