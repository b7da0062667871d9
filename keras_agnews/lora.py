"""Low-rank fine-tuning (LoRA, Hu et al. 2021, arXiv:2106.09685), by Keras's own mechanism.

The matrices of the encoder stay as they are; each dense kernel gets a product of two thin matrices
added, which is trained with the biases, the norms and the head. That happens in a copy of the
classifier, so that the classifier itself stays a plain model, into which the products are merged.
"""

from __future__ import annotations

import keras

from keras_agnews.classifier import TextClassifier
from keras_agnews.layers import weights_follow
from keras_agnews.recipes import Recipe, reduce_precision


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
        values = {variable.path: variable for variable in original.model.weights}
        for variable in self.classifier.model.weights:
            variable.assign(values[variable.path].value)
        encoder = self.classifier.encoder
        for variable in encoder.weights:
            variable.trainable = len(variable.shape) < 2
        if settings.mixed_precision:
            reduce_precision(self.classifier)
        self._dense: dict[str, keras.layers.Dense] = {}
        # Keras has no public way to walk the layers inside layers.
        for layer in encoder._flatten_layers():  # noqa: SLF001
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
        for variable in self._original.model.weights:
            variable.assign(values[variable.path])
