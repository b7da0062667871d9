"""A fine-tuned model as its difference to the pretrained base: low-rank, small enough to share.

Fine-tuning moves a kernel by little, and along few directions. What moved is stored as a
safetensors file that holds for each variable either `NAME/a` and `NAME/b`, whose product is the
difference, or `NAME`, the difference itself; a variable that the base lacks, such as the head,
counts as zero there, and one that has not moved is left out. Source of the idea: Hu et al. 2021,
arXiv:2106.09685; here the directions are those of the singular value decomposition of a
fine-tune's difference.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_agnews.errors import BundleError, InputError, listed
from keras_agnews.tensor_files import open_safetensors, tensor_shapes


def difference(
    tuned: Mapping[str, np.ndarray],
    base: Iterable[tuple[str, np.ndarray]],
    encoder: Collection[str],
    rank: int,
) -> dict[str, np.ndarray]:
    """The tensors of a delta file, float16.

    Args:
        tuned: every variable of the model, by name.
        base: name and value of what the base has, all of `encoder`; of a head that it has, the
            model's is no difference.
        encoder: the names of the variables that `apply` will be given of the base.
        rank: columns of `NAME/a` for each kernel in the mean: those with a longer way to the base
            get more of them, so that of all files of this size it is the nearest. A kernel that
            so many do not make smaller is stored whole.

    Raises: `InputError` for a base that is not the model's, or a difference that is not finite in
        float16.
    """
    left, awaited = dict(tuned), set(encoder)
    tensors: dict[str, np.ndarray] = {}
    kernels: dict[str, np.ndarray] = {}
    if isinstance(base, (str, os.PathLike)):
        raise InputError("base must be names and values: loading.open_base(...).arrays(...)")
    for name, value in base:
        if name not in tuned:
            raise InputError(f"the base has {name!r}, which the model has not")
        if name not in awaited:
            continue
        awaited.remove(name)
        own = left.pop(name)
        if own.shape != np.shape(value):
            shape = np.shape(value)
            raise InputError(f"{name} has shape {shape} in the base and {own.shape} in the model")
        change = own.astype(np.float32) - value
        if not change.any():
            continue  # as `apply` reads it
        low = change.ndim == 2 and rank * sum(change.shape) < change.size
        (kernels if low else tensors)[name] = change
    if awaited:
        raise InputError(f"the base lacks {listed(sorted(awaited), ', ', 5)}")
    directions = {name: _directions(change) for name, change in kernels.items()}
    for name, count in _share_out(kernels, directions, rank).items():
        tensors[f"{name}/a"], tensors[f"{name}/b"] = _factors(
            kernels[name], directions[name][1][:, :count]
        )
    tensors |= left
    with np.errstate(over="ignore"):
        halves = {n: np.ascontiguousarray(v, np.float16) for n, v in tensors.items()}
    if bad := [name for name, value in halves.items() if not np.isfinite(value).all()]:
        raise InputError(f"{bad[0]} is not finite in float16: nothing written")
    return halves


def apply(
    path: Path, base: Iterable[tuple[str, np.ndarray]], names: Iterable[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and float32 value of each of `names`: the base's value with what a delta file adds.

    The file is opened at once and read later: what is checked meanwhile is what is read, whoever
    replaces it.
    """
    return _applied(open_safetensors(path), base, list(names))


def _applied(
    file: Any, base: Iterable[tuple[str, np.ndarray]], left: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    with file:
        stored = set(file.keys())

        def change(name: str) -> np.ndarray | float:
            if name in stored:
                return np.asarray(file.get_tensor(name), np.float32)
            if f"{name}/a" not in stored:
                return 0.0
            a, b = (np.asarray(file.get_tensor(f"{name}/{part}"), np.float32) for part in "ab")
            return a @ b

        for name, value in base:
            left.remove(name)
            yield name, np.asarray(value + change(name), np.float32)
        for name in left:
            yield name, np.asarray(change(name), np.float32)


def check_file(path: Path, expected: Mapping[str, tuple[int, ...]], whole: Iterable[str]) -> None:
    """`BundleError` unless a delta file fits the variables `expected` and has those in `whole`."""
    shapes = tensor_shapes(path)
    for name in whole:
        if name not in shapes:
            raise BundleError(f"{path}: {name} is missing, and the base does not have it either")
    for name, shape in shapes.items():
        target, _, part = name.rpartition("/")
        if name in expected:
            fits = shape == expected[name]
        else:
            other = shapes.get(f"{target}/{'b' if part == 'a' else 'a'}")
            if part not in ("a", "b") or target not in expected or other is None:
                raise BundleError(f"{path}: unexpected tensor {name}")
            a, b = (shape, other) if part == "a" else (other, shape)
            rank_fits = len(a) == len(b) == 2 and a[1] == b[0] <= min(a[0], b[1])
            fits = rank_fits and (a[0], b[1]) == expected[target]
        if not fits:
            raise BundleError(
                f"{path}: {name} has shape {shape}, which does not fit what config.json says"
            )


def _directions(change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared singular values, largest first, and the singular vectors of the short side."""
    tall = change if change.shape[0] >= change.shape[1] else change.T
    # Without decomposing the long side.
    squares, vectors = np.linalg.eigh(tall.T.astype(np.float64) @ tall)
    return squares[::-1], vectors[:, ::-1].astype(np.float32)


def _share_out(
    kernels: Mapping[str, np.ndarray],
    directions: Mapping[str, tuple[np.ndarray, np.ndarray]],
    rank: int,
) -> dict[str, int]:
    """How many directions of each kernel to keep, as many numbers in all as `rank` of each.

    A direction's worth is what leaving it out would add to the squared distance, for each number
    that it takes: the greedy choice, from the largest on.
    """
    costs = {name: sum(change.shape) for name, change in kernels.items()}
    left = rank * sum(costs.values())
    counts = dict.fromkeys(kernels, 0)
    worth = [
        (square / costs[name], name)
        for name, (squares, _) in directions.items()
        # More would take more than the kernel itself.
        for square in squares[: (kernels[name].size - 1) // costs[name]].tolist()
    ]
    for _, name in sorted(worth, reverse=True):
        if costs[name] <= left:
            counts[name] += 1
            left -= costs[name]
    return {name: count for name, count in counts.items() if count}


def _factors(change: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`a (m, rank)` and `b (rank, n)`, whose product is `change` projected on these directions."""
    tall = change if change.shape[0] >= change.shape[1] else change.T
    left = tall @ right
    scale = np.sqrt(np.linalg.norm(left, axis=0))  # the same for both, so that float16 holds both
    scale[scale == 0] = 1
    a, b = left / scale, (right * scale).T
    return (a, b) if tall is change else (b.T, a.T)
