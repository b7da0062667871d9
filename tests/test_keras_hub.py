"""KerasHub presets in and out, with KerasHub itself as the oracle."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_bert as oracle
from conftest import SENTENCES

import keras_agnews
from keras_agnews import BundleError, InputError, NotFoundError

pytestmark = pytest.mark.backend

TEXTS = [text for text, _ in SENTENCES] + ["Ünïcode, CAPITALS and 中文", ""]


@pytest.fixture(scope="module")
def models() -> Any:
    return pytest.importorskip("keras_hub").models


@pytest.fixture
def classifier(tmp_path: Path) -> Any:
    config = oracle.bert_config(hidden_act="gelu_new", layer_norm_eps=1e-12)
    source = oracle.checkpoint(tmp_path / "source", config, oracle.random_tensors(config, 3))
    return keras_agnews.load(source)


def numpy(value: Any) -> np.ndarray:
    import keras

    return keras.ops.convert_to_numpy(value)


def ids_of(classifier: Any) -> dict[str, np.ndarray]:
    ids = classifier.tokenizer(TEXTS, padding=True)["input_ids"]
    types = np.arange(ids.shape[1]) % 2 * (ids != 0)
    return {"input_word_ids": ids, "input_type_ids": types.astype("int32")}


@pytest.mark.once
def test_a_preset_written_gives_the_same_logits_in_keras_hub(
    classifier: Any, models: Any, tmp_path: Path
) -> None:
    classifier.temperature = 1.7
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file is a file: give another output directory"):
        classifier.save_keras_hub_preset(tmp_path / "file")
    directory = classifier.save_keras_hub_preset(tmp_path / "preset")
    theirs = models.BertTextClassifier.from_preset(str(directory))
    inputs = ids_of(classifier)
    ids = inputs["input_word_ids"]
    answer = theirs(
        {
            "token_ids": ids,
            "segment_ids": inputs["input_type_ids"],
            "padding_mask": (ids != 0).astype("int32"),
        }
    )
    expected = numpy(classifier.model(inputs)) / 1.7
    np.testing.assert_allclose(numpy(answer), expected, atol=1e-4)
    # From strings, by their own tokenizer.
    import keras

    answer = keras.ops.softmax(theirs.predict(TEXTS[:-2], verbose=0))
    np.testing.assert_allclose(numpy(answer), classifier.predict(TEXTS[:-2]), atol=1e-4)
    # And back again.
    again = keras_agnews.load(f"keras_hub:{directory}")
    assert again.labels == tuple(f"LABEL_{i}" for i in range(len(classifier.labels)))
    assert again.max_length == classifier.max_length
    np.testing.assert_allclose(again.predict(TEXTS), classifier.predict(TEXTS), atol=1e-5)


def test_an_encoder_of_keras_hubs_is_read_with_a_new_head(models: Any, tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(3)
    backbone = models.BertBackbone(
        vocabulary_size=len(oracle.VOCABULARY),
        num_layers=2,
        num_heads=2,
        hidden_dim=12,
        intermediate_dim=20,
        max_sequence_length=40,
        num_segments=3,
    )
    rng = np.random.default_rng(0)
    for variable in backbone.weights:
        variable.assign(rng.normal(0, 0.3, tuple(variable.shape)).astype("float32"))
    backbone.save_to_preset(str(tmp_path / "encoder"))
    models.BertTokenizer(vocabulary=list(oracle.VOCABULARY), lowercase=True).save_to_preset(
        str(tmp_path / "encoder")
    )
    with pytest.warns(UserWarning, match="logits/bias, logits/kernel are new"):
        ours = keras_agnews.load(f"keras_hub:{tmp_path / 'encoder'}")
    assert ours.labels == ("World", "Sports", "Business", "Sci/Tech")
    assert ours.tokenizer.lowercase
    inputs = ids_of(ours)
    ids = inputs["input_word_ids"]
    theirs = backbone(
        {
            "token_ids": ids,
            "segment_ids": inputs["input_type_ids"],
            "padding_mask": (ids != 0).astype("int32"),
        }
    )
    answer = ours.encoder(inputs)
    for name in ("pooled_output", "sequence_output"):
        some = ids != 0 if name == "sequence_output" else slice(None)
        np.testing.assert_allclose(numpy(answer[name])[some], numpy(theirs[name])[some], atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"hidden_act": "gelu"}, r"config\.activation of \w+ is 'gelu'"),
        ({"layer_norm_eps": 1e-6}, r"config\.epsilon of \w+ is 1e-06"),
    ],
)
def test_what_keras_hub_cannot_be_told_is_refused(
    tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    config = oracle.bert_config(**({"hidden_act": "gelu_new", "layer_norm_eps": 1e-12} | changes))
    source = oracle.checkpoint(tmp_path / "source", config, oracle.random_tensors(config, 3))
    with pytest.raises(InputError, match=field):
        keras_agnews.load(source).save_keras_hub_preset(tmp_path / "preset")
    assert not (tmp_path / "preset").exists()


def test_pooling_by_mean_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        config = oracle.bert_config(hidden_act="gelu_new", layer_norm_eps=1e-12)
        tensors = oracle.random_tensors(config, 3)
        kept = {name: v for name, v in tensors.items() if "classifier" not in name}
        source = oracle.checkpoint(tmp_path / "source", config, kept)
        (source / "1_Pooling").mkdir()
        (source / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
        classifier = keras_agnews.load(source)
    with pytest.raises(InputError, match=r"config\.pool\w+ of source"):
        classifier.save_keras_hub_preset(tmp_path / "preset")
    with pytest.raises(InputError, match="is no BERT"):
        keras_agnews.load("tiny-transformer").save_keras_hub_preset(tmp_path / "preset")


@pytest.mark.once
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("oov_token", "<unk>"),
        ("special_tokens_in_strings", True),
        ("split", False),
        ("suffix_indicator", "@@"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*are new")
def test_a_tokenizer_of_keras_hubs_is_read_whole_or_refused(
    models: Any, tmp_path: Path, option: str, value: Any
) -> None:
    vocabulary = ["<unk>" if token == "[UNK]" else token for token in oracle.VOCABULARY]
    backbone = models.BertBackbone(len(vocabulary), 1, 2, 4, 4, max_sequence_length=40)
    backbone.save_to_preset(str(tmp_path))
    options = {"oov_token": "<unk>", "lowercase": True} | {option: value}
    theirs = models.BertTokenizer(vocabulary=vocabulary, **options)
    theirs.save_to_preset(str(tmp_path))
    if option != "oov_token":
        with pytest.raises(BundleError, match=f"{option} of its tokenizer is {value!r}"):
            keras_agnews.load(f"keras_hub:{tmp_path}")
        return
    ours = keras_agnews.load(f"keras_hub:{tmp_path}").tokenizer
    assert ours.unknown == "<unk>"
    ids = ours.encode("Rain, \N{SNOWMAN} and wind")[1:-1]
    assert vocabulary.index("<unk>") in ids
    assert ids == numpy(theirs("Rain, \N{SNOWMAN} and wind")).tolist()


@pytest.mark.once
@pytest.mark.parametrize("head", [{"num_classes": 1}, {"num_classes": 3, "activation": "sigmoid"}])
def test_a_head_that_is_no_softmax_is_refused(
    models: Any, tmp_path: Path, head: dict[str, Any]
) -> None:
    backbone = models.BertBackbone(len(oracle.VOCABULARY), 1, 2, 4, 4, max_sequence_length=40)
    tokenizer = models.BertTokenizer(vocabulary=list(oracle.VOCABULARY), lowercase=True)
    preprocessor = models.BertTextClassifierPreprocessor(tokenizer, sequence_length=16)
    theirs = models.BertTextClassifier(backbone, preprocessor=preprocessor, **head)
    theirs.save_to_preset(str(tmp_path))
    with pytest.raises(BundleError, match=f"num_classes is {head['num_classes']}, activation"):
        keras_agnews.load(f"keras_hub:{tmp_path}")


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("kaggle://keras/bert/keras/bert_tiny_en_uncased/3", "bert_tiny_en_uncased"),
        ("hf://user/bert-of-mine", "bert-of-mine"),
        ("models/3/", "3"),
        ("bert_tiny_en_uncased", "bert_tiny_en_uncased"),
    ],
)
@pytest.mark.once
def test_a_handle_gives_the_name(preset: str, name: str) -> None:
    from keras_agnews.importers import keras_hub

    assert keras_hub.name_of(preset) == name


def test_what_keras_hub_cannot_load_is_one_error(models: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="KerasHub cannot load the preset"):
        keras_agnews.load(f"keras_hub:{tmp_path / 'empty'}")
    tokenizer = models.BertTokenizer(vocabulary=list(oracle.VOCABULARY))
    other = models.DistilBertBackbone(
        vocabulary_size=len(oracle.VOCABULARY),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=8,
        max_sequence_length=16,
    )
    other.save_to_preset(str(tmp_path / "other"))
    tokenizer.save_to_preset(str(tmp_path / "other"))
    with pytest.raises(BundleError, match="is a DistilBertBackbone"):
        keras_agnews.load(f"keras_hub:{tmp_path / 'other'}")
