"""The entry itself as Keras's lessons run it: every text padded to `max_length`, `predict`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.peers import Answer, Model


def load(model: Model) -> Callable[[Sequence[str]], Answer]:
    import keras_agnews
    from keras_agnews import batching
    from keras_agnews.classifier import softmax

    clf = keras_agnews.load(model.directory / "bundle")

    def predict(texts: Sequence[str]) -> Answer:
        ids = clf.tokenizer.batch(texts)
        matrix = batching.pad(ids, np.arange(len(texts)), len(texts), clf.max_length)
        inputs = {name: np.zeros_like(matrix) for name in clf.model.input}
        inputs["input_word_ids"] = matrix
        logits = clf.model.predict(inputs, batch_size=model.batch, verbose=0)
        return Answer(softmax(logits / clf.temperature), matrix.size)

    return predict
