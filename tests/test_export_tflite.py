"""The TensorFlow Lite model, as its interpreter sees it."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_bert as oracle
from conftest import SENTENCES

import keras_agnews

VERSION = tuple(int(part) for part in importlib.metadata.version("keras").split(".")[:2])
pytestmark = pytest.mark.backend

TEXTS = [text for text, _ in SENTENCES]


def needs_tensorflow() -> None:
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("written on TensorFlow only")


def served(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """What the interpreter answers, with its built-in operations only."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(path))
    places = {}
    for detail in interpreter.get_input_details():
        (name,) = (name for name in inputs if name in detail["name"])
        places[name] = detail["index"]
        interpreter.resize_tensor_input(detail["index"], inputs[name].shape)
    interpreter.allocate_tensors()
    for name, index in places.items():
        interpreter.set_tensor(index, inputs[name].astype(np.int32))
    interpreter.invoke()
    answer: np.ndarray = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return answer


def inputs_of(classifier: Any, length: int) -> dict[str, np.ndarray]:
    ids = classifier.tokenizer(TEXTS, max_length=length, padding=length)["input_ids"]
    return {name: ids if name == "input_word_ids" else ids * 0 for name in classifier.model.input}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["tiny-transformer", "bert"])
def test_the_interpreter_gives_the_same_logits(kind: str, tmp_path: Path) -> None:
    needs_tensorflow()
    if kind != "bert":
        classifier = keras_agnews.load(kind)
    else:
        config = oracle.bert_config(hidden_act="gelu_new")
        classifier = keras_agnews.load(
            oracle.checkpoint(tmp_path / "source", config, oracle.random_tensors(config, 5))
        )
    if VERSION < (3, 13):
        with pytest.raises(keras_agnews.InputError, match=r"3\.13 and newer can"):
            classifier.export(tmp_path / "out" / "model.tflite")
        return
    path = classifier.export(tmp_path / "out" / "model.tflite")
    names = {"model.tflite"} | ({"tokenizer.json"} if kind == "bert" else set())
    assert {file.name for file in path.parent.iterdir()} == names
    for length in (24, 40):
        inputs = inputs_of(classifier, length)
        np.testing.assert_allclose(
            served(path, inputs), classifier.model(inputs).numpy(), atol=1e-4
        )


def test_another_backend_is_refused(tmp_path: Path) -> None:
    import keras

    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow writes it")
    with pytest.raises(keras_agnews.InputError, match="KERAS_BACKEND=tensorflow"):
        keras_agnews.load("tiny-transformer").export(tmp_path / "model.tflite")


def test_bfloat16_and_a_directory_are_refused(tmp_path: Path) -> None:
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow writes it")
    classifier = keras_agnews.load("tiny-transformer", mixed_precision=True)
    with pytest.raises(keras_agnews.InputError, match="load it without mixed_precision"):
        classifier.export(tmp_path / "model.tflite")
    (tmp_path / "taken.tflite").mkdir()
    with pytest.raises(keras_agnews.InputError, match="is a directory: give the name of a file"):
        keras_agnews.load("tiny-transformer").export(tmp_path / "taken.tflite")


def test_a_gru_is_refused(tmp_path: Path) -> None:
    classifier = keras_agnews.load("gru-attention", weights=None)
    with pytest.raises(keras_agnews.InputError, match=r"'gru'.*export it as \.onnx"):
        classifier.export(tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())
