"""A small model taught by a larger one: its soft answers, its embeddings, and near words by these.

Hinton et al. 2015, arXiv:1503.02531; the mixture of answer and label is theirs at temperature 1.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np

from keras_agnews import loading
from keras_agnews.batching import windows
from keras_agnews.classifier import TextClassifier
from keras_agnews.errors import InputError
from keras_agnews.recipes import Recipe, mixed_precision

# The token embeddings, as the transformers' encoders and the recurrent one name them.
EMBEDDINGS = ("encoder/embedding/tokens/embeddings", "encoder/embedding/embeddings")


class Teacher:
    """The classifiers that a recipe's `teacher` names, loaded when they are first needed.

    Raises: `InputError` at once for one that has other labels.

    Attributes:
        record: what a bundle's `recipe` says of them, as `records.teachers` reads it; `None`
            for none.
        marks: by what each one's answers are known: the sums of its weights and of its difference
            to a base, as its config has them, and its temperature.
    """

    def __init__(
        self,
        settings: Recipe,
        labels: Sequence[str],
        base: str | os.PathLike[str] | None = None,
    ) -> None:
        self._settings, self._labels, self._base = settings, labels, base
        taught: list[str | dict[str, Any]] = []
        self.marks: list[dict[str, Any]] = []
        for source in settings.teachers:
            description = loading.open_checkpoint(source).description
            if set(description.labels) != set(labels):
                raise InputError(
                    f"the teacher {source} has the labels {', '.join(description.labels)}, "
                    f"not {', '.join(labels)}"
                )
            pin = description.weights
            sums = [] if pin is None else [pin.sha256, pin.delta_sha256]
            self.marks.append({"sha256": sums, "temperature": description.temperature})
            taught.append(loading.recorded_as(source).written())
        self.record = taught or None

    @functools.cached_property
    def classifiers(self) -> list[TextClassifier]:
        """One a source; `InputError` for one that is untrained."""
        return [self._load(source) for source in self._settings.teachers]

    def _load(self, source: str) -> TextClassifier:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*new and untrained", UserWarning)
            try:
                return loading.load(source, base=self._base)
            except UserWarning as error:
                raise InputError(f"the teacher {source} cannot teach: {error}") from None

    def release(self) -> None:
        """Give their memory back."""
        self.__dict__.pop("classifiers", None)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """The mean of the teachers' answers, float32 `(n, classes)`, in the order of the labels."""
        answers = []
        for teacher in self.classifiers:
            with mixed_precision(teacher, self._settings):
                columns = [teacher.labels.index(label) for label in self._labels]
                answers.append(teacher.predict(texts)[:, columns])
        mean: np.ndarray = np.mean(answers, axis=0)
        return mean


def targets(answers: np.ndarray, labels: np.ndarray, weight: float) -> np.ndarray:
    """What a student of a teacher learns, float32 `(n, classes)`.

    Args:
        answers: the teacher's probabilities, `(n, classes)`.
        labels: int `(m,)` of the first m rows; the answers to the others stay as they are.
        weight: share of the answer where there is a label.
    """
    mixed = np.array(answers, np.float32)
    rows = np.arange(len(labels))
    mixed[rows] *= weight
    mixed[rows, labels] += 1 - weight
    return mixed


def start_embeddings(student: TextClassifier, teacher: TextClassifier) -> None:
    """Let the student's token embeddings begin as the teacher's.

    A token has the teacher's row of the same token, else the mean of the rows of its pieces; these
    are projected on their principal components, as many as the student is wide, and scaled to the
    standard deviation of the student's own initial rows. A token that the teacher does not know
    keeps its own.
    """
    mine, other = (_embeddings(classifier) for classifier in (student, teacher))
    own = keras.ops.convert_to_numpy(mine.value).astype(np.float64)
    wide = keras.ops.convert_to_numpy(other.value).astype(np.float64)
    if own.shape[1] > wide.shape[1]:
        raise InputError(
            f"teacher_embeddings: {teacher.description.name} has {wide.shape[1]} columns, fewer "
            f"than the {own.shape[1]} of {student.description.name}"
        )
    rows, known = _rows(student, teacher, wide)
    rows = rows[known] - rows[known].mean(axis=0)
    _, vectors = np.linalg.eigh(rows.T @ rows)
    projected = rows @ vectors[:, ::-1][:, : own.shape[1]]
    own[known] = projected * (own.std() / max(projected.std(), 1e-12))
    mine.assign(own.astype(np.float32))


_NEAR = 12
_SHORTEST = 3  # letters: of shorter words most are pieces of others


def near_words(teacher: TextClassifier, wanted: Collection[str]) -> dict[str, list[str]]:
    """Of each wanted word that its vocabulary has, the 12 nearest others, the nearest first.

    Words are tokens of three letters or more and nothing else, and near by the cosine of their
    embeddings, of which the mean is taken off first.
    """
    tokens = teacher.tokenizer.vocabulary
    rows = [i for i, t in enumerate(tokens) if t.isalpha() and len(t) >= _SHORTEST]
    words = [tokens[i] for i in rows]
    count = min(_NEAR, len(words) - 1)
    if count < 1:
        raise InputError(f"replacements: {teacher.description.name} has no words as tokens")
    table = keras.ops.convert_to_numpy(_embeddings(teacher).value)[rows].astype(np.float32)
    table -= table.mean(axis=0)
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    near: dict[str, list[str]] = {}
    asked = np.array([i for i, word in enumerate(words) if word in wanted], np.intp)
    for window in windows(len(asked), 256):
        own = asked[window]
        cosines = table[own] @ table.T
        cosines[np.arange(len(own)), own] = -np.inf
        top = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(cosines, top, axis=1), axis=1, kind="stable")
        for i, others in zip(own, np.take_along_axis(top, order, axis=1), strict=True):
            near[words[i]] = [words[j] for j in others]
    return near


def _embeddings(classifier: TextClassifier) -> keras.Variable:
    for variable in classifier.model.weights:
        if variable.path in EMBEDDINGS:
            return variable
    raise InputError(
        f"{classifier.description.name} has no token embeddings that teacher_embeddings or "
        f"replacements could use: no {' or '.join(EMBEDDINGS)}"
    )


def _rows(
    student: TextClassifier, teacher: TextClassifier, wide: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's row for each token of the student, and for which there is one."""
    tokens, tokenizer = student.tokenizer.vocabulary, teacher.tokenizer
    index = {token: i for i, token in enumerate(tokenizer.vocabulary)}
    unknown = tokenizer.unknown_id
    edge = tokenizer.special_tokens // 2  # one of them before the pieces, one behind
    ids = tokenizer.batch(list(tokens))
    rows, known = np.zeros((len(tokens), wide.shape[1])), np.zeros(len(tokens), bool)
    for i, token in enumerate(tokens):
        start = ids.starts[i]
        pieces = ids.values[start + edge : start + ids.lengths[i] - edge].tolist()
        same = index.get(token)
        found = [same] if same is not None else [p for p in pieces if p != unknown]
        if found:
            rows[i], known[i] = wide[found].mean(axis=0), True
    return rows, known
