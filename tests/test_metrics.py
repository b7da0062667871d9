"""Scores against hand-computed values and scikit-learn, calibration against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_agnews.errors import InputError
from keras_agnews.metrics import calibration_error, fit_temperature, reliability, scores

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
        ([0.0, 1.0], [0, 1], "labels must be integers"),
    ],
)
def test_bad_input_is_named(labels, answers, names):
    with pytest.raises(InputError, match=names):
        scores(labels, answers, 3)


def test_a_class_that_is_never_answered_has_no_precision():
    result = scores([0, 1, 2], [0, 0, 0], 4)
    assert result.of_class(1) == {"precision": None, "recall": 0.0, "f1": 0.0}
    assert result.of_class(0) == pytest.approx({"precision": 1 / 3, "recall": 1.0, "f1": 0.5})
    assert result.of_class(3) == {"precision": None, "recall": None, "f1": None}


# --- calibration


def test_reliability_by_hand():
    sure = [[0.9, 0.1], [0.2, 0.8], [0.85, 0.15], [0.5, 0.5]]
    result = reliability(sure, [0, 0, 0, 1], bins=5)
    # 0.9, 0.8 (which is in the fourth bin, whose upper edge it is), 0.85 and 0.5
    assert result.edges.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert result.count.tolist() == [0, 0, 1, 1, 2]
    assert result.confidence.tolist() == pytest.approx([0, 0, 0.5, 0.8, 0.875])
    assert result.accuracy.tolist() == [0, 0, 0, 0, 1]
    error = (0.5 + 0.8 + 2 * 0.125) / 4
    assert result.error == pytest.approx(error)
    assert calibration_error(sure, [0, 0, 0, 1], bins=5) == pytest.approx(error)


@given(
    rows=st.lists(
        st.tuples(st.lists(st.integers(1, 99), min_size=3, max_size=3), st.integers(0, 2)),
        min_size=1,
        max_size=40,
    ),
    bins=st.integers(1, 20),
)
def test_calibration_error_is_its_definition(rows, bins):
    """Row by row and bin by bin, as the paper writes it."""
    probabilities = np.array([np.array(row) / sum(row) for row, _ in rows])
    labels = [label for _, label in rows]
    expected = 0.0
    for b in range(bins):
        inside = [
            (max(row), int(np.argmax(row) == label))
            for row, label in zip(probabilities.tolist(), labels, strict=True)
            if b < max(row) * bins <= b + 1
        ]
        if inside:
            score, right = np.mean(inside, axis=0)
            expected += len(inside) / len(rows) * abs(score - right)
    assert calibration_error(probabilities, labels, bins) == pytest.approx(expected)
    assert reliability(probabilities, labels, bins).count.sum() == len(rows)


@pytest.mark.parametrize(
    ("probabilities", "labels", "names"),
    [
        ([], [], r"must be \(n, classes\)"),
        ([[0.5, 0.5]], [0, 1], r"\(2,\)"),
        ([[3.0, -1.0]], [0], "not logits"),
        ([[np.nan, 1.0]], [0], "not finite"),
        ([[0.5, 0.5]], [2], r"labels\[0\] is 2, not in 0 to 1"),
        ([[0.5, 0.5]], [-1], r"labels\[0\] is -1"),
        ([[0.5, 0.5]], ["World"], "labels must be integers"),
        ([["half", "half"]], [0], "rows must be numbers"),
        ([[0.5, 0.5], [1.0]], [0, 0], "rows must be numbers"),
    ],
)
def test_what_is_no_probability_is_named(probabilities, labels, names):
    with pytest.raises(InputError, match=names):
        reliability(probabilities, labels)


@pytest.mark.parametrize("bins", [0, -1, 1.5, True, None])
def test_bins_are_a_number_of_them(bins):
    with pytest.raises(InputError, match="bins must be a positive integer"):
        calibration_error([[0.5, 0.5]], [0], bins)


def drawn(rng, count, classes, sharpness):
    """Logits, and labels drawn with the probabilities that the logits divided by 1 give."""
    logits = rng.normal(size=(count, classes)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(classes, p=row) for row in probabilities])
    return logits * sharpness, labels


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 5.0])
def test_temperature_is_where_the_loss_is_least(sharpness):
    logits, labels = drawn(np.random.default_rng(3), 2_000, 4, sharpness)

    def loss(temperature):
        scaled = logits / temperature
        own = scaled[np.arange(len(labels)), labels]
        return np.mean(np.log(np.exp(scaled).sum(axis=1)) - own)

    found = fit_temperature(logits, labels)
    grid = np.geomspace(0.1, 10, 2_001)
    assert found == pytest.approx(grid[np.argmin([loss(t) for t in grid])], rel=2e-3)
    assert found == pytest.approx(sharpness, rel=0.1), "that which the labels were drawn at"
    probabilities = np.exp(logits / found)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert calibration_error(probabilities, labels) < 0.03


def test_temperature_has_bounds_and_wants_finite_logits():
    sure = [[9e4, 0.0], [0.0, 9e4]]
    assert fit_temperature([[0.01, 0.0], [0.0, 0.01]], [0, 1]) == pytest.approx(0.05)
    assert fit_temperature(sure, [0, 1]) == pytest.approx(20)
    assert fit_temperature([[9.0, 0.0], [0.0, 9.0]], [1, 0]) == pytest.approx(20)
    assert fit_temperature([[9e4, 0.0], [0.0, 9e4]], [1, 0]) == pytest.approx(20), "no overflow"
    # Two rows that are right are no proof of certainty: five sixths, less what both may be.
    found = fit_temperature([[9.0, 0.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.0]], [0, 1])
    score = 1 / (1 + 3 * np.exp(-9 / found))
    assert score == pytest.approx(5 / 6 + 1 / 6 / 4, abs=1e-6)
    wrong = (([[np.nan, 1.0]], [0]), ([[1.0, 2.0]], [0, 1]), ([1.0], [0]), ([[1.0, 2.0]], [-1]))
    for logits, labels in wrong:
        with pytest.raises(InputError):
            fit_temperature(logits, labels)
