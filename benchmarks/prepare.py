"""One set of weights in the forms that the competitors read, written once a run.

Where an entry has no weights to be had they are drawn, and its head is set so that the answers
differ from text to text: else competitors would agree by answering nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.texts import Texts

DRAWN, UNTRAINED_HEAD = "random weights", "pretrained encoder, random head"
ERRORS_FILE = "errors.json"
_TEXTS = 64  # by which a random head is set


def main() -> None:
    """Reads a line of JSON: entry, weights, directory, forms; prints one: how that went."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    options = json.loads(sys.stdin.readline())
    try:
        answer = prepare(**options)
    except Exception as error:
        answer = {"status": "failed", "note": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), file=answers, flush=True)


def prepare(
    entry: str, weights: str | None, directory: str, forms: Sequence[str]
) -> dict[str, Any]:
    """Write the bundle and the forms; those that cannot be are noted beside them.

    Args:
        entry: of the zoo.
        weights: as `keras_agnews.load` takes it; `None` for the best to be had, else random.
        directory: has the texts; the forms go there.
        forms: of "hugging_face", "keras_hub" and "onnx".

    Returns: `weights`, a word on what they are.
    """
    import keras

    import keras_agnews
    from keras_agnews.errors import DownloadError, NotFoundError

    root = Path(directory)
    keras.utils.set_random_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            clf = keras_agnews.load(entry, weights=weights or "best")
            new = any("untrained" in str(warning.message) for warning in caught)
            kind = UNTRAINED_HEAD if new else "trained"
        except (DownloadError, NotFoundError):
            if weights is not None:
                raise
            clf, kind = keras_agnews.load(entry, weights=None), DRAWN
    if kind != "trained":
        _set_head(clf, Texts.read(root).sample(_TEXTS).texts)
    write(clf, root, forms)
    return {"weights": kind}


def write(clf: Any, root: Path, forms: Sequence[str]) -> None:
    """Write a classifier as a bundle and in other forms; what could not be is noted beside them."""
    clf.save_bundle(root / "bundle")
    errors = {}
    for form in forms:
        try:
            _FORMS[form](clf, root)
        except Exception as error:
            errors[form] = [status_of(error), str(error)]
    (root / ERRORS_FILE).write_text(json.dumps(errors), encoding="utf-8")


def status_of(error: BaseException) -> str:
    """How a row calls an exception."""
    from keras_agnews.errors import InputError

    kind, message = type(error).__name__, str(error)
    if isinstance(error, ImportError):
        return "not installed"
    if isinstance(error, InputError):
        return "unsupported"
    memory = ("RESOURCE_EXHAUSTED", "out of memory", "OOM")
    if isinstance(error, MemoryError) or any(word in kind + message for word in memory):
        return "out of memory"
    return "failed"


def _set_head(clf: Any, sample: Sequence[str]) -> None:
    """Make the logits of these texts differ: each class with mean 0 and deviation 1."""
    features = clf.features(sample)
    layer = clf.model.get_layer("logits")
    kernel, _ = (np.array(value) for value in layer.get_weights())
    if getattr(clf.description.config, "head_size", 0):  # a dense layer with ReLU lies between
        inner, bias = clf.model.get_layer("head_hidden").get_weights()
        features = np.maximum(0, features @ inner + bias)
    logits = features @ kernel
    scale = logits.std(axis=0) + 1e-12
    layer.set_weights([kernel / scale, -logits.mean(axis=0) / scale])


def _hugging_face(clf: Any, root: Path) -> None:
    """Theirs have no class that pools by mean: the peer does that, with their encoder and head."""
    from keras_agnews.exporters import huggingface

    config = clf.description.config
    if getattr(config, "pooling", "") != "mean" or clf.description.builder != "bert":
        clf.save_hugging_face(root / "hugging_face")
        return
    twin = dataclasses.replace(
        clf.description, config=dataclasses.replace(config, pooler=True, pooling="first")
    )
    arrays = {name: np.zeros(shape, np.float32) for name, shape in twin.variables().items()}
    arrays |= clf.arrays()
    huggingface.write(root / "hugging_face", twin, clf.tokenizer, arrays)


def _keras_hub(clf: Any, root: Path) -> None:
    """Theirs has GELU by tanh built in: as much work, and almost the same answers."""
    from keras_agnews.exporters import keras_hub

    config = dataclasses.replace(clf.description.config, activation="gelu_tanh")
    twin = dataclasses.replace(clf.description, config=config)
    keras_hub.write(root / "keras_hub", twin, clf.tokenizer, clf.arrays())


def _onnx(clf: Any, root: Path) -> None:
    """Our graph, and one as others make it: each token goes through the last block."""
    from keras_agnews.exporters import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a tokenizer that the peer has by other ways
        clf.export(root / "export.onnx")
    onnx.write(root / "model.onnx", clf.description, clf.arrays(), every_token=True)


_FORMS: dict[str, Callable[[Any, Path], None]] = {
    "hugging_face": _hugging_face,
    "keras_hub": _keras_hub,
    "onnx": _onnx,
}

if __name__ == "__main__":
    main()
