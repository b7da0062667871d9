"""BERT from a KerasHub preset, which KerasHub itself loads: a table of its variables' paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_agnews.bundle import Bundle
from keras_agnews.configs import BertConfig
from keras_agnews.data import LABELS
from keras_agnews.errors import BundleError, InputError, NotFoundError, require
from keras_agnews.tokenizers import Tokenizer, WordPieceTokenizer

SCHEME = "keras_hub:"

# What a `keras_hub.models.BertBackbone` cannot be told, and its layers have.
FIXED: dict[str, Any] = {
    "activation": "gelu_tanh",
    "epsilon": 1e-12,
    "embedding_norm": True,
    "pooler": True,
    "pooling": "first",
    "head_size": 0,
}
# From a field of `BertConfig` to an argument of theirs.
FIELDS = {
    "vocabulary_size": "vocabulary_size",
    "max_positions": "max_sequence_length",
    "type_vocabulary_size": "num_segments",
    "hidden_size": "hidden_dim",
    "layers": "num_layers",
    "heads": "num_heads",
    "feed_forward_size": "intermediate_dim",
    "dropout": "dropout",
}
# From an option of `WordPieceTokenizer` to an argument of their tokenizer.
TOKENIZER_OPTIONS = {
    "lowercase": "lowercase",
    "strip_accents": "strip_accents",
    "unknown": "oov_token",
}
# What else theirs can be told, and ours has so.
_TOKENIZER_FIXED = {
    "special_tokens_in_strings": False,
    "split": True,
    "suffix_indicator": "##",
}
_THEIRS, _OURS = "transformer_layer_{i}", "encoder/block_{i}"
# Their path and ours. Theirs keep an axis for the heads; the order of the values is the same.
PATHS = {
    "token_embedding/embeddings": "encoder/embedding/tokens/embeddings",
    "position_embedding/embeddings": "encoder/embedding/positions",
    "segment_embedding/embeddings": "encoder/embedding/types",
    "embeddings_layer_norm": "encoder/embedding/norm",
    f"{_THEIRS}/self_attention_layer/query": f"{_OURS}/attention/query",
    f"{_THEIRS}/self_attention_layer/key": f"{_OURS}/attention/key",
    f"{_THEIRS}/self_attention_layer/value": f"{_OURS}/attention/value",
    f"{_THEIRS}/self_attention_layer/attention_output": f"{_OURS}/attention/output",
    f"{_THEIRS}/self_attention_layer_norm": f"{_OURS}/attention_norm",
    f"{_THEIRS}/feedforward_intermediate_dense": f"{_OURS}/feed_forward",
    f"{_THEIRS}/feedforward_output_dense": f"{_OURS}/feed_forward_output",
    f"{_THEIRS}/feedforward_layer_norm": f"{_OURS}/feed_forward_norm",
    "pooled_dense": "encoder/pooler",
    "logits": "logits",
}


@dataclass(frozen=True)
class KerasHubCheckpoint:
    """A model that KerasHub has loaded.

    Attributes:
        description: what it is. KerasHub keeps no names of classes: they are `LABEL_0` and so on,
            until `clf.describe(labels=(...))` names them.
        tokenizer: as its own, by our rule.
    """

    description: Bundle
    tokenizer: Tokenizer
    _values: Mapping[str, np.ndarray] = field(repr=False)

    def arrays(self, wanted: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
        """Name and float32 value of each wanted variable; a preset may have no head."""
        for name, shape in wanted.items():
            value = self._values.get(name)
            if name.startswith("encoder/") and (value is None or value.shape != shape):
                found = "missing" if value is None else f"of shape {value.shape}"
                raise BundleError(f"{self.description.name}: {name} is {found}, wanted is {shape}")
        return ((name, self._values[name]) for name in wanted if name in self._values)


def our_name(path: str, layers: int) -> str:
    """The name of our variable that has the values of theirs; `KeyError` where there is none."""
    for i in range(layers if "_layer_" in path else 1):
        for theirs, ours in PATHS.items():
            start = theirs.format(i=i)
            if path == start or path.startswith(f"{start}/"):
                return ours.format(i=i) + path.removeprefix(start)
    raise KeyError(path)


def open_checkpoint(preset: str) -> KerasHubCheckpoint:
    """Load a preset of BERT's.

    Args:
        preset: whatever KerasHub's `from_preset` takes: a name, a handle or a directory.

    Raises:
        MissingDependencyError: KerasHub is not installed.
        NotFoundError: KerasHub cannot load it; the message has KerasHub's own words.
        BundleError: it is of another architecture, or its tokenizer is of another kind.
    """
    models = require("keras_hub", "keras-nlp", f"to load the preset {preset}").models
    import keras

    try:
        classifier = _classifier(models, preset)
        backbone = (
            models.Backbone.from_preset(preset) if classifier is None else classifier.backbone
        )
        if not isinstance(backbone, models.BertBackbone):
            raise BundleError(
                f"{preset} is a {type(backbone).__name__}: of KerasHub's models BERT can be read"
            )
        # A classifier may have been saved without the preprocessor that holds its tokenizer.
        preprocessor = getattr(classifier, "preprocessor", None)
        theirs = getattr(preprocessor, "tokenizer", None) or models.Tokenizer.from_preset(preset)
    except BundleError:
        raise
    except Exception as error:  # of any of the libraries that it loads with
        reason = " ".join(str(error).split()) or type(error).__name__
        raise NotFoundError(
            f"KerasHub cannot load the preset {preset!r} ({reason[:300]})"
        ) from None
    model = classifier if classifier is not None else backbone
    config = BertConfig(
        **{ours: getattr(backbone, theirs) for ours, theirs in FIELDS.items()},
        **FIXED,
        attention_dropout=backbone.dropout,
        head_dropout=getattr(classifier, "dropout", backbone.dropout),
    )
    for name, value in _TOKENIZER_FIXED.items():
        if (found := getattr(theirs, name, value)) != value:
            raise BundleError(
                f"{preset}: {name} of its tokenizer is {found!r}, and here it is {value!r}"
            )
    length = getattr(preprocessor, "sequence_length", None) or 128
    try:
        tokenizer = WordPieceTokenizer(
            theirs.get_vocabulary(),
            max_length=min(length, config.max_positions),
            **{ours: getattr(theirs, name) for ours, name in TOKENIZER_OPTIONS.items()},
        )
    except InputError as error:
        raise BundleError(f"{preset}: {error}") from None
    labels: tuple[str, ...] = LABELS
    if classifier is not None:
        activation = keras.activations.serialize(classifier.activation)
        if classifier.num_classes < 2 or activation not in ("linear", "softmax"):
            raise BundleError(
                f"{preset} is no classifier into one of several classes: num_classes is "
                f"{classifier.num_classes}, activation {activation!r}"
            )
        labels = tuple(f"LABEL_{i}" for i in range(classifier.num_classes))
    draft = Bundle(
        name=name_of(preset),
        builder=config.builder,
        config=config,
        tokenizer={"kind": tokenizer.kind, **tokenizer.options()},
        max_length=tokenizer.max_length,
        labels=labels,
    )
    description = Bundle.from_dict(draft.to_dict())
    shapes = description.variables()
    values = {}
    for variable in model.weights:
        value = np.asarray(keras.ops.convert_to_numpy(variable.value), np.float32)
        try:
            name = our_name(variable.path, config.layers)
            values[name] = value.reshape(shapes[name])
        except (KeyError, ValueError):
            raise BundleError(
                f"{preset}: {variable.path} {value.shape} is no variable of a plain BERT"
            ) from None
    return KerasHubCheckpoint(description, description.make_tokenizer(tokenizer.vocabulary), values)


def name_of(preset: str) -> str:
    """The last part of a handle that is no version, or of a path."""
    parts = [part for part in preset.split("/") if part]
    versioned = "://" in preset and parts[-1].isdigit()
    return parts[-2] if versioned else parts[-1]


def _classifier(models: Any, preset: str) -> Any:
    """The preset's classifier, or `None` where it has an encoder only."""
    try:
        return models.TextClassifier.from_preset(preset)
    except (TypeError, ValueError) as error:
        if "num_classes" in str(error):  # that it must be given, since there is no head
            return None
        raise
