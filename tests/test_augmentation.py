"""The texts that are made from others, and a run that learns from them."""

from __future__ import annotations

import re
import warnings

import keras
import numpy as np
import pytest
from conftest import SENTENCES

import keras_agnews
from keras_agnews.augmentation import crop, cut_openings, replace_words, words_of

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


def test_words_are_replaced_by_near_ones_and_the_rest_stays() -> None:
    near = {"oil": ["petrol", "gas"], "été": ["hiver"], "alone": []}
    text = "Oil, oil-rich; 3 boils of OIL\u2014alone  in l'été!\n"
    texts = [text] * 300 + ["", "12 %", "none of them"]
    assert {"oil", "rich", "alone", "l", "été", "them"} <= words_of(texts)
    assert words_of(["Oil 12 oil_OIL"]) == {"oil"}
    copies = replace_words(texts, 3, 5, near)
    assert len(copies) == 3 * len(texts)
    pattern = re.compile(
        r"(Oil|petrol|gas), (oil|petrol|gas)-rich; 3 boils of (OIL|petrol|gas)\u2014alone"
        r"  in l'(été|hiver)!\n"
    )
    found = [match.groups() for match in map(pattern.fullmatch, copies[:900]) if match]
    assert len(found) == 900
    kept = np.array([[word.lower() in near for word in words] for words in found])
    assert 0.25 < 1 - kept.mean() < 0.35, "10 to 50 % of them, a copy's share drawn"
    drawn = [word for words in found for word in words if word in near["oil"]]
    assert 0.4 < drawn.count("gas") / len(drawn) < 0.6
    assert copies[900:] == [""] * 3 + ["12 %"] * 3 + ["none of them"] * 3
    assert copies == replace_words(texts, 3, 5, near) != replace_words(texts, 3, 6, near)
    assert replace_words(texts, 0, 5, near) == []


@pytest.mark.backend
@pytest.mark.once
def test_a_model_learns_words_that_no_text_has() -> None:
    """Of the words near to those of its texts, which its teacher knows."""
    from keras_agnews.distillation import near_words

    teacher = keras_agnews.load("tiny-transformer")
    seen = {"Sports": ["team", "coach", "season"], "Business": ["profit", "bank", "shares"]}
    near = near_words(teacher, {word for words in seen.values() for word in words})
    rng = np.random.default_rng(0)

    def texts(pool: list[str], count: int) -> list[str]:
        return [" ".join(rng.choice(pool, 10)) for _ in range(count)]

    rows = [(text, label) for label, words in seen.items() for text in texts(words, 24)]
    unseen = {
        label: sorted({other for word in words for other in near[word][:6]} - set(words))
        for label, words in seen.items()
    }
    asked = [text for words in unseen.values() for text in texts(words, 20)]
    truth = teacher.predict(asked)
    losses = {}
    for replacements in (0, 4):
        keras.utils.set_random_seed(1)
        clf = keras_agnews.load("tiny-transformer", weights=None)
        options = {"epochs": 10 if replacements else 50, "batch_size": 8, "learning_rate": 1e-2}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two labels have no row
            keras_agnews.finetune(
                clf,
                tuple(zip(*rows, strict=True)),
                teacher="tiny-transformer",
                teacher_weight=1.0,
                replacements=replacements,
                **options,
            )
        answers = np.maximum(clf.predict(asked), 1e-9)
        losses[replacements] = float(-(truth * np.log(answers)).sum(axis=1).mean())
    assert losses[4] < losses[0] / 2


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
