"""The TF-Hub pair, preprocessor and encoder, as two SavedModels in one TensorFlow function.

They come from `KERAS_AGNEWS_REFERENCE`/tfhub and get the entry's weights, by the importer's table
read the other way. Their GELU is the one by tanh.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import Answer, Model
from keras_agnews import bundle, errors
from keras_agnews.importers.tfhub import ROWS

LENGTH = 128  # what the preprocessor pads to when it is not told


def load(model: Model) -> Callable[[Sequence[str]], Answer]:
    hub = errors.require("tensorflow_hub", "tfhub", "to run a TF-Hub SavedModel")
    errors.require("tensorflow_text", "tensorflow", "to run the TF-Hub preprocessor")
    import tensorflow as tf

    description = bundle.read(model.directory / "bundle")
    config = description.config
    root = os.environ.get("KERAS_AGNEWS_REFERENCE")
    name = f"bert_en_uncased_L-{config.layers}_H-{config.hidden_size}_A-{config.heads}"
    encoder_path = Path(root or ".") / "tfhub" / name
    preprocess_path = encoder_path.with_name("bert_en_uncased_preprocess")
    for path in (encoder_path, preprocess_path):
        if root is None or not path.is_dir():
            raise ImportError(
                f"there is no {path.name}: set KERAS_AGNEWS_REFERENCE to a directory whose tfhub/ "
                "has the two SavedModels"
            )
    preprocess, encoder = hub.load(str(preprocess_path)), hub.load(str(encoder_path))
    assert description.weights is not None
    file = model.directory / "bundle" / description.weights.file
    arrays = dict(bundle.read_weights(file, description.variables()))
    _assign(encoder, arrays, config.layers)
    kernel, bias = (tf.constant(arrays[f"logits/{part}"]) for part in ("kernel", "bias"))
    temperature = description.temperature

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def run(texts: tf.Tensor) -> tf.Tensor:
        pooled = encoder(preprocess(texts))["pooled_output"]
        return tf.nn.softmax((pooled @ kernel + bias) / temperature)

    def predict(texts: Sequence[str]) -> Answer:
        parts = [
            run(tf.constant(list(texts[start : start + model.batch]))).numpy()
            for start in range(0, len(texts), model.batch)
        ]
        return Answer(np.concatenate(parts), len(texts) * LENGTH)

    return predict


def _assign(encoder: Any, arrays: Mapping[str, np.ndarray], layers: int) -> None:
    ours = {theirs.format(i=i): name.format(i=i) for theirs, _, name in ROWS for i in range(layers)}
    for variable in encoder.variables:
        name = variable.name.removesuffix(":0")
        if name in ours:
            variable.assign(arrays[ours.pop(name)].reshape(variable.shape))
    if ours:
        raise errors.BundleError(f"the SavedModel has no variable {min(ours)}")
