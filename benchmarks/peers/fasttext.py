"""fastText with pairs of words, set as for AG News in its paper (Joulin et al. 2016).

10 hidden units, 5 epochs, ten million buckets for the pairs: arXiv:1607.01759; learning rate 0.25
for AG News: the script of its authors.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers import Answer, Model
from keras_agnews import data, errors


def load(model: Model) -> Callable[[Sequence[str]], Answer]:
    """Learns from the train split, in one thread, so that a seed gives one model."""
    fasttext = errors.require("fasttext", "bench", "to train fastText")
    rows = data.load_agnews("train", model.data)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "train.txt"
        lines = zip(rows.labels, map(_words, rows.texts), strict=True)
        file.write_text("".join(f"__label__{i} {text}\n" for i, text in lines), encoding="utf-8")
        network = fasttext.train_supervised(
            str(file),
            dim=10,
            epoch=5,
            lr=0.25,
            wordNgrams=2,
            bucket=10_000_000,
            thread=1,
            seed=model.seed + 1,  # its generator takes 0 for 1
            verbose=0,
        )
    classes = len(rows.label_names)

    def predict(texts: Sequence[str]) -> Answer:
        # A list, since for one text it makes an array in a way that NumPy 2 refuses; and the first
        # label alone, since of a list it gives the first one's score to the others too.
        labels, best = network.predict([_words(text) for text in texts], k=1)
        columns = [int(name.removeprefix("__label__")) for (name,) in labels]
        score = np.minimum(np.asarray(best, np.float32).reshape(-1, 1), 1)
        found = np.repeat((1 - score) / (classes - 1), classes, axis=1)
        found[np.arange(len(texts)), columns] = score[:, 0]
        return Answer(found)

    return predict


def _words(text: str) -> str:
    """As the paper's script: lower case, and signs that stand apart."""
    return " ".join(re.findall(r"\w+|[^\w\s]", text.lower()))
