"""Serializable Keras layers of text encoders, under the package name "keras_agnews".

One block class serves the lesson's small transformer and BERT alike; a GRU with additive attention
is what they replaced. Shapes: ids are int32
`(batch, length)` with 0 for padding; a mask is bool `(batch, length)`, true at a token; hidden
states are float `(batch, length, hidden)`.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras import ops

from keras_agnews import onednn, torch_gru
from keras_agnews.configs import ACTIVATIONS, BertConfig, TransformerConfig
from keras_agnews.errors import InputError
from keras_agnews.graph_tokenizers import graph_tokenizer
from keras_agnews.tokenizers import WordPieceTokenizer

register = functools.partial(keras.saving.register_keras_serializable, package="keras_agnews")

_weights_follow = contextvars.ContextVar("weights_follow", default=False)


@contextlib.contextmanager
def weights_follow() -> Iterator[None]:
    """Within it, new layers start from zeros, since their weights are about to be read.

    Drawing random numbers for BERT-base takes seconds and twice its memory, for nothing.
    """
    token = _weights_follow.set(True)
    try:
        yield
    finally:
        _weights_follow.reset(token)


@register(name="TransformerInitializer")
class TransformerInitializer(keras.initializers.TruncatedNormal):
    """Truncated normal as in BERT; zeros inside `weights_follow()`."""

    def __init__(self, stddev: float = 0.02, seed: int | None = None) -> None:
        super().__init__(mean=0.0, stddev=stddev, seed=seed)

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        if _weights_follow.get():
            return ops.zeros(shape, dtype=dtype)
        return super().__call__(shape, dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        config.pop("mean")
        return config


@register(name="RecurrentInitializer")
class RecurrentInitializer(keras.initializers.Orthogonal):
    """Orthogonal, so that a state neither fades nor grows; zeros inside `weights_follow()`."""

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        if _weights_follow.get():
            return ops.zeros(shape, dtype=dtype)
        # No backend orthogonalizes numbers of 16 bits.
        values = super().__call__(shape, dtype="float32")
        return ops.cast(values, dtype or keras.config.floatx())


def activation_function(name: str) -> Any:
    """The function of a name in `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise InputError(f"activation is {name!r}, not one of {', '.join(ACTIVATIONS)}")
    if name == "gelu_tanh":
        return functools.partial(keras.activations.gelu, approximate=True)
    if name == "gelu" and keras.backend.backend() == "jax":
        return _gelu
    return keras.activations.get(name)  # Keras's "gelu" is the exact one


def _gelu(x: Any) -> Any:
    """The exact one; JAX's own takes `erfc`, which costs a processor 2.5 times as much as `erf`."""
    if keras.backend.standardize_dtype(x.dtype) != "float32":  # where 1 + erf is too coarse
        return keras.activations.gelu(x)
    return 0.5 * x * (1.0 + ops.erf(x * 0.5**0.5))


class _Layer(keras.layers.Layer):
    """What our layers share: constructor arguments kept once, returned by `get_config`."""

    def __init__(self, arguments: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._arguments = tuple(arguments.items())
        for name, value in arguments.items():
            setattr(self, name, value)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **dict(self._arguments)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        # Frozen at the end: in Keras's constructor there are no layers inside yet.
        config = dict(config)
        trainable = config.pop("trainable", True)
        layer = super().from_config(config)
        layer.trainable = trainable
        return layer

    def _dense(self, units: int, name: str, use_bias: bool = True) -> keras.layers.Dense:
        return Dense(
            units,
            use_bias=use_bias,
            kernel_initializer=self._initializer,
            dtype=self.dtype_policy,
            name=name,
        )

    @property
    def _initializer(self) -> TransformerInitializer:
        """A new one for each weight: Keras draws the seed when one is made, not when it is used."""
        return TransformerInitializer(self.initializer_range)

    def _norm(self, name: str) -> keras.layers.LayerNormalization:
        return keras.layers.LayerNormalization(
            epsilon=self.epsilon, dtype=self.dtype_policy, name=name
        )


@register()
class Dense(keras.layers.Dense):
    """As `keras.layers.Dense`; on PyTorch on a CPU, predicted and trained by oneDNN.

    PyTorch leaves float32 products to MKL, which uses half of the vector unit of processors that
    are not Intel's: 100 GFLOP/s of a core where oneDNN, which comes with PyTorch too, makes 225.

    While a low-rank update is trained, the inputs go through its two thin matrices. Keras adds
    their product to the kernel first, and so computes the gradient of a whole kernel to get theirs.
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if self.quantization_mode is not None:
            return super().call(inputs, training=training)
        thin = self.lora_enabled and training
        on_torch = keras.backend.backend() == "torch"
        product = onednn.product(inputs, bool(training)) if on_torch else None
        if product is None and not thin:
            return super().call(inputs, training=training)
        kernel, bias = (
            None if value is None else ops.convert_to_tensor(value)
            for value in (self._kernel if thin else self.kernel, self.bias)
        )
        if product is not None:
            outputs = product(inputs, kernel, bias)
        else:
            outputs = ops.matmul(inputs, kernel)
            outputs = outputs if bias is None else ops.add(outputs, bias)
        if thin:
            added = ops.matmul(ops.matmul(inputs, self.lora_kernel_a), self.lora_kernel_b)
            scale = getattr(self, "lora_alpha", self.lora_rank) / self.lora_rank
            outputs = ops.add(outputs, added if scale == 1 else scale * added)
        return outputs if self.activation is None else self.activation(outputs)

    def quantize(self, mode: Any = None, type_check: bool = True, **kwargs: Any) -> None:
        # Keras asks that none but its own class be quantized, for what a call may do unasked; ours
        # leaves quantized kernels to it.
        super().quantize(mode, type_check=False, **kwargs)


@register()
class Dropout(keras.layers.Dropout):
    """As `keras.layers.Dropout`; on PyTorch on a CPU, with masks drawn four times as fast.

    PyTorch draws a mask there one float at a time on one core, an eighth of a training step of
    MiniLM. Here 16 random bits decide on an element: the rate is kept to within 1/65536.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        plain = self.noise_shape is None and self.seed is None and 0 < self.rate < 1
        if keras.backend.backend() != "torch" or not training or not plain:
            return super().call(inputs, training=training)
        import torch

        if inputs.device.type != "cpu":
            return super().call(inputs, training=training)
        count = inputs.numel()
        words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        dropped = min(round(self.rate * 65_536), 65_535)
        kept = words.view(torch.int16)[:count].view(inputs.shape) >= dropped - 32_768
        return inputs * kept.to(inputs.dtype).mul_(65_536 / (65_536 - dropped))


@register()
class Gru(keras.layers.GRU):
    """As `keras.layers.GRU`; on PyTorch by its own operation, with a mask as well."""

    def inner_loop(
        self, sequences: Any, initial_state: Any, mask: Any, training: bool = False
    ) -> Any:
        plain = (
            self.activation is keras.activations.tanh
            and self.recurrent_activation is keras.activations.sigmoid
            and self.reset_after
            and self.use_bias
            and self.return_sequences
            and not (training and (self.dropout or self.recurrent_dropout))
        )
        if keras.backend.backend() != "torch" or not plain:
            return super().inner_loop(sequences, initial_state, mask, training=training)
        (initial,), (mask,) = (keras.tree.flatten(x) or [None] for x in (initial_state, mask))
        if self.go_backwards:
            sequences, mask = sequences.flip(1), None if mask is None else mask.flip(1)
        weights = self.cell.kernel, self.cell.recurrent_kernel, self.cell.bias
        outputs, last = torch_gru.states(
            sequences, initial, mask, *map(ops.convert_to_tensor, weights)
        )
        if self.zero_output_for_mask and mask is not None:
            outputs = outputs * mask.unsqueeze(-1)
        return last, outputs, [last]


class _BidirectionalGru(keras.layers.Layer):
    """The states of a GRU that reads from the start, and of one that reads from the end.

    `keras.layers.Bidirectional` serializes its layer in order to copy it, for which Keras imports
    TensorFlow, whatever the backend: seconds, where it is installed.

    Args:
        units: width of a state of each.
        initializer_range: standard deviation of the initial input kernels.

    Call arguments: `inputs` float `(batch, length, n)`, `mask` bool `(batch, length)`.

    Returns: float `(batch, length, 2 * units)`.
    """

    def __init__(self, units: int, initializer_range: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.from_start, self.from_end = (
            Gru(
                units,
                kernel_initializer=TransformerInitializer(initializer_range),
                recurrent_initializer=RecurrentInitializer(),
                return_sequences=True,
                go_backwards=direction == "backward",
                use_cudnn=False,  # one computation everywhere, and one that XLA compiles
                dtype=self.dtype_policy,
                name=f"{direction}_gru",
            )
            for direction in ("forward", "backward")
        )

    def build(self, inputs_shape: Any, mask_shape: Any = None) -> None:
        self.from_start.build(inputs_shape)
        self.from_end.build(inputs_shape)

    def call(self, inputs: Any, mask: Any, training: bool | None = None) -> Any:
        states = self.from_start(inputs, mask=mask, training=training)
        reverse = self.from_end(inputs, mask=mask, training=training)
        return ops.concatenate([states, ops.flip(reverse, 1)], axis=-1)


@register()
class TransformerEmbedding(_Layer):
    """Sum of token, learned position and (optional) token type embeddings.

    Args:
        vocabulary_size: rows of the token embedding.
        max_positions: rows of the position embedding; a longer input is an error.
        hidden_size: width.
        type_vocabulary_size: rows of the token type embedding; 0 for none.
        norm: whether the sum is layer-normalized, as in BERT.
        epsilon: of the layer normalization.
        dropout: rate, in training.
        initializer_range: standard deviation of the initial weights.

    Call arguments:
        ids: int `(batch, length)`.
        types: int `(batch, length)`, optional; all 0 where left out.

    Returns: float `(batch, length, hidden_size)`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        max_positions: int,
        hidden_size: int,
        type_vocabulary_size: int = 0,
        norm: bool = False,
        epsilon: float = 1e-12,
        dropout: float = 0.0,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        super().__init__(arguments, **kwargs)
        self.tokens = keras.layers.Embedding(
            vocabulary_size,
            hidden_size,
            embeddings_initializer=self._initializer,
            dtype=self.dtype_policy,
            name="tokens",
        )
        self.normalization = self._norm("norm") if norm else None
        self.dropout_layer = Dropout(dropout, dtype=self.dtype_policy)
        self.autocast = False  # ids that come as floats would be rounded to other ids

    def build(self, input_shape: Any) -> None:
        self.tokens.build(input_shape)
        self.positions = self.add_weight(
            shape=(self.max_positions, self.hidden_size),
            initializer=self._initializer,
            name="positions",
        )
        self.types = None
        if self.type_vocabulary_size:
            self.types = self.add_weight(
                shape=(self.type_vocabulary_size, self.hidden_size),
                initializer=self._initializer,
                name="types",
            )
        hidden = (*input_shape, self.hidden_size)
        if self.normalization is not None:
            self.normalization.build(hidden)
        self.dropout_layer.build(hidden)

    def call(self, ids: Any, types: Any = None, training: bool | None = None) -> Any:
        length = ops.shape(ids)[1]
        self._check_length(length)
        hidden = self.tokens(ids)
        if isinstance(length, int) or keras.backend.backend() != "jax":
            places = self.positions[:length]
        else:  # a name for a number, as long as Keras asks JAX for shapes alone
            places = ops.take(self.positions, ops.arange(length), axis=0)
        hidden = hidden + ops.cast(places, hidden.dtype)
        if self.types is not None:
            rows = self.types[0] if types is None else self._rows_of(types, training)
            hidden = hidden + ops.cast(rows, hidden.dtype)
        if self.normalization is not None:
            hidden = self.normalization(hidden)
        return self.dropout_layer(hidden, training=training)

    def _check_length(self, length: Any) -> None:
        if isinstance(length, int) and length > self.max_positions:
            raise InputError(
                f"{length} tokens are more than the model's {self.max_positions} positions: "
                "tokenize with a smaller max_length"
            )

    def _rows_of(self, types: Any, training: bool | None) -> Any:
        types = ops.cast(types, "int32")
        if not training:
            return ops.take(self.types, types, axis=0)
        # The gradient of a lookup adds the positions of a whole batch to one row: on PyTorch in
        # bfloat16, to a sum that soon swallows them.
        known = ops.one_hot(types, self.type_vocabulary_size, dtype=self.compute_dtype)
        return ops.matmul(known, ops.cast(self.types, self.compute_dtype))

    def compute_output_shape(self, ids_shape: Any, types_shape: Any = None) -> Any:
        self._check_length(ids_shape[1])
        return (*ids_shape, self.hidden_size)


# From so many keys on, cuDNN's attention is faster than XLA's: on an H100 three times at 512 keys
# of 12 heads of 64, a fourth as fast at 128 of 12 of 32.
_FLASH_KEYS = 256


def _attention(query: Any, key: Any, value: Any, attend: Any, training: bool | None) -> Any:
    """Attention of `(batch, length, heads, width)`; `attend` is bool `(batch, 1, 1, keys)`."""
    flash: bool | None = None
    if keras.backend.backend() == "jax":
        # On a GPU, Keras tries cuDNN wherever the type is one of its own, which refuses a mask of
        # one row: Keras then logs an error for each layer.
        queries, keys = query.shape[1], key.shape[1]
        if training or not isinstance(keys, int) or keys < _FLASH_KEYS or queries != keys:
            flash = False
        elif attend is not None:
            attend = ops.broadcast_to(attend, (ops.shape(attend)[0], 1, queries, keys))
    return ops.dot_product_attention(query, key, value, mask=attend, flash_attention=flash)


def _masked(scores: Any, mask: Any) -> Any:
    """Scores float32, or wider; far below all others where the mask is false."""
    # As a bare number, PyTorch's would be of Keras's floatx: of 16 bits that is minus infinity.
    far = ops.convert_to_tensor(-1e9, keras.backend.standardize_dtype(scores.dtype))
    return ops.where(mask, scores, far)


@register()
class SelfAttention(_Layer):
    """Multi-head self-attention, by `keras.ops.dot_product_attention` where no dropout is active.

    PyTorch fuses that, and JAX on a GPU; TensorFlow computes the products one after the other.

    Source: Vaswani et al. 2017, arXiv:1706.03762.

    Args:
        hidden_size: width of input and output.
        heads: attention heads.
        key_size: width of one head; `None` means `hidden_size / heads`.
        dropout: rate on the attention weights, in training.
        initializer_range: standard deviation of the initial weights.

    Call arguments:
        hidden: float `(batch, length, hidden_size)`.
        attend: bool `(batch, length)`, true at positions that may be attended to; optional.
        positions: how many positions, from the first on, are wanted; all where it is `None`.

    Returns: float `(batch, positions, hidden_size)`.
    """

    def __init__(
        self,
        hidden_size: int,
        heads: int,
        key_size: int | None = None,
        dropout: float = 0.0,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        super().__init__(arguments, **kwargs)
        if heads < 1 or (key_size is None and hidden_size % heads):
            raise InputError(
                f"hidden_size {hidden_size} is no multiple of heads {heads}: give key_size, and at "
                "least one head"
            )
        self._width = key_size or hidden_size // heads
        self.query = self._dense(heads * self._width, "query")
        self.key = self._dense(heads * self._width, "key")
        self.value = self._dense(heads * self._width, "value")
        self.output_projection = self._dense(hidden_size, "output")
        self.dropout_layer = Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        for projection in (self.query, self.key, self.value):
            projection.build(input_shape)
        self.output_projection.build((*input_shape[:-1], self.heads * self._width))
        self.dropout_layer.build((input_shape[0], self.heads, input_shape[1], input_shape[1]))

    def call(
        self,
        hidden: Any,
        attend: Any = None,
        training: bool | None = None,
        positions: int | None = None,
    ) -> Any:
        query = self._split(self.query(hidden[:, :positions]))
        key = self._split(self.key(hidden))
        value = self._split(self.value(hidden))
        if attend is not None:
            attend = ops.expand_dims(ops.cast(attend, "bool"), (1, 2))
        if training and self.dropout:
            weights = self.dropout_layer(self._weights(query, key, attend), training=True)
            context = ops.einsum("bhqk,bkhd->bqhd", weights, value)
        else:
            context = _attention(query, key, value, attend, training)
        shape = ops.shape(context)
        context = ops.reshape(context, (shape[0], shape[1], self.heads * self._width))
        return self.output_projection(context)

    def _split(self, projected: Any) -> Any:
        shape = ops.shape(projected)
        return ops.reshape(projected, (shape[0], shape[1], self.heads, self._width))

    def _weights(self, query: Any, key: Any, attend: Any) -> Any:
        scores = ops.einsum("bqhd,bkhd->bhqk", query, key) * self._width**-0.5
        scores = ops.cast(scores, "float32")
        if attend is not None:
            scores = _masked(scores, attend)
        return ops.cast(ops.softmax(scores, axis=-1), query.dtype)

    def compute_output_shape(self, hidden_shape: Any, attend_shape: Any = None) -> Any:
        return hidden_shape

    def compute_output_spec(
        self,
        hidden: Any,
        attend: Any = None,
        training: bool | None = None,
        positions: int | None = None,
    ) -> Any:
        return keras.KerasTensor(_shortened(hidden.shape, positions), self.compute_dtype)


@register()
class TransformerBlock(_Layer):
    """Post-norm transformer block: self-attention, then feed-forward, each added and normalized.

    At BERT-base's size it has 7,087,872 parameters. Source: Vaswani et al. 2017.

    Args:
        hidden_size: width of input and output.
        heads: attention heads.
        feed_forward_size: inner width of the feed-forward network.
        key_size: width of one head; `None` means `hidden_size / heads`.
        activation: `"gelu"` (by erf), `"gelu_tanh"`, `"relu"`, `"silu"` or `"tanh"`.
        epsilon: of the layer normalizations.
        dropout: rate after attention and feed-forward, in training.
        attention_dropout: rate on the attention weights, in training.
        initializer_range: standard deviation of the initial weights.

    Call arguments and result: as `SelfAttention`.
    """

    def __init__(
        self,
        hidden_size: int,
        heads: int,
        feed_forward_size: int,
        key_size: int | None = None,
        activation: str = "gelu",
        epsilon: float = 1e-12,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        super().__init__(arguments, **kwargs)
        self._activate = activation_function(activation)
        self.attention = SelfAttention(
            hidden_size,
            heads,
            key_size,
            attention_dropout,
            initializer_range,
            dtype=self.dtype_policy,
            name="attention",
        )
        self.attention_norm = self._norm("attention_norm")
        self.feed_forward = self._dense(feed_forward_size, "feed_forward")
        self.feed_forward_output = self._dense(hidden_size, "feed_forward_output")
        self.feed_forward_norm = self._norm("feed_forward_norm")
        self.attention_dropout_layer = Dropout(dropout, dtype=self.dtype_policy)
        self.feed_forward_dropout_layer = Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        self.attention.build(input_shape)
        self.attention_norm.build(input_shape)
        self.feed_forward.build(input_shape)
        self.feed_forward_output.build((*input_shape[:-1], self.feed_forward_size))
        self.feed_forward_norm.build(input_shape)
        self.attention_dropout_layer.build(input_shape)
        self.feed_forward_dropout_layer.build(input_shape)

    def call(
        self,
        hidden: Any,
        attend: Any = None,
        training: bool | None = None,
        positions: int | None = None,
    ) -> Any:
        change = self.attention(hidden, attend=attend, training=training, positions=positions)
        change = self.attention_dropout_layer(change, training=training)
        hidden = self.attention_norm(hidden[:, :positions] + change)
        change = self.feed_forward_output(self._activate(self.feed_forward(hidden)))
        change = self.feed_forward_dropout_layer(change, training=training)
        return self.feed_forward_norm(hidden + change)

    def compute_output_shape(self, hidden_shape: Any, attend_shape: Any = None) -> Any:
        return hidden_shape

    def compute_output_spec(
        self,
        hidden: Any,
        attend: Any = None,
        training: bool | None = None,
        positions: int | None = None,
    ) -> Any:
        return keras.KerasTensor(_shortened(hidden.shape, positions), self.compute_dtype)


def _shortened(shape: Any, positions: int | None) -> tuple[Any, ...]:
    batch, length, width = shape
    if positions is not None:
        length = positions if length is None else min(positions, length)
    return (batch, length, width)


@register()
class MaskedMeanPooling(keras.layers.Layer):
    """Mean of the hidden states over the tokens; zeros for a text without any.

    Call arguments: `hidden` float `(batch, length, hidden)`, `token_mask` bool `(batch, length)`.
    Returns: float `(batch, hidden)`.
    """

    def call(self, hidden: Any, token_mask: Any) -> Any:
        weights = ops.expand_dims(ops.cast(token_mask, hidden.dtype), 2)
        count = ops.maximum(ops.sum(weights, axis=1), 1)
        return ops.sum(hidden * weights, axis=1) / count

    def compute_output_shape(self, hidden_shape: Any, token_mask_shape: Any = None) -> Any:
        return (hidden_shape[0], hidden_shape[2])


class _Encoder(_Layer):
    """What encoders share: a dict of token ids in, and a number of `layers`."""

    def __init__(self, arguments: dict[str, Any], **kwargs: Any) -> None:
        # `layers` is what Keras calls the layers that a model holds.
        arguments["num_layers"] = arguments.pop("layers")
        super().__init__(arguments, **kwargs)
        self.autocast = False  # as of `TransformerEmbedding`; it has no weights of its own

    @classmethod
    def arguments(cls, config: Any) -> dict[str, Any]:
        """The constructor's arguments that a config has."""
        names = inspect.signature(cls).parameters
        return {name: getattr(config, name) for name in names if name != "kwargs"}

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config["layers"] = config.pop("num_layers")
        return config

    def _ids_of(self, inputs: Any) -> Any:
        """The ids in the inputs, or their shape in those of the inputs."""
        if not isinstance(inputs, dict) or "input_word_ids" not in inputs:
            kind = f"a dict of {sorted(inputs)}" if isinstance(inputs, dict) else "no dict"
            raise InputError(
                f'{self.name} takes a dict, {{"input_word_ids": ids}} at least, not {kind}'
            )
        return inputs["input_word_ids"]

    def _tokens(self, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """Ids int32, and which of them are tokens: by the mask given, else where they are not 0."""
        ids = ops.cast(self._ids_of(inputs), "int32")
        mask = inputs.get("input_mask")
        return ids, ops.not_equal(ids, 0) if mask is None else ops.cast(mask, "bool")


@register()
class TransformerEncoder(_Encoder):
    """Token ids to hidden states, with the names of TF-Hub's text encoder API.

    Args: those of `TransformerEmbedding` and `TransformerBlock`, and
        layers: transformer blocks.
        embedding_norm: whether the embeddings are layer-normalized.
        pooler: whether a dense layer with tanh on the first token gives `pooled_output`.

    Call arguments: a dict of
        input_word_ids: int `(batch, length)`, 0 is padding;
        input_mask: int or bool `(batch, length)`, optional: ids that are not 0;
        input_type_ids: int `(batch, length)`, optional: 0;
    and, optional,
        positions: how many positions of the last block, from the first on, are wanted. Who reads
            the first token alone saves most of that block's work with 1.

    Returns: a dict of
        sequence_output: float `(batch, positions, hidden_size)`, the last block's output;
        encoder_outputs: list of the output of every block;
        pooled_output: float `(batch, hidden_size)`, where there is a pooler;
        default: `pooled_output`, or the mean over the tokens where there is no pooler; absent
            where there is none and `positions` leaves tokens out.

    Example:

    ```python
    encoder = TransformerEncoder(vocabulary_size=1000, max_positions=64, hidden_size=32,
                                 layers=2, heads=2, feed_forward_size=64)
    encoder({"input_word_ids": keras.ops.ones((1, 8), "int32")})["default"].shape   # (1, 32)
    ```
    """

    def __init__(
        self,
        vocabulary_size: int,
        max_positions: int,
        hidden_size: int,
        layers: int,
        heads: int,
        feed_forward_size: int,
        type_vocabulary_size: int = 0,
        key_size: int | None = None,
        activation: str = "gelu",
        epsilon: float = 1e-12,
        embedding_norm: bool = True,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        pooler: bool = False,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        super().__init__(arguments, **kwargs)
        self.embedding = TransformerEmbedding(
            vocabulary_size,
            max_positions,
            hidden_size,
            type_vocabulary_size,
            embedding_norm,
            epsilon,
            dropout,
            initializer_range,
            dtype=self.dtype_policy,
            name="embedding",
        )
        self.blocks = [
            TransformerBlock(
                hidden_size,
                heads,
                feed_forward_size,
                key_size,
                activation,
                epsilon,
                dropout,
                attention_dropout,
                initializer_range,
                dtype=self.dtype_policy,
                name=f"block_{i}",
            )
            for i in range(layers)
        ]
        self.pooler_layer = self._dense(hidden_size, "pooler") if pooler else None
        self.mean_pooling = MaskedMeanPooling(dtype=self.dtype_policy, name="mean_pooling")

    def build(self, input_shape: Any) -> None:
        ids = self._ids_of(input_shape)
        self.embedding.build(ids)
        hidden = (*ids, self.hidden_size)
        for block in self.blocks:
            block.build(hidden)
        if self.pooler_layer is not None:
            self.pooler_layer.build((ids[0], self.hidden_size))
        self.mean_pooling.build(hidden)

    def call(
        self, inputs: Any, training: bool | None = None, positions: int | None = None
    ) -> dict[str, Any]:
        ids, mask = self._tokens(inputs)
        # A text without tokens attends to its padding: any finite answer will do, NaN will not.
        attend = ops.logical_or(mask, ops.logical_not(ops.any(mask, axis=1, keepdims=True)))
        hidden = self.embedding(ids, types=inputs.get("input_type_ids"), training=training)
        outputs = []
        for block in self.blocks:
            wanted = positions if block is self.blocks[-1] else None
            hidden = block(hidden, attend=attend, training=training, positions=wanted)
            outputs.append(hidden)
        result = {"sequence_output": hidden, "encoder_outputs": outputs}
        if self.pooler_layer is None:
            if positions is None:
                result["default"] = self.mean_pooling(hidden, mask)
        else:
            result["pooled_output"] = ops.tanh(self.pooler_layer(hidden[:, 0]))
            result["default"] = result["pooled_output"]
        return result

    def compute_output_spec(
        self, inputs: Any, training: bool | None = None, positions: int | None = None
    ) -> dict[str, Any]:
        shape = self.embedding.compute_output_shape(self._ids_of(inputs).shape)
        shapes = [shape] * (len(self.blocks) - 1) + [_shortened(shape, positions)]
        hidden = [keras.KerasTensor(shape, dtype=self.compute_dtype) for shape in shapes]
        pooled = keras.KerasTensor((shape[0], self.hidden_size), dtype=self.compute_dtype)
        result = {"sequence_output": hidden[-1], "encoder_outputs": hidden}
        if self.pooler_layer is not None:
            result["pooled_output"] = pooled
        if self.pooler_layer is not None or positions is None:
            result["default"] = pooled
        return result


@register()
class BertEncoder(TransformerEncoder):
    """The encoder that a `BertConfig` describes, as a layer to compose with others.

    Args:
        config: the architecture, or its `to_dict()`.

    Call argument and result: as `TransformerEncoder`. `keras_agnews.load(name).encoder` is one
    with trained weights.

    Example, as the TF-Hub lesson composes its two layers:

    ```python
    from keras_agnews.configs import BertConfig
    from keras_agnews.layers import BertEncoder, BertPreprocessor
    from keras_agnews.tokenizers import read_vocabulary

    vocabulary = read_vocabulary("vocab.txt")
    config = BertConfig.miniature(layers=4, hidden_size=128)
    texts = keras.Input(shape=(), dtype="string")
    outputs = BertEncoder(config)(BertPreprocessor(vocabulary)(texts))
    hidden = keras.layers.Dropout(0.1)(outputs["pooled_output"])
    model = keras.Model(texts, keras.layers.Dense(4)(hidden))
    ```
    """

    def __init__(self, config: BertConfig | dict[str, Any], **kwargs: Any) -> None:
        if isinstance(config, dict):
            config = BertConfig.from_dict(config)
        if not isinstance(config, TransformerConfig):
            raise InputError(
                f"BertEncoder takes a BertConfig, not {type(config).__name__}: "
                "keras_agnews.load(name).encoder is any entry's"
            )
        super().__init__(**TransformerEncoder.arguments(config), **kwargs)
        self.architecture = config

    def get_config(self) -> dict[str, Any]:
        return {**keras.layers.Layer.get_config(self), "config": self.architecture.to_dict()}


@register()
class AdditiveAttention(_Layer):
    """Additive attention: a small network scores how well each state answers a query.

    The score of state h for query q is v·tanh(W q + U h + b), and the weights of the states are
    the softmax of their scores. Without a query it is a pooling: v is then the learned query, of
    which W q would be a constant part of b (Yang et al. 2016, "Hierarchical attention networks for
    document classification"). `keras.layers.AdditiveAttention` has neither W nor U nor b.

    Source: Bahdanau et al. 2015, arXiv:1409.0473, appendix A.1.2.

    Args:
        units: width of the hidden layer, the size of v.
        use_bias: whether there is a b; the paper's formula has none.
        initializer_range: standard deviation of the initial weights.

    Call arguments:
        states: float `(batch, length, width)`.
        query: float `(batch, queries, query_width)`, optional.
        mask: bool `(batch, length)`, true at states that may be attended to; optional: the mask
            that Keras has attached to the states, else all of them.
        return_weights: whether to return the weights too.
        states_mask: not to be given: where there is a query, Keras passes its own mask here.

    Returns: float `(batch, queries, width)`, for each query the weighted mean of the states, zeros
    where none may be attended to; and the weights, float32 `(batch, queries, length)`, whose rows
    sum to 1. Without a query there is no axis of queries in either.

    Example:

    ```python
    attention = AdditiveAttention(64)
    context, weights = attention(encoded, query=decoded, mask=mask, return_weights=True)
    pooled = AdditiveAttention(64)(encoded, mask=mask)
    ```
    """

    def __init__(
        self, units: int, use_bias: bool = True, initializer_range: float = 0.1, **kwargs: Any
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        super().__init__(arguments, **kwargs)
        self.supports_masking = True  # it obeys a mask, and passes none on
        self.states_projection = self._dense(units, "states", use_bias=use_bias)
        self.query_projection: keras.layers.Dense | None = None

    def build(self, states_shape: Any, query_shape: Any = None) -> None:
        self.states_projection.build(states_shape)
        if query_shape is not None:
            self.query_projection = self._dense(self.units, "query", use_bias=False)
            self.query_projection.build(query_shape)
        self.score = self.add_weight(
            shape=(self.units,),
            initializer=self._initializer,
            name="score",
        )

    def call(
        self,
        states: Any,
        query: Any = None,
        mask: Any = None,
        return_weights: bool = False,
        states_mask: Any = None,
    ) -> Any:
        if (query is None) != (self.query_projection is None):
            raise InputError(
                f"{self.name} was built with{'out' if query is not None else ''} a query, which "
                f"is now {'given' if query is not None else 'missing'}"
            )
        if mask is None:
            mask = states_mask
        hidden = ops.expand_dims(self.states_projection(states), 1)
        if self.query_projection is not None:
            hidden = hidden + ops.expand_dims(self.query_projection(query), 2)
        scores = ops.sum(ops.tanh(hidden) * ops.cast(self.score, hidden.dtype), axis=-1)
        scores = ops.cast(scores, self._weights_dtype)
        if mask is not None:
            mask = ops.expand_dims(ops.cast(mask, "bool"), 1)
            scores = _masked(scores, mask)
        weights = ops.softmax(scores, axis=-1)
        if mask is not None:  # where there is nothing to attend to, all weights are alike
            weights = weights * ops.cast(mask, weights.dtype)
        context = ops.matmul(ops.cast(weights, states.dtype), states)
        if query is None:
            context, weights = context[:, 0], weights[:, 0]
        return (context, weights) if return_weights else context

    @property
    def _weights_dtype(self) -> str:
        return str(keras.backend.result_type(self.compute_dtype, "float32"))

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        """None: what it returns has no position that could be padding."""

    def compute_output_shape(self, states_shape: Any, query_shape: Any = None) -> Any:
        leading = states_shape[:1] if query_shape is None else query_shape[:2]
        return (*leading, states_shape[2])

    def compute_output_spec(
        self,
        states: Any,
        query: Any = None,
        mask: Any = None,
        return_weights: bool = False,
        states_mask: Any = None,
    ) -> Any:
        leading = (states.shape[0],) if query is None else tuple(query.shape[:2])
        context = keras.KerasTensor((*leading, states.shape[2]), dtype=self.compute_dtype)
        weights = keras.KerasTensor((*leading, states.shape[1]), dtype=self._weights_dtype)
        return (context, weights) if return_weights else context


@register()
class GruEncoder(_Encoder):
    """Token ids to the states of a bidirectional GRU, and these to one by additive attention.

    Sources: as `configs.GruConfig`, whose names the arguments have.

    Args:
        vocabulary_size: rows of the token embedding.
        embedding_size: width of the token embedding.
        hidden_size: width of a state, half of it for each direction.
        layers: bidirectional GRUs, one upon the other.
        attention_size: width of the attention's hidden layer.
        dropout: after the embedding and between the layers, in training.
        initializer_range: standard deviation of the initial weights but the recurrent ones.

    Call argument: a dict, as of `TransformerEncoder`; `input_type_ids` are not looked at.

    Returns: a dict of
        sequence_output: float `(batch, length, hidden_size)`, the states of the last layer;
        encoder_outputs: list of the states of every layer;
        default: float `(batch, hidden_size)`, the mean of the states as attention weighs them,
            zeros for a text without tokens;
        attention_weights: float32 `(batch, length)`, the weights.
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        attention_size: int,
        layers: int = 1,
        dropout: float = 0.0,
        initializer_range: float = 0.1,
        **kwargs: Any,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        super().__init__(arguments, **kwargs)
        if hidden_size % 2:
            raise InputError(f"hidden_size {hidden_size} is odd: half of it is for each direction")
        self.embedding = keras.layers.Embedding(
            vocabulary_size,
            embedding_size,
            embeddings_initializer=self._initializer,
            dtype=self.dtype_policy,
            name="embedding",
        )
        self.gru_layers = [
            _BidirectionalGru(
                hidden_size // 2, initializer_range, dtype=self.dtype_policy, name=f"gru_{i}"
            )
            for i in range(layers)
        ]
        self.dropout_layers = [Dropout(dropout, dtype=self.dtype_policy) for _ in range(layers)]
        self.attention = AdditiveAttention(
            attention_size,
            initializer_range=initializer_range,
            dtype=self.dtype_policy,
            name="attention",
        )

    def build(self, input_shape: Any) -> None:
        ids = self._ids_of(input_shape)
        self.embedding.build(ids)
        hidden = (*ids, self.embedding_size)
        for dropout, gru in zip(self.dropout_layers, self.gru_layers, strict=True):
            dropout.build(hidden)
            gru.build(hidden)
            hidden = (*ids, self.hidden_size)
        self.attention.build(hidden)

    def call(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        ids, mask = self._tokens(inputs)
        hidden = self.embedding(ids)
        outputs = []
        for dropout, gru in zip(self.dropout_layers, self.gru_layers, strict=True):
            # A GRU keeps its state where the mask is false: the one that reads from the end begins
            # at the last token.
            hidden = gru(dropout(hidden, training=training), mask, training=training)
            outputs.append(hidden)
        pooled, weights = self.attention(hidden, mask=mask, return_weights=True)
        return {
            "sequence_output": hidden,
            "encoder_outputs": outputs,
            "default": pooled,
            "attention_weights": weights,
        }

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        batch, length = self._ids_of(inputs).shape
        hidden = [
            keras.KerasTensor((batch, length, self.hidden_size), dtype=self.compute_dtype)
            for _ in self.gru_layers
        ]
        pooled, weights = self.attention.compute_output_spec(hidden[-1], return_weights=True)
        return {
            "sequence_output": hidden[-1],
            "encoder_outputs": hidden,
            "default": pooled,
            "attention_weights": weights,
        }


@register()
class BertPreprocessor(_Layer):
    """Strings to the inputs of a BERT encoder, inside a TensorFlow graph.

    Gives the ids of `tokenizers.WordPieceTokenizer`, but for the characters that are newer than
    the Unicode tables of TensorFlow, of RE2 and of tensorflow-text (125 code points, none ASCII,
    against Python 3.11's), and for what is no UTF-8. TF-Hub's own preprocessors agree with it on
    printable ASCII. Elsewhere they decompose more than BERT does (`…` is three full stops there),
    and control characters, which BERT drops, part words.

    Args:
        vocabulary: pieces, as `tokenizers.read_vocabulary` gives them.
        max_length: tokens at which a text is cut and up to which it is padded.
        **kwargs: the layer's, and options of `WordPieceTokenizer` such as `lowercase`.

    Call argument: `tf.string` `(batch,)`, or a NumPy array of str with dtype object.

    Returns: a dict of `input_word_ids`, `input_mask` (1 at a token, 0 at padding) and
    `input_type_ids` (all 0), each int32 `(batch, max_length)`.

    Raises:
        InputError: Keras runs on another backend than TensorFlow, whose graphs hold no strings.
        MissingDependencyError: tensorflow-text is not installed.
    """

    def __init__(self, vocabulary: Iterable[str], max_length: int = 128, **kwargs: Any) -> None:
        if (backend := keras.backend.backend()) != "tensorflow":
            raise InputError(
                f"BertPreprocessor needs Keras on TensorFlow, not on {backend}, whose models take "
                "no strings: clf.predict and clf.fit of keras_agnews.load(...) take them there"
            )
        known = WordPieceTokenizer.option_types
        options = {name: kwargs.pop(name) for name in list(kwargs) if name in known}
        tokenizer = WordPieceTokenizer(vocabulary, max_length=max_length, **options)
        arguments = {"max_length": tokenizer.max_length, **tokenizer.options()}
        super().__init__(arguments, **kwargs)
        self.vocabulary = tokenizer.vocabulary
        self.supports_jit = False  # XLA has no strings
        self.built = True
        self._tokenizer = graph_tokenizer(tokenizer)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "vocabulary": list(self.vocabulary)}

    def call(self, texts: Any) -> dict[str, Any]:
        import tensorflow as tf

        texts = tf.convert_to_tensor(texts, tf.string)
        self._check_rank(texts.shape)
        rows = self._tokenizer.ids(texts)
        ids = rows.to_tensor(shape=(None, self.max_length))
        present = tf.sequence_mask(rows.row_lengths(), self.max_length, tf.int32)
        types = tf.zeros_like(ids)
        return {"input_word_ids": ids, "input_mask": present, "input_type_ids": types}

    def _check_rank(self, shape: Any) -> None:
        if (shape.rank if hasattr(shape, "rank") else len(shape)) not in (None, 1):
            raise InputError(
                f"texts have the shape {tuple(shape)}, and must have (batch,): "
                "keras.Input(shape=(), dtype='string')"
            )

    def compute_output_spec(self, texts: Any) -> dict[str, Any]:
        self._check_rank(texts.shape)
        shape = (texts.shape[0], self.max_length)
        names = ("input_word_ids", "input_mask", "input_type_ids")
        return {name: keras.KerasTensor(shape, dtype="int32") for name in names}
