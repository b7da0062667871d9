"""Low-rank fine-tuning (LoRA, Hu et al. 2021, arXiv:2106.09685), by Keras's own mechanism.

The matrices of the encoder stay as they are; each dense kernel gets a product of two thin matrices
added, which is trained with the biases, the norms and the head. That happens in a copy of the
classifier, so that the classifier itself stays a plain model, into which the products are merged.
"""

from __future__ import annotations

import keras
import numpy as np

from keras_agnews.classifier import TextClassifier
from keras_agnews.errors import InputError
from keras_agnews.inference import compute_in_bfloat16, nested_layers
from keras_agnews.layers import TransformerEncoder, weights_follow
from keras_agnews.recipes import Recipe


class LowRankCopy:
    """A copy of a classifier whose encoder is trained at a low rank.

    Attributes:
        classifier: the copy.
    """

    def __init__(self, original: TextClassifier, settings: Recipe) -> None:
        assert settings.delta_rank is not None
        if not isinstance(original.encoder, TransformerEncoder):
            raise InputError(
                f"{original.description.name} is no transformer, and recipe 'lora' adds to the "
                "dense kernels of one: train it by recipe='full'"
            )
        self._original = original
        with weights_follow():
            self.classifier = TextClassifier(original.description, original.tokenizer)
        _assign(self.classifier, original.arrays())
        encoder = self.classifier.encoder
        # What the user has frozen stays so.
        given = original.model.weights
        for variable, other in zip(self.classifier.model.weights, given, strict=True):
            variable.trainable = other.trainable
        dense = [x for x in nested_layers(encoder) if isinstance(x, keras.layers.Dense)]
        seeded = [x for x in enumerate(dense, settings.seed + 1) if x[1].kernel.trainable]
        for variable in encoder.weights:
            variable.trainable = variable.trainable and len(variable.shape) < 2
        if settings.mixed_precision:
            compute_in_bfloat16(self.classifier.model)
        for seed, layer in seeded:
            layer.enable_lora(settings.delta_rank, a_initializer=keras.initializers.HeUniform(seed))

    def merge(self) -> None:
        """Give the original the weights of the copy, kernels with what was added to them."""
        _assign(self._original, self.classifier.arrays())


def _assign(classifier: TextClassifier, values: dict[str, np.ndarray]) -> None:
    for variable in classifier.model.weights:
        # A copy: in a step of training, JAX takes the memory of what it replaces.
        variable.assign(np.array(values[variable.path]))
