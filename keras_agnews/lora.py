"""Low-rank fine-tuning (LoRA, Hu et al. 2021, arXiv:2106.09685), by Keras's own mechanism.

The matrices of the encoder stay as they are; each dense kernel gets a product of two thin matrices
added, which is trained with the biases, the norms and the head. That happens in a copy of the
classifier, so that the classifier itself stays a plain model, into which the products are merged.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_agnews.classifier import TextClassifier
from keras_agnews.inference import compute_in_bfloat16, nested_layers
from keras_agnews.layers import weights_follow
from keras_agnews.recipes import Recipe


class LowRankCopy:
    """A copy of a classifier whose encoder is trained at a low rank.

    Attributes:
        classifier: the copy.
    """

    def __init__(self, original: TextClassifier, settings: Recipe) -> None:
        assert settings.delta_rank is not None
        self._original = original
        with weights_follow():
            self.classifier = TextClassifier(original.description, original.tokenizer)
        _assign(self.classifier, {v.path: v.value for v in original.model.weights})
        encoder = self.classifier.encoder
        for variable in encoder.weights:
            variable.trainable = len(variable.shape) < 2
        if settings.mixed_precision:
            compute_in_bfloat16(self.classifier.model)
        self._dense: dict[str, keras.layers.Dense] = {}
        for layer in nested_layers(encoder):
            if isinstance(layer, keras.layers.Dense):
                self._dense[f"{layer.path}/kernel"] = layer
                seed = settings.seed + len(self._dense)
                layer.enable_lora(
                    settings.delta_rank, a_initializer=keras.initializers.HeUniform(seed)
                )

    def merge(self) -> None:
        """Give the original the weights of the copy, kernels with what was added to them."""
        values = {v.path: v.value for v in self.classifier.model.weights}
        values |= {path: layer.kernel for path, layer in self._dense.items()}
        _assign(self._original, values)


def _assign(classifier: TextClassifier, values: dict[str, Any]) -> None:
    for variable in classifier.model.weights:
        # A copy: in a step of training, JAX takes the memory of what it replaces.
        variable.assign(np.array(keras.ops.convert_to_numpy(values[variable.path])))
