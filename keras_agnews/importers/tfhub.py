"""BERT from a TF-Hub SavedModel: a table, and a reader that runs none of the model's code.

The object graph in `saved_model.pb` names the variables, the checkpoint beside it has their values
and the graph of operations tells the rest. What was read is kept in this package's cache as a
bundle, so that TensorFlow is needed once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from keras_agnews import __version__, bundle
from keras_agnews.bundle import Bundle
from keras_agnews.configs import BertConfig
from keras_agnews.data import LABELS, cache_directory
from keras_agnews.errors import BundleError, NotFoundError, listed, located, require
from keras_agnews.files import digest
from keras_agnews.tokenizers import Tokenizer, WordPieceTokenizer, read_vocabulary

SCHEME = "tfhub:"
GRAPH_FILE = "saved_model.pb"
MAX_LENGTH = 128  # TF-Hub's preprocessors cut there by default

# --- the table -------------------------------------------------------------------------------

# From the letters of the shapes below to the sizes in the config.
SIZES = {
    "v": "vocabulary_size",
    "p": "max_positions",
    "t": "type_vocabulary_size",
    "h": "hidden_size",
    "n": "heads",
    "k": "key_size",
    "f": "feed_forward_size",
}
_ATTENTION = "transformer/layer_{i}/self_attention"
_BLOCK = "encoder/block_{i}"
# Their name (`{i}` is the number of a block), its shape, our name. An `n` and a `k` are one axis
# of ours; values are in the same order.
ROWS = (
    ("word_embeddings/embeddings", "vh", "encoder/embedding/tokens/embeddings"),
    ("position_embedding/embeddings", "ph", "encoder/embedding/positions"),
    ("type_embeddings/embeddings", "th", "encoder/embedding/types"),
    ("embeddings/layer_norm/gamma", "h", "encoder/embedding/norm/gamma"),
    ("embeddings/layer_norm/beta", "h", "encoder/embedding/norm/beta"),
    (f"{_ATTENTION}/query/kernel", "hnk", f"{_BLOCK}/attention/query/kernel"),
    (f"{_ATTENTION}/query/bias", "nk", f"{_BLOCK}/attention/query/bias"),
    (f"{_ATTENTION}/key/kernel", "hnk", f"{_BLOCK}/attention/key/kernel"),
    (f"{_ATTENTION}/key/bias", "nk", f"{_BLOCK}/attention/key/bias"),
    (f"{_ATTENTION}/value/kernel", "hnk", f"{_BLOCK}/attention/value/kernel"),
    (f"{_ATTENTION}/value/bias", "nk", f"{_BLOCK}/attention/value/bias"),
    (f"{_ATTENTION}/attention_output/kernel", "nkh", f"{_BLOCK}/attention/output/kernel"),
    (f"{_ATTENTION}/attention_output/bias", "h", f"{_BLOCK}/attention/output/bias"),
    (f"{_ATTENTION}_layer_norm/gamma", "h", f"{_BLOCK}/attention_norm/gamma"),
    (f"{_ATTENTION}_layer_norm/beta", "h", f"{_BLOCK}/attention_norm/beta"),
    ("transformer/layer_{i}/intermediate/kernel", "hf", f"{_BLOCK}/feed_forward/kernel"),
    ("transformer/layer_{i}/intermediate/bias", "f", f"{_BLOCK}/feed_forward/bias"),
    ("transformer/layer_{i}/output/kernel", "fh", f"{_BLOCK}/feed_forward_output/kernel"),
    ("transformer/layer_{i}/output/bias", "h", f"{_BLOCK}/feed_forward_output/bias"),
    ("transformer/layer_{i}/output_layer_norm/gamma", "h", f"{_BLOCK}/feed_forward_norm/gamma"),
    ("transformer/layer_{i}/output_layer_norm/beta", "h", f"{_BLOCK}/feed_forward_norm/beta"),
    ("pooler_transform/kernel", "hh", "encoder/pooler/kernel"),
    ("pooler_transform/bias", "h", "encoder/pooler/bias"),
)
LEFT_OVER = ("cls/*",)  # the head for masked words that some exports carry

# How an activation shows in the graph: an operation, or a constant. Model Garden's "gelu" is
# the one by tanh, whose 0.044715 stands in each of its exports; the golden outputs of such an
# export agree: within 3e-6 by tanh, and off by more than 1e-4 by erf (see tests/test_tfhub.py).
ACTIVATIONS = {0.044715: "gelu_tanh", "Erf": "gelu", "Erfc": "gelu", "Relu": "relu"}
_EPSILON = "batchnorm/add/y"  # TensorFlow's name for what layer normalization adds


# --- the reader ------------------------------------------------------------------------------


@dataclass(frozen=True)
class TfHubCheckpoint:
    """An encoder from TF-Hub, as a bundle in the cache.

    Attributes:
        directory: of that bundle.
        description: what it is; its labels are AG News's.
        tokenizer: its own.
    """

    directory: Path
    description: Bundle
    tokenizer: Tokenizer

    def arrays(self, wanted: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
        """Name and float32 value of each wanted variable of the encoder; it has no head.

        Raises:
            BundleError: before anything is read, where a variable has another shape.
        """
        shapes, weights = self.description.variables(), self.description.weights
        assert weights is not None
        for name, shape in wanted.items():
            if name.startswith("encoder/") and shapes.get(name) != shape:
                raise BundleError(
                    f"{self.description.name}: {name} has shape {shapes.get(name)}, "
                    f"wanted is {shape}"
                )
        stored = bundle.read_weights(self.directory / weights.file, shapes, weights.sha256)
        return ((n, v) for n, v in stored if n in wanted and n.startswith("encoder/"))


def open_checkpoint(handle: str, resolve: Callable[[str], Path]) -> TfHubCheckpoint:
    """Open a BERT encoder that was exported for TF-Hub.

    Args:
        handle: the directory of a SavedModel, or an address of TF-Hub or Kaggle.
        resolve: from an address to a directory; called unless the cache has the model.

    An address stands for one model for ever, as it does in tensorflow_hub's own cache; a directory
    is read anew when any of its files has changed.

    Raises:
        NotFoundError: there is no such directory.
        BundleError: it is no such encoder; the message names the file, or lists the variables.
        MissingDependencyError: nothing is cached, and TensorFlow is not installed.
    """
    remote = "://" in handle
    handle = handle if remote else os.path.expanduser(handle)
    if not remote and not (Path(handle) / GRAPH_FILE).is_file():
        raise NotFoundError(f"{handle} has no {GRAPH_FILE}: a TF-Hub model is a SavedModel")
    key = hashlib.sha256(handle.encode()).hexdigest() if remote else fingerprint(Path(handle))
    place = cache_directory() / "tfhub" / __version__ / key
    if not (place / bundle.CONFIG_FILE).is_file():
        directory = resolve(handle) if remote else Path(handle)
        _convert(directory, place, handle if remote else None)
    description = bundle.read(place)
    name = [part for part in handle.split("/") if not part.isdigit()] if remote else []
    name = name[-1:] or [Path(handle).resolve().name]
    return TfHubCheckpoint(
        place,
        dataclasses.replace(description, name=name[0]),
        bundle.read_tokenizer(place, description),
    )


def fingerprint(directory: Path) -> str:
    """A SHA-256 that changes with the content of a SavedModel."""
    files = [directory / GRAPH_FILE, *directory.glob("variables/*"), *directory.glob("assets/*")]
    sums = [f"{path.relative_to(directory)} {digest(path)}\n" for path in sorted(files)]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def _convert(directory: Path, place: Path, handle: str | None) -> None:
    """Read a SavedModel and write it to `place` as a bundle."""
    try:
        saved = _SavedModel(directory)
        config, keys = _match(saved)
        tokenizer = WordPieceTokenizer(
            read_vocabulary(saved.vocabulary),
            max_length=min(MAX_LENGTH, config.max_positions),
            lowercase=bool(saved.value(saved.root_variable("do_lower_case"))),
        )
        draft = Bundle(
            name=directory.name,
            builder=config.builder,
            config=config,
            tokenizer={"kind": tokenizer.kind, **tokenizer.options()},
            max_length=tokenizer.max_length,
            labels=LABELS,
            source=None
            if handle is None
            else {
                "repository": SCHEME + handle,
                "sha256": fingerprint(directory),
            },
        )
        draft.make_tokenizer(tokenizer.vocabulary)
        # A bundle is whole, so this one has a head of zeros, which nobody takes from it.
        arrays = {
            name: saved.value(keys[name]).astype(np.float32).reshape(shape)
            if name in keys
            else np.zeros(shape, np.float32)
            for name, shape in draft.variables().items()
        }
        place.mkdir(parents=True, exist_ok=True)
        bundle.write(place, draft, tokenizer.vocabulary, arrays)
    except OSError as error:
        raise BundleError(
            f"{directory} could not be converted into {place} ({error}): "
            "set KERAS_AGNEWS_CACHE to a directory that can be written"
        ) from error
    except (ValueError, TypeError) as error:  # the latter of a type that TensorFlow does not know
        raise BundleError(located(error, directory)) from None


def _match(saved: _SavedModel) -> tuple[BertConfig, dict[str, str]]:
    """The config that the variables tell, and from our names to the checkpoint's keys."""
    variables = saved.variables()
    blocks = {m[1] for name in variables if (m := re.match(r"transformer/layer_(\d+)/", name))}
    rows = {
        theirs.format(i=i): (letters, ours.format(i=i))
        for theirs, letters, ours in ROWS
        for i in range(max(1, len(blocks)) if "{i}" in theirs else 1)
    }
    faults = [
        f"{name} is not expected"
        for name in variables
        if name not in rows and not any(fnmatchcase(name, pattern) for pattern in LEFT_OVER)
    ]
    sizes: dict[str, int] = {}
    keys = {}
    for name, (letters, ours) in rows.items():
        if name not in variables:
            faults.append(f"{name} is missing")
            continue
        shape, keys[ours] = variables[name]
        expected = [sizes.get(x, y) for x, y in zip(letters, shape, strict=False)]
        if len(shape) != len(letters) or list(shape) != expected:
            faults.append(f"{name} has shape {shape}, not one of ({', '.join(letters)}) = {sizes}")
        else:
            sizes.update(zip(letters, shape, strict=True))
    if faults:
        raise BundleError(f"not a BERT encoder of TF-Hub's: {listed(faults)}")
    values: dict[str, Any] = {SIZES[letter]: size for letter, size in sizes.items()}
    if values["heads"] * values["key_size"] == values["hidden_size"]:
        values["key_size"] = None
    return BertConfig(layers=len(blocks), **values, **saved.settings()), keys


class _SavedModel:
    """What the files of a SavedModel say, as data: no function of it is called."""

    def __init__(self, directory: Path) -> None:
        self._tf = tf = require("tensorflow", "tensorflow", f"to read {directory}")
        from google.protobuf.message import DecodeError
        from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2

        self._directory = directory
        content = saved_model_pb2.SavedModel()
        checkpoint = trackable_object_graph_pb2.TrackableObjectGraph()
        try:
            content.ParseFromString((directory / GRAPH_FILE).read_bytes())
            self._reader = tf.train.load_checkpoint(str(directory / "variables" / "variables"))
            checkpoint.ParseFromString(self._reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
            (self._graph,) = content.meta_graphs
            self._nodes = self._graph.object_graph_def.nodes
            self._keys = self._checkpoint_keys(checkpoint.nodes)
        except (DecodeError, ValueError, IndexError, RuntimeError, tf.errors.OpError) as error:
            raise BundleError(f"not a whole SavedModel of TensorFlow 2 ({error})") from None

    def _checkpoint_keys(self, stored: Any) -> dict[int, str]:
        """From the number of a variable's node to its key, which tells a place and no name.

        Both files have the same tree of objects, numbered differently, so walk them side by side.
        """
        twins, waiting = {0: 0}, [0]
        while waiting:
            here = waiting.pop()
            theirs = {child.local_name: child.node_id for child in stored[twins[here]].children}
            for child in self._nodes[here].children:
                if child.node_id not in twins and child.local_name in theirs:
                    twins[child.node_id] = theirs[child.local_name]
                    waiting.append(child.node_id)
        return {
            here: attribute.checkpoint_key
            for here, there in twins.items()
            for attribute in stored[there].attributes
            if attribute.name == "VARIABLE_VALUE"
        }

    def variables(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and key of every variable of floats, by its name."""
        found: dict[str, tuple[tuple[int, ...], str]] = {}
        for number, key in self._keys.items():
            variable = self._nodes[number].variable
            if not self._tf.dtypes.as_dtype(variable.dtype).is_floating:
                continue
            name = variable.name.removesuffix(":0")
            if name in found:
                raise BundleError(f"two variables have the name {name}")
            found[name] = (tuple(dim.size for dim in variable.shape.dim), key)
        return found

    def value(self, key: str) -> np.ndarray:
        """The value under a checkpoint's key."""
        try:
            value: np.ndarray = self._reader.get_tensor(key)
        except (ValueError, RuntimeError, self._tf.errors.OpError) as error:
            raise BundleError(f"{key} cannot be read from the checkpoint ({error})") from None
        return value

    def _child(self, name: str) -> int:
        for child in self._nodes[0].children:
            if child.local_name == name:
                return child.node_id
        raise BundleError(f"has no {name}, which TF-Hub's BERT encoders carry for their tokenizer")

    def root_variable(self, name: str) -> str:
        """The checkpoint's key of a variable that hangs at the root."""
        number = self._child(name)
        if number not in self._keys:
            raise BundleError(f"has a {name} that is no variable")
        return self._keys[number]

    @property
    def vocabulary(self) -> Path:
        """The vocabulary's file, an asset."""
        node, files = self._nodes[self._child("vocab_file")], self._graph.asset_file_def
        index = node.asset.asset_file_def_index
        name = files[index].filename if node.HasField("asset") and index < len(files) else ""
        if not name or name != Path(name).name:
            raise BundleError(f"names the vocabulary {name!r}, which is not in its assets")
        return self._directory / "assets" / name

    def settings(self) -> dict[str, Any]:
        """Activation and epsilon, from the operations of the graph."""
        activations, epsilons = set(), set()
        for function in self._graph.graph_def.library.function:
            for node in function.node_def:
                mark: Any = node.op
                if node.op == "Const" and not node.attr["value"].tensor.tensor_shape.dim:
                    constant = self._tf.make_ndarray(node.attr["value"].tensor)
                    if constant.dtype.kind != "f":
                        continue
                    # The shortest decimal that rounds to this float32 is what was written.
                    mark = float(str(np.float32(constant)))
                    if node.name.endswith(_EPSILON):
                        epsilons.add(mark)
                if mark in ACTIVATIONS:
                    activations.add(ACTIVATIONS[mark])
        for name, values in (("activation", activations), ("epsilon", epsilons)):
            if len(values) != 1:
                raise BundleError(f"its graph shows {len(values)} values of {name}, not one")
        return {"activation": activations.pop(), "epsilon": epsilons.pop()}
