"""Rows held out for validation: of every class, no duplicates, and the same for the same seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_agnews.data import Dataset, load_agnews
from keras_agnews.errors import InputError
from keras_agnews.validation import split_validation


def dataset(texts: list[str], labels: list[int]) -> Dataset:
    return Dataset(texts, np.array(labels, np.int32), ("a", "b", "c"), "", "here")


def letters_and_digits(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum()) or text


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.text("abB1.#-é ", max_size=3), st.integers(0, 2)), max_size=60),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
def test_split_validation_keeps_its_promises(
    rows: list[tuple[str, int]], fraction: float, seed: int
) -> None:
    whole = dataset([text for text, _ in rows], [label for _, label in rows])
    first_label: dict[str, int] = {}
    for text, label in rows:
        first_label.setdefault(letters_and_digits(text), label)
    different = Counter(first_label.values())
    if all(count < 2 for count in different.values()):
        with pytest.raises(InputError, match="none can be held out"):
            split_validation(whole, fraction, seed)
        return

    training, validation = split_validation(whole, fraction, seed)
    remaining = iter(zip(whole.texts, whole.labels.tolist(), strict=True))
    kept = zip(training.texts, training.labels.tolist(), strict=True)
    assert all(row in remaining for row in kept), "training is not in the order of the rows"
    keys = [letters_and_digits(text) for text in validation.texts]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & set(map(letters_and_digits, training.texts))
    assert set(keys) | set(map(letters_and_digits, training.texts)) == set(first_label)
    in_class = Counter(whole.labels.tolist())
    for label in range(3):
        wanted = max(1, round(fraction * in_class[label]))
        held_out = int((validation.labels == label).sum())
        assert held_out == max(0, min(wanted, different[label] - 1))
        assert different[label] < 2 or label in training.labels
    assert training.labels.dtype == validation.labels.dtype == np.int32


def test_split_validation_is_stratified_and_repeats() -> None:
    texts = [f"line {row}" for row in range(1000)]
    labels = [0] * 600 + [1] * 300 + [2] * 100
    whole = dataset([*texts, "LINE-1!", "line 1"], [*labels, 0, 2])
    parts = split_validation(whole, 0.1, seed=3)
    again = split_validation(whole, 0.1, seed=3)
    for part, other in zip(parts, again, strict=True):
        assert part.texts == other.texts
        assert part.labels.tolist() == other.labels.tolist()
    assert np.bincount(parts[1].labels).tolist() == [60, 30, 10]
    assert split_validation(whole, 0.1, seed=4)[1].texts != parts[1].texts
    duplicates = 2 * ("line 1" in parts[1].texts)
    assert parts[0].note == (
        f"100 held out for validation, {duplicates} duplicates of them left out"
    )
    assert len(parts[0].texts) == 1002 - 100 - duplicates


def test_split_validation_leaves_near_duplicates_out_of_training() -> None:
    story = "Oil rises to {} dollars a barrel as storms close in on the coast of {}".format
    places = ("Texas", "Florida", "Cuba", "Mexico", "Haiti", "Belize", "Panama", "Honduras")
    texts = [story(40 + i, place) for i, place in enumerate(places)]
    others = [f"Team {i} won match {i} by {i} goals in town {i} on day {i}" for i in range(30)]
    whole = dataset([*texts, *others], [0] * len(texts) + [1] * len(others))
    training, validation = split_validation(whole, 0.2, similarity=0.5)
    # Seven stories are near-duplicates of one that is held out, and all that is left of a class.
    assert training.texts == [text for text in whole.texts if text not in validation.texts]

    whole = dataset([*texts, "Grain is dear", *others], [0] * (len(texts) + 1) + [1] * len(others))
    for seed in range(20):  # until a story is held out and the odd one is not
        training, validation = split_validation(whole, 0.1, seed, similarity=0.5)
        if "Grain is dear" in training.texts:
            break
    held = [text for text in validation.texts if text in texts]
    assert held
    assert not set(texts) & set(training.texts)
    assert "Grain is dear" in training.texts
    assert set(others) <= {*training.texts, *validation.texts}
    assert f"{len(texts) - len(held)} near-duplicates of them left out" in training.note


def test_similarity_is_the_jaccard_index() -> None:
    # Of 8 runs of three words in both 4 are shared: a half; of the short one's all.
    short, long = "a b c d e f", "a b c d e f g h i j"
    for similarity, left in ((0.5, 0), (0.51, 1)):
        whole = dataset([short, "x", long, "y", "z"], [0, 0, 1, 1, 1])
        splits = (split_validation(whole, 0.1, seed, similarity) for seed in range(50))
        training, validation = next(pair for pair in splits if short in pair[1].texts)
        assert long not in validation.texts
        assert training.texts.count(long) == left


SENTENCES = st.lists(st.sampled_from("abc"), max_size=14).map(" ".join)


@settings(deadline=None)
@given(
    st.lists(SENTENCES, min_size=6, max_size=40, unique_by=letters_and_digits), st.floats(0.05, 0.9)
)
def test_near_duplicates_are_those_that_a_look_at_each_pair_finds(
    texts: list[str], similarity: float
) -> None:
    def shingles(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return (
            {tuple(words[i : i + 3]) for i in range(len(words) - 2)} if len(words) >= 5 else set()
        )

    def similar(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> bool:
        return bool(one & other) and len(one & other) >= similarity * len(one | other)

    training, validation = split_validation(dataset(texts, [0] * len(texts)), 0.3, 0, similarity)
    held = [shingles(text) for text in validation.texts]
    rest = [text for text in texts if text not in validation.texts]
    left = [t for t in rest if not any(similar(shingles(t), other) for other in held)]
    assert training.texts == (left or rest)  # of a class of which nothing would be left, all stays


def test_marks_tell_words_of_some_scripts_apart() -> None:
    texts = ["\u0926\u093f\u0928", "\u0926\u0940\u0928", "\u0926\u093e\u0928"]  # day, poor, gift
    training, validation = split_validation(dataset(texts, [0, 0, 0]), 0.3)
    assert sorted([*training.texts, *validation.texts]) == sorted(texts)


@pytest.mark.parametrize("similarity", [0, 1.1, float("nan")])
def test_split_validation_needs_a_similarity(similarity: float) -> None:
    with pytest.raises(InputError, match="similarity"):
        split_validation(dataset(["a", "b"], [0, 0]), similarity=similarity)


def test_split_validation_needs_a_seed() -> None:
    with pytest.raises(InputError, match="seed -1 is negative"):
        split_validation(dataset(["a", "b"], [0, 0]), seed=-1)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_split_validation_needs_a_fraction(fraction: float) -> None:
    with pytest.raises(InputError, match="is not between 0 and 1"):
        split_validation(dataset(["a", "b"], [0, 0]), fraction)


def test_the_real_train_rows(agnews: Path) -> None:
    read = load_agnews("train", agnews)
    training, validation = split_validation(read)
    assert np.bincount(validation.labels).tolist() == [
        round(0.05 * count) for count in np.bincount(read.labels)
    ]
    seen = set(map(letters_and_digits, training.texts))
    assert not seen & set(map(letters_and_digits, validation.texts))
    assert len(training.texts) + len(validation.texts) <= 62957
