"""A classifier as a Hugging Face checkpoint, by the importer's table read the other way."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_agnews import text_files
from keras_agnews.bundle import Bundle
from keras_agnews.configs import BertConfig
from keras_agnews.errors import InputError
from keras_agnews.files import locked, make_directory
from keras_agnews.importers.huggingface import BERT, CONFIG_FILE, DISTILBERT, WEIGHTS_FILE, Family
from keras_agnews.models import built_here
from keras_agnews.tensor_files import save_tensors
from keras_agnews.tokenizers import (
    CHECKPOINT_OPTIONS,
    WordPieceTokenizer,
    write_vocabulary,
)

TOKENIZER_FILE = "tokenizer.json"
_NETWORKS = (".onnx", ".tflite")  # files from token ids, with the tokenizer in a file beside them
# What each of their classes is, whatever its config says.
_NEEDED: dict[str, dict[str, Any]] = {
    "bert": {"embedding_norm": True, "pooler": True, "pooling": "first", "head_size": 0},
    "distilbert": {"embedding_norm": True, "pooling": "first", **DISTILBERT.fixed},
}
_ACTIVATIONS = {"gelu_tanh": "gelu_new"}  # the others have one name


def write(
    directory: Path, description: Bundle, tokenizer: Any, arrays: Mapping[str, np.ndarray]
) -> None:
    """Write config.json, model.safetensors and the tokenizer's files.

    Args:
        directory: made where it is missing.
        description: of the classifier. Its temperature goes into the head, since a checkpoint has
            no place for it: the softmax of the logits is then what `predict` gives.
        tokenizer: the classifier's.
        arrays: every variable, float32, by name.

    Raises:
        InputError: a BERT or DistilBERT classifier of theirs cannot be this model; the message
            names the field; or an exported network there needs another tokenizer.json.
    """
    family = _family(description, tokenizer)
    config = _config(description, family, tokenizer)
    text = tokenizer_json(tokenizer)
    if others := networks(directory):
        check_tokenizer(directory / TOKENIZER_FILE, text, others, f"a {family.title} checkpoint")
    tensors = {}
    for row in family.rows:
        for i in range(description.config.layers if "{i}" in row.theirs else 1):
            value = arrays[row.ours.format(i=i)]
            if row.ours.startswith("logits/"):
                value = value / np.float32(description.temperature)
            name = row.theirs.format(i=i)
            prefix = "" if row.ours.startswith(("logits/", "head")) else f"{family.model_type}."
            tensors[prefix + name] = np.ascontiguousarray(value.T if row.transposed else value)
    names = {theirs: getattr(tokenizer, ours) for ours, (theirs, *_) in CHECKPOINT_OPTIONS.items()}
    # Transformers 5 makes a BertTokenizer anew, with its own longest word.
    usual = tokenizer.max_word_characters == 100
    names |= {
        "tokenizer_class": "BertTokenizer" if usual else "PreTrainedTokenizerFast",
        "model_max_length": description.max_length,
    }
    make_directory(directory)
    with locked(directory):
        # Without its config it is no checkpoint: who is killed leaves none, not half of each.
        (directory / CONFIG_FILE).unlink(missing_ok=True)
        save_tensors(tensors, directory / WEIGHTS_FILE, directory / ".scratch", {"format": "pt"})
        write_vocabulary(directory / "vocab.txt", tokenizer.vocabulary)
        shutil.copymode(directory / "vocab.txt", directory / WEIGHTS_FILE)
        text_files.write_text(directory / TOKENIZER_FILE, text)
        text_files.write_json(directory / "tokenizer_config.json", names)
        text_files.write_json(directory / CONFIG_FILE, config)


def _family(description: Bundle, tokenizer: Any) -> Family:
    config = description.config
    bert = isinstance(config, BertConfig) and built_here(description)
    if not bert or not isinstance(tokenizer, WordPieceTokenizer):
        raise InputError(
            f"{description.name} is no BERT (builder {description.builder!r}, tokenizer.kind "
            f"{getattr(tokenizer, 'kind', None)!r}): Hugging Face has no class for it"
        )
    if len(description.labels) < 2:
        raise InputError(f"{description.name} has one label: theirs take that for a regression")
    family = BERT if config.type_vocabulary_size else DISTILBERT
    needed = dict(_NEEDED[family.model_type])
    if family is DISTILBERT:
        needed["head_size"] = config.hidden_size
    needed["head_width"] = config.hidden_size // config.heads
    for field, value in needed.items():
        if (found := getattr(config, field)) != value:
            raise InputError(
                f"config.{field} of {description.name} is {found!r}, and a "
                f"{family.title}ForSequenceClassification has {value!r}: it cannot be this model"
            )
    return family


def _config(description: Bundle, family: Family, tokenizer: Any) -> dict[str, Any]:
    ours = description.config
    values = {theirs: getattr(ours, name) for name, theirs in family.fields.items()}
    activation = family.fields["activation"]
    values[activation] = _ACTIVATIONS.get(ours.activation, ours.activation)
    return {
        "architectures": [f"{family.title}ForSequenceClassification"],
        "model_type": family.model_type,
        **values,
        "pad_token_id": 0,
        "problem_type": "single_label_classification",
        "id2label": {str(i): label for i, label in enumerate(description.labels)},
        "label2id": {label: i for i, label in enumerate(description.labels)},
    }


def tokenizer_json(tokenizer: WordPieceTokenizer, *, whole: bool = False) -> str:
    """A tokenizer as their fast ones keep it, made by the library that reads it.

    Args:
        tokenizer: ours.
        whole: whether cutting and padding are in it, which `transformers` wants to do itself.

    Returns: what `tokenizer.json` is to hold.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    ids = {token: i for i, token in enumerate(tokenizer.vocabulary)}
    theirs = tokenizers.Tokenizer(
        models.WordPiece(
            vocab=ids,
            unk_token=tokenizer.unknown,
            max_input_chars_per_word=tokenizer.max_word_characters,
        )
    )
    theirs.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=tokenizer.chinese_characters,
        strip_accents=tokenizer.strip_accents,
        lowercase=tokenizer.lowercase,
    )
    theirs.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    start, separator = tokenizer.start, tokenizer.separator
    theirs.post_processor = processors.BertProcessing(
        (separator, ids[separator]), (start, ids[start])
    )
    theirs.decoder = decoders.WordPiece()
    special = (tokenizer.padding, tokenizer.unknown, start, separator)
    theirs.add_special_tokens(list(dict.fromkeys(special)))
    if whole:
        theirs.enable_truncation(tokenizer.max_length)
        theirs.enable_padding(pad_id=ids[tokenizer.padding], pad_token=tokenizer.padding)
    text: str = theirs.to_str(pretty=True)
    return text


def networks(directory: Path) -> set[str]:
    """Names of the exported networks in a directory, which need the tokenizer.json there."""
    return {path.name for path in directory.glob("*") if path.suffix in _NETWORKS}


def check_tokenizer(beside: Path, text: str | None, others: set[str], name: str) -> None:
    """`InputError` where a tokenizer.json of others is not the one that `name` needs, or none."""
    if beside.is_file() and beside.read_text(encoding="utf-8", errors="replace") != text:
        raise InputError(
            f"{beside} is that of {', '.join(sorted(others)) or 'another model'}, and {name} needs "
            f"{'none' if text is None else 'a different one'}: give it a directory of its own"
        )
