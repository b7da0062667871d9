"""A classifier as a KerasHub preset, made by KerasHub itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_agnews.bundle import Bundle
from keras_agnews.configs import BertConfig
from keras_agnews.errors import InputError, require
from keras_agnews.files import make_directory
from keras_agnews.importers.keras_hub import FIELDS, FIXED, TOKENIZER_OPTIONS, our_name
from keras_agnews.models import built_here
from keras_agnews.tokenizers import WordPieceTokenizer

# Their tokenizer has these built in.
_TOKENS = {"start": "[CLS]", "separator": "[SEP]", "padding": "[PAD]"}
_TOKENIZER_FIXED = _TOKENS | {"chinese_characters": True, "max_word_characters": 100}


def write(
    directory: Path, description: Bundle, tokenizer: Any, arrays: Mapping[str, np.ndarray]
) -> None:
    """Write a preset for `keras_hub.models.BertTextClassifier.from_preset`.

    Args: as `exporters.huggingface.write`; the temperature goes into the head here too.

    Raises:
        InputError: KerasHub's BERT cannot be this model; the message names the field.
        MissingDependencyError: KerasHub is not installed.
    """
    config = description.config
    _check(description, tokenizer)
    models = require("keras_hub", "keras-nlp", "to write a preset").models
    make_directory(directory)
    backbone = models.BertBackbone(**{theirs: getattr(config, f) for f, theirs in FIELDS.items()})
    options = {theirs: getattr(tokenizer, ours) for ours, theirs in TOKENIZER_OPTIONS.items()}
    if options["strip_accents"] is None:  # theirs knows no default that depends on `lowercase`
        options["strip_accents"] = options["lowercase"]
    classifier = models.BertTextClassifier(
        backbone=backbone,
        num_classes=len(description.labels),
        dropout=config.head_dropout,
        preprocessor=models.BertTextClassifierPreprocessor(
            models.BertTokenizer(vocabulary=list(tokenizer.vocabulary), **options),
            sequence_length=description.max_length,
        ),
    )
    for variable in classifier.weights:
        name = our_name(variable.path, config.layers)
        value = arrays[name].reshape(tuple(variable.shape))
        if name.startswith("logits/"):
            value = value / np.float32(description.temperature)
        variable.assign(value)
    classifier.save_to_preset(str(directory))


def _check(description: Bundle, tokenizer: Any) -> None:
    config = description.config
    bert = isinstance(config, BertConfig) and built_here(description)
    if not bert or not isinstance(tokenizer, WordPieceTokenizer):
        raise InputError(
            f"{description.name} is no BERT (builder {description.builder!r}, tokenizer.kind "
            f"{getattr(tokenizer, 'kind', None)!r}): KerasHub has no class for it"
        )
    needed: dict[tuple[str, Any, str], Any]
    needed = {("config", config, field): value for field, value in FIXED.items()}
    needed |= {("tokenizer", tokenizer, option): v for option, v in _TOKENIZER_FIXED.items()}
    needed["config", config, "head_width"] = config.hidden_size // config.heads
    for (where, owner, field), value in needed.items():
        if (found := getattr(owner, field)) != value:
            raise InputError(
                f"{where}.{field} of {description.name} is {found!r}, and KerasHub's BERT has "
                f"{value!r}, which it cannot be told: it cannot be this model"
            )
    if not config.type_vocabulary_size:
        raise InputError(
            f"config.type_vocabulary_size of {description.name} is 0, and KerasHub's BERT adds a "
            "token type to every token: it cannot be this model"
        )
