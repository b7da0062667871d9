"""What a network attends to in a text, and what each token adds to its answer.

The network is walked once more with its own layers, but with attention unfused, so that the
weights can be seen: one Keras layer from embeddings to logits and attention weights, from which
everything here comes.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_agnews import batching
from keras_agnews.classifier import Prediction, TextClassifier
from keras_agnews.errors import InputError
from keras_agnews.inference import with_values
from keras_agnews.layers import (
    GruEncoder,
    SelfAttention,
    TransformerEncoder,
    activation_function,
)
from keras_agnews.models import built_here

# `run(points, mask, column)`: of points, float32 `(n, length, hidden)`, the logits `(n, classes)`,
# the attention weights `(n, layers, heads, rows, length)`, and the gradient by the points of the
# sum of logit `column`, all float32. The mask, bool `(1, length)`, is true at a token.
Run = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray, np.ndarray]]

# Points that run together: always so many, since JAX compiles a program for each shape.
_ROWS = 8
# The path is sampled ever more finely, until the attributions add up to within this share of their
# magnitudes. A smooth network is there at once; ReLU has kinks on the way.
TOLERANCE = 0.01
_STEPS = (16, 32, 64, 128, 256, 512)
_ROUNDING = 1e-4  # of the logits

_walks: weakref.WeakKeyDictionary[keras.Model, tuple[_Walk, Run]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a classifier sees in one text.

    Attributes:
        text: the text.
        tokens: what the network was given of it, special tokens included, cut at `max_length`.
        weights: attention weights, float32 `(layers, heads, rows, length)`: how much of what row i
            takes in comes from token j. Each row sums to 1. In a transformer each token is a row;
            where attention pools the states of a recurrent network, the text is the only one.
        pooled: whether the only row is the text.
        attribution: float32 `(length,)`, what each token adds to the logit of `label`.
        label: the label that is explained.
        logits: float32 `(classes,)`, of the text.
        baseline: float32 `(classes,)`, logits of the same text with every word unknown. The
            attributions add up to the difference between the two, at `label`.
        prediction: the classifier's answer.
        specials: bool `(length,)`, true at a token that every text has, such as `[CLS]`.
    """

    text: str
    tokens: tuple[str, ...]
    weights: np.ndarray
    pooled: bool
    attribution: np.ndarray
    label: str
    logits: np.ndarray
    baseline: np.ndarray
    prediction: Prediction
    specials: np.ndarray


def attention(clf: TextClassifier, text: str, label: str | None = None) -> Explanation:
    """Attention weights of a text, and what each of its tokens adds to the answer.

    The attributions are integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) on the
    token embeddings, along the straight line from a text in which every word is the unknown one:
    of all embeddings it is the one that stands for a word which says nothing, and word dropout
    trains it to. Zeros and padding are no input that the network has ever seen. Positions and
    special tokens are the same at both ends, so special tokens have no attribution; nor has a word
    that the model does not know.

    Args:
        clf: a classifier of an architecture of this package.
        text: one text.
        label: the label to explain; the predicted one where left out.

    Returns: an `Explanation`. Its attributions add up to the difference of the logits, to within
        1 % of the sum of their magnitudes; a warning says where they do not.

    Raises:
        InputError: `clf` is no such classifier, `text` is not one str, or no such label.

    Example:

    ```python
    clf = keras_agnews.load("tiny-transformer")
    seen = keras_agnews.attention(clf, "Oil prices soar to an all-time record")
    dict(zip(seen.tokens, seen.attribution))    # {"oil": 1.48, "prices": 0.67, ...}
    seen.weights[layer, head]                   # (length, length)
    ```
    """
    if not isinstance(text, str):
        raise InputError(f"attention() takes one text, a str, not {type(text).__name__}")
    walk, run = _walked(clf)
    prediction = clf.classify(text)
    label = prediction.label if label is None else label
    if label not in clf.labels:
        raise InputError(f"label is {label!r}, not one of {', '.join(clf.labels)}")
    column, tokenizer = clf.labels.index(label), clf.tokenizer
    ids = tokenizer.batch([text]).values
    length = len(ids)
    specials = np.zeros(length, bool)
    if tokenizer.special_tokens:
        specials[[0, -1]] = True
    unknown = tokenizer.unknown_id
    padded = batching.bucket(length, clf.max_length)
    mask = np.arange(padded)[None] < length
    end = walk.embed(_padded(ids, padded))
    start = walk.embed(_padded(np.where(specials, ids, unknown), padded))
    (logits, baseline), weights, _ = run(np.stack([end, start]), mask, column)
    total = logits[column] - baseline[column]

    def gradients(points: np.ndarray) -> np.ndarray:
        # In parts, since attention weights come with them, which are large and not wanted.
        parts = batching.windows(len(points), _ROWS)
        return np.concatenate([run(points[part], mask, column)[2] for part in parts])

    attribution = _integrate(gradients, start, end, total)
    return Explanation(
        text=text,
        tokens=tuple(tokenizer.tokens(ids)),
        weights=weights[0, :, :, :length, :length],  # a pooled text's one row stays
        pooled=walk.pooled,
        attribution=attribution[:length],
        label=label,
        logits=logits,
        baseline=baseline,
        prediction=prediction,
        specials=specials,
    )


def _integrate(
    gradients: Callable[[np.ndarray], np.ndarray], start: np.ndarray, end: np.ndarray, total: float
) -> np.ndarray:
    """What each position adds to a logit on the way from `start` to `end`, float32 `(length,)`.

    Args:
        gradients: of that logit, at points `(n, length, hidden)`.
        start: `(length, hidden)`.
        end: the same.
        total: how much the logit is greater at the end.
    """
    change = end - start
    for steps in _STEPS:
        # Gauss's points, laid from -1 to 1, do with far fewer than equal steps would.
        points, shares = np.polynomial.legendre.leggauss(steps)
        path = start + (points[:, None, None] + 1) / 2 * change
        found = np.einsum("n,nld,ld->l", shares / 2, gradients(path.astype(np.float32)), change)
        if abs(found.sum() - total) <= TOLERANCE * np.abs(found).sum() + _ROUNDING:
            break
    else:
        warnings.warn(
            f"the attributions add up to {found.sum():.3g} where the logit changes by {total:.3g}: "
            f"{steps} steps of integration do not do for this model and text",
            stacklevel=3,
        )
    return found.astype(np.float32)


# --- the network, unfused --------------------------------------------------------------------


class _Walk(keras.layers.Layer):
    """A classifier from its embeddings on, by its own layers, to logits and attention weights.

    Call arguments: `hidden` float `(n, length, hidden)`, `token_mask` bool `(1, length)`.
    """

    pooled = False

    def __init__(self, clf: TextClassifier, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = clf.description.config
        # It begins where `clf.features` ends.
        self.head = keras.Model(clf.model.get_layer("head_dropout").input, clf.model.output)
        self.built = True

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """What the walk begins with, float32 `(length, hidden)`, of int32 ids `(length,)`."""
        raise NotImplementedError


class _TransformerWalk(_Walk):
    """Embeddings are summed, and not yet normalized.

    The gradient by this sum is the gradient by the token embeddings, which are a term of it.
    """

    def embed(self, ids: np.ndarray) -> np.ndarray:
        embedding = self.encoder.embedding
        hidden = _array(embedding.tokens(ids)) + _array(embedding.positions[: len(ids)])
        return hidden if embedding.types is None else hidden + _array(embedding.types[0])

    def call(self, hidden: Any, token_mask: Any) -> tuple[Any, Any]:
        attend = ops.logical_or(token_mask, ops.logical_not(ops.any(token_mask)))
        weights = []
        if self.encoder.embedding.normalization is not None:
            hidden = self.encoder.embedding.normalization(hidden)
        for block in self.encoder.blocks:
            change, shares = _attend(block.attention, hidden, attend)
            hidden = block.attention_norm(hidden + change)
            inner = activation_function(block.activation)(block.feed_forward(hidden))
            hidden = block.feed_forward_norm(hidden + block.feed_forward_output(inner))
            weights.append(shares)
        if self.encoder.pooler_layer is not None:
            pooled = ops.tanh(self.encoder.pooler_layer(hidden[:, 0]))
        elif self.config.pooling == "first":
            pooled = hidden[:, 0]
        else:
            pooled = self.encoder.mean_pooling(hidden, token_mask)
        return self.head(pooled, training=False), ops.stack(weights, axis=1)


class _GruWalk(_Walk):
    """Its attention is what the encoder itself has, one row."""

    pooled = True

    def embed(self, ids: np.ndarray) -> np.ndarray:
        return _array(self.encoder.embedding(ids))

    def call(self, hidden: Any, token_mask: Any) -> tuple[Any, Any]:
        mask = ops.broadcast_to(token_mask, hidden.shape[:2])
        for gru in self.encoder.gru_layers:
            hidden = gru(hidden, mask, training=False)
        pooled, weights = self.encoder.attention(hidden, mask=mask, return_weights=True)
        return self.head(pooled, training=False), weights[:, None, None, None]


_WALKS: dict[type, type[_Walk]] = {TransformerEncoder: _TransformerWalk, GruEncoder: _GruWalk}


def _walk(clf: TextClassifier) -> _Walk:
    walks = [
        walk(clf, layer)
        for layer in clf.model.layers
        for kind, walk in _WALKS.items()
        if isinstance(layer, kind) and built_here(clf.description)
    ]
    if len(walks) != 1:
        raise InputError(
            f"{clf.description.name} is of architecture {clf.description.builder!r} and has no "
            f"{' or '.join(kind.__name__ for kind in _WALKS)} that is known here, so there is no "
            "attention to show"
        )
    return walks[0]


def _padded(ids: np.ndarray, length: int) -> np.ndarray:
    padded = np.zeros(length, np.int32)
    padded[: len(ids)] = ids
    return padded


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))


def _attend(attention: SelfAttention, hidden: Any, attend: Any) -> tuple[Any, Any]:
    """What a `SelfAttention` layer gives, and its weights `(n, heads, length, length)`."""
    rows, length, _ = hidden.shape
    query, key, value = (
        ops.reshape(layer(hidden), (rows, length, attention.heads, -1))
        for layer in (attention.query, attention.key, attention.value)
    )
    scores = ops.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
    scores = ops.where(attend, ops.cast(scores, "float32"), -1e9)
    weights = ops.exp(scores - ops.max(scores, axis=-1, keepdims=True))
    weights = weights / ops.sum(weights, axis=-1, keepdims=True)
    context = ops.einsum("bhqk,bkhd->bqhd", ops.cast(weights, value.dtype), value)
    return attention.output_projection(ops.reshape(context, (rows, length, -1))), weights


# --- gradients -------------------------------------------------------------------------------


def _walked(clf: TextClassifier) -> tuple[_Walk, Run]:
    """The classifier's walk and its `Run`, made once."""
    if clf.model not in _walks:
        walk = _walk(clf)
        _walks[clf.model] = walk, _in_rows(differentiable(walk))
    return _walks[clf.model]


def _in_rows(run: Run) -> Run:
    """The same, `_ROWS` points at a time."""

    def run_all(points: np.ndarray, mask: np.ndarray, column: int) -> Any:
        parts = []
        for window in batching.windows(len(points), _ROWS):
            part = points[window]
            missing = _ROWS - len(part)
            whole = np.concatenate([part, part[:1].repeat(missing, axis=0)])
            parts.append([output[: len(part)] for output in run(whole, mask, column)])
        return tuple(map(np.concatenate, zip(*parts, strict=True)))

    return run_all


def differentiable(layer: keras.layers.Layer) -> Run:
    """What a layer gives, and the gradient of it, on the backend at hand.

    Args:
        layer: from points and a mask to logits and something more.

    Returns: a `Run`, never in training mode, with the layer's present weights.
    """
    return {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}[keras.backend.backend()](layer)


def _jax(layer: keras.layers.Layer) -> Run:
    import jax

    @jax.jit
    def compute(values: Any, points: Any, mask: Any, column: Any) -> Any:
        def total(points: Any) -> Any:
            with with_values(layer, values):
                outputs = layer(points, mask)
            return outputs[0][:, column].sum(), outputs

        (_, outputs), gradient = jax.value_and_grad(total, has_aux=True)(points)
        return *outputs, gradient

    def run(points: np.ndarray, mask: np.ndarray, column: int) -> Any:
        # The weights are arguments: a constant in the program would go stale after `fit`.
        values = [variable.value for variable in layer.variables]
        return tuple(map(np.asarray, compute(values, points, mask, column)))

    return run


def _tensorflow(layer: keras.layers.Layer) -> Run:
    import tensorflow as tf

    def run(points: np.ndarray, mask: np.ndarray, column: int) -> Any:
        tensor = tf.constant(points)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tensor)
            outputs = layer(tensor, mask)
            total = tf.reduce_sum(outputs[0][:, column])
        return tuple(output.numpy() for output in (*outputs, tape.gradient(total, tensor)))

    return run


def _torch(layer: keras.layers.Layer) -> Run:
    import torch

    def run(points: np.ndarray, mask: np.ndarray, column: int) -> Any:
        with torch.enable_grad():
            tensor = ops.convert_to_tensor(points).requires_grad_()
            outputs = layer(tensor, mask)
            (gradient,) = torch.autograd.grad(outputs[0][:, column].sum(), tensor)
        return tuple(map(ops.convert_to_numpy, (*outputs, gradient)))

    return run
