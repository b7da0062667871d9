"""Strings inside a TensorFlow graph: the tokenizers as operations, and the layers made of them."""

from __future__ import annotations

import csv
import json
import sys
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HARD_TEXTS, LIGHT, SENTENCES, Lazy, needs

from keras_agnews import registry
from keras_agnews.configs import BertConfig
from keras_agnews.errors import InputError, MissingDependencyError
from keras_agnews.graph_tokenizers import graph_tokenizer
from keras_agnews.tokenizers import (
    Tokenizer,
    WordPieceTokenizer,
    WordTokenizer,
    learn_words,
    read_vocabulary,
)

pytestmark = needs("tensorflow", "tensorflow_text")
tf = Lazy("tensorflow")

TEXTS = [text for text, _ in SENTENCES] + [
    text for text in HARD_TEXTS if not any(0xD800 <= ord(c) < 0xE000 for c in text)
]
# What feeds do to a text, and what looks like it.
REFERENCES = [
    "dinner for #36;5, dinner for#36;5 &#36;5 ##36; #36 ;",
    "Fish  amp; Chips &amp; vinegar at caf&#233;s #amp; amp;lt;b",
    "&lt;b&gt;Late news&lt;/b&gt; <BR/>today <a href='x y'>here</a> <b\u00a0c>d <!-- e --> <?f?>",
    "Acme &lt;ACME.O&gt; <ACME.O> a<b c>d a < b <b",
    "a long\\line, the mayor #39;s debt-laden air/rail plan",
    "&#x27;x&#X1F600; &#150;y&#0;z &#55296; &#9999999; &#1;a &#x80;b &#65534;c &#xfdd0;d",
    "&hellip;&eacute;t&eacute; &amp;quot;hi&amp;quot; &rarr;&NotEqualTilde; &nosuch;x &Eacute;;",
    "“typo” \u2013 graphic… soft\u00adhyphen\u200b \u2019s\u00a0x",
]


@pytest.fixture(scope="module")
def vocabulary() -> tuple[str, ...]:
    directory = registry.find("small-bert-L4")
    assert directory is not None
    return read_vocabulary(directory / "vocab.txt")


@pytest.fixture(scope="module")
def pieces(vocabulary: tuple[str, ...]) -> WordPieceTokenizer:
    return WordPieceTokenizer(vocabulary)


def differing(tokenizer: Tokenizer, texts: list[str], graph: Any = None) -> list[int]:
    """The indices of the texts on which a tokenizer and its counterpart differ."""
    found = (graph or graph_tokenizer(tokenizer)).ids(tf.constant(texts)).to_list()
    expected = tokenizer(texts, padding=False)["input_ids"]
    return [i for i in range(len(texts)) if found[i] != expected[i]]


# --- the tokenizers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_length": 7, "max_word_characters": 6},
        {"lowercase": False},
        {"lowercase": False, "strip_accents": True, "chinese_characters": False},
        {"strip_accents": False},
    ],
    ids=str,
)
def test_word_pieces_are_ours(vocabulary: tuple[str, ...], options: dict[str, Any]) -> None:
    tokenizer = WordPieceTokenizer(vocabulary, **options)
    texts = TEXTS + REFERENCES + ["Ünïcödé ÀÉ ŻÓŁĆ", "ΣΑΣ ΟΔΟΣ", "a" * 100, "é" * 101 + " b"]
    assert differing(tokenizer, texts) == []


@pytest.mark.parametrize(
    "end", [0x2800, pytest.param(0x110000, marks=[pytest.mark.slow, pytest.mark.soak])]
)
def test_word_pieces_are_ours_on_all_characters_but_new_ones(
    pieces: WordPieceTokenizer, end: int
) -> None:
    codes = [code for code in range(end) if not 0xD800 <= code < 0xE000]
    graph, new = graph_tokenizer(pieces), set()
    for i in range(0, len(codes), 2**16):
        part = codes[i : i + 2**16]
        new |= {part[j] for j in differing(pieces, [f"a{chr(c)}b {chr(c)}" for c in part], graph)}
    # Each was assigned after Unicode 3.2, and none is a letter of a language in the news.
    assert len(new) < 1_000
    assert not any(unicodedata.ucd_3_2_0.category(chr(c)) != "Cn" for c in new)


@pytest.mark.parametrize("normalize", [None, "news"])
def test_words_are_ours(normalize: str | None) -> None:
    texts = TEXTS + REFERENCES
    words = learn_words(texts, normalize=normalize)
    assert len(words) > 100  # so that what differs is seen
    for length in (256, 3):
        tokenizer = WordTokenizer(words, max_length=length, normalize=normalize)
        assert differing(tokenizer, texts) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-transformer", "small-bert-L4"])
def test_ag_news_reads_the_same(agnews: Path, name: str) -> None:
    from keras_agnews import bundle

    directory = registry.find(name)
    assert directory is not None
    tokenizer = bundle.read_tokenizer(directory, bundle.read(directory))
    for file in ("test.csv", "train.csv"):
        with (agnews / file).open(encoding="utf-8", newline="") as rows:
            texts = [" ".join(row[1:]) for row in csv.reader(rows)]
        assert differing(tokenizer, texts) == []


@pytest.mark.slow
def test_letter_case_is_not_that_of_the_machines_language(fresh: Callable[..., str]) -> None:
    code = """
import tensorflow as tf
from keras_agnews.graph_tokenizers import graph_tokenizer
from keras_agnews.tokenizers import WordPieceTokenizer
tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "oil"])
assert graph_tokenizer(tokenizer).ids(tf.constant(["OIL"])).to_list() == [[2, 4, 3]]
"""
    fresh(code, LC_ALL="tr_TR.UTF-8", LANG="tr_TR.UTF-8", KERAS_BACKEND=LIGHT)


def test_bytes_that_are_no_text(pieces: WordPieceTokenizer) -> None:
    for tokenizer in (pieces, WordTokenizer(["", "[UNK]", "oil"], normalize="news")):
        found = graph_tokenizer(tokenizer).ids(tf.constant([b"\xff\xfe oil \x80", b"\xc3"]))
        assert found.shape[0] == 2
        assert set(tokenizer.encode("oil")) <= set(found[0].numpy().tolist())


@pytest.mark.parametrize("module", ["tensorflow", "tensorflow_text"])
def test_what_to_install(
    pieces: WordPieceTokenizer, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r'pip install "keras-agnews\[tensorflow\]"'):
        graph_tokenizer(pieces)


# --- the layers ------------------------------------------------------------------------------


@pytest.fixture
def keras() -> Any:
    """Keras, where it runs on TensorFlow."""
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("strings are in TensorFlow's graphs alone")
    return keras


SMALL = BertConfig(vocabulary_size=30_522, hidden_size=16, layers=2, heads=2, feed_forward_size=32)


@pytest.mark.backend
def test_preprocessor_names_the_way_on_elsewhere() -> None:
    import keras

    from keras_agnews.layers import BertPreprocessor

    if keras.backend.backend() == "tensorflow":
        pytest.skip("it works there")
    with pytest.raises(InputError, match=r"clf\.predict"):
        BertPreprocessor(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])


@pytest.mark.backend
def test_preprocessor_takes_what_holds_strings(keras: Any, vocabulary: tuple[str, ...]) -> None:
    from keras_agnews.layers import BertPreprocessor

    layer = BertPreprocessor(vocabulary, max_length=16)
    expected = WordPieceTokenizer(vocabulary, max_length=16)(TEXTS, padding=16)
    names = {"input_word_ids": "input_ids", "input_mask": "attention_mask"}
    names["input_type_ids"] = "token_type_ids"
    for texts in (tf.constant(TEXTS), np.array(TEXTS, dtype=object)):
        found = layer(texts)
        assert found.keys() == names.keys()
        for name, theirs in names.items():
            assert found[name].dtype == "int32"
            np.testing.assert_array_equal(found[name], expected[theirs])
    assert layer(tf.constant([], tf.string))["input_mask"].shape == (0, 16)
    columns = (tf.constant([["a"]]), tf.constant("a"), keras.Input((1,), dtype="string"))
    for texts in columns:  # the shape that `TextVectorization` takes, and a single text
        with pytest.raises(InputError, match=r"must have \(batch,\): keras.Input\(shape=\(\)"):
            layer(texts)
    lines = tf.data.Dataset.from_tensor_slices(TEXTS).batch(4)
    # As of a Python function, whose shapes TensorFlow does not know.
    lines = lines.map(lambda texts: tf.py_function(lambda t: t, [texts], tf.string))
    mapped = lines.map(layer)
    np.testing.assert_array_equal(
        np.concatenate([batch["input_word_ids"] for batch in mapped]), expected["input_ids"]
    )


def test_another_architecture_is_not_berts() -> None:
    from keras_agnews.configs import GruConfig
    from keras_agnews.layers import BertEncoder

    config = GruConfig(vocabulary_size=9)
    with pytest.raises(InputError, match="takes a BertConfig, not GruConfig"):
        BertEncoder(config)


def composed(keras: Any, vocabulary: Iterable[str]) -> Any:
    """The model of the TF-Hub lesson."""
    from keras_agnews.layers import BertEncoder, BertPreprocessor

    texts = keras.Input(shape=(), dtype="string", name="text")
    inputs = BertPreprocessor(vocabulary, max_length=24, name="preprocessing")(texts)
    outputs = BertEncoder(SMALL, name="encoder")(inputs)
    hidden = keras.layers.Dropout(0.1)(outputs["pooled_output"])
    return keras.Model(texts, keras.layers.Dense(4, name="classifier")(hidden))


@pytest.mark.backend
@pytest.mark.parametrize("eager", [True, False])
def test_composed_model_trains(keras: Any, vocabulary: tuple[str, ...], eager: bool) -> None:
    keras.utils.set_random_seed(0)
    model = composed(keras, vocabulary)
    labels = sorted({label for _, label in SENTENCES})
    texts = np.array([text for text, _ in SENTENCES], dtype=object)
    y = np.array([labels.index(label) for _, label in SENTENCES])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-2), loss, metrics=["accuracy"], run_eagerly=eager)
    epochs, share = (14, 0.7) if eager else (20, 0.6)
    history = model.fit(texts, y, epochs=epochs, verbose=0).history["loss"]
    assert min(history) < share * history[0]
    data = tf.data.Dataset.from_tensor_slices((tf.constant(texts), y)).batch(8)
    assert model.evaluate(data, verbose=0)[0] < history[0]


@pytest.mark.backend
def test_composed_model_saves_and_loads(
    keras: Any, vocabulary: tuple[str, ...], tmp_path: Path
) -> None:
    model = composed(keras, vocabulary)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    texts = tf.constant(TEXTS)
    np.testing.assert_allclose(again(texts), model(texts), atol=1e-5)


@pytest.mark.backend
def test_composed_model_loads_in_a_fresh_process(
    keras: Any, vocabulary: tuple[str, ...], fresh: Callable[..., str], tmp_path: Path
) -> None:
    model = composed(keras, vocabulary)
    model.save(tmp_path / "model.keras")
    code = """
import json, sys
import keras_agnews, keras
import tensorflow as tf
texts = json.loads(sys.argv[2])
model = keras.saving.load_model(sys.argv[1])
print("\\n" + json.dumps(model.predict(tf.constant(texts), verbose=0).tolist()))
"""
    printed = fresh(code, str(tmp_path / "model.keras"), json.dumps(TEXTS))
    expected = model(tf.constant(TEXTS))
    np.testing.assert_allclose(json.loads(printed.splitlines()[-1]), expected, atol=1e-5)


@pytest.mark.backend
def test_encoder_is_that_of_a_classifier(keras: Any, tmp_path: Path) -> None:
    from keras_agnews.layers import BertEncoder, TransformerEncoder

    encoder = BertEncoder(SMALL)
    twin = TransformerEncoder(**TransformerEncoder.arguments(SMALL))
    inputs = {"input_word_ids": np.array([[101, 7, 8, 102, 0]], "int32")}
    encoder(inputs), twin(inputs)
    twin.set_weights(encoder.get_weights())
    for name in ("pooled_output", "sequence_output"):
        np.testing.assert_allclose(encoder(inputs)[name], twin(inputs)[name], atol=1e-6)
    again = BertEncoder.from_config(encoder.get_config())
    assert again.get_config() == encoder.get_config()
    assert {v.path.split("/", 1)[1] for v in encoder.weights} == {
        name.split("/", 1)[1] for name in SMALL.encoder_variables()
    }


# --- the reference ---------------------------------------------------------------------------


@pytest.mark.backend
def test_reference_preprocessor(
    keras: Any, reference: Path, vocabulary: tuple[str, ...], pieces: WordPieceTokenizer
) -> None:
    from keras_agnews.layers import BertPreprocessor

    layer = BertPreprocessor(vocabulary)
    texts = json.loads((reference / "golden/texts.json").read_text(encoding="utf-8"))
    golden = np.load(reference / "golden/tfhub_dev.npz")
    found = layer(np.array(texts, dtype=object))
    rows = [i for i in range(len(texts)) if i != 10]  # there TF-Hub decomposes more than BERT
    for name, value in found.items():
        np.testing.assert_array_equal(np.asarray(value)[rows], golden[name][rows])
    assert differing(pieces, texts) == []
    served = tf.saved_model.load(str(reference / "tfhub/bert_en_uncased_preprocess"))
    # Control characters part words there, and are dropped by BERT's rule and ours.
    plain = [t for t in TEXTS + REFERENCES + texts if t.isascii() and t.isprintable()]
    plain += ["".join(map(chr, range(32, 127))), "a\tb\nc\r\nd", "x" * 99 + " " + "y" * 101]
    theirs = served(tf.constant(plain))
    for name, value in layer(tf.constant(plain)).items():
        np.testing.assert_array_equal(value, theirs[name])
