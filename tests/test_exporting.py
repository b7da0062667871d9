"""Models for other runtimes: each is served by a process that has nothing of ours."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HARD_TEXTS, SENTENCES

import keras_agnews
from keras_agnews import bundle, registry
from keras_agnews.errors import InputError

pytestmark = pytest.mark.backend

# Strings of a TensorFlow graph are UTF-8, which has no half of a surrogate pair.
TEXTS = [text for text, _ in SENTENCES] + [t for t in HARD_TEXTS if "\ud800" not in t]
TEXTS += ["Fish &amp; Chips at caf&#233;s #39;s <b>dinner</b>", "ÀÉ “quoted” … 日本 ½ ™"]


def backend() -> str:
    import keras

    return keras.backend.backend()


@pytest.fixture(scope="module")
def on_tensorflow() -> None:
    if backend() != "tensorflow":
        pytest.skip("a SavedModel is written by TensorFlow alone")
    pytest.importorskip("tensorflow_text")


def bert() -> Any:
    """A small BERT with random weights that answer differently to different texts."""
    import keras

    from keras_agnews.classifier import TextClassifier

    keras.utils.set_random_seed(1)  # with some, all texts have one answer
    directory = registry.find("small-bert-L4")
    assert directory is not None
    known = bundle.read(directory)
    vocabulary = bundle.read_tokenizer(directory, known).vocabulary
    small = {"layers": 2, "hidden_size": 32, "feed_forward_size": 64, "initializer_range": 0.5}
    config = dataclasses.replace(known.config, **small)
    known = dataclasses.replace(known, config=config, max_length=64, weights=None)
    return TextClassifier(known, known.make_tokenizer(vocabulary))


SERVE = """
import json, sys
import tensorflow as tf
texts, answers = json.loads(sys.argv[2]), {}
for name in ("words", "recurrent", "pieces"):
    # None: as if absent. tensorflow_text imports Keras itself.
    absent = [] if name == "pieces" else ["keras", "tensorflow_text"]
    for module in ("keras", "tensorflow_text"):
        sys.modules.pop(module, None)
    sys.modules.update(dict.fromkeys(["keras_agnews", *absent]))
    if not absent:
        import tensorflow_text
    served = tf.saved_model.load(f"{sys.argv[1]}/{name}")
    found = served.signatures["serving_default"](texts=tf.constant(texts))
    alone = served(tf.constant(texts[:1]))
    assert abs(alone["scores"] - found["scores"][:1]).numpy().max() < 1e-5
    assert served(tf.constant([], tf.string))["scores"].shape[0] == 0
    assert served(tf.constant([b"\\xff"]))["label"].shape == (1,)
    answers[name] = {key: [v.decode() for v in value.numpy().ravel().tolist()]
        if value.dtype == tf.string else value.numpy().tolist() for key, value in found.items()}
print("\\n" + json.dumps(answers))
"""


@pytest.fixture(scope="module")
def classifiers() -> dict[str, Any]:
    found = {"words": keras_agnews.load("tiny-transformer"), "pieces": bert()}
    found["recurrent"] = keras_agnews.load("gru-attention")
    for classifier in found.values():
        classifier.temperature = 1.7
    return found


@pytest.fixture(scope="module")
def exported(
    on_tensorflow: None, classifiers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A directory of their SavedModels."""
    root = tmp_path_factory.mktemp("exported") / "new"
    for name, classifier in classifiers.items():
        assert classifier.export(root / name) == root / name
    return root


def check(classifier: Any, answers: dict[str, Any]) -> None:
    expected = classifier.classify(TEXTS)
    scores = [list(p.scores.values()) for p in expected]
    np.testing.assert_allclose(answers["scores"], scores, atol=1e-5)
    np.testing.assert_allclose(answers["score"], [p.score for p in expected], atol=1e-5)
    assert answers["label"] == [p.label for p in expected]
    assert answers["classes"] == list(classifier.labels) * len(TEXTS)
    assert len({p.label for p in expected}) > 1


@pytest.mark.parametrize("name", ["words", "recurrent", "pieces"])
def test_saved_model_answers_the_same(classifiers: Any, name: str, exported: Path) -> None:
    import tensorflow as tf

    assert {path.name for path in exported.iterdir()} == classifiers.keys()
    found = tf.saved_model.load(str(exported / name))(tf.constant(TEXTS))
    answers = {key: value.numpy() for key, value in found.items()}
    for key in ("label", "classes"):
        answers[key] = [label.decode() for label in answers[key].ravel().tolist()]
    check(classifiers[name], answers)


def test_saved_models_are_served_elsewhere(
    classifiers: Any, fresh: Callable[..., str], exported: Path
) -> None:
    printed = fresh(SERVE, str(exported), json.dumps(TEXTS))
    answers = json.loads(printed.splitlines()[-1])
    for name, classifier in classifiers.items():
        check(classifier, answers[name])


@pytest.mark.usefixtures("on_tensorflow")
def test_saved_model_replaces_an_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    classifier = keras_agnews.load("tiny-transformer")
    classifier.export(tmp_path / "served")
    before = (tmp_path / "served/saved_model.pb").read_bytes()

    def broken(*args: Any, **kwargs: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(tf.saved_model, "save", broken)
        with pytest.raises(OSError, match="disk full"):
            classifier.export(tmp_path / "served")
    assert (tmp_path / "served/saved_model.pb").read_bytes() == before
    replace, names = os.replace, []

    def second_fails(source: Any, target: Any) -> None:
        names.append(Path(target).name)
        if names == [names[0], "served"]:
            raise OSError("another has it open")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", second_fails)
        with pytest.raises(OSError, match="another has it open"):
            classifier.export(tmp_path / "served")
    assert len(names) == 3
    assert (tmp_path / "served/saved_model.pb").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["served"]
    classifier.temperature = 3.0
    classifier.export(tmp_path / "served")
    assert (tmp_path / "served/saved_model.pb").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["served"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="mine exists and is no SavedModel"):
        classifier.export(tmp_path / "mine")


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    classifier = keras_agnews.load("tiny-transformer", weights=None)
    with pytest.raises(InputError, match=r"model\.pkl: export writes by the suffix"):
        classifier.export(tmp_path / "model.pkl")
    if backend() != "tensorflow":
        with pytest.raises(InputError, match="KERAS_BACKEND=tensorflow"):
            classifier.export(tmp_path / "served")
    assert not list(tmp_path.iterdir())


@pytest.mark.once
def test_another_architecture_with_a_config_of_ours_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_agnews import models
    from keras_agnews.classifier import TextClassifier

    ours = bert()
    # It could pool in another way; that it has a name of its own must do.
    theirs = registry.Builder(type(ours.description.config), models.transformer)
    monkeypatch.setitem(registry._builders, "max-pooling", theirs)  # noqa: SLF001
    description = dataclasses.replace(ours.description, builder="max-pooling")
    classifier = TextClassifier(description, ours.tokenizer)
    for write in (
        lambda: classifier.export(tmp_path / "model.onnx"),
        lambda: classifier.save_hugging_face(tmp_path / "theirs"),
        lambda: classifier.save_keras_hub_preset(tmp_path / "preset"),
        lambda: keras_agnews.attention(classifier, "Rain in the north"),
    ):
        with pytest.raises(InputError, match="'max-pooling'"):
            write()
    assert not list(tmp_path.iterdir())
