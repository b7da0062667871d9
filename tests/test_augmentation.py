"""The texts that are made from others, and a run that learns from them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conftest import SENTENCES

import keras_agnews
from keras_agnews.augmentation import crop, cut_openings

TEXTS = [text for text, _ in SENTENCES] * 4


def test_spans_are_runs_of_words_of_their_text() -> None:
    texts = [*TEXTS, "one", "", "  spaced   out \n words "]
    spans = crop(texts, 5, seed=3)
    assert len(spans) == 5 * len(texts)
    shares = []
    for i, span in enumerate(spans):
        words, part = texts[i // 5].split(), span.split()
        starts = range(len(words) - len(part) + 1)
        assert any(words[s : s + len(part)] == part for s in starts)
        if len(words) > 8:
            shares.append(len(part) / len(words))
    assert 0.25 <= min(shares) < 0.4
    assert 0.8 < max(shares) <= 0.95
    assert spans == crop(texts, 5, seed=3) != crop(texts, 5, seed=4)
    assert crop(texts, 0, seed=3) == []


def test_openings_are_the_first_three_to_twelve_words() -> None:
    long = " ".join(f"w{i}" for i in range(40))
    texts = [long] * 50 + ["one", "", "  spaced   out \n words "]
    openings = cut_openings(texts, 4, seed=3)
    assert len(openings) == 4 * len(texts)
    for i, opening in enumerate(openings):
        words = opening.split()
        assert words == texts[i // 4].split()[: len(words)]
    assert {len(opening.split()) for opening in openings[:200]} == set(range(3, 13))
    assert openings[-12:] == ["one"] * 4 + [""] * 4 + ["spaced out words"] * 4
    assert openings == cut_openings(texts, 4, seed=3) != cut_openings(texts, 4, seed=4)
    assert cut_openings(texts, 0, seed=3) == []


@pytest.mark.backend
@pytest.mark.once
@pytest.mark.filterwarnings("ignore:no training row has the label")
@pytest.mark.parametrize("teacher", [None, "tiny-transformer"])
def test_a_model_learns_the_label_of_an_opening(teacher: str | None) -> None:
    """Texts whose first words speak of another topic than the rest, which the label follows.

    The teacher, who reads the first words as anybody would, is not asked about them.
    """
    sports = ["team", "game", "season", "coach"]
    business = ["stocks", "profit", "market", "bank"]
    rng = np.random.default_rng(0)

    def words(pool: list[str], count: int) -> str:
        return " ".join(rng.choice(pool, count))

    turned = [f"{words(sports, 12)} {words(business, 50)}" for _ in range(24)]
    turned += [f"{words(business, 12)} {words(sports, 50)}" for _ in range(24)]
    labels = ["Business"] * 24 + ["Sports"] * 24
    headlines, answers = [words(sports, 6), words(business, 6)], {}
    for openings in (0, 2):
        keras.utils.set_random_seed(1)
        clf = keras_agnews.load("tiny-transformer", weights=None)
        options = {"epochs": 8, "batch_size": 8, "learning_rate": 1e-2, "openings": openings}
        keras_agnews.finetune(clf, (turned, labels), teacher=teacher, **options)
        answers[openings] = [answer.label for answer in clf.classify(headlines)]
        if teacher is None:
            assert [a.label for a in clf.classify(turned)] == labels
    assert answers[2] == ["Business", "Sports"]
    if teacher is None:
        assert answers[0] == ["Sports", "Business"]
    else:  # what that one makes of such words
        assert answers[0] != answers[2]
