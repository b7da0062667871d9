"""KerasHub's `BertTextClassifier` on strings, with its own tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.peers import Answer, Model
from keras_agnews import errors


def load(model: Model, length: int) -> Callable[[Sequence[str]], Answer]:
    """Padded to `length`; 512 is what its preprocessor does when it is not told."""
    models = errors.require("keras_hub", "keras-nlp", "to compare with KerasHub").models
    import keras

    if model.precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    classifier = models.BertTextClassifier.from_preset(str(model.directory / "keras_hub"))
    classifier.preprocessor.sequence_length = length

    def predict(texts: Sequence[str]) -> Answer:
        logits = classifier.predict(list(texts), batch_size=model.batch, verbose=0)
        scores = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
        return Answer(scores, len(texts) * length)

    return predict
