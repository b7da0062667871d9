"""Batches by length: every row once, few shapes, little padding, and a resumable order."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_agnews import batching
from keras_agnews.errors import InputError
from keras_agnews.tokenizers import TokenIds

pytestmark = pytest.mark.backend  # the module imports Keras for its PyDataset

LIMIT = 256
lengths_lists = st.lists(st.integers(0, LIMIT), max_size=400).map(lambda n: np.array(n, np.int32))


def ragged(lengths: np.ndarray) -> TokenIds:
    """Texts whose tokens tell their place: text i, token j is 1000 * (i + 1) + j."""
    values = [1_000 * (i + 1) + j for i, length in enumerate(lengths) for j in range(length)]
    return TokenIds(np.array(values, np.int32), lengths, np.zeros(len(lengths), bool))


@settings(max_examples=200, deadline=None)
@given(lengths_lists, st.none() | st.integers(1, 50))
def test_plan_holds_each_text_once_and_whole(lengths: np.ndarray, max_rows: int | None) -> None:
    batches = batching.plan(lengths, LIMIT, max_rows=max_rows)
    indices = np.concatenate([b.indices for b in batches]) if batches else np.array([], int)
    assert sorted(indices.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch.indices) <= batch.rows
        assert lengths[batch.indices].max() <= batch.length <= LIMIT
        assert batch.positions <= max(batching.tokens_per_batch(), batch.length)
        if max_rows is not None:
            assert batch.rows <= max_rows
    if keras.backend.backend() == "torch":  # compiles nothing, so pads no more than it must
        assert all(b.rows == len(b.indices) for b in batches)
        assert all(b.length == max(1, lengths[b.indices].max()) for b in batches)
    else:
        shapes = {(b.rows, b.length) for b in batches}
        assert len(shapes) <= len(batching.LENGTHS) + 5


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="others have fixed shapes")
def test_few_texts_are_cut_where_padding_would_cost_more_than_a_call() -> None:
    def shapes(lengths: list[int]) -> list[tuple[int, int]]:
        return [(b.rows, b.length) for b in batching.plan(np.array(lengths), LIMIT)]

    assert shapes([30] * 40 + [100] * 2) == [(2, 100), (40, 30)]
    assert shapes([30, 28, 27, 30]) == [(4, 30)], "a call would cost more"
    assert shapes([0] * 400) == [(400, 1)]
    # As skewed as news is: a few long texts, and many of a third of their length.
    lengths = np.random.default_rng(0).gamma(6, 9, 64).astype(int) + 5
    batches = batching.plan(lengths, LIMIT)
    positions = sum(batch.positions for batch in batches)
    assert 1 - lengths.sum() / positions < 0.25
    assert 1 - lengths.sum() / (64 * lengths.max()) > 0.4, "as one batch"
    assert len(batches) <= 5


@settings(max_examples=50, deadline=None)
@given(lengths_lists.filter(len))
def test_pad_puts_each_token_in_its_place(lengths: np.ndarray) -> None:
    ids = ragged(lengths)
    for batch in batching.plan(lengths, LIMIT):
        matrix = batching.pad(ids, batch.indices, batch.rows, batch.length)
        assert matrix.shape == (batch.rows, batch.length)
        assert matrix.dtype == np.int32
        for row, i in zip(matrix, batch.indices, strict=False):
            expected = 1_000 * (i + 1) + np.arange(lengths[i])
            np.testing.assert_array_equal(row[: lengths[i]], expected)
            assert not row[lengths[i] :].any()
        assert not matrix[len(batch.indices) :].any()


@given(st.integers(1, 3_000), st.integers(1, 512))
def test_bucket_holds_the_length_within_the_limit(length: int, limit: int) -> None:
    size = batching.bucket(min(length, limit), limit)
    assert min(length, limit) <= size <= limit


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="compiles no shapes")
def test_an_accelerator_has_half_the_shapes_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "on_cpu", lambda: False)
    for cached in (batching._lengths, batching.tokens_per_batch):  # noqa: SLF001
        cached.cache_clear()
    try:
        sizes = [batching.bucket(length, LIMIT) for length in range(1, LIMIT + 1)]
        assert all(size >= length for length, size in enumerate(sizes, start=1))
        assert len(set(sizes)) <= len({size for size in batching.LENGTHS if size <= LIMIT}) / 2 + 1
        batches = batching.plan(np.full(5_000, 100), LIMIT)
        assert max(batch.positions for batch in batches) == batching.TOKENS_PER_BATCH
    finally:
        for cached in (batching._lengths, batching.tokens_per_batch):  # noqa: SLF001
            cached.cache_clear()


def epoch_rows(batches: batching.Batches) -> list[list[int]]:
    return [batches[i][0].tolist() for i in range(len(batches))]


def make(count: int, **options: object) -> batching.Batches:
    lengths = np.random.default_rng(3).integers(1, 60, count).astype(np.int32)
    labels = np.arange(count, dtype=np.int32)
    return batching.Batches(lengths, labels, lambda rows, rng: rows, 8, **options)


@pytest.mark.parametrize("count", [1, 7, 8, 100, 1_001])
def test_each_row_is_seen_once_an_epoch(count: int) -> None:
    batches = make(count, shuffle=True, seed=5)
    seen = []
    for _ in range(3):
        rows = epoch_rows(batches)
        assert sorted(i for batch in rows for i in batch) == list(range(count))
        for inputs, labels in (batches[i] for i in range(len(batches))):
            np.testing.assert_array_equal(inputs, labels)
        seen.append(rows)
        batches.on_epoch_end()
    if count > 8:
        assert seen[0] != seen[1] != seen[2]


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    one, other = make(500, shuffle=True, seed=5), make(500, shuffle=True, seed=5)
    one.on_epoch_end()
    one.on_epoch_end()
    other.start_epoch(2)
    other.on_epoch_end()
    assert epoch_rows(one) == epoch_rows(other)
    other.start_epoch(2, first_batch=10)
    assert epoch_rows(other) == epoch_rows(one)[10:]
    assert epoch_rows(make(500, shuffle=True, seed=6)) != epoch_rows(
        make(500, shuffle=True, seed=5)
    )


def test_what_a_batch_draws_survives_a_resume() -> None:
    lengths = np.ones(40, np.int32)

    def noise(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return rng.random(len(rows))

    whole = batching.Batches(lengths, lengths, noise, 4, shuffle=True, seed=1)
    part = batching.Batches(lengths, lengths, noise, 4, shuffle=True, seed=1)
    part.start_epoch(0, first_batch=3)
    np.testing.assert_array_equal(whole[3][0], part[0][0])
    assert (whole[3][0] != whole[4][0]).any()


def test_shuffled_batches_are_neither_sorted_nor_wasteful() -> None:
    count = 4_000
    lengths = np.random.default_rng(3).integers(1, 200, count).astype(np.int32)
    batches = batching.Batches(lengths, lengths, lambda rows, rng: rows, 16, shuffle=True, seed=0)
    longest = np.array([lengths[rows].max() for rows in epoch_rows(batches)])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.2
    padded = sum(lengths[rows].max() * len(rows) for rows in epoch_rows(batches))
    assert padded < 1.06 * lengths.sum()


def test_steps_cut_an_epoch_and_draw_anew() -> None:
    batches = make(500, shuffle=True, seed=5, steps=3)
    first = epoch_rows(batches)
    assert len(batches) == 3
    batches.on_epoch_end()
    assert len(batches) == 3
    assert epoch_rows(batches) != first


def test_mismatched_labels_are_refused() -> None:
    with pytest.raises(InputError, match="3 labels for 4 texts"):
        batching.Batches(np.ones(4, int), np.ones(3, int), lambda rows, rng: rows)
    with pytest.raises(InputError, match="batch_size"):
        batching.Batches(np.ones(4, int), np.ones(4, int), lambda rows, rng: rows, 0)


def test_keras_takes_batches_of_any_length() -> None:
    """On TensorFlow, Keras takes the shapes of the first two batches for those of all."""
    lengths = np.array([9, 9, 9, 9, 4, 4, 4], np.int32)

    def fetch(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.ones((len(rows), int(lengths[rows].max())), np.float32)

    class Mean(keras.Model):
        def call(self, x: object) -> object:
            return keras.ops.mean(x, axis=1, keepdims=True)

    batches = batching.Batches(lengths, np.ones(7, np.float32), fetch, 2)
    model = Mean()
    model.compile(loss="mse")
    assert model.evaluate(batching.for_keras(batches), verbose=0) < 1e-9
    drawn = batching.Batches(lengths, np.ones(7, np.float32), fetch, 2, shuffle=True, seed=0)
    first = epoch_rows(drawn)
    model.fit(batching.for_keras(drawn), epochs=2, shuffle=False, verbose=0)
    assert sorted(map(len, epoch_rows(drawn))) == [1, 2, 2, 2]
    assert epoch_rows(drawn) != first, "each epoch of fit draws anew"


def test_a_weight_stays_with_its_row() -> None:
    lengths = np.random.default_rng(3).integers(1, 60, 100).astype(np.int32)
    rows = np.arange(100)
    batches = batching.Batches(lengths, rows, lambda r, _: r, 8, rows / 7, shuffle=True, seed=5)
    for inputs, _, weight in (batches[i] for i in range(len(batches))):
        np.testing.assert_array_equal(weight, inputs / 7)
