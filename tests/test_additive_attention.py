"""Additive attention against the paper's formula, and the GRU encoder that pools by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_agnews.errors import InputError

pytestmark = pytest.mark.backend

UNITS, WIDTH, QUERY_WIDTH = 5, 4, 3


def numpy(value: Any) -> np.ndarray:
    import keras

    return keras.ops.convert_to_numpy(keras.ops.cast(value, "float32"))


def formula(
    layer: Any, states: np.ndarray, query: np.ndarray | None, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bahdanau et al. 2015, A.1.2 and eq. 5 and 6, state by state, in float64."""
    w = {v.path.split("/", 1)[1]: numpy(v).astype(np.float64) for v in layer.weights}
    u, b, v = w["states/kernel"], w.get("states/bias", np.zeros(UNITS)), w["score"]
    queries = np.zeros((len(states), 1, 1)) if query is None else query.astype(np.float64)
    kernel = np.zeros((1, UNITS)) if query is None else w["query/kernel"]
    contexts = np.zeros((*queries.shape[:2], states.shape[2]))
    weights = np.zeros((*queries.shape[:2], states.shape[1]))
    for n, row in enumerate(states.astype(np.float64)):
        there = np.flatnonzero(mask[n])
        for i, q in enumerate(queries[n]):
            energies = [v @ np.tanh(kernel.T @ q + u.T @ row[j] + b) for j in there]
            for j, energy in zip(there, energies, strict=True):
                weights[n, i, j] = np.exp(energy) / np.exp(energies).sum()
                contexts[n, i] += weights[n, i, j] * row[j]
    return (contexts[:, 0], weights[:, 0]) if query is None else (contexts, weights)


def random_layer(rng: np.random.Generator, query: bool, **options: Any) -> Any:
    """Every weight, biases too, away from its initial value, and the softmax away from flat."""
    from keras_agnews.layers import AdditiveAttention

    layer = AdditiveAttention(UNITS, name="attention", **options)
    layer.build((None, None, WIDTH), (None, None, QUERY_WIDTH) if query else None)
    layer.set_weights([rng.normal(0, 1.5, w.shape).astype("float32") for w in layer.weights])
    return layer


def data(rng: np.random.Generator, rows: int, length: int, queries: int) -> tuple[Any, Any]:
    states = rng.normal(size=(rows, length, WIDTH)).astype("float32")
    return states, rng.normal(size=(rows, queries, QUERY_WIDTH)).astype("float32")


@pytest.mark.parametrize("with_query", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
def test_it_is_the_papers_formula(with_query: bool, use_bias: bool) -> None:
    rng = np.random.default_rng(0)
    layer = random_layer(rng, with_query, use_bias=use_bias)
    assert len(layer.weights) == 2 + use_bias + with_query
    states, query = data(rng, rows=3, length=6, queries=2)
    mask = np.array([[1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1], [0] * 6], bool)
    given_query = query if with_query else None
    for used, reference in ((mask, mask), (None, np.ones_like(mask))):
        context, weights = layer(states, query=given_query, mask=used, return_weights=True)
        expected = formula(layer, states, given_query, reference)
        np.testing.assert_allclose(numpy(context), expected[0], atol=1e-5)
        np.testing.assert_allclose(numpy(weights), expected[1], atol=1e-5)
        alone = layer(states, query=given_query, mask=used)
        np.testing.assert_array_equal(numpy(alone), numpy(context))
        nothing = ~reference.any(axis=1)
        assert not numpy(context)[nothing].any()
        assert np.ptp(numpy(weights)[~nothing]) > 0.3, "weights that are all alike test nothing"


def test_where_kerass_has_the_same_formula_it_agrees() -> None:
    """Keras's has no projections, and one vector of weights."""
    import keras

    from keras_agnews.layers import AdditiveAttention

    rng = np.random.default_rng(1)
    scale = rng.normal(0, 2, WIDTH).astype("float32")
    states = rng.normal(size=(2, 5, WIDTH)).astype("float32")
    query = rng.normal(size=(2, 3, WIDTH)).astype("float32")
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    theirs = keras.layers.AdditiveAttention()
    theirs.build([query.shape, states.shape])
    theirs.set_weights([scale])
    ours = AdditiveAttention(WIDTH, use_bias=False)
    ours.build(states.shape, query.shape)
    for variable in ours.weights:
        variable.assign(scale if len(variable.shape) == 1 else np.eye(WIDTH, dtype="float32"))
    expected = theirs(
        [keras.ops.array(query), keras.ops.array(states)],
        mask=[None, keras.ops.array(mask)],
        return_attention_scores=True,
    )
    for a, b in zip(
        ours(states, query=query, mask=mask, return_weights=True), expected, strict=True
    ):
        np.testing.assert_allclose(numpy(a), numpy(b), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 7), st.booleans())
def test_what_is_masked_does_not_matter(
    seed: int, rows: int, length: int, with_query: bool
) -> None:
    rng = np.random.default_rng(seed)
    layer = random_layer(rng, with_query)
    states, query = data(rng, rows, length, 2)
    mask = rng.random((rows, length)) < 0.6
    other = np.where(mask[..., None], states, rng.normal(0, 1e3, states.shape).astype("float32"))
    asked = query if with_query else None
    results = [layer(v, query=asked, mask=mask, return_weights=True) for v in (states, other)]
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(numpy(a), numpy(b), atol=1e-6)
    weights = numpy(results[0][1])
    there = np.broadcast_to(mask[:, None] if with_query else mask, weights.shape)
    np.testing.assert_allclose(weights.sum(axis=-1), there.any(axis=-1), atol=1e-5)
    assert not weights[~there].any()


def test_the_mask_that_keras_attaches_is_obeyed(tmp_path: Path) -> None:
    import keras

    from keras_agnews.layers import AdditiveAttention

    ids = keras.Input((None,), dtype="int32")
    query = keras.Input((None, QUERY_WIDTH))
    states = keras.layers.Embedding(9, WIDTH, mask_zero=True)(ids)
    pooled = AdditiveAttention(UNITS)(states, return_weights=True)
    asked = AdditiveAttention(UNITS)(states, query=query, return_weights=True)
    assert [tuple(t.shape) for t in (*pooled, *asked)] == [
        (None, WIDTH),
        (None, None),
        (None, None, WIDTH),
        (None, None, None),
    ]
    model = keras.Model([ids, query], [pooled, asked])
    values = [np.array([[3, 4, 0, 0]], "int32"), np.ones((1, 2, QUERY_WIDTH), "float32")]
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    # `predict` compiles: tensors are then JAX's tracers, which carry no attributes.
    answers = [m.predict(values, verbose=0) for m in (model, again)]
    for (_, one), (_, many) in (model(values), *answers):
        assert not numpy(one)[:, 2:].any()
        assert not numpy(many)[..., 2:].any()
        np.testing.assert_allclose(numpy(many).sum(axis=-1), 1, atol=1e-6)


def test_half_precision_keeps_the_weights_whole() -> None:
    rng = np.random.default_rng(2)
    exact = random_layer(rng, True)
    rough = random_layer(rng, True, dtype="mixed_bfloat16")
    rough.set_weights(exact.get_weights())
    states, query = data(rng, 2, 9, 3)
    mask = np.arange(9) < np.array([[9], [4]])
    context, weights = rough(states, query=query, mask=mask, return_weights=True)
    assert "bfloat16" in str(context.dtype)
    assert "float32" in str(weights.dtype)
    np.testing.assert_allclose(numpy(weights).sum(axis=-1), 1, atol=1e-6)
    expected = formula(exact, states, query, mask)
    np.testing.assert_allclose(numpy(context), expected[0], atol=0.05)
    np.testing.assert_allclose(numpy(weights), expected[1], atol=0.05)


def test_a_query_is_given_always_or_never() -> None:
    rng = np.random.default_rng(3)
    states, query = data(rng, 1, 2, 1)
    with pytest.raises(InputError, match="built without a query, which is now given"):
        random_layer(rng, False)(states, query=query)
    with pytest.raises(InputError, match="built with a query, which is now missing"):
        random_layer(rng, True)(states)


def test_a_model_with_both_layers_loads_in_a_fresh_process(tmp_path: Path, fresh: Any) -> None:
    import keras

    from keras_agnews import layers

    ids = keras.Input((None,), dtype="int32", name="ids")
    out = layers.GruEncoder(20, 3, WIDTH, 5, layers=2, dropout=0.1)({"input_word_ids": ids})
    asked = layers.AdditiveAttention(UNITS)(out["sequence_output"], query=out["sequence_output"])
    model = keras.Model(ids, [asked, out["default"], out["attention_weights"]])
    model.save(tmp_path / "m.keras")
    rows = [[3, 4, 5, 0], [6, 0, 0, 0]]
    code = """
import json, sys
import numpy as np
import keras, keras_agnews
model = keras.saving.load_model(sys.argv[1])
out = model(np.array(json.loads(sys.argv[2]), "int32"))
print(json.dumps([keras.ops.convert_to_numpy(o).tolist() for o in out]))
"""
    printed = fresh(code, str(tmp_path / "m.keras"), json.dumps(rows))
    answers = json.loads(printed.strip().splitlines()[-1])
    for answer, expected in zip(answers, model(np.array(rows, "int32")), strict=True):
        np.testing.assert_allclose(answer, numpy(expected), atol=1e-6)


def test_the_encoder_obeys_a_given_mask() -> None:
    from keras_agnews.layers import GruEncoder

    ids = np.array([[5, 6, 7, 0, 0], [8, 9, 3, 4, 2], [0, 0, 0, 0, 0]], "int32")
    encoder = GruEncoder(20, 3, 6, 5, layers=2, initializer_range=0.5)
    out = encoder({"input_word_ids": ids})
    assert {*out} == {"default", "sequence_output", "encoder_outputs", "attention_weights"}
    assert [tuple(o.shape) for o in out["encoder_outputs"]] == [(3, 5, 6)] * 2
    assert not numpy(out["default"])[2].any()
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], "int32")
    masked = numpy(encoder({"input_word_ids": ids, "input_mask": mask})["default"])
    cut = numpy(encoder({"input_word_ids": ids[1:2, :2]})["default"])
    np.testing.assert_allclose(masked[0], numpy(out["default"])[0], atol=1e-6)
    np.testing.assert_allclose(masked[1], cut[0], atol=1e-6)
    assert np.abs(masked[1] - numpy(out["default"])[1]).max() > 1e-3
