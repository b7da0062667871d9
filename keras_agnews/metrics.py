"""Accuracy, F1, the confusion matrix and the calibration of a classifier's answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_agnews.errors import InputError

_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True, eq=False)
class Scores:
    """How answers compare with the true labels; all fractions are in 0 to 1.

    Attributes:
        accuracy: fraction of the answers that are right.
        macro_f1: mean F1 over the classes that occur, be it as a label or as an answer.
        precision: float64 `(classes,)`, of the answers with that class; 0 where there are none.
        recall: float64 `(classes,)`, of the rows of that class; 0 where there are none.
        f1: float64 `(classes,)`, harmonic mean of the two; 0 where both are.
        confusion: int64 `(classes, classes)`, rows of true class i answered with class j.
    """

    accuracy: float
    macro_f1: float
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    confusion: np.ndarray

    def of_class(self, i: int) -> dict[str, float | None]:
        """Precision, recall and F1 of a class; `None` where there is nothing to take a share of."""
        labelled, answered = self.confusion[i].sum(), self.confusion[:, i].sum()
        return {
            "precision": float(self.precision[i]) if answered else None,
            "recall": float(self.recall[i]) if labelled else None,
            "f1": float(self.f1[i]) if labelled + answered else None,
        }


def scores(labels: Any, predicted: Any, classes: int) -> Scores:
    """Compare answers with the true labels.

    Args:
        labels: int `(n,)`, the true classes, each in `0..classes-1`.
        predicted: int `(n,)`, the answers.
        classes: number of classes.

    Raises: `InputError` for no rows, lengths that differ or a class out of range.
    """
    true, answers = np.asarray(labels), np.asarray(predicted)
    if true.ndim != 1 or true.shape != answers.shape or not len(true):
        raise InputError(
            f"labels {true.shape} and predicted {answers.shape} must be two lists of one length, "
            "at least 1"
        )
    _check_classes("labels", true, classes)
    _check_classes("predicted", answers, classes)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (true, answers), 1)
    right = confusion.diagonal()
    in_labels, in_answers = confusion.sum(axis=1), confusion.sum(axis=0)
    occurs = in_labels + in_answers > 0
    f1 = _fraction(2 * right, in_labels + in_answers)
    return Scores(
        accuracy=float(right.sum() / len(true)),
        macro_f1=float(f1[occurs].mean()),
        precision=_fraction(right, in_answers),
        recall=_fraction(right, in_labels),
        f1=f1,
        confusion=confusion,
    )


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often answers are right, by how sure they are: bins of equal width over 0 to 1.

    Attributes:
        edges: float64 `(bins + 1,)`; a bin has its upper edge and not its lower one.
        count: int64 `(bins,)`, answers whose score is in the bin.
        confidence: float64 `(bins,)`, their mean score; 0 where there are none.
        accuracy: float64 `(bins,)`, the fraction of them that is right; 0 where there are none.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: mean gap of confidence and accuracy over the answers."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float(gaps @ self.count / self.count.sum())


def reliability(probabilities: Any, labels: Any, bins: int = 15) -> Reliability:
    """The reliability diagram of Guo et al. 2017, arXiv:1706.04599, of the best class of each row.

    Args:
        probabilities: float `(n, classes)`, each row with a sum of 1.
        labels: int `(n,)`, the true classes.
        bins: their number.

    Raises: `InputError` for no rows, lengths that differ, a number that is not in 0 to 1 or a
        class out of range.
    """
    if type(bins) is not int or bins < 1:
        raise InputError(f"bins must be a positive integer, not {bins!r}")
    values, true = _paired(probabilities, labels)
    if values.min() < 0 or values.max() > 1 + 1e-6:
        raise InputError("probabilities must be from 0 to 1: pass predict(...), not logits")
    score = values.max(axis=1)
    right = values.argmax(axis=1) == true
    place = np.clip(np.ceil(score * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    confidence = np.bincount(place, score, minlength=bins)
    accuracy = np.bincount(place, right, minlength=bins)
    return Reliability(
        edges=np.linspace(0, 1, bins + 1),
        count=count,
        confidence=_fraction(confidence, count),
        accuracy=_fraction(accuracy, count),
    )


def calibration_error(probabilities: Any, labels: Any, bins: int = 15) -> float:
    """Expected calibration error, 0 to 1: `reliability(...).error`."""
    return reliability(probabilities, labels, bins).error


def fit_temperature(logits: Any, labels: Any) -> float:
    """The temperature by which to divide logits so that the scores are likeliest.

    It minimizes the mean cross-entropy (Guo et al. 2017), which is convex in the temperature's
    inverse: where its derivative is 0 is found by halving. Each label is taken for as sure as its
    rows make it, 1 in n and the classes of it given to all classes alike: without a doubt, a few
    rows that are all right would make every answer certain (the targets of Platt 1999).

    Args:
        logits: float `(n, classes)`.
        labels: int `(n,)`, the true classes.

    Returns: a number in 0.05 to 20, a border where the best lies beyond it.

    Raises: `InputError` for no rows, lengths that differ, a number that is not finite or a class
        out of range.
    """
    values, true = _paired(logits, labels)
    values = values - values.max(axis=1, keepdims=True)
    doubt = 1 / (len(true) + values.shape[1])
    own = (1 - doubt) * values[np.arange(len(true)), true] + doubt * values.mean(axis=1)

    def slope(inverse: float) -> float:
        weights = np.exp(inverse * values)
        mean = (weights * values).sum(axis=1) / weights.sum(axis=1)
        return float((mean - own).mean())

    low, high = 1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0]
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(1 / np.sqrt(low * high))


def _paired(values: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        rows, true = np.asarray(values, np.float64), np.asarray(labels)
    except (TypeError, ValueError) as error:  # strings, or rows of several lengths
        raise InputError(f"rows must be numbers, (n, classes), and labels (n,): {error}") from None
    if rows.ndim != 2 or true.shape != rows.shape[:1] or not len(true):
        raise InputError(f"{rows.shape} and labels {true.shape} must be (n, classes) and (n,)")
    if not np.isfinite(rows).all():
        raise InputError("a row has a value that is not finite")
    _check_classes("labels", true, rows.shape[1])
    return rows, true


def _check_classes(name: str, values: np.ndarray, classes: int) -> None:
    if values.dtype.kind not in "iu":
        raise InputError(f"{name} must be integers, each the number of a class, not {values.dtype}")
    bad = np.flatnonzero((values < 0) | (values >= classes))
    if len(bad):
        raise InputError(f"{name}[{bad[0]}] is {values[bad[0]]}, not in 0 to {classes - 1}")


def _fraction(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.maximum(whole, 1)
