"""Masked-language-model pretraining: what is masked, what is learned, and at what cost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from conftest import SENTENCES

import keras_agnews
from keras_agnews import InputError

pytestmark = pytest.mark.backend
TEXTS = [text for text, _ in SENTENCES]


@pytest.fixture(scope="module")
def classifier() -> Any:
    return keras_agnews.load("small-bert-L4", weights=None)


def batches(classifier: Any, texts: list[str], **options: Any) -> Any:
    from keras_agnews.pretraining import masked_batches
    from keras_agnews.recipes import Recipe

    return masked_batches(classifier, texts, Recipe(**options))


def test_bert_masks_15_percent_of_which_80_10_10(classifier: Any) -> None:
    dataset = batches(classifier, [" ".join(TEXTS[i % 8 :]) for i in range(60)], batch_size=4)
    vocabulary = classifier.tokenizer.vocabulary
    special = [vocabulary.index(name) for name in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")]
    mask = vocabulary.index("[MASK]")
    shares, kinds = [], []
    for epoch in range(12):
        dataset.start_epoch(epoch)
        for inputs, tokens, weights in (dataset[i] for i in range(len(dataset))):
            ids, places = inputs["input_word_ids"], inputs["places"]
            seen = np.take_along_axis(ids, places, axis=1)
            chosen = weights > 0
            assert not np.isin(tokens[chosen], special).any()
            assert (seen == tokens)[~chosen].all(), "what is not told is not touched"
            original = ids.copy()
            np.put_along_axis(original, places, tokens, axis=1)
            lengths = (original > 0).sum(axis=1)
            shares += (chosen.sum(axis=1) / lengths).tolist()
            assert (chosen.sum(axis=1) == np.maximum(1, np.rint(0.15 * lengths))).all()
            told, true = seen[chosen], tokens[chosen]
            kinds += np.where(told == mask, 0, np.where(told == true, 2, 1)).tolist()
    assert np.mean(shares) == pytest.approx(0.15, abs=0.01)
    counts = np.bincount(kinds, minlength=3) / len(kinds)
    spread = 4 * math.sqrt(0.25 / len(kinds))
    np.testing.assert_allclose(counts, [0.8, 0.1, 0.1], atol=spread)


def test_masks_depend_on_seed_epoch_and_batch_alone(classifier: Any) -> None:
    one, other = (batches(classifier, TEXTS, batch_size=4, seed=s) for s in (1, 2))
    one.start_epoch(0)
    first = one[1][0]["input_word_ids"]
    one.start_epoch(1)
    assert not np.array_equal(one[1][0]["input_word_ids"], first)
    one.start_epoch(0, 1)
    np.testing.assert_array_equal(one[0][0]["input_word_ids"], first)
    other.start_epoch(0)
    assert not np.array_equal(other[1][0]["input_word_ids"], first)


def test_texts_of_few_or_no_tokens_are_borne(classifier: Any) -> None:
    dataset = batches(classifier, ["", "a", "oil prices"], batch_size=3)
    _, _, weights = dataset[0]
    assert sorted(weights.sum(axis=1).tolist()) == [0, 1, 1]


def test_logits_and_loss_are_berts(classifier: Any) -> None:
    """Against plain NumPy on what the encoder gives."""
    import keras

    from keras_agnews.pretraining import MaskedLanguageModel, cross_entropy

    model = MaskedLanguageModel(classifier.encoder, seed=0)
    rng = np.random.default_rng(0)
    model.bias.assign(rng.normal(size=model.bias.shape))
    inputs, tokens, _ = batches(classifier, TEXTS[:2], batch_size=2)[0]

    def numpy(value: Any) -> np.ndarray:
        return keras.ops.convert_to_numpy(value).astype(np.float64)

    logits = numpy(model(inputs))
    plain = {name: value for name, value in inputs.items() if name != "places"}
    hidden = numpy(classifier.encoder(plain)["sequence_output"])
    table = numpy(classifier.encoder.embedding.tokens.embeddings)
    kernel, bias = (numpy(v.value) for v in model.transform.weights)
    for row in range(2):
        for k, place in enumerate(inputs["places"][row]):
            x = hidden[row, place] @ kernel + bias
            x = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])
            x = (x - x.mean()) / np.sqrt(x.var() + classifier.encoder.epsilon)
            expected = table @ x + numpy(model.bias.value)
            np.testing.assert_allclose(logits[row, k], expected, atol=1e-4)
            loss = np.log(np.exp(expected).sum()) - expected[tokens[row, k]]
            found = numpy(cross_entropy(tokens, logits.astype("float32")))[row, k]
            np.testing.assert_allclose(found, loss, rtol=1e-4)


def test_pretraining_learns_to_tell_masked_words() -> None:
    import keras

    from keras_agnews.bundle import Bundle
    from keras_agnews.configs import TransformerConfig
    from keras_agnews.pretraining import pretrain
    from keras_agnews.recipes import Recipe
    from keras_agnews.tokenizers import WordTokenizer

    vocabulary = ("", "[UNK]", *sorted({word for text in TEXTS for word in text.lower().split()}))
    description = Bundle(
        name="small",
        builder="transformer",
        config=TransformerConfig(vocabulary_size=len(vocabulary), max_positions=32),
        tokenizer={"kind": "words"},
        max_length=32,
        labels=("a", "b"),
    )
    keras.utils.set_random_seed(3)
    clf = keras_agnews.TextClassifier(description, WordTokenizer(vocabulary, max_length=32))
    head = [keras.ops.convert_to_numpy(w.value) for w in clf.model.weights[-4:]]
    recipe = Recipe(pretrain_epochs=40, pretrain_learning_rate=1e-2, batch_size=8)
    history = pretrain(clf, TEXTS * 3, recipe, None, {}, progress=False)
    assert [row["epoch"] for row in history] == list(range(1, 41))
    assert history[0]["loss"] == pytest.approx(math.log(len(vocabulary)), rel=0.25)
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    for old, new in zip(head, clf.model.weights[-4:], strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(new.value))


@pytest.mark.once
@pytest.mark.parametrize("trainable", [True, False])
def test_the_pooler_is_left_as_it_was(trainable: bool, tmp_path: Any) -> None:
    import keras
    import reference_bert as oracle

    from keras_agnews.pretraining import pretrain
    from keras_agnews.recipes import Recipe

    config = oracle.bert_config()
    folder = oracle.checkpoint(tmp_path / "bert", config, oracle.random_tensors(config, 1))
    clf = keras_agnews.load(folder)
    pooler = clf.encoder.pooler_layer
    pooler.trainable = trainable
    before = [keras.ops.convert_to_numpy(w.value).copy() for w in pooler.weights]
    pretrain(clf, TEXTS, Recipe(pretrain_epochs=1, batch_size=8), None, {}, progress=False)
    assert pooler.trainable == trainable
    for old, new in zip(before, pooler.weights, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(new.value))


def test_an_encoder_of_another_kind_is_refused(classifier: Any) -> None:
    import types

    from keras_agnews.pretraining import check_encoder

    other: Any = types.SimpleNamespace(encoder=object(), description=classifier.description)
    with pytest.raises(InputError, match="is no transformer"):
        check_encoder(other)
    classifier.encoder.trainable = False
    try:
        with pytest.raises(InputError, match="the encoder is frozen"):
            check_encoder(classifier)
    finally:
        classifier.encoder.trainable = True
