"""Ragged token ids to batches of few fixed shapes, sorted by length, and answers back in order.

A compiled backend compiles once a shape, so there are few; a padded position costs as much as a
token, so texts of like length share a batch. Both are counted in the tests, not timed. PyTorch
compiles nothing: there, a batch is as long as its longest text.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_agnews.device import on_cpu
from keras_agnews.errors import InputError
from keras_agnews.tokenizers import TokenIds

# Spacing grows with length: a step of 16 at 32 wastes as large a share as one of 64 at 192.
LENGTHS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768, 1024, 2048)
# On an accelerator padding costs little, and compiling a shape some 10 seconds.
_FEW_LENGTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)
_REMAINDERS = (1, 4, 16, 64)  # rows of a batch that is not full
_COMPILED = keras.backend.backend() != "torch"
# What a batch holds. On an accelerator enough to fill it; on a processor so few that a layer's
# activations stay in its cache, more where they are narrow, or where, as on PyTorch, every
# operation of a batch costs a call.
TOKENS_PER_BATCH = 32_768
_TOKENS_IN_CACHE, _TOKENS_FOR_FEW_CALLS = 2_048, 4_096
_NARROW = 64
# What the calls of one more batch cost on PyTorch, in positions; a batch is cut where its padding
# would cost more.
_CALLS = 256


@dataclass(frozen=True)
class Batch:
    """Which texts run together, and in which shape.

    Attributes:
        indices: int `(n,)`, places of the texts in the caller's order, `n <= rows`.
        rows: rows of the padded batch.
        length: columns of the padded batch.
    """

    indices: np.ndarray
    rows: int
    length: int

    @property
    def positions(self) -> int:
        """Positions that the model computes for this batch, padding included."""
        return self.rows * self.length


def bucket(length: int, limit: int) -> int:
    """The smallest padded length that holds `length` tokens, at most `limit`."""
    if not _COMPILED:
        return max(1, min(length, limit))
    return min(next((size for size in _lengths() if size >= length), length), limit)


@functools.cache
def _lengths() -> tuple[int, ...]:
    return LENGTHS if on_cpu() else _FEW_LENGTHS


@functools.cache
def tokens_per_batch(width: int | None = None) -> int:
    """About how many positions a batch should have on the backend and device at hand.

    `width` is the model's hidden size, where it has one.
    """
    if not on_cpu():
        return TOKENS_PER_BATCH
    narrow = width is not None and width <= _NARROW
    return _TOKENS_FOR_FEW_CALLS if narrow or not _COMPILED else _TOKENS_IN_CACHE


def full_rows(length: int, tokens: int) -> int:
    """Rows of a full batch of this padded length, within `tokens` positions.

    A power of two where the backend compiles, so that lengths share their few shapes.
    """
    if not _COMPILED:
        return max(1, tokens // length)
    return 1 << max(0, (tokens // length).bit_length() - 1)


def plan(
    lengths: np.ndarray,
    limit: int,
    *,
    max_rows: int | None = None,
    tokens: int | None = None,
) -> list[Batch]:
    """Cut texts into batches, longest first, so that each batch holds like lengths.

    Args:
        lengths: int `(n,)`, tokens of each text.
        limit: the longest padded length, the model's `max_length`.
        max_rows: at most so many rows a batch, e.g. the caller's `batch_size`.
        tokens: about so many positions a batch; what suits the device where it is `None`.

    Returns: batches whose `indices` together are each of `0..n-1` once.
    """
    order = np.argsort(-lengths, kind="stable")
    tokens = tokens_per_batch() if tokens is None else tokens
    batches = []
    start = 0
    while start < len(order):
        length = bucket(max(1, int(lengths[order[start]])), limit)
        rows = full_rows(length, tokens)
        if max_rows is not None:
            rows = min(rows, max_rows)
        left = len(order) - start
        if not _COMPILED:
            rows = min(rows, left)
            # Of a cut before row i: the rows from there on are then no longer than it is.
            shorter = length - np.clip(lengths[order[start : start + rows]], 1, length)
            saved = shorter * (rows - np.arange(rows))
            if on_cpu() and saved.max() > _CALLS:
                rows = int(saved.argmax())
        elif left < rows:
            rows = next((size for size in _REMAINDERS if left <= size < rows), rows)
        batches.append(Batch(order[start : start + rows], rows, length))
        start += rows
    return batches


def pad(ids: TokenIds, indices: np.ndarray, rows: int, length: int) -> np.ndarray:
    """The texts `indices` as int32 `(rows, length)`, padded with 0 to the right and below."""
    lengths = ids.lengths[indices]
    starts = ids.starts[indices]
    matrix = np.zeros((rows, length), np.int32)
    columns = np.arange(length, dtype=np.int32)
    present = columns < lengths[:, None]
    matrix[: len(indices)][present] = ids.values[(starts[:, None] + columns)[present]]
    return matrix


def windows(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `0..count-1` in order."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


class Batches(keras.utils.PyDataset):
    """Rows in batches of like length, each row once an epoch, for Keras's `fit` and `evaluate`.

    Rows are shuffled, sorted by length within stretches of 50 batches, cut into batches, and the
    batches shuffled: little padding, and no order by length for the optimizer to see. What an
    epoch looks like depends on `(seed, epoch)` alone, so that a run can be resumed.

    Args:
        lengths: int `(n,)`, tokens of each row.
        labels: int32 `(n,)`, or float32 `(n, classes)`; `None` where `fetch` gives them too.
        fetch: `fetch(rows, rng)` gives the model's inputs for an array of row numbers, or without
            `labels` all that a batch has; what it draws from `rng` depends on
            `(seed, epoch, batch)` alone.
        batch_size: rows of a batch.
        sample_weight: float32 `(n,)`, optional.
        shuffle: whether to draw batches anew each epoch.
        seed: of the shuffling, and of what `fetch` draws. Where it is `None`, rows that are
            shuffled have one from the state that `keras.utils.set_random_seed` sets, others 0.
            Keras's `fit` begins with epoch 0 or 1, as the backend looks at a batch beforehand or
            not; `start_epoch` says which it is.
        steps: at most so many batches an epoch.
    """

    _STRETCH = 50

    def __init__(
        self,
        lengths: np.ndarray,
        labels: np.ndarray | None,
        fetch: Callable[[np.ndarray, np.random.Generator], Any],
        batch_size: int = 32,
        sample_weight: np.ndarray | None = None,
        *,
        shuffle: bool = False,
        seed: int | None = None,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        for name, array in (("labels", labels), ("sample weights", sample_weight)):
            if array is not None and len(array) != len(lengths):
                raise InputError(f"{len(array)} {name} for {len(lengths)} texts")
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise InputError(f"batch_size must be a positive integer, not {batch_size!r}")
        if seed is not None and (not isinstance(seed, int | np.integer) or seed < 0):
            raise InputError(f"seed must be 0 or a positive integer, not {seed!r}")
        self._lengths, self.labels, self._fetch = lengths, labels, fetch
        self._batch_size, self._sample_weight, self._shuffle = batch_size, sample_weight, shuffle
        if seed is None:
            seed = np.random.randint(2**31) if shuffle else 0
        self._seed = seed
        self._steps = steps
        self._held = False
        self._lay_out(0, 0)

    def start_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Hold that epoch, without its batches before `first_batch`, until the next call.

        Left alone, each epoch of Keras's `fit` is a new one.
        """
        self._held = True
        self._lay_out(epoch, first_batch)

    def _lay_out(self, epoch: int, first_batch: int) -> None:
        rng = np.random.default_rng([self._seed, epoch])
        order = np.arange(len(self._lengths))
        if self._shuffle:
            order = rng.permutation(order)
            stretch = self._STRETCH * self._batch_size
            parts = [order[window] for window in windows(len(order), stretch)]
            order = np.concatenate([part[self._longest_first(part)] for part in parts])
        else:
            order = self._longest_first(order)
        batches = [order[window] for window in windows(len(order), self._batch_size)]
        if self._shuffle:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        self._epoch, self._first = epoch, first_batch
        self._batches = batches[: self._steps][first_batch:]

    @property
    def rows(self) -> np.ndarray:
        """The rows of this epoch."""
        return np.concatenate(self._batches) if self._batches else np.empty(0, np.int64)

    def on_epoch_end(self) -> None:
        """Called by Keras after each epoch, and before the first, once it has seen a batch."""
        if not self._held:
            self._lay_out(self._epoch + 1, 0)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        rows = self._batches[index]
        rng = np.random.default_rng([self._seed, self._epoch, self._first + index])
        inputs: Any = self._fetch(rows, rng)
        if self.labels is None:
            whole: tuple[Any, ...] = inputs
            return whole
        if self._sample_weight is None:
            return inputs, self.labels[rows]
        return inputs, self.labels[rows], self._sample_weight[rows]

    def _longest_first(self, rows: np.ndarray) -> np.ndarray:
        return np.argsort(-self._lengths[rows], kind="stable")


def for_keras(batches: Batches) -> Any:
    """What Keras's `fit` and `evaluate` are to get for these batches.

    On TensorFlow it is a `tf.data.Dataset` that says that lengths vary: Keras takes the length of
    the first two batches for that of all where the two agree, and fails at the first other one.
    """
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    # TensorFlow keeps the function for good, and with it whatever that holds.
    reference = weakref.ref(batches)

    def generate() -> Iterator[Any]:
        live = reference()
        assert live is not None
        yield from (live[i] for i in range(len(live)))
        live.on_epoch_end()

    signature = tf.nest.map_structure(
        lambda array: tf.TensorSpec([None] * array.ndim, array.dtype), batches[0]
    )
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(batches))).prefetch(1)
    dataset.batches = batches
    return dataset
