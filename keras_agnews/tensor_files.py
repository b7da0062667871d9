"""Weights in safetensors files: read, map into memory, write.

What such a file says of itself is checked by the library as it is opened; whether it is what a
model needs is for the caller to check.
"""

from __future__ import annotations

import functools
import json
import mmap
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_agnews.errors import BundleError
from keras_agnews.files import flush

# The floats that weights are stored in: a file's name of each, and NumPy's.
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def open_safetensors(path: Path) -> Any:
    """`safetensors.safe_open` for NumPy; a damaged or missing file is a `BundleError`."""
    import ml_dtypes  # noqa: F401  (teaches NumPy bfloat16, which safetensors then reads)
    import safetensors

    if not path.is_file():
        raise BundleError(f"{path}: no such file")
    try:
        return safetensors.safe_open(path, framework="np")
    except (safetensors.SafetensorError, OSError, MemoryError, ValueError) as error:
        raise BundleError(f"{path}: not a whole safetensors file ({error})") from None


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a safetensors file, all of them floats."""
    with open_safetensors(path) as file:
        shapes = {}
        for name in file.keys():  # noqa: SIM118 (not a dict)
            tensor = file.get_slice(name)
            if tensor.get_dtype() not in DTYPES:
                raise BundleError(
                    f"{path}: {name} is {tensor.get_dtype()}, not one of {', '.join(DTYPES)}"
                )
            shapes[name] = tuple(tensor.get_shape())
        return shapes


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, unread.

    Attributes:
        name: as the file has it.
        shape: likewise.
        dtype: likewise, e.g. `"F32"`.
        read: its float32 value, which may be a window on the mapped file: copy what is to stay.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def map_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of a safetensors file, by its name.

    The library's reader for NumPy gives each tensor memory of its own, as a backend then does too;
    for the embedding of a large vocabulary once is enough.
    """
    with open_safetensors(path):
        pass  # which has checked header, bounds and overlaps
    with open(path, "rb") as file:
        # Nobody writes, but PyTorch warns of memory that cannot be written.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    start = 8 + int.from_bytes(mapped[:8], "little")
    try:
        header = json.loads(mapped[8:start])
    except ValueError:
        raise BundleError(f"{path} was replaced while it was read: try again") from None
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(
            name,
            tuple(entry["shape"]),
            entry["dtype"],
            functools.partial(_window, mapped, start + entry["data_offsets"][0], entry),
        )
        for name, entry in header.items()
    }


def _window(mapped: mmap.mmap, offset: int, entry: dict[str, Any]) -> np.ndarray:
    import ml_dtypes  # noqa: F401  (teaches NumPy bfloat16)

    dtype, count = np.dtype(DTYPES[entry["dtype"]]), int(np.prod(entry["shape"], dtype=np.int64))
    value = np.frombuffer(mapped, dtype, count, offset).reshape(entry["shape"])
    return np.require(value, np.float32, "A")


def save_tensors(
    tensors: dict[str, np.ndarray],
    path: Path,
    scratch: Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file by rename, by way of the directory `scratch`.

    The library writes to a file of a name of its own beside the one it is given: where we are
    killed, `scratch` stays with all that is left over, and the next write takes it away.
    """
    import safetensors.numpy

    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        about = {"format": "np", **(metadata or {})}
        safetensors.numpy.save_file(tensors, scratch / path.name, metadata=about)
    except safetensors.SafetensorError as error:
        raise OSError(f"{path}: cannot be written: {error}") from error
    flush(scratch / path.name)
    os.replace(scratch / path.name, path)
    scratch.rmdir()
