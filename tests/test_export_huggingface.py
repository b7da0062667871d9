"""Our weights as a Hugging Face checkpoint: what transformers makes of it, and our own importer."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_bert as oracle
from conftest import HARD_TEXTS, SENTENCES
from safetensors.numpy import load_file

import keras_agnews
from keras_agnews import InputError

pytestmark = [pytest.mark.backend, pytest.mark.once]

CONFIGS = {"bert": oracle.bert_config, "distilbert": oracle.distilbert_config}
TEXTS = [text for text, _ in SENTENCES]
# Their tokenizer takes the name of a special token in a text for the token.
PLAIN_TEXTS = TEXTS + [text for text in HARD_TEXTS if "[MASK]" not in text and "\ud800" not in text]


@pytest.fixture(params=["bert", "distilbert"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path, Path]:
    """A classifier, the checkpoint that it was imported from, and the one that it wrote."""
    config = CONFIGS[request.param](
        **{"activation" if request.param != "bert" else "hidden_act": "gelu_new"}
    )
    source = oracle.checkpoint(tmp_path / "source", config, oracle.random_tensors(config, 3))
    classifier = keras_agnews.load(source)
    return classifier, source, classifier.save_hugging_face(tmp_path / "written")


def test_what_was_read_is_written(pair: tuple[Any, Path, Path]) -> None:
    classifier, source, written = pair
    before, after = (load_file(path / "model.safetensors") for path in (source, written))
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    again = keras_agnews.load(written)
    assert again.labels == classifier.labels
    assert again.description.config == classifier.description.config
    np.testing.assert_array_equal(again.predict(TEXTS), classifier.predict(TEXTS))


def test_texts_are_cut_where_they_were(pair: tuple[Any, Path, Path], tmp_path: Path) -> None:
    _, source, _ = pair
    short = keras_agnews.load(source, max_length=6)
    again = keras_agnews.load(short.save_hugging_face(tmp_path / "short"))
    assert again.max_length == 6
    np.testing.assert_array_equal(again.predict(TEXTS), short.predict(TEXTS))


@pytest.mark.filterwarnings("ignore:.*new and untrained")
def test_a_single_label_is_refused(pair: tuple[Any, Path, Path], tmp_path: Path) -> None:
    one = keras_agnews.load(pair[1], labels=["only"])
    with pytest.raises(
        keras_agnews.InputError, match="one label: theirs take that for a regression"
    ):
        one.save_hugging_face(tmp_path / "one")
    assert not (tmp_path / "one").exists()


def test_the_temperature_goes_into_the_head(pair: tuple[Any, Path, Path]) -> None:
    classifier, source, _ = pair
    classifier.temperature = 2.5
    again = keras_agnews.load(classifier.save_hugging_face(source.parent / "cooled"))
    assert again.temperature == 1
    np.testing.assert_allclose(again.predict(TEXTS), classifier.predict(TEXTS), atol=1e-6)


def test_who_is_killed_leaves_no_half_of_two_checkpoints(
    pair: tuple[Any, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_agnews.exporters import huggingface

    classifier, _, _ = pair
    written = classifier.save_hugging_face(tmp_path / "theirs")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "write_vocabulary", killed)
        with pytest.raises(KeyboardInterrupt):
            classifier.save_hugging_face(written)
    with pytest.raises(keras_agnews.KerasAgnewsError, match=r"config\.json"):
        keras_agnews.load(written)
    classifier.save_hugging_face(written)
    np.testing.assert_array_equal(
        keras_agnews.load(written).predict(TEXTS), classifier.predict(TEXTS)
    )


def test_transformers_gives_the_same_ids_and_logits(pair: tuple[Any, Path, Path]) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    classifier, _, written = pair
    tokenizer = transformers.AutoTokenizer.from_pretrained(written)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(written).eval()
    assert model.config.id2label == dict(enumerate(classifier.labels))
    for text in PLAIN_TEXTS:
        theirs = tokenizer(text, truncation=True, max_length=classifier.max_length)["input_ids"]
        assert theirs == classifier.tokenizer.encode(text), text
        with torch.no_grad():
            expected = model(torch.tensor([theirs])).logits.softmax(-1).numpy()
        np.testing.assert_allclose(classifier.predict(text), expected, atol=1e-4)


def test_the_longest_word_is_kept(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = oracle.bert_config()
    source = oracle.checkpoint(tmp_path / "source", config, oracle.random_tensors(config, 3))
    settings = {"tokenizer_class": "BertTokenizer", "max_input_chars_per_word": 200}
    (source / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    classifier = keras_agnews.load(source)
    written = classifier.save_hugging_face(tmp_path / "written")
    theirs = transformers.AutoTokenizer.from_pretrained(written)
    for text in ("a" * 150, "a" * 201, TEXTS[0]):
        ids = theirs(text, truncation=True)["input_ids"]  # where model_max_length says
        assert ids == classifier.tokenizer.encode(text)
    assert keras_agnews.load(written).tokenizer.options() == classifier.tokenizer.options()


def test_what_they_cannot_be_is_refused_by_its_field(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.kind 'words'"):
        keras_agnews.load("tiny-transformer").save_hugging_face(tmp_path / "tiny")
    config = oracle.bert_config()
    source = oracle.checkpoint(tmp_path / "source", config, oracle.random_tensors(config, 3))
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    tensors = load_file(source / "model.safetensors")
    kept = {n: v for n, v in tensors.items() if not n.startswith("classifier")}
    oracle.checkpoint(source, config, kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        classifier = keras_agnews.load(source)
    with pytest.raises(InputError, match=r"config\.pool\w+ of source is"):
        classifier.save_hugging_face(tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


NO_TYPES = {"type_vocabulary_size": 0, "pooler": False, "head_size": 16}


@pytest.mark.parametrize(
    ("target", "changes", "options", "field"),
    [
        ("hugging_face", {"key_size": 8}, {}, r"config\.head_width"),
        ("hugging_face", {"embedding_norm": False}, {}, r"config\.embedding_norm"),
        ("hugging_face", NO_TYPES | {"embedding_norm": False}, {}, r"config\.embedding_norm"),
        ("keras_hub_preset", {"key_size": 8}, {}, r"config\.head_width"),
        ("keras_hub_preset", {"type_vocabulary_size": 0}, {}, r"config\.type_vocabulary_size"),
        ("keras_hub_preset", {}, {"max_word_characters": 50}, r"tokenizer\.max_word_characters"),
        ("keras_hub_preset", {}, {"chinese_characters": False}, r"tokenizer\.chinese_characters"),
    ],
)
def test_what_their_classes_cannot_be_told_is_refused(
    target: str, changes: dict[str, Any], options: dict[str, Any], field: str, tmp_path: Path
) -> None:
    if target == "keras_hub_preset":
        pytest.importorskip("keras_hub")
    config = oracle.bert_config(hidden_act="gelu_new", layer_norm_eps=1e-12)
    source = oracle.checkpoint(tmp_path / "source", config, oracle.random_tensors(config, 3))
    known = keras_agnews.load(source)
    description = dataclasses.replace(
        known.description,
        config=dataclasses.replace(known.description.config, **changes),
        tokenizer=known.description.tokenizer | options,
    )
    tokenizer = description.make_tokenizer(known.tokenizer.vocabulary)
    classifier = keras_agnews.TextClassifier(description, tokenizer)
    with pytest.raises(InputError, match=field):
        getattr(classifier, f"save_{target}")(tmp_path / "out")
    assert not (tmp_path / "out").exists()
