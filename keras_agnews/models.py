"""Builders: from a frozen config to a plain Keras model on token ids."""

from __future__ import annotations

from typing import Any

import keras

from keras_agnews.configs import TransformerConfig
from keras_agnews.layers import TransformerEncoder, TransformerInitializer


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
    encoder = TransformerEncoder(
        vocabulary_size=config.vocabulary_size,
        max_positions=config.max_positions,
        hidden_size=config.hidden_size,
        layers=config.layers,
        heads=config.heads,
        feed_forward_size=config.feed_forward_size,
        type_vocabulary_size=config.type_vocabulary_size,
        key_size=config.key_size,
        activation=config.activation,
        epsilon=config.epsilon,
        embedding_norm=config.embedding_norm,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        pooler=config.pooler,
        initializer_range=config.initializer_range,
        name="encoder",
    )
    outputs = encoder(inputs)
    if config.pooling == "first" and not config.pooler:
        hidden = outputs["sequence_output"][:, 0]
    elif config.pooling == "mean" and config.pooler:
        raise ValueError("a model that pools by mean has no use for a pooler: pooler=False")
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


def initial_value(config: TransformerConfig, name: str, shape: tuple[int, ...]) -> Any:
    """A fresh value for the variable `name`, as its layer would have drawn it."""
    if len(shape) > 1:
        return TransformerInitializer(config.initializer_range)(shape)
    return keras.ops.ones(shape) if name.endswith("/gamma") else keras.ops.zeros(shape)
