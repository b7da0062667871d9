"""Attention and attribution against float64 NumPy, which shares no code with the package."""

from __future__ import annotations

import dataclasses
import functools
import tracemalloc
from typing import Any

import numpy as np
import pytest
import reference_bert
import reference_gru
import reference_transformer
from conftest import HARD_TEXTS, SENTENCES

import keras_agnews
from keras_agnews import bundle
from keras_agnews.configs import BertConfig, GruConfig, TransformerConfig
from keras_agnews.errors import InputError

pytestmark = pytest.mark.backend

SMALL = {"vocabulary_size": len(reference_bert.VOCABULARY), "hidden_size": 16, "layers": 2}
BERT = {**SMALL, "heads": 4, "feed_forward_size": 24, "max_positions": 40}
# Every way to embed, to pool and to end that an entry of the zoo has.
CONFIGS = {
    "transformer": TransformerConfig(**SMALL, max_positions=40, key_size=12),
    "bert": BertConfig(**BERT),
    "minilm": BertConfig(**BERT, pooler=False, pooling="mean"),
    "distilbert": BertConfig(**BERT, pooler=False, type_vocabulary_size=0, head_size=16),
    "gru": GruConfig(**{**SMALL, "hidden_size": 12}, embedding_size=8, attention_size=10),
}
TEXTS = ["The rocket launch rises after a late storm", "Oil prices fall; markets in zqxj wins!"]


@functools.cache  # what JAX has compiled for one serves every test of it
def build(name: str) -> Any:
    """A classifier with weights so large that attention is far from uniform."""
    from keras_agnews.classifier import TextClassifier

    words = name in ("transformer", "gru")
    vocabulary = reference_bert.VOCABULARY
    if words:
        vocabulary = ["", "[UNK]", *(f"word{i}" for i in range(40)), *reference_bert.WORDS]
    config = dataclasses.replace(CONFIGS[name], vocabulary_size=len(vocabulary))
    description = bundle.Bundle(
        name=name,
        builder=config.builder,
        config=config,
        tokenizer={"kind": "words" if words else "wordpiece"},
        max_length=12,
        labels=("calm", "storm", "late"),
        temperature=1.7,
    )
    classifier = TextClassifier(description, description.make_tokenizer(tuple(vocabulary)))
    rng = np.random.default_rng(1)
    for variable in classifier.model.weights:
        # The states that a GRU's attention weighs are in -1 to 1.
        scale = 4.0 if "encoder/attention/" in variable.path else 0.4
        noise = rng.normal(0, scale, variable.shape) + variable.path.endswith("/gamma")
        variable.assign(noise.astype("float32"))
    classifier.compile_default()
    return classifier


@pytest.fixture(scope="module", params=CONFIGS)
def classifier(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


_explained: dict[tuple[str, str], Any] = {}


def explained(classifier: Any, text: str) -> Any:
    """`attention` of the two, computed once for the tests that look at it."""
    key = (classifier.description.name, text)
    if key not in _explained:
        _explained[key] = keras_agnews.attention(classifier, text)
    return _explained[key]


@pytest.fixture(scope="module")
def shipped() -> Any:
    return keras_agnews.load("tiny-transformer")


def arrays(classifier: Any) -> dict[str, np.ndarray]:
    import keras

    return {v.path: keras.ops.convert_to_numpy(v.value) for v in classifier.model.weights}


def reference(classifier: Any, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Logits and attention weights in float64."""
    config, weights = classifier.description.config, arrays(classifier)
    return oracle(config).forward(config, weights, oracle(config).embeddings(config, weights, ids))


def oracle(config: Any) -> Any:
    return reference_gru if config.builder == "gru" else reference_transformer


def blanked(classifier: Any, ids: list[int]) -> list[int]:
    """The same text with every word unknown."""
    unknown = classifier.tokenizer.vocabulary.index("[UNK]")
    special = {classifier.tokenizer.vocabulary.index(t) for t in specials_of(classifier)}
    return [i if i in special else unknown for i in ids]


def specials_of(classifier: Any) -> tuple[str, ...]:
    return ("[CLS]", "[SEP]") if classifier.tokenizer.special_tokens else ()


@pytest.mark.parametrize("text", TEXTS)
def test_weights_and_logits_are_the_float64_references(classifier: Any, text: str) -> None:
    seen = explained(classifier, text)
    ids = classifier.tokenizer.encode(text)
    logits, weights = reference(classifier, ids)
    config = classifier.description.config
    pooled = config.builder == "gru"
    assert seen.pooled == pooled
    rows = (1, 1, 1) if pooled else (config.layers, config.heads, len(ids))
    assert seen.weights.shape == (*rows, len(ids))
    assert seen.weights.dtype == seen.attribution.dtype == np.float32
    assert weights.max() > 0.5  # else uniform attention would pass for it
    np.testing.assert_allclose(seen.weights, weights, atol=1e-5)
    np.testing.assert_allclose(seen.logits, logits, atol=1e-4)
    expected, _ = reference(classifier, blanked(classifier, ids))
    np.testing.assert_allclose(seen.baseline, expected, atol=1e-4)


@pytest.mark.parametrize("text", TEXTS)
def test_it_explains_the_answer_that_the_classifier_gives(classifier: Any, text: str) -> None:
    seen = explained(classifier, text)
    answer = classifier.classify(text)
    assert seen.prediction == answer
    assert seen.label == answer.label
    scaled = np.exp(seen.logits / classifier.temperature)
    np.testing.assert_allclose(scaled / scaled.sum(), list(answer.scores.values()), atol=1e-4)
    assert seen.text == text
    assert seen.tokens == tuple(classifier.tokenizer.tokens(classifier.tokenizer.encode(text)))
    assert tuple(np.array(seen.tokens)[seen.specials]) == specials_of(classifier)


def test_attributions_add_up(classifier: Any) -> None:
    for label in classifier.labels:
        seen = keras_agnews.attention(classifier, TEXTS[1], label=label)
        column = classifier.labels.index(label)
        change = seen.logits[column] - seen.baseline[column]
        assert seen.label == label
        tolerance = 0.01 * np.abs(seen.attribution).sum() + 1e-4
        assert abs(seen.attribution.sum() - change) <= tolerance
        assert np.abs(seen.attribution).max() > 10 * tolerance  # there is something to add up
        assert not seen.attribution[seen.specials].any()


def test_too_few_steps_are_told(shipped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from keras_agnews import explain

    monkeypatch.setattr(explain, "_STEPS", (1,))
    monkeypatch.setattr(explain, "TOLERANCE", 0.0)
    with pytest.warns(UserWarning, match="1 steps of integration do not do for this model"):
        keras_agnews.attention(shipped, "Oil prices soar to an all-time record")


def test_attention_weights_of_each_step_are_not_kept(
    shipped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention weights come with every step: those of bert-base at 512 tokens are gigabytes."""
    from keras_agnews import explain

    text = "oil prices soar " * (shipped.max_length // 3)
    keras_agnews.attention(shipped, text)  # compiles
    peaks = []
    for steps in (16, 96):
        monkeypatch.setattr(explain, "_STEPS", (steps,))
        tracemalloc.start()
        try:
            seen = keras_agnews.attention(shipped, text)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    of_steps = 80 * seen.weights.nbytes  # that the second has more
    assert peaks[1] - peaks[0] < of_steps / 2, "what grows is the way itself"


def test_attributions_are_the_integral(classifier: Any) -> None:
    """By finite differences of the float64 reference, at other points of the path."""
    config, weights = classifier.description.config, arrays(classifier)
    seen = explained(classifier, TEXTS[0])
    column = classifier.labels.index(seen.label)
    ids = classifier.tokenizer.encode(TEXTS[0])
    embeddings, forward = oracle(config).embeddings, oracle(config).forward
    end = embeddings(config, weights, ids)
    start = embeddings(config, weights, blanked(classifier, ids))
    found, steps, small = np.zeros(len(ids)), 60, 1e-5
    for i in range(len(ids)):
        step = np.zeros_like(end)
        step[i] = small * (end - start)[i]
        for share in (np.arange(steps) + 0.5) / steps:  # by midpoints
            point = start + share * (end - start)
            after, before = (
                forward(config, weights, point + sign * step)[0][column] for sign in (1, -1)
            )
            found[i] += (after - before) / (2 * small) / steps
    np.testing.assert_allclose(seen.attribution, found, atol=0.02 * np.abs(found).sum(), rtol=0.02)


def test_the_shipped_model_is_explained(shipped: Any) -> None:
    text, label = SENTENCES[5]
    seen = keras_agnews.attention(shipped, text)
    assert seen.label == label
    weights = reference(shipped, shipped.tokenizer.encode(text))[1]
    np.testing.assert_allclose(seen.weights, weights, atol=1e-5)
    column = shipped.labels.index(label)
    change = seen.logits[column] - seen.baseline[column]
    assert abs(seen.attribution.sum() - change) <= 0.01 * np.abs(seen.attribution).sum() + 1e-4
    # An article says nothing of the topic; of these, one must.
    by_token = dict(zip(seen.tokens, seen.attribution, strict=True))
    assert max(by_token, key=by_token.__getitem__) in ("oil", "prices", "traders", "crude")
    assert abs(by_token["a"]) < 0.1 * max(by_token.values())


@pytest.mark.parametrize("name", ["transformer", "bert", "gru"])
def test_hard_texts(name: str) -> None:
    classifier = build(name)
    for text in HARD_TEXTS[::2]:
        seen = keras_agnews.attention(classifier, text)
        length = len(classifier.tokenizer.encode(text))
        assert len(seen.tokens) == length <= 12
        assert seen.weights.shape[2:] == (min(length, 1) if seen.pooled else length, length)
        assert np.isfinite(seen.attribution).all()
        np.testing.assert_allclose(seen.weights.sum(-1), 1, atol=1e-5)
        assert seen.prediction.truncated == classifier.classify(text).truncated
        scaled = np.exp(seen.logits / classifier.temperature)
        scores = list(seen.prediction.scores.values())
        np.testing.assert_allclose(scaled / scaled.sum(), scores, atol=1e-4)


def test_weights_follow_training() -> None:
    """What was compiled for a model must not keep its old weights."""
    classifier = build("transformer")
    before = explained(classifier, TEXTS[0])
    kept = {name: value.copy() for name, value in arrays(classifier).items()}
    for variable in classifier.model.weights:
        variable.assign(variable.value * 0.8)
    after = keras_agnews.attention(classifier, TEXTS[0])
    logits, weights = reference(classifier, classifier.tokenizer.encode(TEXTS[0]))
    for variable in classifier.model.weights:
        variable.assign(kept[variable.path])
    assert np.abs(after.weights - before.weights).max() > 0.01
    np.testing.assert_allclose(after.weights, weights, atol=1e-5)
    np.testing.assert_allclose(after.logits, logits, atol=1e-4)


def test_what_it_does_not_take(shipped: Any) -> None:
    with pytest.raises(InputError, match="one text, a str, not list"):
        keras_agnews.attention(shipped, ["a", "b"])
    with pytest.raises(InputError, match="label is 'Weather', not one of World, Sports"):
        keras_agnews.attention(shipped, "a", label="Weather")


def test_another_architecture_is_refused() -> None:
    import keras

    from keras_agnews.classifier import TextClassifier

    classifier = TextClassifier(build("bert").description, build("bert").tokenizer)
    inputs = {"input_word_ids": keras.Input((None,), dtype="int32", name="input_word_ids")}
    hidden = keras.layers.Embedding(len(classifier.tokenizer.vocabulary), 4)(
        inputs["input_word_ids"]
    )
    hidden = keras.layers.GlobalAveragePooling1D()(hidden)
    hidden = keras.layers.Dropout(0.1, name="head_dropout")(hidden)
    classifier.model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(hidden))
    with pytest.raises(InputError, match="has no TransformerEncoder or GruEncoder"):
        keras_agnews.attention(classifier, "a text")
