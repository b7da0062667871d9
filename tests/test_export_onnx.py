"""The ONNX graph and its tokenizer, as onnxruntime and tokenizers alone see them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_bert as oracle
from conftest import HARD_TEXTS, SENTENCES

import keras_agnews

pytestmark = [pytest.mark.backend, pytest.mark.once]

TEXTS = [text for text, _ in SENTENCES] + HARD_TEXTS
PLAIN = [text for text in TEXTS if "[MASK]" not in text and "\ud800" not in text]
SERVE = """
import json, sys
import numpy, onnxruntime, tokenizers
root, texts = sys.argv[1], json.loads(sys.argv[2])
session = onnxruntime.InferenceSession(root + "/model.onnx")
tokenizer = tokenizers.Tokenizer.from_file(root + "/tokenizer.json")
answers = []
for part in (texts[:1], texts[1:4], texts[4:]):
    ids = numpy.array([row.ids for row in tokenizer.encode_batch(part)], numpy.int32)
    inputs = {"input_word_ids": ids, "input_type_ids": numpy.zeros_like(ids)}
    names = [entry.name for entry in session.get_inputs()]
    answers += session.run(["scores"], {name: inputs[name] for name in names})[0].tolist()
labels = session.get_modelmeta().custom_metadata_map["labels"].split("\\n")
assert not {"keras", "keras_agnews", "torch", "jax", "tensorflow"} & set(sys.modules)
print(json.dumps([labels, answers]))
"""


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {"hidden_act": "gelu"}),
        ("bert", {"hidden_act": "gelu_new", "num_hidden_layers": 3}),
        ("bert", {"hidden_act": "silu", "layer_norm_eps": 1e-3}),
        ("distilbert", {"activation": "relu"}),
    ],
)
def test_onnxruntime_and_tokenizers_alone_give_the_same_answers(
    family: str, changes: dict[str, Any], tmp_path: Path, fresh: Any
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    config = {"bert": oracle.bert_config, "distilbert": oracle.distilbert_config}[family](**changes)
    source = oracle.checkpoint(tmp_path / "source", config, oracle.random_tensors(config, 5))
    classifier = keras_agnews.load(source)
    classifier.temperature = 1.3
    assert classifier.export(tmp_path / "model.onnx") == tmp_path / "model.onnx"
    labels, answers = json.loads(fresh(SERVE, str(tmp_path), json.dumps(PLAIN)))
    assert tuple(labels) == classifier.labels
    np.testing.assert_allclose(answers, classifier.predict(PLAIN), atol=1e-4)


def test_the_last_block_computes_what_the_head_sees(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from keras_agnews.exporters.onnx import write

    config = oracle.bert_config(num_hidden_layers=2)
    source = oracle.checkpoint(tmp_path / "source", config, oracle.random_tensors(config, 5))
    classifier = keras_agnews.load(source)
    classifier.export(tmp_path / "ours.onnx")
    write(tmp_path / "whole.onnx", classifier.description, classifier.arrays(), every_token=True)

    def lengths(file: str) -> list[Any]:
        """Tokens that each feed-forward layer has, where texts have nine."""
        graph = onnx.load(tmp_path / file).graph
        for value in graph.input:
            for place, size in zip(value.type.tensor_type.shape.dim, (2, 9), strict=True):
                place.dim_value = size
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
        found = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        shapes = {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in found.value_info
        }
        return [shapes[n.output[0]][1] for n in found.node if n.op_type == "Gelu"]

    assert (lengths("ours.onnx"), lengths("whole.onnx")) == ([9, 1], [9, 9])


def test_no_export_takes_the_tokenizer_of_another(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    config = oracle.bert_config()
    classifiers = []
    for max_length in (32, 16):
        folder = oracle.checkpoint(
            tmp_path / str(max_length), config, oracle.random_tensors(config, 5)
        )
        classifiers.append(keras_agnews.load(folder, max_length=max_length))
    first, second = classifiers
    beside = first.export(tmp_path / "out" / "a.onnx").with_name("tokenizer.json")
    of_first = beside.read_bytes()
    with pytest.raises(keras_agnews.InputError, match=r"tokenizer\.json is that of a\.onnx"):
        second.export(tmp_path / "out" / "b.onnx")
    assert {file.name for file in beside.parent.iterdir()} == {"a.onnx", "tokenizer.json"}
    first.export(tmp_path / "out" / "b.onnx")  # the same one serves both
    assert beside.read_bytes() == of_first
    with pytest.raises(keras_agnews.InputError, match=r"is that of b\.onnx"):
        second.export(tmp_path / "out" / "a.onnx")
    (tmp_path / "out" / "b.onnx").unlink()
    second.export(tmp_path / "out" / "a.onnx")  # in the place of what it belonged to
    assert beside.read_bytes() != of_first

    # Of transformers', which cuts and pads by itself; nothing is written.
    with pytest.raises(keras_agnews.InputError, match=r"is that of a\.onnx, and a Bert"):
        second.save_hugging_face(tmp_path / "out")
    assert {file.name for file in beside.parent.iterdir()} == {"a.onnx", "tokenizer.json"}

    first.save_hugging_face(tmp_path / "theirs")
    with pytest.raises(keras_agnews.InputError, match="is that of another model"):
        first.export(tmp_path / "theirs" / "model.onnx")


@pytest.mark.parametrize("name", ["tiny-transformer", "gru-attention"])
def test_a_word_model_is_written_without_a_tokenizer(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    classifier = keras_agnews.load(name)
    with pytest.warns(UserWarning, match=r"has no tokenizer\.json"):
        classifier.export(tmp_path / "tiny" / "model.onnx")
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "tiny" / "model.onnx")
    for length in (64, 200):  # padding does not matter, nor does a text without any token
        ids = classifier.tokenizer([*TEXTS[:9], ""], max_length=64, padding=length)["input_ids"]
        (scores,) = session.run(["scores"], {"input_word_ids": ids.astype(np.int32)})
        np.testing.assert_allclose(scores, classifier.predict([*TEXTS[:9], ""]), atol=1e-4)


@pytest.mark.parametrize("name", ["tiny-transformer", "gru-attention"])
@pytest.mark.filterwarnings("ignore:.*no tokenizer")
def test_padding_may_stand_anywhere(name: str, tmp_path: Path) -> None:
    """As for Keras, whose own `pad_sequences` puts it in front."""
    import keras

    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    classifier = keras_agnews.load(name)
    session = onnxruntime.InferenceSession(classifier.export(tmp_path / "model.onnx"))
    rows = [classifier.tokenizer.encode(text) for text in TEXTS[:6]]
    front = keras.utils.pad_sequences(rows, dtype="int32")
    between = np.insert(front, [3, 7, front.shape[1] - 2], 0, axis=1)
    for ids in (front, between):
        expected = keras.ops.convert_to_numpy(classifier.model({"input_word_ids": ids}))
        (found,) = session.run(["logits"], {"input_word_ids": ids})
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_word_model_is_not_written_beside_the_tokenizer_of_another(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    config = oracle.bert_config()
    source = oracle.checkpoint(tmp_path / "source", config, oracle.random_tensors(config, 5))
    pieces, words = keras_agnews.load(source), keras_agnews.load("tiny-transformer")
    for name in ("a.onnx", "b.onnx"):
        pieces.export(tmp_path / "out" / name)
    with pytest.raises(
        keras_agnews.InputError, match=r"is that of b\.onnx, and a\.onnx needs none"
    ):
        words.export(tmp_path / "out" / "a.onnx")
    (tmp_path / "out" / "b.onnx").unlink()
    with pytest.raises(keras_agnews.InputError, match="is that of another model, and a"):
        words.export(tmp_path / "out" / "a.onnx")


def test_without_onnx_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(keras_agnews.MissingDependencyError, match=r"keras-agnews\[onnx\]"):
        keras_agnews.load("tiny-transformer").export(tmp_path / "model.onnx")


def test_the_graph_gives_logits_and_says_how_long_a_text_may_be(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    classifier = keras_agnews.load("tiny-transformer")
    classifier.temperature = 1.3
    with pytest.warns(UserWarning, match="no tokenizer"):
        classifier.export(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    ids = classifier.tokenizer(TEXTS[:3])["input_ids"].astype(np.int32)
    (found,) = session.run(["logits"], {"input_word_ids": ids})
    np.testing.assert_allclose(found, classifier.logits(TEXTS[:3]), atol=1e-4)
    assert session.get_modelmeta().custom_metadata_map["max_length"] == "256"
