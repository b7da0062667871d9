"""Scores against hand-computed values and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_agnews.errors import InputError
from keras_agnews.metrics import scores

# Pairs (label, answer) and how many classes there are, some of which may not occur.
CASES = st.integers(1, 6).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(
            st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)),
            min_size=1,
            max_size=60,
        ),
    )
)


def test_by_hand():
    result = scores([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 1], 4)
    assert result.confusion.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert result.accuracy == 3 / 6
    assert result.precision.tolist() == [2 / 3, 1 / 3, 0, 0]
    assert result.recall.tolist() == [2 / 3, 1 / 2, 0, 0]
    assert result.f1.tolist() == pytest.approx([2 / 3, 2 / 5, 0, 0])
    assert result.macro_f1 == pytest.approx((2 / 3 + 2 / 5 + 0) / 3)  # the fourth never occurs


@pytest.fixture(scope="module")
def oracle():
    return pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")


@given(case=CASES)
def test_agrees_with_scikit_learn(oracle, case):
    classes, pairs = case
    labels, answers = map(list, zip(*pairs, strict=True))
    result = scores(labels, answers, classes)
    every = list(range(classes))
    precision, recall, f1, _ = oracle.precision_recall_fscore_support(
        labels, answers, labels=every, zero_division=0
    )
    np.testing.assert_allclose(result.precision, precision)
    np.testing.assert_allclose(result.recall, recall)
    np.testing.assert_allclose(result.f1, f1)
    confusion = oracle.confusion_matrix(labels, answers, labels=every)
    np.testing.assert_array_equal(result.confusion, confusion)
    assert result.accuracy == pytest.approx(oracle.accuracy_score(labels, answers))
    macro_f1 = oracle.f1_score(labels, answers, average="macro", zero_division=0)
    assert result.macro_f1 == pytest.approx(macro_f1)


@pytest.mark.parametrize(
    ("labels", "answers", "names"),
    [
        ([], [], "at least 1"),
        ([0, 1], [0], r"\(2,\)"),
        ([0, 3], [0, 1], r"labels\[1\] is 3"),
        ([0, 1], [0, -1], r"predicted\[1\] is -1"),
    ],
)
def test_bad_input_is_named(labels, answers, names):
    with pytest.raises(InputError, match=names):
        scores(labels, answers, 3)
