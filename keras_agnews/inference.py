"""The compiled forward pass of a Keras model, on the backend at hand.

`keras.Model.predict` is made for long loops over one shape: it looks for callbacks, concatenates
and is not safe in threads. This is the same computation as a plain function that is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

Inputs = dict[str, np.ndarray] | np.ndarray
Forward = Callable[[Inputs], np.ndarray]


def compile_forward(model: keras.Model) -> Forward:
    """A function from arrays, as the model's inputs, to its output, a float32 array.

    It always computes with the model's present weights, never in training mode, compiles once a
    shape where the backend compiles, and may be called from several threads.
    """
    return {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}[keras.backend.backend()](model)


def _jax(model: keras.Model) -> Forward:
    import jax

    @jax.jit
    def forward(trainable: list[Any], other: list[Any], inputs: Inputs) -> Any:
        return model.stateless_call(trainable, other, inputs, training=False)[0]

    def run(inputs: Inputs) -> np.ndarray:
        # The weights are arguments: a constant in the program would go stale after `fit`.
        trainable = [variable.value for variable in model.trainable_variables]
        other = [variable.value for variable in model.non_trainable_variables]
        return np.asarray(forward(trainable, other, inputs))

    return run


def _tensorflow(model: keras.Model) -> Forward:
    import tensorflow as tf

    # Traced once, for any shape; XLA then compiles each shape.
    signature = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), model.input)

    @tf.function(jit_compile=True, input_signature=[signature])
    def forward(inputs: Any) -> Any:
        return model(inputs, training=False)

    def run(inputs: Inputs) -> np.ndarray:
        return forward(tf.nest.map_structure(tf.constant, inputs)).numpy()

    return run


def _torch(model: keras.Model) -> Forward:
    import torch

    def run(inputs: Inputs) -> np.ndarray:
        with torch.inference_mode():
            return keras.ops.convert_to_numpy(model(inputs, training=False))

    return run
