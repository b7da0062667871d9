"""The layers on their own: fused attention, masks, configs that round-trip, precision."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from keras_agnews.errors import InputError

pytestmark = pytest.mark.backend

ENCODER: dict[str, Any] = {
    "vocabulary_size": 50,
    "max_positions": 16,
    "hidden_size": 8,
    "layers": 2,
    "heads": 2,
    "feed_forward_size": 12,
    "type_vocabulary_size": 2,
    "pooler": True,
    "initializer_range": 0.3,
}


@pytest.fixture
def encoder() -> Any:
    from keras_agnews.layers import TransformerEncoder

    return TransformerEncoder(**ENCODER, name="encoder")


def numpy(value: Any) -> np.ndarray:
    import keras

    return keras.ops.convert_to_numpy(value)


IDS = np.array([[5, 6, 7, 0, 0], [8, 9, 3, 4, 2]], "int32")


def test_outputs_have_the_names_and_shapes_of_tf_hub(encoder: Any) -> None:
    out = encoder({"input_word_ids": IDS, "input_mask": IDS != 0, "input_type_ids": IDS * 0})
    assert {*out} == {"pooled_output", "default", "sequence_output", "encoder_outputs"}
    assert out["sequence_output"].shape == (2, 5, 8)
    assert [tuple(o.shape) for o in out["encoder_outputs"]] == [(2, 5, 8)] * 2
    np.testing.assert_array_equal(numpy(out["default"]), numpy(out["pooled_output"]))
    np.testing.assert_array_equal(numpy(out["encoder_outputs"][-1]), numpy(out["sequence_output"]))


def test_a_given_mask_is_obeyed(encoder: Any) -> None:
    full = numpy(encoder({"input_word_ids": IDS})["pooled_output"])
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], "int32")
    masked = numpy(encoder({"input_word_ids": IDS, "input_mask": mask})["pooled_output"])
    cut = numpy(encoder({"input_word_ids": IDS[1:, :2]})["pooled_output"])
    np.testing.assert_allclose(masked[0], full[0], atol=1e-6)
    np.testing.assert_allclose(masked[1], cut[0], atol=1e-6)
    assert np.abs(masked[1] - full[1]).max() > 1e-4


def test_token_types_count(encoder: Any) -> None:
    types = np.array([[0, 1, 1, 0, 0], [0, 0, 0, 0, 0]], "int32")
    plain = numpy(encoder({"input_word_ids": IDS})["pooled_output"])
    typed = numpy(encoder({"input_word_ids": IDS, "input_type_ids": types})["pooled_output"])
    assert np.abs(typed[0] - plain[0]).max() > 1e-5
    np.testing.assert_allclose(typed[1], plain[1], atol=1e-6)


def test_a_text_without_tokens_is_finite_and_its_gradient_too(encoder: Any) -> None:
    import keras

    empty = np.zeros((1, 4), "int32")
    for value in encoder({"input_word_ids": empty}).values():
        for array in value if isinstance(value, list) else [value]:
            assert np.isfinite(numpy(array)).all()
    ids = keras.Input((None,), dtype="int32")
    outputs = encoder({"input_word_ids": ids})
    mean = encoder.mean_pooling(outputs["sequence_output"], keras.ops.not_equal(ids, 0))
    model = keras.Model(ids, outputs["pooled_output"] + mean)
    before = model.get_weights()
    model.compile("sgd", "mse")
    model.train_on_batch(empty, np.ones((1, 8), "float32"))
    after = model.get_weights()
    assert any(np.abs(b - a).max() > 0 for a, b in zip(before, after, strict=True))
    assert all(np.isfinite(value).all() for value in after)


def test_attention_is_fused_but_where_dropout_is_active(
    encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_agnews import layers

    calls = []
    fused = layers.ops.dot_product_attention

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return fused(*args, **kwargs)

    monkeypatch.setattr(layers.ops, "dot_product_attention", counted)
    inference = numpy(encoder({"input_word_ids": IDS})["sequence_output"])
    assert len(calls) == ENCODER["layers"]
    encoder({"input_word_ids": IDS}, training=True)
    assert len(calls) == ENCODER["layers"], "dropout on attention weights cannot be fused"
    # Without any dropout, training takes the fused way too, and the unfused one agrees with it.
    still = layers.TransformerEncoder(**ENCODER, dropout=0.0, attention_dropout=0.0)
    still.build({"input_word_ids": (None, None)})
    still.set_weights(encoder.get_weights())
    np.testing.assert_allclose(
        numpy(still({"input_word_ids": IDS}, training=True)["sequence_output"]),
        inference,
        atol=1e-5,
    )
    assert len(calls) == 2 * ENCODER["layers"]


@pytest.mark.parametrize(("keys", "training"), [(8, False), (512, False), (512, True)])
def test_cudnn_gets_no_mask_that_it_refuses(
    keys: int, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, Keras on JAX tries cuDNN first, which takes masks of all queries by all keys."""
    import keras

    from keras_agnews import layers

    if keras.backend.backend() != "jax":
        pytest.skip("other backends choose by themselves")
    calls: list[dict[str, Any]] = []
    fused = layers.ops.dot_product_attention

    def noted(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return fused(*args, **kwargs)

    monkeypatch.setattr(layers.ops, "dot_product_attention", noted)
    hidden = np.random.default_rng(0).normal(size=(2, keys, 8)).astype("float32")
    attend = np.arange(keys) < np.array([[keys // 2], [keys]])
    layer = layers.SelfAttention(8, 2)
    whole = numpy(layer(hidden, attend=attend, training=training))
    assert len(calls) == 1
    if calls[0]["flash_attention"] is not False:
        assert (keys, training) == (512, False)
        assert calls[0]["mask"].shape == (2, 1, keys, keys)
    else:
        assert (keys, training) != (512, False)
    # A text that fills half of its row is answered as by itself.
    alone = numpy(layer(hidden[:1, : keys // 2]))
    np.testing.assert_allclose(whole[:1, : keys // 2], alone, atol=1e-5)


def test_unfused_attention_is_the_fused_one() -> None:
    from keras_agnews.layers import SelfAttention

    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(2, 5, 8)).astype("float32")
    attend = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    # A rate so small that nothing is dropped still takes the unfused way.
    layer = SelfAttention(8, 2, dropout=1e-7)
    fused = numpy(layer(hidden, attend=attend))
    np.testing.assert_allclose(numpy(layer(hidden, attend=attend, training=True)), fused, atol=1e-5)


@pytest.mark.parametrize("name", ["encoder", "block", "attention", "embedding", "pooling"])
def test_config_round_trips_as_json(name: str) -> None:
    import keras

    from keras_agnews import layers

    made: dict[str, Any] = {
        "encoder": lambda: layers.TransformerEncoder(**ENCODER),
        "block": lambda: layers.TransformerBlock(8, 2, 12, key_size=3, activation="relu"),
        "attention": lambda: layers.SelfAttention(8, 2, dropout=0.2),
        "embedding": lambda: layers.TransformerEmbedding(50, 16, 8, norm=True, dropout=0.1),
        "pooling": lambda: layers.MaskedMeanPooling(),
    }
    layer = made[name]()
    text = json.dumps(keras.saving.serialize_keras_object(layer))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()


def test_layers_compose_save_and_load_as_a_users_own_model(tmp_path: Any) -> None:
    import keras

    from keras_agnews import layers

    ids = keras.Input((None,), dtype="int32")
    hidden = layers.TransformerEmbedding(50, 16, 8)(ids)
    hidden = layers.TransformerBlock(8, 2, 12)(hidden)
    pooled = layers.MaskedMeanPooling()(hidden, keras.ops.not_equal(ids, 0))
    model = keras.Model(ids, keras.layers.Dense(3)(pooled))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(numpy(again(IDS)), numpy(model(IDS)), atol=1e-6)


def test_bert_base_block_has_the_published_number_of_parameters() -> None:
    from keras_agnews.layers import TransformerBlock, weights_follow

    with weights_follow():
        block = TransformerBlock(768, 12, 3_072)
        block.build((None, None, 768))
    assert block.count_params() == 7_087_872
    assert all(not numpy(w.value).any() for w in block.attention.weights)


@pytest.mark.parametrize("name", ["tiny-transformer", "small-bert-L4", "gru-attention"])
def test_no_two_weights_of_a_new_model_are_alike(name: str) -> None:
    from keras_agnews import bundle, registry

    directory = registry.find(name)
    assert directory is not None
    known = bundle.read(directory)
    config = dataclasses.replace(known.config, vocabulary_size=300)
    values = [numpy(w.value) for w in dataclasses.replace(known, config=config).build().weights]
    drawn = [value.ravel()[:8] for value in values if np.ptp(value)]
    assert len(drawn) >= 8
    for one, other in itertools.combinations(drawn, 2):
        assert not np.array_equal(one, other)


def test_widths_that_cannot_be_halved_or_headed_are_an_error() -> None:
    from keras_agnews.layers import GruEncoder, SelfAttention

    with pytest.raises(InputError, match="hidden_size 9 is odd"):
        GruEncoder(50, 8, 9, 4)
    with pytest.raises(InputError, match="at least one head"):
        SelfAttention(8, 0)


def test_heads_that_do_not_share_the_width_are_an_error() -> None:
    from keras_agnews.layers import SelfAttention

    with pytest.raises(InputError, match="hidden_size 10 is no multiple of heads 3: give key_size"):
        SelfAttention(10, 3)
    assert numpy(SelfAttention(10, 3, key_size=4)(np.ones((1, 2, 10), "float32"))).shape[-1] == 10


def test_too_long_an_input_is_an_error(encoder: Any) -> None:
    with pytest.raises(InputError, match=r"17 tokens are more than the model's 16 positions"):
        encoder({"input_word_ids": np.ones((1, 17), "int32")})


def test_too_long_an_input_is_an_error_before_there_are_any_ids(encoder: Any) -> None:
    import keras

    with pytest.raises(InputError, match="17 tokens are more than the model's 16 positions"):
        encoder({"input_word_ids": keras.Input((17,), dtype="int32")})


@pytest.mark.parametrize("name", ["encoder", "gru"])
def test_what_is_no_dict_of_ids_is_told_so(name: str) -> None:
    import keras

    for inputs in (IDS, {"token_ids": IDS}, keras.Input((5,), dtype="int32")):
        with pytest.raises(InputError, match=r"takes a dict, .* at least, not "):
            make(name)(inputs)


def make(name: str, **options: Any) -> Any:
    from keras_agnews import layers

    if name == "gru":
        return layers.GruEncoder(600, 8, 8, 4, **options)
    # On PyTorch, Keras takes 83 and 89 for sizes that are not known.
    return layers.TransformerEncoder(
        **ENCODER | {"vocabulary_size": 600, "max_positions": 128}, **options
    )


@pytest.mark.parametrize("name", ["embedding", "encoder", "gru"])
def test_ids_that_come_as_floats_are_the_same_ids(name: str) -> None:
    """As `keras.Input((None,))` makes them; of 16 bits, 257 is 256."""
    from keras_agnews.layers import TransformerEmbedding

    ids = np.array([[257, 3, 599, 0], [301, 401, 0, 0]], "int32")
    if name == "embedding":
        layer = TransformerEmbedding(600, 16, 8, 2, initializer_range=0.3, dtype="mixed_bfloat16")
        expected = numpy(layer(ids, types=ids % 2))
        floats, types = ids.astype("float32"), (ids % 2).astype("float32")
        np.testing.assert_array_equal(numpy(layer(floats, types=types)), expected)
        return
    layer = make(name, dtype="mixed_bfloat16")
    plain, floats = ({"input_word_ids": x} for x in (ids, ids.astype("float32")))
    if name == "encoder":
        plain["input_type_ids"] = (ids > 300).astype("int32")
        floats["input_type_ids"] = (ids > 300).astype("float32")
    expected = numpy(layer(plain)["default"])
    np.testing.assert_array_equal(numpy(layer(floats)["default"]), expected)


@pytest.mark.parametrize("name", ["encoder", "gru"])
def test_a_layer_around_an_encoder_needs_no_shape_of_its_own(name: str) -> None:
    """Keras then finds the shapes by running it on sizes that have no number."""
    import keras

    class Around(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = make(name)

        def build(self, shape: Any) -> None:
            self.encoder.build({"input_word_ids": shape})

        def call(self, ids: Any) -> Any:
            return self.encoder({"input_word_ids": ids})["default"]

    around = Around()
    ids = keras.Input((None,), dtype="int32")
    outputs = around(ids)
    assert tuple(outputs.shape) == (None, 8)
    expected = numpy(around.encoder({"input_word_ids": IDS})["default"])
    found = keras.Model(ids, outputs).predict(IDS, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_layers_of_tensors_can_be_wrapped() -> None:
    """Sentences of a document, each by the same layer."""
    import keras

    from keras_agnews.layers import AdditiveAttention, SelfAttention, TransformerBlock

    rng = np.random.default_rng(0)
    documents = rng.normal(size=(2, 3, 5, 8)).astype("float32")
    for layer in (AdditiveAttention(4), SelfAttention(8, 2), TransformerBlock(8, 2, 12)):
        found = numpy(keras.layers.TimeDistributed(layer)(documents))
        one_by_one = [[numpy(layer(documents[i, j][None]))[0] for j in range(3)] for i in range(2)]
        np.testing.assert_allclose(found, np.array(one_by_one), atol=1e-5)


@pytest.mark.parametrize("name", ["encoder", "gru"])
def test_an_empty_batch_has_an_empty_answer(name: str) -> None:
    layer = make(name)
    layer({"input_word_ids": IDS})
    assert numpy(layer({"input_word_ids": IDS[:0]})["default"]).shape == (0, 8)


@pytest.mark.parametrize("floatx", ["float16", "bfloat16"])
def test_sixteen_bits_throughout_are_finite_and_can_be_saved(floatx: str, tmp_path: Any) -> None:
    import keras

    import keras_agnews

    before = keras.config.floatx()
    try:
        keras.config.set_floatx(floatx)
        layer = make("gru")
        empty = np.array([[5, 6, 7], [0, 0, 0]], "int32")
        pooled = numpy(layer({"input_word_ids": empty})["default"]).astype("float32")
        assert np.isfinite(pooled).all()
        assert not pooled[1].any()
        classifier = keras_agnews.load("gru-attention")
        classifier.save(tmp_path / "m.keras")
        again = keras.saving.load_model(tmp_path / "m.keras")
        for one, other in zip(again.model.weights, classifier.model.weights, strict=True):
            np.testing.assert_array_equal(numpy(one.value), numpy(other.value))
    finally:
        keras.config.set_floatx(before)


@pytest.mark.once
def test_a_gradient_of_a_gradient_goes_through_a_dense_layer() -> None:
    torch = pytest.importorskip("torch")
    import keras

    from keras_agnews.layers import Dense

    if keras.backend.backend() != "torch":
        pytest.skip("the layer has a gradient of its own on PyTorch alone")
    rng = np.random.default_rng(0)
    layer = Dense(3)
    layer.build((None, 4))
    kernel = layer.kernel.value
    x = torch.tensor(rng.normal(size=(5, 4)), dtype=torch.float32, requires_grad=True)

    def penalty(y: Any) -> Any:
        (slope,) = torch.autograd.grad(torch.tanh(y).sum(), x, create_graph=True)
        return torch.autograd.grad((slope**2).sum(), kernel)[0]

    found = penalty(layer(x, training=True))
    expected = penalty(x @ kernel + layer.bias.value)
    assert abs(expected).max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_keeps_to_its_own_precision() -> None:
    from keras_agnews.layers import TransformerEncoder

    exact = TransformerEncoder(**ENCODER)
    exact.build({"input_word_ids": (None, None)})
    rough = TransformerEncoder(**ENCODER, dtype="mixed_bfloat16")
    rough.build({"input_word_ids": (None, None)})
    rough.set_weights(exact.get_weights())
    out = rough({"input_word_ids": IDS})["sequence_output"]
    assert "bfloat16" in str(out.dtype)
    import keras

    np.testing.assert_allclose(
        numpy(keras.ops.cast(out, "float32")),
        numpy(exact({"input_word_ids": IDS})["sequence_output"]),
        atol=0.1,
    )
    shorter = rough({"input_word_ids": IDS[:1, :3]})["sequence_output"]
    np.testing.assert_allclose(
        numpy(keras.ops.cast(shorter, "float32")),
        numpy(keras.ops.cast(out, "float32"))[:1, :3],
        atol=0.05,
    )


@pytest.mark.parametrize("kind", ["tokens", "types"])
def test_bfloat16_learns_what_comes_often(kind: str) -> None:
    """6,144 gradients of about 1 for one row: in bfloat16, their sum stops at 256."""
    import keras

    from keras_agnews.layers import TransformerEmbedding

    rows, length, width = 128, 48, 4
    layer = TransformerEmbedding(5, length, width, type_vocabulary_size=2, dtype="mixed_bfloat16")
    ids = keras.Input((length,), dtype="int32")
    types = keras.Input((length,), dtype="int32")
    model = keras.Model([ids, types], layer(ids, types))
    model.compile(keras.optimizers.SGD(1.0), _sum_of_products)
    before = {v.path.rpartition(kind)[1]: numpy(v.value) for v in layer.weights if kind in v.path}
    inputs = [np.full((rows, length), 3, "int32"), np.ones((rows, length), "int32")]
    slopes = np.random.default_rng(0).uniform(0.9, 1.1, (rows, length, width)).astype("float32")
    model.train_on_batch(inputs, slopes)
    after = {v.path.rpartition(kind)[1]: numpy(v.value) for v in layer.weights if kind in v.path}
    change = before[kind] - after[kind]
    row = {"tokens": 3, "types": 1}[kind]
    np.testing.assert_allclose(change[row], slopes.sum((0, 1)), rtol=0.01)
    assert not np.delete(change, row, axis=0).any()


def _sum_of_products(slopes: Any, outputs: Any) -> Any:
    """A loss, of which Keras takes the mean: its gradient is `slopes`."""
    import keras

    return keras.ops.sum(slopes * keras.ops.cast(outputs, "float32")) + 0.0 * slopes[:, 0, 0]


def test_gelu_is_the_exact_one_and_so_is_its_gradient() -> None:
    import keras

    from keras_agnews.layers import activation_function

    gelu = activation_function("gelu")
    x = np.concatenate([np.linspace(-12, 12, 4_001), [-1e30, 0, 1e30]])
    normal = np.array([0.5 * math.erfc(-value / 2**0.5) for value in x])
    exact = np.where(np.abs(x) < 1e3, x * normal, np.maximum(x, 0))
    value = numpy(gelu(keras.ops.convert_to_tensor(x.astype("float32"))))
    np.testing.assert_allclose(value, exact, rtol=1e-6, atol=1e-6)
    x, normal = x[:-3], normal[:-3]
    slope = normal + x * np.exp(-(x**2) / 2) / (2 * np.pi) ** 0.5
    if keras.backend.backend() == "jax":
        import jax

        computed = jax.vmap(jax.grad(gelu))(x.astype("float32"))
        np.testing.assert_allclose(computed, slope, atol=1e-6)
    rough = gelu(keras.ops.convert_to_tensor(x, dtype="bfloat16"))
    assert keras.backend.standardize_dtype(rough.dtype) == "bfloat16"
    np.testing.assert_allclose(
        numpy(keras.ops.cast(rough, "float32")), x * normal, rtol=0.01, atol=0.02
    )


@pytest.mark.parametrize("change", [None, "lora", "int8"])
def test_a_product_that_only_predicts_is_the_same(change: str | None) -> None:
    import keras

    from keras_agnews.layers import Dense

    keras.utils.set_random_seed(1)  # what is rounded to int8 depends on the kernel
    layer = Dense(6, activation="tanh", bias_initializer="normal")
    inputs = np.random.default_rng(1).normal(size=(3, 5, 8)).astype("float32")
    layer(inputs)
    if change == "lora":
        layer.enable_lora(2)
        layer.lora_kernel_b.assign(np.ones((2, 6)))
    kernel, bias = numpy(layer.kernel).astype("float64"), numpy(layer.bias)
    if change == "int8":
        layer.quantize("int8")
    record: Any = contextlib.nullcontext()
    only_predicting: Any = contextlib.nullcontext()
    on_torch = keras.backend.backend() == "torch"
    if on_torch:
        import torch

        record, only_predicting = torch.profiler.profile(), torch.inference_mode()
    with record, only_predicting:
        outputs = numpy(layer(inputs))
    atol = 0.02 if change == "int8" else 1e-6
    np.testing.assert_allclose(outputs, np.tanh(inputs @ kernel + bias), atol=atol)
    if on_torch:
        used = any("_linear_pointwise" in event.key for event in record.key_averages())
        assert used == (change != "int8" and torch.backends.mkldnn.is_available())


@pytest.mark.parametrize("shape", [(7, 8), (3, 5, 8)])
@pytest.mark.parametrize("frozen", [False, True])
def test_pytorch_learns_by_the_same_product(shape: tuple[int, ...], frozen: bool) -> None:
    import keras

    if keras.backend.backend() != "torch":
        pytest.skip("another backend has but one product")
    import torch

    from keras_agnews.layers import Dense

    layer = Dense(6, bias_initializer="normal")
    rng = np.random.default_rng(2)
    values, weights = rng.normal(size=shape), rng.normal(size=(*shape[:-1], 6))
    inputs = torch.tensor(values, dtype=torch.float32, requires_grad=True)
    layer(inputs)
    layer.trainable = not frozen
    with torch.profiler.profile() as record:
        outputs = layer(inputs, training=True)
        (outputs * torch.tensor(weights, dtype=torch.float32)).sum().backward()
    products = [e.count for e in record.key_averages() if "_linear_pointwise" in e.key]
    assert products == ([2 if frozen else 3] if torch.backends.mkldnn.is_available() else [])
    kernel, bias = numpy(layer.kernel), numpy(layer.bias)
    np.testing.assert_allclose(numpy(outputs), values @ kernel + bias, atol=1e-5)
    np.testing.assert_allclose(numpy(inputs.grad), weights @ kernel.T, atol=1e-5)
    rows = weights.reshape(-1, 6)
    if not frozen:
        of_kernel, of_bias = (w.value.grad for w in layer.trainable_weights)
        np.testing.assert_allclose(numpy(of_kernel), values.reshape(-1, 8).T @ rows, atol=1e-5)
        np.testing.assert_allclose(numpy(of_bias), rows.sum(axis=0), atol=1e-5)


@pytest.mark.parametrize("alpha", [None, 6.0])
def test_a_low_rank_update_learns_without_the_gradient_of_a_kernel(alpha: float | None) -> None:
    import keras

    from keras_agnews.layers import Dense

    layer = Dense(6, activation="tanh", bias_initializer="normal")
    rng = np.random.default_rng(5)
    values, pulls = rng.normal(size=(3, 5, 8)), rng.normal(size=(3, 5, 6))
    inputs = keras.ops.convert_to_tensor(values, dtype="float32")
    layer(inputs)
    layer.enable_lora(2, **({} if alpha is None else {"lora_alpha": alpha}))
    layer.lora_kernel_b.assign(rng.normal(size=(2, 6)))
    kernel, bias = (numpy(x).astype("float64") for x in (layer._kernel, layer.bias))  # noqa: SLF001
    thin, wide = (numpy(x).astype("float64") for x in (layer.lora_kernel_a, layer.lora_kernel_b))
    scale = 1 if alpha is None else alpha / 2
    expected = np.tanh(values @ (kernel + scale * thin @ wide) + bias)
    for training in (False, True):
        np.testing.assert_allclose(numpy(layer(inputs, training=training)), expected, atol=1e-5)
    back = (pulls * (1 - expected**2)).reshape(-1, 6)
    rows = values.reshape(-1, 8)
    gradients = {
        "lora_kernel_a": scale * rows.T @ (back @ wide.T),
        "lora_kernel_b": scale * (rows @ thin).T @ back,
        "bias": back.sum(axis=0),
    }
    trained = {weight.name: weight for weight in layer.trainable_weights}
    assert trained.keys() == gradients.keys()
    for name, found in zip(trained, _gradients(layer, inputs, pulls), strict=True):
        np.testing.assert_allclose(numpy(found), gradients[name], atol=1e-4)


def _gradients(layer: Any, inputs: Any, pulls: np.ndarray) -> list[Any]:
    """Of the sum of the outputs times `pulls`, to the layer's trainable weights."""
    import keras

    weights, pulls = layer.trainable_weights, pulls.astype("float32")
    if keras.backend.backend() == "torch":
        import torch

        with torch.profiler.profile() as record:
            (layer(inputs, training=True) * torch.tensor(pulls)).sum().backward()
        products = [e.count for e in record.key_averages() if "_linear_pointwise" in e.key]
        assert products == ([1] if torch.backends.mkldnn.is_available() else []), "forwards alone"
        return [weight.value.grad for weight in weights]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(inputs, training=True) * pulls)
        found: list[Any] = tape.gradient(loss, [weight.value for weight in weights])
        return found
    import jax

    def loss_of(values: list[Any]) -> Any:
        frozen = [weight.value for weight in layer.non_trainable_variables]
        outputs, _ = layer.stateless_call(values, frozen, inputs, training=True)
        return (outputs * pulls).sum()

    return list(jax.grad(loss_of)([weight.value for weight in weights]))


@pytest.mark.once
def test_a_processor_without_bfloat16_still_answers_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    if keras.backend.backend() != "torch":
        pytest.skip("another backend does not use oneDNN by itself")
    import torch

    from keras_agnews import onednn
    from keras_agnews.layers import Dense

    supported = onednn._bfloat16()  # noqa: SLF001
    assert supported == torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001
    layer = Dense(6, dtype="mixed_bfloat16")
    inputs = torch.tensor(np.random.default_rng(6).normal(size=(5, 8)), dtype=torch.float32)
    layer(inputs)
    for known in (supported, False):
        monkeypatch.setattr(onednn, "_bfloat16", lambda known=known: known)
        with torch.profiler.profile() as record, torch.inference_mode():
            outputs = layer(inputs)
        used = any("_linear_pointwise" in event.key for event in record.key_averages())
        assert used == known
        assert outputs.dtype == torch.bfloat16
        exact = numpy(inputs) @ numpy(layer.kernel)
        np.testing.assert_allclose(numpy(outputs.float()), exact, rtol=0.02, atol=0.05)


@pytest.mark.once
def test_an_empty_batch_has_a_gradient() -> None:
    """As the last one of a loop of one's own may be."""
    import keras

    if keras.backend.backend() != "torch":
        pytest.skip("another backend does not use oneDNN by itself")
    import torch

    from keras_agnews.layers import Dense

    layer = Dense(6)
    layer.build((None, 8))
    layer(torch.zeros(0, 8), training=True).sum().backward()
    assert not layer.kernel.value.grad.any()


@pytest.mark.parametrize("mask", ["none", "right", "any"])
@pytest.mark.parametrize("backwards", [False, True])
def test_pytorch_s_own_gru_is_keras_one_gradients_too(mask: str, backwards: bool) -> None:
    import keras

    if keras.backend.backend() != "torch":
        pytest.skip("another backend has but Keras's")
    import torch

    from keras_agnews.layers import Gru

    rng = np.random.default_rng(3)
    values, initial = rng.normal(size=(5, 7, 6)), rng.normal(size=(5, 4))
    pulls = torch.tensor(rng.normal(size=(5, 7, 4)), dtype=torch.float32)
    present = {
        "none": None,
        "right": torch.arange(7) < torch.tensor([7, 3, 0, 1, 5])[:, None],
        "any": torch.tensor(rng.random((5, 7)) > 0.5),
    }[mask]
    seen = []
    for kind in (Gru, keras.layers.GRU):
        layer = kind(4, return_sequences=True, go_backwards=backwards, use_cudnn=False)
        layer.zero_output_for_mask = True  # as Keras's `Bidirectional` sets it
        layer.build(values.shape)
        drawn = np.random.default_rng(4)
        layer.set_weights([drawn.normal(size=weight.shape) for weight in layer.weights])
        inputs = torch.tensor(values, dtype=torch.float32, requires_grad=True)
        state = torch.tensor(initial, dtype=torch.float32, requires_grad=True)
        with torch.profiler.profile() as record:
            outputs = layer(inputs, mask=present, initial_state=[state], training=True)
        (outputs * pulls).sum().backward()
        seen.append((outputs, inputs.grad, state.grad, *(w.value.grad for w in layer.weights)))
        assert (kind is Gru) == any(event.key == "aten::gru" for event in record.key_averages())
    for ours, theirs in zip(*seen, strict=True):
        np.testing.assert_allclose(numpy(ours), numpy(theirs), atol=1e-5)


def test_a_gru_with_other_gates_is_left_to_keras() -> None:
    import keras

    from keras_agnews.layers import Gru

    inputs = np.random.default_rng(5).normal(size=(2, 4, 3)).astype("float32")
    cases: list[dict[str, Any]] = [
        {"activation": "relu"},
        {"reset_after": False},
        {"use_bias": False},
        {"return_sequences": False},
    ]
    for options in cases:
        ours, theirs = (
            kind(4, **{"return_sequences": True} | options) for kind in (Gru, keras.layers.GRU)
        )
        ours.build(inputs.shape)
        theirs.build(inputs.shape)
        theirs.set_weights(ours.get_weights())
        np.testing.assert_allclose(numpy(ours(inputs)), numpy(theirs(inputs)), atol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(4_001, 37), (64, 5, 33)])
def test_dropout_keeps_its_rate_the_mean_and_the_gradient(
    rate: float, shape: tuple[int, ...]
) -> None:
    import keras

    from keras_agnews.layers import Dropout

    layer = Dropout(rate)
    ones = np.ones(shape, np.float32)
    out = keras.ops.convert_to_numpy(layer(ones, training=True))
    dropped = out == 0
    error = 5 * (rate * (1 - rate) / out.size) ** 0.5
    assert dropped.mean() == pytest.approx(rate, abs=error)
    np.testing.assert_allclose(out[~dropped], 1 / (1 - rate), rtol=1e-4)
    # Neighbours, along any axis, are dropped independently.
    for axis in range(len(shape)):
        first, second = (
            np.take(dropped, range(*part), axis)
            for part in ((0, -1 % shape[axis]), (1, shape[axis]))
        )
        assert (first & second).mean() == pytest.approx(rate**2, abs=2 * error)
    assert (keras.ops.convert_to_numpy(layer(ones, training=True)) != out).any()
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(ones, training=False)), ones)
    if keras.backend.backend() == "torch":
        import torch

        inputs = torch.ones(shape, requires_grad=True)
        result = layer(inputs, training=True)
        result.sum().backward()
        np.testing.assert_array_equal(inputs.grad.numpy(), result.detach().numpy())


def test_what_is_frozen_stays_so_in_a_copy_and_a_file(tmp_path: Path) -> None:
    import keras

    import keras_agnews

    clf = keras_agnews.load("tiny-transformer")
    clf.encoder.trainable = False
    ids = keras.Input((None,), dtype="int32", name="input_word_ids")
    hidden = clf.encoder({"input_word_ids": ids})["default"]
    model = keras.Model(ids, keras.layers.Dense(4)(hidden))
    model.save(tmp_path / "m.keras")
    for again in (
        keras.models.clone_model(model),
        keras.saving.load_model(tmp_path / "m.keras"),
    ):
        assert len(again.trainable_variables) == len(model.trainable_variables) == 2
        again.get_layer("encoder").trainable = True
        assert len(again.trainable_variables) == len(model.weights)


def test_a_mask_of_numbers_is_one_of_bools() -> None:
    from keras import ops

    from keras_agnews import layers

    block = layers.TransformerBlock(8, 2, 16)
    hidden = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], "int32")
    found = [ops.convert_to_numpy(block(hidden, attend=m)) for m in (mask, mask.astype(bool))]
    np.testing.assert_array_equal(*found)


def test_dropout_with_a_shape_or_a_seed_is_keras_s() -> None:
    from keras_agnews.layers import Dropout

    ones = np.ones((2, 64, 64), np.float32)
    out = numpy(Dropout(0.5, noise_shape=(2, 1, 64))(ones, training=True))
    np.testing.assert_array_equal(out, np.broadcast_to(out[:, :1], out.shape))
    assert 0 < (out == 0).mean() < 1
    first, second = (numpy(Dropout(0.5, seed=3)(ones, training=True)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_first_positions_alone_are_what_they_are_among_all(encoder: Any) -> None:
    inputs = {"input_word_ids": IDS}
    whole, first = encoder(inputs), encoder(inputs, positions=1)
    assert first["sequence_output"].shape == (2, 1, 8)
    assert [tuple(o.shape) for o in first["encoder_outputs"]] == [(2, 5, 8), (2, 1, 8)]
    for name in ("pooled_output", "default"):
        np.testing.assert_allclose(numpy(first[name]), numpy(whole[name]), atol=1e-6)
    np.testing.assert_allclose(
        numpy(first["sequence_output"]), numpy(whole["sequence_output"])[:, :1], atol=1e-6
    )


def test_without_a_pooler_the_first_positions_have_no_default() -> None:
    import keras

    from keras_agnews.layers import TransformerEncoder

    encoder = TransformerEncoder(**ENCODER | {"pooler": False})
    inputs = {"input_word_ids": keras.Input((None,), dtype="int32")}
    symbolic = encoder(inputs, positions=1)
    assert {*symbolic} == {*encoder({"input_word_ids": IDS}, positions=1)}
    assert "default" not in symbolic
    assert symbolic["sequence_output"].shape == (None, 1, 8)
    assert "default" in encoder(inputs)


def test_a_classifier_computes_the_last_block_for_the_token_that_it_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A regression here would cost a fifth of small-bert-L4's speed and change no answer."""
    from keras_agnews import layers, models
    from keras_agnews.configs import BertConfig

    config = BertConfig.from_dict(
        {"vocabulary_size": 50, "hidden_size": 8, "layers": 2, "heads": 2, "feed_forward_size": 12}
    )
    model = models.transformer(config, 4)
    seen: list[int] = []
    original = layers.SelfAttention.call

    def call(self: Any, hidden: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, hidden, *args, **kwargs)
        seen.append(result.shape[1])
        return result

    monkeypatch.setattr(layers.SelfAttention, "call", call)
    model({"input_word_ids": IDS, "input_type_ids": IDS * 0})
    assert seen == [5, 1]


def test_each_dropout_is_at_work_in_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from keras_agnews import layers

    seen: list[float] = []
    original = layers.Dropout.call

    def call(self: Any, inputs: Any, training: bool = False) -> Any:
        outputs = original(self, inputs, training=training)
        if training and (numpy(outputs) != numpy(inputs)).any():
            seen.append(self.rate)
        return outputs

    monkeypatch.setattr(layers.Dropout, "call", call)
    encoder = layers.TransformerEncoder(**ENCODER, dropout=0.25, attention_dropout=0.5)
    gru = layers.GruEncoder(50, 8, 8, 4, layers=2, dropout=0.25)
    for network in (encoder, gru):
        network({"input_word_ids": IDS}, training=False)
    assert seen == []
    encoder({"input_word_ids": IDS}, training=True)
    assert seen == [0.25, *[0.5, 0.25, 0.25] * 2]
    seen.clear()
    gru({"input_word_ids": IDS}, training=True)
    assert seen == [0.25] * 2


@pytest.mark.parametrize("name", ["tiny-transformer", "gru-attention"])
def test_the_heads_dropout_is_at_work_in_training_alone(name: str) -> None:
    from keras_agnews import bundle, registry

    directory = registry.find(name)
    assert directory is not None
    known = bundle.read(directory)
    rates = [field.name for field in dataclasses.fields(known.config)]
    still = {rate: 0.0 for rate in rates if rate.endswith("dropout")}
    changes: dict[str, Any] = still | {"head_dropout": 0.5, "vocabulary_size": 300}
    config = dataclasses.replace(known.config, **changes)
    model = dataclasses.replace(known, config=config).build()
    ids = {"input_word_ids": np.arange(1, 13, dtype="int32").reshape(2, 6)}
    one, other = (numpy(model(ids, training=True)) for _ in range(2))
    assert (one != other).any()
    np.testing.assert_array_equal(numpy(model(ids)), numpy(model(ids)))


def test_recurrent_kernels_are_orthogonal() -> None:
    from keras_agnews.layers import RecurrentInitializer

    rows = numpy(RecurrentInitializer()((6, 18)))
    np.testing.assert_allclose(rows @ rows.T, np.eye(6), atol=1e-5)


@pytest.mark.once
def test_a_new_head_is_drawn_from_a_truncated_normal() -> None:
    from keras_agnews.models import initial_value

    value = initial_value(SimpleNamespace(initializer_range=0.1), (400, 50))
    assert np.abs(value).max() <= 0.2
    assert value.std() == pytest.approx(0.088, rel=0.03)
