"""Frozen, validated descriptions of the architectures; no backend needed.

A config knows the name and shape of every variable of the model that it describes. That one
table counts parameters for `keras-agnews list`, checks a weight file before any memory is taken,
and is what the tests hold the built model against.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from keras_agnews.errors import BundleError

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "tanh")  # "gelu" is the exact one, by erf
POOLINGS = ("first", "mean")

# Wide enough for every published encoder, narrow enough that a hostile file cannot ask for memory.
_LIMITS: dict[str, tuple[float, float]] = {
    "vocabulary_size": (2, 2_000_000),
    "max_positions": (1, 65_536),
    "type_vocabulary_size": (0, 1_024),
    "embedding_size": (1, 16_384),
    "hidden_size": (1, 16_384),
    "attention_size": (1, 16_384),
    "layers": (1, 128),
    "heads": (1, 256),
    "key_size": (1, 1_024),
    "feed_forward_size": (1, 65_536),
    "head_size": (0, 65_536),
    "dropout": (0.0, 0.95),
    "attention_dropout": (0.0, 0.95),
    "head_dropout": (0.0, 0.95),
    "epsilon": (1e-14, 0.1),
    "initializer_range": (1e-6, 10.0),
}
_CHOICES = {"activation": ACTIVATIONS, "pooling": POOLINGS}
_MAX_PARAMETERS = 4_000_000_000


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every architecture's description shares: checked fields, JSON, a table of variables."""

    builder: ClassVar[str]

    def __post_init__(self) -> None:
        hints = {"int": int, "float": float, "bool": bool, "str": str}
        for field in dataclasses.fields(self):
            value: Any = getattr(self, field.name)
            hint = str(field.type)
            if hint.endswith("| None") and value is None:
                continue
            kind = hints[hint.removesuffix(" | None")]
            if type(value) not in ((float, int) if kind is float else (kind,)):
                raise BundleError(
                    f"config.{field.name} must be {kind.__name__}, not {type(value).__name__}"
                )
            if field.name in _LIMITS:
                low, high = _LIMITS[field.name]
                if not low <= value <= high:
                    raise BundleError(f"config.{field.name} is {value}, not in {low:g} to {high:g}")
            if kind is float:
                object.__setattr__(self, field.name, float(value))
            if field.name in _CHOICES and value not in _CHOICES[field.name]:
                raise BundleError(
                    f"config.{field.name} is {value!r}, not one of "
                    + ", ".join(map(repr, _CHOICES[field.name]))
                )
        self._check()
        if self.parameters(1) > _MAX_PARAMETERS:
            raise BundleError(
                f"config describes {self.parameters(1):,} parameters, "
                f"more than the {_MAX_PARAMETERS:,} that are read"
            )

    def _check(self) -> None:
        """`BundleError` for fields that contradict each other."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The config of a bundle's `config` object; an unknown key is an error."""
        if not isinstance(values, dict):
            raise BundleError(f"config must be an object, not {type(values).__name__}")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise BundleError(f"config.{unknown[0]} is not a field of builder {cls.builder!r}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All fields, those that have their defaults too: what a record says must stay."""
        return dataclasses.asdict(self)

    def encoder_variables(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every variable of the encoder."""
        raise NotImplementedError

    def variables(self, classes: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of every variable of the classifier with `classes` labels."""
        raise NotImplementedError

    def parameters(self, classes: int) -> int:
        """Parameters of the classifier with `classes` labels."""
        return sum(math.prod(shape) for shape in self.variables(classes).values())


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(Config):
    """A post-norm transformer encoder and its classification head.

    The defaults are those of the lesson's small transformer (the `tiny-transformer` entry).

    Attributes:
        vocabulary_size: rows of the token embedding; id 0 is padding.
        max_positions: rows of the position embedding, the longest text in tokens.
        type_vocabulary_size: rows of the token type embedding; 0 for none.
        hidden_size: width of the residual stream.
        layers: transformer blocks.
        heads: attention heads a block.
        key_size: width of one head; `None` means `hidden_size / heads`.
        feed_forward_size: inner width of the feed-forward network.
        activation: of the feed-forward network: `"gelu"` (by erf), `"gelu_tanh"`, `"relu"`, ...
        epsilon: added to the variance in layer normalization.
        embedding_norm: whether the summed embeddings are normalized, as in BERT.
        dropout: after embeddings, attention and feed-forward, in training.
        attention_dropout: on the attention weights, in training.
        pooler: whether a dense layer with tanh on the first token gives `pooled_output`.
        pooling: what the head sees: the `"mean"` over tokens, or the `"first"` token (its
            `pooled_output` where there is a pooler).
        head_size: width of the head's hidden ReLU layer; 0 for none.
        head_dropout: before each dense layer of the head, in training.
        initializer_range: standard deviation of the initial weights.
    """

    builder: ClassVar[str] = "transformer"

    vocabulary_size: int = 20_000
    max_positions: int = 256
    type_vocabulary_size: int = 0
    hidden_size: int = 32
    layers: int = 1
    heads: int = 2
    key_size: int | None = 32
    feed_forward_size: int = 32
    activation: str = "relu"
    epsilon: float = 1e-6
    embedding_norm: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.1
    pooler: bool = False
    pooling: str = "mean"
    head_size: int = 20
    head_dropout: float = 0.1
    initializer_range: float = 0.1

    def _check(self) -> None:
        if self.key_size is None and self.hidden_size % self.heads:
            raise BundleError(
                f"config.hidden_size {self.hidden_size} is not a multiple of "
                f"config.heads {self.heads}: give config.key_size"
            )
        if self.pooling == "mean" and self.pooler:
            raise BundleError('config.pooler must be false where config.pooling is "mean"')

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.key_size or self.hidden_size // self.heads

    def encoder_variables(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every variable of the encoder."""
        hidden, attention = self.hidden_size, self.heads * self.head_width
        table: dict[str, tuple[int, ...]] = {
            "embedding/tokens/embeddings": (self.vocabulary_size, hidden),
            "embedding/positions": (self.max_positions, hidden),
        }
        if self.type_vocabulary_size:
            table["embedding/types"] = (self.type_vocabulary_size, hidden)
        if self.embedding_norm:
            table |= _norm("embedding/norm", hidden)
        for i in range(self.layers):
            block = f"block_{i}/"
            for name in ("query", "key", "value"):
                table |= _dense(f"{block}attention/{name}", hidden, attention)
            table |= _dense(f"{block}attention/output", attention, hidden)
            table |= _norm(f"{block}attention_norm", hidden)
            table |= _dense(f"{block}feed_forward", hidden, self.feed_forward_size)
            table |= _dense(f"{block}feed_forward_output", self.feed_forward_size, hidden)
            table |= _norm(f"{block}feed_forward_norm", hidden)
        if self.pooler:
            table |= _dense("pooler", hidden, hidden)
        return {f"encoder/{name}": shape for name, shape in table.items()}

    def variables(self, classes: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of every variable of the classifier with `classes` labels."""
        head = _dense("head_hidden", self.hidden_size, self.head_size) if self.head_size else {}
        logits = _dense("logits", self.head_size or self.hidden_size, classes)
        return self.encoder_variables() | head | logits


@dataclass(frozen=True, kw_only=True)
class BertConfig(TransformerConfig):
    """BERT (Devlin et al. 2019, arXiv:1810.04805) and its kin; the defaults are BERT-base.

    The kin: DistilBERT (Sanh et al. 2019, arXiv:1910.01108), MiniLM (Wang et al. 2020,
    arXiv:2002.10957) and Google's miniatures (Turc et al. 2019, arXiv:1908.08962).
    """

    builder: ClassVar[str] = "bert"

    vocabulary_size: int = 30_522
    max_positions: int = 512
    type_vocabulary_size: int = 2
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    key_size: int | None = None
    feed_forward_size: int = 3_072
    activation: str = "gelu"
    epsilon: float = 1e-12
    embedding_norm: bool = True
    pooler: bool = True
    pooling: str = "first"
    head_size: int = 0
    initializer_range: float = 0.02

    @classmethod
    def miniature(cls, layers: int, hidden_size: int) -> Self:
        """One of Google's miniatures: 2 to 12 layers, hidden 128 to 768; heads of width 64."""
        return cls(
            layers=layers,
            hidden_size=hidden_size,
            heads=hidden_size // 64,
            feed_forward_size=4 * hidden_size,
        )

    @classmethod
    def base(cls) -> Self:
        return cls()

    @classmethod
    def large(cls) -> Self:
        return cls.miniature(layers=24, hidden_size=1_024)

    @classmethod
    def distilbert(cls) -> Self:
        """DistilBERT-base: no token types, no pooler, a pre-classifier with ReLU."""
        return cls(layers=6, type_vocabulary_size=0, pooler=False, head_size=768, head_dropout=0.2)

    @classmethod
    def minilm(cls) -> Self:
        """all-MiniLM-L6: mean pooling."""
        return cls(layers=6, hidden_size=384, feed_forward_size=1_536, pooler=False, pooling="mean")


@dataclass(frozen=True, kw_only=True)
class GruConfig(Config):
    """A bidirectional GRU whose states additive attention weighs, and its classification head.

    Sources: Cho et al. 2014, arXiv:1406.1078 (in the form whose reset gate comes after the
    product, as CuDNN has it); Bahdanau et al. 2015, arXiv:1409.0473. The defaults are those of the
    `gru-attention` entry.

    Attributes:
        vocabulary_size: rows of the token embedding; id 0 is padding.
        embedding_size: width of the token embedding.
        hidden_size: width of a state: one half has read the text up to it, the other half from
            the end back to it.
        layers: bidirectional GRUs, one upon the other.
        attention_size: width of the attention's hidden layer.
        dropout: after the embedding and between the layers, in training.
        head_dropout: before the dense layer of the head, in training.
        initializer_range: standard deviation of the initial weights but the recurrent ones, which
            are orthogonal.
    """

    builder: ClassVar[str] = "gru"

    vocabulary_size: int = 20_000
    embedding_size: int = 64
    hidden_size: int = 128
    layers: int = 1
    attention_size: int = 64
    dropout: float = 0.5
    head_dropout: float = 0.3
    initializer_range: float = 0.1

    def _check(self) -> None:
        if self.hidden_size % 2:
            raise BundleError(
                f"config.hidden_size {self.hidden_size} is not even: half of it reads each way"
            )

    def encoder_variables(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every variable of the encoder."""
        table: dict[str, tuple[int, ...]] = {
            "embedding/embeddings": (self.vocabulary_size, self.embedding_size)
        }
        width, units = self.embedding_size, self.hidden_size // 2
        for i in range(self.layers):
            for direction in ("forward", "backward"):
                cell = f"gru_{i}/{direction}_gru/gru_cell"
                table[f"{cell}/kernel"] = (width, 3 * units)
                table[f"{cell}/recurrent_kernel"] = (units, 3 * units)
                table[f"{cell}/bias"] = (2, 3 * units)
            width = self.hidden_size
        table |= _dense("attention/states", width, self.attention_size)
        table["attention/score"] = (self.attention_size,)
        return {f"encoder/{name}": shape for name, shape in table.items()}

    def variables(self, classes: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of every variable of the classifier with `classes` labels."""
        return self.encoder_variables() | _dense("logits", self.hidden_size, classes)


def _dense(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/gamma": (width,), f"{name}/beta": (width,)}
