"""The compiled forward pass of a Keras model, on the backend at hand.

`keras.Model.predict` is made for long loops over one shape: it looks for callbacks, concatenates
and is not safe in threads. This is the same computation as a plain function that is.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from keras_agnews.errors import InputError

Inputs = dict[str, np.ndarray] | np.ndarray
Forward = Callable[[Inputs], np.ndarray]


def compile_forward(model: keras.Model) -> Forward:
    """A function from arrays, as the model's inputs, to its output, in the output's own type.

    It always computes with the model's present weights and in its present precision, never in
    training mode, compiles once a shape where the backend compiles, and may be called from
    several threads.

    What PyTorch and TensorFlow keep of a program they do not give back with the model: 7 to 19 MB
    and 8 to 28 MB of a process for each model of the zoo's small ones that has answered, so load a
    model once.
    """
    # Of one state alone: a program of an earlier one may hold weights that are no longer wanted.
    compiled: tuple[Any, Forward] | None = None
    lock = threading.Lock()
    backend = keras.backend.backend()
    compilers = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}
    if backend not in compilers:
        raise InputError(
            f"Keras computes on {backend!r} here, and this package on {', '.join(compilers)}: set "
            "the environment variable KERAS_BACKEND to one of them before Keras is imported"
        )
    compile_ = compilers[backend]

    def run(inputs: Inputs) -> np.ndarray:
        nonlocal compiled
        # What a compiled program has built in, and a user or `finetune` may have changed.
        key = tuple(
            (layer.dtype_policy.name, getattr(layer, "lora_enabled", False))
            for layer in nested_layers(model)
        )
        with lock:
            if compiled is None or compiled[0] != key:
                compiled = None
                compiled = key, compile_(model)
            forward = compiled[1]
        return forward(inputs)

    return run


def nested_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers of a model, or of a layer, and those inside them."""
    # Keras has no public way to walk the layers inside layers.
    return list(model._flatten_layers(include_self=False))  # noqa: SLF001


def set_trainable(flags: Iterable[tuple[keras.layers.Layer, bool]]) -> None:
    """Set what each layer has been to be, those that hold others before these."""
    for layer, flag in flags:
        layer.trainable = flag  # of the layers inside too, which come later


def compute_in_bfloat16(model: keras.Model) -> None:
    """Let a classifier compute in bfloat16; its weights and its logits stay float32."""
    for layer in nested_layers(model):
        if layer.name != "logits":
            layer.dtype_policy = "mixed_bfloat16"


def precision(model: keras.Model) -> str | None:
    """The policy of a classifier's layers but the logits'; `None` where they have several."""
    names = {x.dtype_policy.name for x in nested_layers(model) if x.name != "logits"}
    return names.pop() if len(names) == 1 else None


def computes_in_bfloat16(model: keras.Model) -> bool:
    """Whether `compute_in_bfloat16` has been called on a classifier."""
    return any(x.dtype_policy.name == "mixed_bfloat16" for x in nested_layers(model))


def with_values(layer: keras.layers.Layer, values: list[Any]) -> Any:
    """A context in which the variables of a layer, as `layer.variables`, have these values.

    `stateless_call` takes two lists, trainable and not: a program compiled from these would take
    one weight for another once a layer is frozen.
    """
    return keras.StatelessScope(list(zip(layer.variables, values, strict=True)))


def _jax(model: keras.Model) -> Forward:
    import jax

    @jax.jit
    def forward(values: list[Any], inputs: Inputs) -> Any:
        with with_values(model, values):
            return model(inputs, training=False)

    def run(inputs: Inputs) -> np.ndarray:
        # The weights are arguments: a constant in the program would go stale after `fit`.
        return np.asarray(forward([variable.value for variable in model.variables], inputs))

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

    def eager(inputs: Any) -> Any:
        with torch.inference_mode():
            return model(inputs, training=False)

    forward = _traced(model, eager) or eager
    # A model may hold its weights on a GPU; Keras's own conversion puts inputs there.
    return lambda inputs: keras.ops.convert_to_numpy(forward(_torch_tensors(inputs)))


def _torch_tensors(inputs: Inputs) -> Any:
    return keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)


def _traced(model: keras.Model, eager: Callable[[Any], Any]) -> Callable[[Any], Any] | None:
    """The same computation without Keras around every operation; `None` where there is none.

    Keras takes 7 ms to walk through the four blocks of small-bert-L4, whatever the batch; the
    operations that PyTorch has recorded take 0.6. A record holds for any batch and length only if
    no Python loop ran over them, as in Keras's RNNs: it is tried on other shapes than its own.
    """
    import torch

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: Any) -> Any:
            return self.model(inputs, training=False)

    def example(rows: int, length: int) -> Any:
        def ones(x: Any) -> np.ndarray:
            free = iter((rows, length))
            return np.ones([next(free) if size is None else size for size in x.shape], x.dtype)

        inputs = keras.tree.map_structure(ones, model.input)
        if isinstance(inputs, dict):
            inputs["input_word_ids"][0, 1:] = 0  # a padded row
            if "input_type_ids" in inputs:
                inputs["input_type_ids"][:] = 0
        return _torch_tensors(inputs)

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of constants, which the trial finds out about
        try:
            traced = torch.jit.trace(Module(), (example(2, 3),), check_trace=False)
            for shape in ((3, 7), (4, 5)):
                inputs = example(*shape)
                # As it was recorded: what PyTorch fuses on a GPU is rounded to bfloat16 less often.
                with torch.jit.optimized_execution(False):
                    answer = traced(inputs)
                torch.testing.assert_close(answer, eager(inputs), rtol=1e-3, atol=1e-4)
        except Exception:  # whatever a third party's layers or a PyTorch without it may raise
            return None

    def run(inputs: Any) -> Any:
        with torch.inference_mode():
            return traced(inputs)

    return run
