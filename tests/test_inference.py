"""The compiled forward pass: the same answers as Keras's own, at any shape, after any change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.backend

WIDTH = 4


def model_of(layer: Any) -> Any:
    """Token ids, an embedding, `layer`, which gives `(batch, ...)`, and two logits."""
    import keras

    ids = keras.Input((None,), dtype="int32", name="input_word_ids")
    hidden = keras.layers.Embedding(9, WIDTH, embeddings_initializer="normal")(ids)
    logits = keras.layers.Dense(2, name="logits", dtype="float32")(layer(hidden))
    return keras.Model({"input_word_ids": ids}, logits)


@pytest.fixture
def pooled() -> Any:
    import keras

    return model_of(keras.layers.GlobalAveragePooling1D())


def inputs(rows: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([rows, length])
    return {"input_word_ids": rng.integers(0, 9, (rows, length)).astype(np.int32)}


def expected(model: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    import keras

    return keras.ops.convert_to_numpy(model(batch, training=False))


def test_any_shape_gives_what_the_model_gives(pooled: Any) -> None:
    from keras_agnews.inference import compile_forward

    forward = compile_forward(pooled)
    for shape in ((1, 1), (1, 6), (5, 1), (3, 8)):
        batch = inputs(*shape)
        np.testing.assert_allclose(forward(batch), expected(pooled, batch), atol=1e-6)


def test_a_loop_over_the_length_is_not_frozen() -> None:
    """Keras's GRU on PyTorch is a Python loop: a record of it would hold for one length alone."""
    import keras

    from keras_agnews.inference import compile_forward

    model = model_of(keras.layers.GRU(3))
    forward = compile_forward(model)
    for shape in ((2, 3), (2, 9)):
        batch = inputs(*shape)
        np.testing.assert_allclose(forward(batch), expected(model, batch), atol=1e-6)


def test_weights_and_precision_are_the_present_ones(pooled: Any) -> None:
    from keras_agnews.inference import compile_forward, compute_in_bfloat16

    forward, batch = compile_forward(pooled), inputs(3, 5)
    before = forward(batch)
    table = pooled.weights[0]
    table.assign(table * 3)
    after = forward(batch)
    assert np.abs(after - before).max() > 1e-4
    np.testing.assert_allclose(after, expected(pooled, batch), atol=1e-6)
    compute_in_bfloat16(pooled)
    rough = forward(batch)
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - after).max() < 0.05
    for layer in pooled.layers:
        layer.dtype_policy = "float32"
    np.testing.assert_array_equal(forward(batch), after)


def test_low_rank_updates_are_seen() -> None:
    import keras

    from keras_agnews.inference import compile_forward

    model = model_of(keras.layers.GlobalAveragePooling1D())
    forward, batch = compile_forward(model), inputs(2, 4)
    before = forward(batch)
    model.get_layer("logits").enable_lora(1)
    for weight in model.get_layer("logits").trainable_weights:
        weight.assign(np.full(weight.shape, 0.5, "float32"))
    after = forward(batch)
    assert np.abs(after - before).max() > 1e-4
    np.testing.assert_allclose(after, expected(model, batch), atol=1e-6)


@pytest.mark.parametrize("name", ["tiny-transformer", "gru-attention"])
def test_pytorch_runs_the_zoo_without_keras_around_each_operation(name: str) -> None:
    """Keras's own calls are 7 of the 8 milliseconds that small-bert-L4 takes for a short text."""
    import keras

    if keras.backend.backend() != "torch":
        pytest.skip("compiled backends have no such calls")
    import keras_agnews

    clf = keras_agnews.load(name, weights=None)
    clf.predict("Rain in the north")
    calls = []
    original = type(clf.encoder).call
    try:
        type(clf.encoder).call = lambda *a, **k: calls.append(1) or original(*a, **k)
        clf.predict(["Rain in the north", "A goal in the last minute decides the match"])
    finally:
        type(clf.encoder).call = original
    assert not calls


def test_mixed_precision_of_load_keeps_answers_close() -> None:
    import keras_agnews

    texts = ["Oil prices soar to an all-time record", "Giants win in overtime"]
    plain = keras_agnews.load("tiny-transformer").predict(texts)
    rough = keras_agnews.load("tiny-transformer", mixed_precision=True).predict(texts)
    assert 0 < np.abs(plain - rough).max() < 0.05


def test_frozen_or_not_each_weight_keeps_its_place() -> None:
    """Two matrices of one shape: a program that told weights by `trainable` would swap them."""
    import keras_agnews

    clf = keras_agnews.load("tiny-transformer")
    layer, text = clf.encoder.blocks[0].attention, "Oil prices soar to an all-time record"
    logits, seen = clf.logits(text), keras_agnews.attention(clf, text)
    for frozen, other in ((layer.query, layer.key), (layer.key, layer.query)):
        frozen.trainable, other.trainable = False, True
        np.testing.assert_array_equal(clf.logits(text), logits)
        np.testing.assert_array_equal(keras_agnews.attention(clf, text).logits, seen.logits)
