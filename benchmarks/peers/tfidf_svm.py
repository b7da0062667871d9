"""Scikit-learn's TF-IDF of words and pairs of words, and a linear support vector machine.

Hard to beat for its cost; its scores are margins, not probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.peers import Answer, Model
from keras_agnews import data, errors


def load(model: Model) -> Callable[[Sequence[str]], Answer]:
    """Learns from the train split; what it draws hardly matters, since the problem is convex."""
    errors.require("sklearn", "bench", "to train an SVM")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    rows = data.load_agnews("train", model.data)
    classifier = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, dtype=np.float32),
        LinearSVC(C=0.3, random_state=model.seed),
    )
    classifier.fit(rows.texts, rows.labels)

    def predict(texts: Sequence[str]) -> Answer:
        margins = classifier.decision_function(texts)
        return Answer(np.asarray(margins, np.float32), probabilities=False)

    return predict
