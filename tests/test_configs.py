"""Configs: what they describe, and what they refuse."""

from __future__ import annotations

import dataclasses
import json
import math
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_agnews.configs import (
    ACTIVATIONS,
    POOLINGS,
    BertConfig,
    Config,
    GruConfig,
    TransformerConfig,
)
from keras_agnews.errors import BundleError

TRANSFORMERS = (TransformerConfig, BertConfig)


def count(config: Config, *parts: str) -> int:
    """Parameters of the variables whose names begin so, with four labels."""
    shapes = config.variables(4)
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(parts))


# From the papers' tables and, where they have none, from the checkpoints' own sums.
@pytest.mark.parametrize(
    ("config", "parts", "expected"),
    [
        (TransformerConfig(), ("encoder/embedding/",), 648_192),
        (TransformerConfig(), ("encoder/block_0/",), 10_656),
        (TransformerConfig(), ("head_hidden/",), 660),
        (TransformerConfig(), ("logits/",), 84),
        (TransformerConfig(), ("",), 659_592),
        (BertConfig.miniature(4, 128), ("encoder/",), 4_782_464),
        (BertConfig.miniature(2, 128), ("encoder/",), 4_385_920),
        (BertConfig.miniature(12, 768), ("encoder/",), 109_482_240),
        (BertConfig.minilm(), ("encoder/",), 22_565_376),
        (BertConfig.minilm(), ("",), 22_566_916),
        (BertConfig.distilbert(), ("",), 66_956_548),
        (BertConfig.base(), ("encoder/block_7/",), 7_087_872),
        (BertConfig.base(), ("encoder/",), 109_482_240),
        (BertConfig.base(), ("logits/",), 3_076),
        (BertConfig.base(), ("",), 109_485_316),
        (BertConfig.large(), ("encoder/",), 335_141_888),
        (GruConfig(), ("encoder/embedding/",), 1_280_000),
        (GruConfig(), ("encoder/gru_0/",), 49_920),
        (GruConfig(), ("encoder/attention/",), 8_320),
        (GruConfig(), ("",), 1_338_756),
    ],
)
def test_parameters(config: Config, parts: tuple[str, ...], expected: int) -> None:
    assert count(config, *parts) == expected
    if parts == ("",):
        assert config.parameters(4) == expected


BAD: list[tuple[str, Any]] = [
    ("hidden_size", "32"),
    ("hidden_size", 32.0),
    ("hidden_size", None),
    ("hidden_size", [32]),
    ("hidden_size", 0),
    ("hidden_size", -32),
    ("hidden_size", 10**12),
    ("layers", True),
    ("layers", 0),
    ("layers", 10**9),
    ("heads", 0),
    ("key_size", 0),
    ("key_size", "16"),
    ("vocabulary_size", 1),
    ("vocabulary_size", 10**400),
    ("max_positions", 0),
    ("feed_forward_size", -1),
    ("type_vocabulary_size", -1),
    ("head_size", -1),
    ("dropout", 1.0),
    ("dropout", -0.1),
    ("dropout", "0.1"),
    ("dropout", True),
    ("attention_dropout", math.nan),
    ("head_dropout", math.inf),
    ("epsilon", 0),
    ("epsilon", -1e-6),
    ("epsilon", 10**400),  # no float is so large
    ("initializer_range", 0.0),
    ("embedding_norm", 1),
    ("pooler", "false"),
    ("pooler", None),
    ("activation", "swish2"),
    ("activation", "os.system"),
    ("activation", 1),
    ("pooling", "max"),
    ("pooling", {}),
    ("no_such_field", 1),
    ("builder", "bert"),
]


BAD_GRU: list[tuple[str, Any]] = [
    ("embedding_size", 0),
    ("embedding_size", "64"),
    ("attention_size", 0),
    ("attention_size", 10**12),
    ("hidden_size", 127),
    ("hidden_size", 0),
    ("layers", 0),
    ("dropout", 1.0),
    ("heads", 2),  # of a transformer
]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        pytest.param(kind, name, value, id=f"{kind.builder}-{name}={str(value)[:12]}")
        for kinds, values in ((TRANSFORMERS, BAD), ((GruConfig,), BAD_GRU))
        for kind in kinds
        for name, value in values
    ],
)
def test_a_bad_value_is_refused_by_name(kind: type[Config], name: str, value: Any) -> None:
    good = kind().to_dict()
    assert kind.from_dict(good) == kind()
    with pytest.raises(BundleError, match=rf"config\.{name}\b"):
        kind.from_dict(good | {name: value})


@pytest.mark.parametrize("values", [None, [], "config", 3])
def test_what_is_no_object_is_refused(values: Any) -> None:
    with pytest.raises(BundleError, match="config must be an object"):
        TransformerConfig.from_dict(values)


def test_values_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(BundleError, match=r"config\.hidden_size 100 .*config\.heads 12"):
        BertConfig(hidden_size=100)
    with pytest.raises(BundleError, match=r"config\.pooler.*config\.pooling"):
        BertConfig(pooling="mean")


def test_an_absurd_size_takes_no_memory() -> None:
    """Each number alone is within its range."""
    values = {"vocabulary_size": 2_000_000, "hidden_size": 16_384, "layers": 128, "heads": 64}
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="parameters, more than"):
            BertConfig.from_dict(values)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


SIZES = st.integers(1, 64)
RATES = st.floats(0, 0.95) | st.just(0)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "vocabulary_size": st.integers(2, 1_000),
    "max_positions": SIZES,
    "type_vocabulary_size": st.integers(0, 4),
    "hidden_size": SIZES,
    "layers": st.integers(1, 4),
    "heads": SIZES,
    "key_size": SIZES,
    "feed_forward_size": SIZES,
    "activation": st.sampled_from(ACTIVATIONS),
    "epsilon": st.floats(1e-14, 0.1),
    "embedding_norm": st.booleans(),
    "dropout": RATES,
    "attention_dropout": RATES,
    "pooler": st.booleans(),
    "pooling": st.sampled_from(POOLINGS),
    "head_size": st.integers(0, 64),
    "head_dropout": RATES,
    "initializer_range": st.floats(1e-6, 10) | st.just(1),
}


@st.composite
def configs(draw: st.DrawFn) -> TransformerConfig:
    values = draw(st.fixed_dictionaries(FIELDS))
    if values["pooler"]:
        values["pooling"] = "first"
    if draw(st.booleans()):
        values |= {"key_size": None, "hidden_size": values["heads"] * values["key_size"]}
    return draw(st.sampled_from(TRANSFORMERS))(**values)


GRU_FIELDS = {name: FIELDS[name] for name in ("vocabulary_size", "layers", "initializer_range")}
GRU_FIELDS |= {"embedding_size": SIZES, "attention_size": SIZES, "dropout": RATES}
GRU_FIELDS |= {"hidden_size": SIZES.map(lambda half: 2 * half), "head_dropout": RATES}
grus = st.builds(GruConfig, **GRU_FIELDS)


@settings(max_examples=200)
@given(configs() | grus)
def test_a_config_survives_json(config: Config) -> None:
    again = type(config).from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)
    for field in dataclasses.fields(config):  # 1 == 1.0, so types as well
        value = getattr(again, field.name)
        assert value is None or type(value).__name__ == field.type.split(" ")[0]


@settings(max_examples=100)
@given(configs(), st.integers(1, 9))
def test_parameters_are_those_of_the_papers_formula(config: TransformerConfig, labels: int) -> None:
    """Counted anew from the description of the architecture, without the table of variables."""
    width, norm = config.hidden_size, 2 * config.hidden_size
    inner = width if config.key_size is None else config.heads * config.key_size
    rows = config.vocabulary_size + config.max_positions + config.type_vocabulary_size
    attention = 3 * (width + 1) * inner + (inner + 1) * width
    feed_forward = (width + 1) * config.feed_forward_size + (config.feed_forward_size + 1) * width
    encoder = rows * width + config.layers * (attention + feed_forward + 2 * norm)
    encoder += norm * config.embedding_norm + (width + 1) * width * config.pooler
    head = (config.head_size or width) * labels + labels
    head += (width + 1) * config.head_size
    assert config.parameters(labels) == encoder + head


@settings(max_examples=50)
@given(grus, st.integers(1, 9))
def test_parameters_of_a_gru_are_those_of_its_gates(config: GruConfig, labels: int) -> None:
    """Three gates a direction, each with two products and two biases."""
    units, width = config.hidden_size // 2, config.embedding_size
    expected = config.vocabulary_size * width
    for _ in range(config.layers):
        expected += 2 * 3 * (width * units + units * units + 2 * units)
        width = 2 * units
    expected += width * config.attention_size + 2 * config.attention_size
    assert config.parameters(labels) == expected + (width + 1) * labels
