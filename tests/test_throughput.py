"""Speed that cannot be lost unseen: compilations and padded positions are counted, not seconds."""

from __future__ import annotations

import collections
import functools
from typing import Any

import numpy as np
import pytest

import keras_agnews
from benchmarks.texts import generate_lengths, generate_texts

pytestmark = pytest.mark.backend

# A bound that falls may be tightened.


def test_padding_and_shapes_stay_few() -> None:
    import keras

    from keras_agnews import batching

    compiled = keras.backend.backend() != "torch"
    rng = np.random.default_rng(0)
    # 1,000 texts are a third of one window: the last, half-full batch weighs much.
    for count, most_padding, most_shapes in ((1_000, 0.12, 6), (4_000, 0.1, 8)):
        lengths = generate_lengths(count, rng)
        batches = batching.plan(lengths, 256)
        padding = 1 - lengths.sum() / sum(batch.positions for batch in batches)
        assert padding <= most_padding
        assert not compiled or len({(batch.rows, batch.length) for batch in batches}) <= most_shapes
    lengths = generate_lengths(4_000, rng)
    narrow = batching.plan(lengths, 256, tokens=batching.tokens_per_batch(32))
    assert 1 - lengths.sum() / sum(batch.positions for batch in narrow) <= 0.11
    assert not compiled or len({(batch.rows, batch.length) for batch in narrow}) <= 9
    assert len(narrow) <= 60, "each costs a call, which weighs much in a narrow model"
    # Requests of any size, as a service gets them, share their shapes.
    shapes = {
        (batch.rows, batch.length)
        for count in range(1, 600)
        for batch in batching.plan(generate_lengths(count, rng), 256)
    }
    assert not compiled or len(shapes) <= 25


def test_a_second_predict_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    if keras.backend.backend() == "torch":
        pytest.skip("PyTorch compiles nothing")
    clf = keras_agnews.load("tiny-transformer", weights=None)
    kind = type(clf.encoder)
    original = kind.call
    traced: collections.Counter[tuple[int, ...]] = collections.Counter()

    @functools.wraps(original)
    def call(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # Of a compiled program, Python runs this while it is traced and never again.
        traced[tuple(inputs["input_word_ids"].shape)] += 1
        return original(self, inputs, *args, **kwargs)

    monkeypatch.setattr(kind, "call", call)
    texts = generate_texts(clf.tokenizer.vocabulary, 200)
    first = clf.predict(texts)
    assert traced
    assert max(traced.values()) == 1
    before = traced.copy()
    np.testing.assert_allclose(clf.predict(texts[::-1])[::-1], first, atol=1e-5)
    assert traced == before
