"""Builders: from a frozen config to a plain Keras model on token ids."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_agnews.configs import BertConfig, GruConfig, TransformerConfig
from keras_agnews.layers import GruEncoder, TransformerEncoder, TransformerInitializer


def transformer(config: TransformerConfig, classes: int) -> keras.Model:
    """A transformer encoder, its pooling and a classification head.

    Serves the lesson's small transformer and, with a `BertConfig`, BERT and its kin.

    Args:
        config: the architecture.
        classes: number of labels.

    Returns:
        A model from a dict of `input_word_ids` int32 `(batch, length)` and, where the
        architecture has token types, `input_type_ids` of the same shape, to logits, float32
        `(batch, classes)`. Its encoder is the layer named `"encoder"`.
    """
    inputs = {"input_word_ids": keras.Input((None,), dtype="int32", name="input_word_ids")}
    if config.type_vocabulary_size:
        inputs["input_type_ids"] = keras.Input((None,), dtype="int32", name="input_type_ids")
    encoder = TransformerEncoder(**TransformerEncoder.arguments(config), name="encoder")
    outputs = encoder(inputs, positions=1 if config.pooling == "first" else None)
    if config.pooling == "first" and not config.pooler:
        hidden = outputs["sequence_output"][:, 0]
    else:
        hidden = outputs["default"]

    def dense(units: int, name: str, **kwargs: Any) -> keras.layers.Dense:
        initializer = TransformerInitializer(config.initializer_range)
        return keras.layers.Dense(units, kernel_initializer=initializer, name=name, **kwargs)

    hidden = keras.layers.Dropout(config.head_dropout, name="head_dropout")(hidden)
    if config.head_size:
        hidden = dense(config.head_size, "head_hidden", activation="relu")(hidden)
        hidden = keras.layers.Dropout(config.head_dropout, name="logits_dropout")(hidden)
    # Float32 under a mixed-precision policy too: a loss wants its logits whole.
    logits = dense(classes, "logits", dtype="float32")(hidden)
    return keras.Model(inputs, logits, name=config.builder)


def gru(config: GruConfig, classes: int) -> keras.Model:
    """A bidirectional GRU, additive attention over its states, and a classification head.

    Args:
        config: the architecture.
        classes: number of labels.

    Returns:
        A model from a dict of `input_word_ids` int32 `(batch, length)` to logits, float32
        `(batch, classes)`. Its encoder is the layer named `"encoder"`.
    """
    inputs = {"input_word_ids": keras.Input((None,), dtype="int32", name="input_word_ids")}
    encoder = GruEncoder(**GruEncoder.arguments(config), name="encoder")
    hidden = encoder(inputs)["default"]
    hidden = keras.layers.Dropout(config.head_dropout, name="head_dropout")(hidden)
    initializer = TransformerInitializer(config.initializer_range)
    # Float32 under a mixed-precision policy too: a loss wants its logits whole.
    dense = keras.layers.Dense(
        classes, kernel_initializer=initializer, dtype="float32", name="logits"
    )
    return keras.Model(inputs, dense(hidden), name=config.builder)


def built_here(description: Any) -> bool:
    """Whether a `Bundle` is of an architecture of ours: a third party's may have our config."""
    return description.builder in {c.builder for c in (TransformerConfig, BertConfig, GruConfig)}


def initial_value(config: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A fresh value for a variable of a head or a pooler, as its layer would have drawn it.

    Drawn by NumPy from the state that `keras.utils.set_random_seed` sets: a compiled backend
    takes seconds to compile so small a program.
    """
    if len(shape) < 2:
        return np.zeros(shape, np.float32)
    value = np.random.standard_normal(shape)
    while (far := np.abs(value) > 2).any():
        value[far] = np.random.standard_normal(far.sum())
    return (value * getattr(config, "initializer_range", 0.02)).astype(np.float32)
