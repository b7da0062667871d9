"""BERT and DistilBERT from Hugging Face checkpoints: a table for each, and one reader for both.

Nothing is computed here and no backend is needed. A checkpoint's names, shapes and settings are
all checked when it is opened; its numbers are read when they are asked for, from a memory map, one
tensor at a time.
"""

from __future__ import annotations

import functools
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from keras_agnews import text_files
from keras_agnews.bundle import Bundle
from keras_agnews.configs import BertConfig
from keras_agnews.data import LABELS
from keras_agnews.errors import (
    BundleError,
    InputError,
    MissingDependencyError,
    listed,
    located,
    require,
)
from keras_agnews.tensor_files import StoredTensor, map_safetensors
from keras_agnews.tokenizers import Tokenizer, WordPieceTokenizer

MAX_LENGTH = 128
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_FILE = "pytorch_model.bin"
POOLING_FILE = "1_Pooling/config.json"

# --- the tables ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A tensor of theirs, and the variable of ours that it is; `{i}` is the number of a block."""

    theirs: str
    ours: str
    transposed: bool = False


def _dense(theirs: str, ours: str) -> tuple[Row, Row]:
    # PyTorch keeps a dense layer's weight as (outputs, inputs).
    return Row(f"{theirs}.weight", f"{ours}/kernel", True), Row(f"{theirs}.bias", f"{ours}/bias")


def _norm(theirs: str, ours: str) -> tuple[Row, Row]:
    return Row(f"{theirs}.weight", f"{ours}/gamma"), Row(f"{theirs}.bias", f"{ours}/beta")


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the checkpoints of one architecture are laid out.

    Attributes:
        model_type: as their config has it; with a dot after it, the prefix that the names of
            tensors have in a model with a head.
        title: how the names of their classes begin.
        fields: from a field of `BertConfig` to the field of their config.
        absent: the values of fields that their config may lack. What decides an output is not
            here, but for BERT's epsilon, which Google's own configs do not have.
        fixed: fields of `BertConfig` that are the same in all of them.
        rows: the tensors, by their names without the prefix.
        left_over: patterns of the tensors that no text classifier needs.
    """

    model_type: str
    title: str
    fields: dict[str, str]
    absent: dict[str, Any]
    fixed: dict[str, Any] = field(default_factory=dict)
    rows: tuple[Row, ...]
    left_over: tuple[str, ...]


BERT = Family(
    model_type="bert",
    title="Bert",
    fields={
        "vocabulary_size": "vocab_size",
        "max_positions": "max_position_embeddings",
        "type_vocabulary_size": "type_vocab_size",
        "hidden_size": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "feed_forward_size": "intermediate_size",
        "activation": "hidden_act",
        "epsilon": "layer_norm_eps",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
        "head_dropout": "classifier_dropout",
        "initializer_range": "initializer_range",
    },
    absent={
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "classifier_dropout": None,
        "initializer_range": 0.02,
    },
    rows=(
        Row("embeddings.word_embeddings.weight", "encoder/embedding/tokens/embeddings"),
        Row("embeddings.position_embeddings.weight", "encoder/embedding/positions"),
        Row("embeddings.token_type_embeddings.weight", "encoder/embedding/types"),
        *_norm("embeddings.LayerNorm", "encoder/embedding/norm"),
        *_dense("encoder.layer.{i}.attention.self.query", "encoder/block_{i}/attention/query"),
        *_dense("encoder.layer.{i}.attention.self.key", "encoder/block_{i}/attention/key"),
        *_dense("encoder.layer.{i}.attention.self.value", "encoder/block_{i}/attention/value"),
        *_dense("encoder.layer.{i}.attention.output.dense", "encoder/block_{i}/attention/output"),
        *_norm("encoder.layer.{i}.attention.output.LayerNorm", "encoder/block_{i}/attention_norm"),
        *_dense("encoder.layer.{i}.intermediate.dense", "encoder/block_{i}/feed_forward"),
        *_dense("encoder.layer.{i}.output.dense", "encoder/block_{i}/feed_forward_output"),
        *_norm("encoder.layer.{i}.output.LayerNorm", "encoder/block_{i}/feed_forward_norm"),
        *_dense("pooler.dense", "encoder/pooler"),
        *_dense("classifier", "logits"),
    ),
    left_over=("*.position_ids", "cls.*"),
)

DISTILBERT = Family(
    model_type="distilbert",
    title="DistilBert",
    fields={
        "vocabulary_size": "vocab_size",
        "max_positions": "max_position_embeddings",
        "hidden_size": "dim",
        "layers": "n_layers",
        "heads": "n_heads",
        "feed_forward_size": "hidden_dim",
        "activation": "activation",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "head_size": "dim",
        "head_dropout": "seq_classif_dropout",
        "initializer_range": "initializer_range",
    },
    absent={
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "initializer_range": 0.02,
    },
    fixed={"type_vocabulary_size": 0, "pooler": False, "epsilon": 1e-12},
    rows=(
        Row("embeddings.word_embeddings.weight", "encoder/embedding/tokens/embeddings"),
        Row("embeddings.position_embeddings.weight", "encoder/embedding/positions"),
        *_norm("embeddings.LayerNorm", "encoder/embedding/norm"),
        *_dense("transformer.layer.{i}.attention.q_lin", "encoder/block_{i}/attention/query"),
        *_dense("transformer.layer.{i}.attention.k_lin", "encoder/block_{i}/attention/key"),
        *_dense("transformer.layer.{i}.attention.v_lin", "encoder/block_{i}/attention/value"),
        *_dense("transformer.layer.{i}.attention.out_lin", "encoder/block_{i}/attention/output"),
        *_norm("transformer.layer.{i}.sa_layer_norm", "encoder/block_{i}/attention_norm"),
        *_dense("transformer.layer.{i}.ffn.lin1", "encoder/block_{i}/feed_forward"),
        *_dense("transformer.layer.{i}.ffn.lin2", "encoder/block_{i}/feed_forward_output"),
        *_norm("transformer.layer.{i}.output_layer_norm", "encoder/block_{i}/feed_forward_norm"),
        *_dense("pre_classifier", "head_hidden"),
        *_dense("classifier", "logits"),
    ),
    left_over=("*.position_ids", "vocab_*"),
)

FAMILIES = (BERT, DISTILBERT)

# What `transformers` has under these names; those by tanh are one formula written in several ways.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}

# The only values of these fields with which a model is the encoder that we have.
REQUIRED: dict[str, tuple[Any, ...]] = {
    "is_decoder": (None, False),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
    "position_embedding_type": (None, "absolute"),
    "pruned_heads": (None, {}),
}

# Of a model's class after its title. Another one has a head that does not label texts.
TASKS = ("Model", "ForPreTraining", "ForMaskedLM", "ForNextSentencePrediction",
         "ForSequenceClassification")  # fmt: skip

# What a pooling changes of an architecture's own; the names are sentence-transformers'.
_MEAN: dict[str, Any] = {"pooling": "mean", "pooler": False, "head_size": 0}
_FIRST: dict[str, Any] = {"pooling": "first", "pooler": False, "head_size": 0}
POOLINGS = {"mean_tokens": _MEAN, "mean": _MEAN, "cls_token": _FIRST, "cls": _FIRST}

_RENAMED = {"gamma": "weight", "beta": "bias"}  # as TensorFlow named them, in old checkpoints
_FLOATS = ("F32", "F16", "BF16", "torch.float32", "torch.float16", "torch.bfloat16")


# --- the reader ------------------------------------------------------------------------------


@dataclass(frozen=True)
class HuggingFaceCheckpoint:
    """A validated checkpoint, whose weights are read when `arrays` is asked for them.

    Attributes:
        directory: where it lies.
        description: what it is, as a bundle would say.
        tokenizer: its own.
        has_head: whether it has a trained classification head, whose labels are then the
            description's; else those are AG News's.
    """

    directory: Path
    description: Bundle
    tokenizer: Tokenizer
    has_head: bool
    _tensors: Mapping[str, tuple[StoredTensor, bool]] = field(repr=False)

    def arrays(self, wanted: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
        """Name and float32 value of each wanted variable that the checkpoint has.

        A head or a pooler that it lacks is left out. A value may be a window on the mapped file:
        copy what is to stay.

        Raises:
            BundleError: before anything is read, where a variable has another shape or one of
                the encoder is missing.
        """
        shapes = self.description.variables()
        faults = []
        for name, shape in wanted.items():
            if name not in self._tensors:
                if name.startswith("encoder/") and not name.startswith("encoder/pooler/"):
                    faults.append(f"{name} is missing")
            elif shapes[name] != shape:
                faults.append(f"{name} has shape {shapes[name]}, wanted is {shape}")
        if faults:
            raise BundleError(f"{self.directory}: {listed(faults)}")
        return self._read([name for name in wanted if name in self._tensors])

    def _read(self, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        for name in names:
            tensor, transposed = self._tensors[name]
            yield name, tensor.read().T if transposed else tensor.read()


def is_hugging_face(config: Any) -> bool:
    """Whether the content of a `config.json` is that of a Hugging Face checkpoint."""
    if not isinstance(config, dict) or "format" in config:
        return False
    return "model_type" in config or "architectures" in config or _by_fields(config) is not None


def open_checkpoint(
    directory: Path,
    *,
    name: str | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
) -> HuggingFaceCheckpoint:
    """Open a checkpoint of BERT or DistilBERT, with or without a head.

    Args:
        directory: has `config.json`, the tokenizer's files, and `model.safetensors` (or its
            shards and their index), or `pytorch_model.bin`.
        name: of the model; the directory's where `None`.
        max_length: tokens at which a text is cut; where `None` 128, or the model's positions if
            these are fewer.
        pooling: `"first"` for the architecture's own head on the first token, `"mean"` for the
            mean over the tokens, which leaves a trained head behind. Where `None`, the first for
            a checkpoint with a head, else as sentence-transformers' `1_Pooling` says, else
            the first.

    Raises:
        BundleError: it is of another architecture, or its files are not a whole, consistent
            model; the message names file and field, or lists the tensors.
        MissingDependencyError: only a `pytorch_model.bin` is there, and no PyTorch that reads it.
    """
    if pooling not in (None, "first", "mean"):
        raise InputError(f"pooling is {pooling!r}, not 'first', 'mean' or None")
    path = directory / CONFIG_FILE
    config = text_files.read_json(path)
    try:
        family = _family(config)
        tensors = _plain_names(_stored(directory), family)
        head = None if pooling == "mean" else tensors.get("classifier.weight")
        changes = _MEAN if pooling == "mean" else {}
        if pooling is None and head is None:
            changes = _sentence_pooling(directory)
        ours = _config(config, family, changes)
        length = max_length or _length(directory, ours.max_positions)
        tokenizer = WordPieceTokenizer.from_hugging_face(
            directory, max_length=length, vocabulary_size=ours.vocabulary_size
        )
        draft = Bundle(
            name=name or directory.resolve().name,
            builder=ours.builder,
            config=ours,
            tokenizer={"kind": tokenizer.kind, **tokenizer.options()},
            max_length=length,
            labels=LABELS if head is None else _labels(config, head),
        )
        description = Bundle.from_dict(draft.to_dict())
    except BundleError as error:
        # One of the tokenizer's files has been named.
        place = directory if str(error).startswith(f"{directory}{os.sep}") else path
        raise BundleError(located(error, place)) from None
    wanted = ours.encoder_variables() if head is None else description.variables()
    passed_over = [] if ours.pooler else ["encoder/pooler/"]
    if pooling == "mean":
        passed_over += ["head_hidden/", "logits/"]
    matched = _match(directory, tensors, family, ours.layers, wanted, tuple(passed_over))
    return HuggingFaceCheckpoint(directory, description, tokenizer, head is not None, matched)


def _length(directory: Path, positions: int) -> int:
    """Where texts are cut: as ours are, or sooner where the checkpoint says so."""
    length = min(MAX_LENGTH, positions)
    path = directory / "tokenizer_config.json"
    said = text_files.read_json(path) if path.is_file() else None
    theirs = said.get("model_max_length") if isinstance(said, dict) else None
    # transformers writes 10 ** 30 where it does not know.
    return min(length, theirs) if type(theirs) is int and theirs > 2 else length


def _family(config: Any) -> Family:
    if not isinstance(config, dict):
        raise BundleError(f"must be an object, not {type(config).__name__}")
    kind = config.get("model_type")
    names = config.get("architectures") or []
    if kind is not None and not isinstance(kind, str):
        raise BundleError(f"model_type must be a string, not {type(kind).__name__}")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BundleError("architectures must be a list of strings")
    known = [f for f in FAMILIES if kind == f.model_type]
    if kind is None:
        known = [f for f in FAMILIES if names and names[0].startswith(f.title)]
        if not names and (found := _by_fields(config)):
            known = [found]
    if not known:
        raise BundleError(
            f"{kind or ', '.join(names) or 'this'} is another architecture: "
            "BERT and DistilBERT checkpoints can be read"
        )
    allowed = [known[0].title + task for task in TASKS]
    if others := [name for name in names if name not in allowed]:
        raise BundleError(f"{others[0]} is not one of {', '.join(allowed)}, which can be read")
    for name, values in REQUIRED.items():
        if name in config and config[name] not in values:
            raise BundleError(
                f"{name} is {config[name]!r}: such a model is no plain {known[0].title} encoder, "
                "and not read"
            )
    return known[0]


def _by_fields(config: dict[str, Any]) -> Family | None:
    """The family whose fields the config plainly has, as in Google's own, which name none."""
    for family in FAMILIES:
        if {*family.fields.values()} - {*family.absent} <= {*config}:
            return family
    return None


def _config(config: dict[str, Any], family: Family, changes: dict[str, Any]) -> BertConfig:
    values = dict(family.fixed)
    for ours, theirs in family.fields.items():
        if theirs not in config and theirs not in family.absent:
            raise BundleError(f"{theirs} is missing")
        values[ours] = config.get(theirs, family.absent.get(theirs))
    if values["head_dropout"] is None:  # BERT's classifier_dropout, where it is as elsewhere
        values["head_dropout"] = values["dropout"]
    activation = values["activation"]
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise BundleError(
            f"{family.fields['activation']} is {activation!r}, not one of {', '.join(ACTIVATIONS)}"
        )
    values["activation"] = ACTIVATIONS[activation]
    try:
        return BertConfig(**(values | changes))
    except BundleError as error:  # it speaks of our fields, and the reader of the file has theirs
        message = re.sub(r"config\.(\w+)", lambda m: family.fields.get(m[1], m[0]), str(error))
        raise BundleError(message) from None


def _sentence_pooling(directory: Path) -> dict[str, Any]:
    """What sentence-transformers says of the pooling, where this is one of its checkpoints."""
    path = directory / POOLING_FILE
    if not path.is_file():
        return {}
    config = text_files.read_json(path)
    if not isinstance(config, dict):
        raise BundleError(f"{path}: must be an object, not {type(config).__name__}")
    prefix = "pooling_mode_"
    modes = [
        k.removeprefix(prefix) for k, v in config.items() if k.startswith(prefix) and v is True
    ]
    if "pooling_mode" in config:
        modes = [config["pooling_mode"]]
    if len(modes) != 1 or not isinstance(modes[0], str) or modes[0] not in POOLINGS:
        raise BundleError(
            f"{path}: pooling by {modes} is not read, only by one of {', '.join(POOLINGS)}; "
            "without the file the encoder loads with its architecture's own pooling"
        )
    return POOLINGS[modes[0]]


def _labels(config: dict[str, Any], head: StoredTensor) -> tuple[str, ...]:
    """The names of the head's classes, as `id2label` has them, else as `transformers` has them."""
    problem = config.get("problem_type")
    if problem not in (None, "single_label_classification"):
        raise BundleError(
            f"problem_type is {problem!r}: only a head for one label a text is read; "
            "without its head (delete classifier.* from the weights) the encoder loads"
        )
    count = head.shape[0] if head.shape else 0
    if count < 2:
        raise BundleError(f"a head with {count} output(s) is a regression, and not read")
    names = config.get("id2label")
    if names is None:
        return tuple(f"LABEL_{i}" for i in range(count))
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise BundleError("id2label must be an object of strings")
    if {*names} != {str(i) for i in range(len(names))}:
        raise BundleError(f"id2label has the keys {', '.join(names)}, not 0 to {len(names) - 1}")
    if len(names) != count:
        raise BundleError(f"id2label names {len(names)} labels, but the head has {count} outputs")
    return tuple(names[str(i)] for i in range(count))


def _match(
    directory: Path,
    tensors: Mapping[str, StoredTensor],
    family: Family,
    layers: int,
    wanted: Mapping[str, tuple[int, ...]],
    passed_over: tuple[str, ...],
) -> dict[str, tuple[StoredTensor, bool]]:
    """The tensor of each wanted variable, and whether it is transposed; all faults in one error."""
    rows = {
        row.theirs.format(i=i): Row(row.theirs, row.ours.format(i=i), row.transposed)
        for row in family.rows
        for i in range(layers if "{i}" in row.theirs else 1)
    }
    matched: dict[str, tuple[StoredTensor, bool]] = {}
    faults = []
    for name, tensor in tensors.items():
        row = rows.get(name)
        if row is not None and row.ours in wanted:
            shape = tensor.shape[::-1] if row.transposed else tensor.shape
            if shape != wanted[row.ours]:
                expected = wanted[row.ours][:: -1 if row.transposed else 1]
                faults.append(f"{tensor.name} has shape {tensor.shape}, not {expected}")
            elif tensor.dtype not in _FLOATS:
                faults.append(f"{tensor.name} is {tensor.dtype}, not one of {', '.join(_FLOATS)}")
            else:
                matched[row.ours] = (tensor, row.transposed)
        elif row is not None and row.ours.startswith(passed_over):
            continue
        elif not any(fnmatchcase(name, pattern) for pattern in family.left_over):
            faults.append(f"{tensor.name} is not expected")
    pooler = {name for name in wanted if name.startswith("encoder/pooler/")}
    optional = pooler if pooler.isdisjoint(matched) else set()
    there = {row.ours for name, row in rows.items() if name in tensors}
    faults += [
        f"{name} is missing"
        for name, row in rows.items()
        if row.ours in wanted and row.ours not in there and row.ours not in optional
    ]
    if faults:
        raise BundleError(f"{directory}: not a whole {family.title} model: {listed(faults)}")
    return matched


def _plain_names(stored: Mapping[str, StoredTensor], family: Family) -> dict[str, StoredTensor]:
    """Tensors by their names without the prefix, and as PyTorch names them."""
    plain: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        module, dot, last = name.removeprefix(f"{family.model_type}.").rpartition(".")
        known = module + dot + _RENAMED.get(last, last)
        if known in plain:
            raise BundleError(f"the tensors {plain[known].name} and {name} are the same one")
        plain[known] = tensor
    return plain


# --- the files -------------------------------------------------------------------------------


def _stored(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint, unread, by the name that the file has."""
    if (directory / WEIGHTS_FILE).is_file():
        return map_safetensors(directory / WEIGHTS_FILE)
    if (directory / INDEX_FILE).is_file():
        return _shards(directory / INDEX_FILE)
    if (directory / PICKLE_FILE).is_file():
        return _pickle(directory / PICKLE_FILE)
    raise BundleError(f"{directory}: no {WEIGHTS_FILE}, {INDEX_FILE} or {PICKLE_FILE}")


def _shards(index: Path) -> dict[str, StoredTensor]:
    content = text_files.read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise BundleError(f"{index}: weight_map must be an object of file names")
    stored: dict[str, StoredTensor] = {}
    for file in sorted(set(places.values())):
        if not re.fullmatch(r"[\w\-][\w.\-]*\.safetensors", file, re.ASCII):
            raise BundleError(
                f"{index}: weight_map names {file!r}, not a .safetensors file beside it"
            )
        shard = map_safetensors(index.parent / file)
        said = {name for name, place in places.items() if place == file}
        if wrong := sorted(said.symmetric_difference(shard)):
            raise BundleError(
                f"{index.parent / file}: it and {index.name} differ on {listed(wrong)}"
            )
        stored |= shard
    return stored


def _pickle(path: Path) -> dict[str, StoredTensor]:
    """PyTorch's own format, by its restricted reader and no other."""
    remedy = "or have the checkpoint's owner save it as model.safetensors"
    try:
        torch = require("torch", "torch", f"to read {path}")
    except MissingDependencyError as error:
        raise MissingDependencyError(f"{error}, {remedy}") from None
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        # CVE-2025-32434: before it, `weights_only` could be made to run code.
        raise MissingDependencyError(
            f'{path} is read with PyTorch 2.6 or newer: pip install -U "torch>=2.6", {remedy}'
        )
    try:
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # whatever a damaged or hostile file makes of the reader
        reason = str(error).strip().partition("\n")[0]
        raise BundleError(f"{path}: not a file of plain tensors ({reason}), {remedy}") from None
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in content.items()
    ):
        raise BundleError(f"{path}: not a dict of tensors, {remedy}")
    return {
        name: StoredTensor(
            name, tuple(tensor.shape), str(tensor.dtype), functools.partial(_torch_array, tensor)
        )
        for name, tensor in content.items()
    }


def _torch_array(tensor: Any) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().numpy()
    return array
