"""Masked-language-model training of an encoder on the texts at hand (Devlin et al. 2019).

Of 15 % of a text's tokens, 80 % are masked, 10 % replaced by a random one and 10 % left; the model
tells which they were, through a transform and the transposed token embedding. Only these positions
are projected on the vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_agnews import batching
from keras_agnews.classifier import TextClassifier
from keras_agnews.errors import InputError, TrainingError
from keras_agnews.layers import TransformerEncoder, TransformerInitializer
from keras_agnews.recipes import Recipe
from keras_agnews.resumable import NotFiniteError, ResumableFit

_SHARE, _MASKED, _REPLACED = 0.15, 0.8, 0.1
_MASK = "[MASK]"


class MaskedLanguageModel(keras.Model):
    """An encoder and BERT's head for masked tokens, whose output embedding is the input's.

    Args:
        encoder: a `TransformerEncoder`.
        seed: of the new weights.

    Call argument: the encoder's inputs, and `places` int32 `(batch, count)`.

    Returns: logits float32 `(batch, count, vocabulary)` of the tokens at these places.
    """

    def __init__(self, encoder: TransformerEncoder, seed: int, **kwargs: Any) -> None:
        super().__init__(dtype=encoder.dtype_policy, name="masked_language_model", **kwargs)
        self.encoder = encoder
        width = encoder.hidden_size
        self.transform = keras.layers.Dense(
            width,
            activation="gelu",
            kernel_initializer=TransformerInitializer(encoder.initializer_range, seed),
            dtype=encoder.dtype_policy,
            name="transform",
        )
        self.norm = keras.layers.LayerNormalization(
            epsilon=encoder.epsilon, dtype=encoder.dtype_policy, name="transform_norm"
        )
        for layer in (self.transform, self.norm):
            layer.build((None, None, width))
        tokens = encoder.embedding.tokens.embeddings
        self.bias = self.add_weight(shape=(tokens.shape[0],), initializer="zeros", name="bias")
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        inputs = dict(inputs)
        places = inputs.pop("places")
        hidden = self.encoder(inputs, training=training)["sequence_output"]
        hidden = ops.take_along_axis(hidden, ops.expand_dims(places, -1), axis=1)
        hidden = self.norm(self.transform(hidden))
        table = ops.cast(self.encoder.embedding.tokens.embeddings, hidden.dtype)
        logits = ops.matmul(hidden, ops.transpose(table))
        return ops.cast(logits, "float32") + ops.cast(self.bias, "float32")


def cross_entropy(tokens: Any, logits: Any) -> Any:
    """Of each token, of the shape of `tokens`: Keras's own makes a vector of the vocabulary's size.

    Args:
        tokens: int `(batch, count)`.
        logits: float32 `(batch, count, vocabulary)`.
    """
    places = ops.expand_dims(ops.cast(tokens, "int32"), -1)
    own = ops.take_along_axis(logits, places, axis=-1)[..., 0]
    return ops.logsumexp(logits, axis=-1) - own


def check_encoder(classifier: TextClassifier) -> TransformerEncoder:
    """The classifier's encoder; `InputError` where it is none that this module can train."""
    encoder = classifier.encoder
    if not isinstance(encoder, TransformerEncoder):
        raise InputError(
            f"pretrain_epochs: the encoder of {classifier.description.name} is no transformer"
        )
    if not encoder.trainable_weights:
        raise InputError(
            "pretrain_epochs: the encoder is frozen, so nothing of it would be trained"
        )
    return encoder


def masked_batches(
    classifier: TextClassifier, texts: Sequence[str], settings: Recipe
) -> batching.Batches:
    """The texts as batches `(inputs, tokens, weights)`, masked anew each epoch.

    `inputs` has `places` int32 `(batch, count)` too; `tokens` int32 and `weights` float32 are of
    the same shape, the weight 0 where a text has fewer to tell.
    """
    tokenizer = classifier.tokenizer
    ids, vocabulary = tokenizer.batch(texts), tokenizer.vocabulary
    edge = tokenizer.special_tokens // 2  # one before the text, one behind it
    unknown = tokenizer.unknown_id
    mask = vocabulary.index(_MASK) if _MASK in vocabulary else unknown

    def fetch(rows: np.ndarray, rng: np.random.Generator) -> tuple[Any, ...]:
        lengths = ids.lengths[rows]
        padded = batching.bucket(max(1, int(lengths.max())), classifier.max_length)
        matrix = batching.pad(ids, rows, len(rows), padded)
        count = max(1, round(_SHARE * padded))
        wanted = np.maximum(1, np.rint(_SHARE * lengths)).astype(int)
        # The places with the smallest of random keys; what is no token of the text has none.
        keys = rng.random(matrix.shape)
        columns = np.arange(padded)
        inside = (columns >= edge) & (columns < lengths[:, None] - edge) & (matrix != unknown)
        keys[~inside] = 2.0
        places = np.argsort(keys, axis=1)[:, :count].astype(np.int32)
        chosen = np.take_along_axis(keys, places, axis=1) < 1
        chosen &= np.arange(count) < wanted[:, None]
        tokens = np.take_along_axis(matrix, places, axis=1)
        draw = rng.random(places.shape)
        replaced = np.where(draw < _MASKED, mask, tokens)
        other = rng.integers(1, len(vocabulary), places.shape)
        replaced = np.where((draw >= _MASKED) & (draw < _MASKED + _REPLACED), other, replaced)
        values = np.where(chosen, replaced, tokens).astype(np.int32)
        np.put_along_axis(matrix, places, values, axis=1)
        inputs = {"input_word_ids": matrix, "places": places}
        if classifier.encoder.type_vocabulary_size:
            inputs["input_type_ids"] = np.zeros_like(matrix)
        return inputs, tokens, chosen.astype(np.float32)

    return batching.Batches(
        ids.lengths,
        None,
        fetch,
        settings.batch_size,
        shuffle=True,
        seed=settings.seed,
        steps=settings.steps_per_epoch,
    )


def pretrain(
    classifier: TextClassifier,
    texts: Sequence[str],
    settings: Recipe,
    path: Path | None,
    identity: dict[str, Any],
    progress: bool,
) -> list[dict[str, Any]]:
    """Train the encoder for the recipe's `pretrain_epochs`; the figures of each.

    `path` is the checkpoint's, which is gone on with where there is one of this `identity`.
    """
    encoder = check_encoder(classifier)
    settings = dataclasses.replace(
        settings, epochs=settings.pretrain_epochs, learning_rate=settings.pretrain_learning_rate
    )
    model = MaskedLanguageModel(encoder, settings.seed)
    batches = masked_batches(classifier, texts, settings)
    run = ResumableFit(model, batches, settings, path, identity, "pretraining epoch")
    pooler = encoder.pooler_layer  # which has no part in it
    frozen = pooler is not None and not pooler.trainable
    if pooler is not None:
        pooler.trainable = False
    try:
        run.compile(cross_entropy)
        run.restore()
        for row in run.epochs(progress):
            del row["accuracy"]
            run.history.append(row)
            run.checkpoint(row["epoch"], 0)
    except NotFiniteError as error:
        raise TrainingError(
            f"{error}: try a lower pretrain_learning_rate than {settings.learning_rate:g}"
        ) from None
    finally:
        if pooler is not None:
            pooler.trainable = not frozen
    return run.history
