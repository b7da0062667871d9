"""Files that are written whole: by a rename, after their bytes, and by one writer at a time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from keras_agnews.errors import InputError

_thread = threading.local()  # which directories a thread has locked


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path whose "~" is a home directory, as a shell has it.

    `Path.expanduser` raises a RuntimeError where "~name" is nobody, as in "~$rows.csv".
    """
    return Path(os.path.expanduser(path))


def check_writable(place: Path, name: str) -> None:
    """`InputError` where nothing can be written, before anything is computed for it."""
    if not os.access(place, os.W_OK):
        raise InputError(f"{name} cannot be written to: give another")


def make_directory(directory: Path) -> None:
    """Make a directory and those above it; `InputError` where a file is in the way."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        for place in (directory, *directory.parents):
            if os.path.lexists(place) and not os.path.isdir(place):
                raise InputError(f"{place} is a file: give another output directory") from None
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The path of a file to write, which takes the place of `path` when the block has ended well.

    A crash, of the machine too, leaves the old file or the new one. A device or a pipe is written
    to as it is.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}{path.name}")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def digest(path: Path, name: str = "sha256") -> str:
    """A file's sum in hexadecimal, by the name that hashlib has for its kind."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(name, usedforsecurity=False))
    return found.hexdigest()


def flush(path: Path) -> None:
    """Have a file on the disk before what follows."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


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
