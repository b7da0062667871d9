"""A classifier in the formats of other runtimes, tokenizer inside where the format can hold it."""

from __future__ import annotations

import os
import shutil
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from keras_agnews import inference, text_files
from keras_agnews.configs import GruConfig
from keras_agnews.errors import InputError, require
from keras_agnews.exporters import huggingface, onnx
from keras_agnews.files import make_directory, replacing
from keras_agnews.graph_tokenizers import graph_tokenizer
from keras_agnews.tokenizers import WordPieceTokenizer

_SAVED_MODEL_FILE = "saved_model.pb"


def export(classifier: Any, path: Path) -> Path:
    """Write a classifier in the format that the suffix of a path says, as `WRITERS` has them.

    Returns: the path.
    """
    if path.suffix not in WRITERS:
        known = ", ".join(f"{suffix or 'none'} ({WRITERS[suffix][1]})" for suffix in WRITERS)
        raise InputError(f"{path}: export writes by the suffix of the name, which can be {known}")
    WRITERS[path.suffix][0](classifier, path)
    return path


def _saved_model(classifier: Any, directory: Path) -> None:
    if (backend := keras.backend.backend()) != "tensorflow":
        raise InputError(
            f"a SavedModel is written by Keras on TensorFlow, not on {backend}: save_bundle here, "
            "then load and export with KERAS_BACKEND=tensorflow"
        )
    if directory.exists() and not (directory / _SAVED_MODEL_FILE).is_file():
        raise InputError(f"{directory} exists and is no SavedModel: give another name")
    tf = require("tensorflow", "tensorflow", "to write a SavedModel")
    make_directory(directory.parent)
    # Beside its place, then renamed. A directory cannot replace another in one step: who is killed
    # between the two leaves the old model under its hidden name.
    passing, old = (directory.with_name(f".{uuid.uuid4().hex[:8]}{directory.name}") for _ in "ab")
    try:
        module = _serving(classifier)
        tf.saved_model.save(module, str(passing), signatures=module.__call__)
        if directory.exists():
            os.replace(directory, old)
        os.replace(passing, directory)
    finally:
        if old.exists() and not directory.exists():
            os.replace(old, directory)
        for path in (passing, old):
            shutil.rmtree(path, ignore_errors=True)


def _serving(classifier: Any) -> Any:
    """A `tf.Module` from strings to labels and scores."""
    import tensorflow as tf

    model, names = classifier.model, tf.constant(classifier.labels)

    class Serving(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokenizer = graph_tokenizer(classifier.tokenizer)
            self.values = [variable.value for variable in model.weights]

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="texts")])
        def __call__(self, texts: Any) -> dict[str, Any]:
            ids = self.tokenizer.ids(texts).to_tensor()
            ids = tf.pad(ids, [[0, 0], [0, tf.maximum(1 - tf.shape(ids)[1], 0)]])  # to a column
            inputs = {"input_word_ids": ids, "input_type_ids": tf.zeros_like(ids)}
            logits = model({name: inputs[name] for name in model.input}, training=False)
            scores = tf.nn.softmax(logits / classifier.temperature)
            return {
                "label": tf.gather(names, tf.argmax(scores, axis=1)),
                "score": tf.reduce_max(scores, axis=1),
                "classes": tf.repeat(names[None], tf.shape(scores)[0], axis=0),
                "scores": scores,
            }

    return Serving()


def _onnx(classifier: Any, path: Path) -> None:
    description, arrays = classifier.description, classifier.arrays()
    _network(classifier, path, lambda passing: onnx.write(passing, description, arrays))


def _tflite(classifier: Any, path: Path) -> None:
    description = classifier.description
    if isinstance(description.config, GruConfig):
        raise InputError(
            f"{description.name} is built by {description.builder!r}, whose loop over the words "
            "TensorFlow Lite's own operations cannot run: export it as .onnx or as a SavedModel"
        )
    if (backend := keras.backend.backend()) != "tensorflow":
        raise InputError(
            f"a TensorFlow Lite model is written by Keras on TensorFlow, not on {backend}: "
            "save_bundle here, then load and export with KERAS_BACKEND=tensorflow"
        )
    if inference.computes_in_bfloat16(classifier.model):
        raise InputError("TensorFlow Lite has no bfloat16: load it without mixed_precision")
    classifier.check_whole()

    def write(passing: Path) -> None:
        try:
            classifier.model.export(passing, format="litert", verbose=False)
        except ValueError as error:
            if "litert" not in str(error):  # what an older Keras says of a format it knows not
                raise
            raise InputError(
                f"Keras {keras.__version__} cannot write {path} ({error}): 3.13 and newer can"
            ) from None

    _network(classifier, path, write)


def _network(classifier: Any, path: Path, write: Callable[[Path], None]) -> None:
    """A file from token ids, by a rename, and beside it what makes them of texts, if it can be."""
    if path.is_dir():
        raise InputError(f"{path} is a directory: give the name of a file")
    tokenizer, beside = classifier.tokenizer, path.with_name(huggingface.TOKENIZER_FILE)
    pieces = isinstance(tokenizer, WordPieceTokenizer)
    whole = huggingface.tokenizer_json(tokenizer, whole=True) if pieces else None
    others = huggingface.networks(path.parent) - {path.name}
    if others or whole is None or not path.exists():  # else it was this file's alone
        huggingface.check_tokenizer(beside, whole, others, path.name)
    make_directory(path.parent)
    with replacing(path) as passing:
        write(passing)
    if whole is not None:
        text_files.write_text(beside, whole)
    else:
        warnings.warn(
            f"{path.name} has no {beside.name} beside it: the tokenizers library cannot do what "
            f"a {tokenizer.kind!r} tokenizer does; clf.tokenizer makes the ids",
            stacklevel=5,
        )


#: By the suffix of the path: what writes it, and what it is called.
WRITERS: dict[str, tuple[Callable[[Any, Path], None], str]] = {
    "": (_saved_model, "a directory, a SavedModel"),
    ".onnx": (_onnx, "an ONNX graph from token ids"),
    ".tflite": (_tflite, "a TensorFlow Lite model from token ids"),
}
