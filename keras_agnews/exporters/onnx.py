"""A classifier as an ONNX graph, written from its weights: any backend, any batch and length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_agnews import __version__
from keras_agnews.bundle import Bundle
from keras_agnews.configs import GruConfig, TransformerConfig
from keras_agnews.errors import InputError, require
from keras_agnews.models import built_here

OPSET = 20  # the first that has Gelu
# Our activation: the operation and its attributes; there is none for "silu".
_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "gelu": ("Gelu", {"approximate": "none"}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
    "tanh": ("Tanh", {}),
}


def write(
    path: Path, description: Bundle, arrays: Mapping[str, np.ndarray], every_token: bool = False
) -> None:
    """Write the network to `path`, as `TextClassifier.export` says.

    Args:
        path: a file.
        description: of the classifier.
        arrays: every variable, float32, by name.
        every_token: whether the last block is computed for all tokens where the head sees the
            first one alone, as in the graphs that other exporters make.

    Raises:
        InputError: the architecture is a third party's.
        MissingDependencyError: onnx is not installed.
    """
    onnx = require("onnx", "onnx", "to write an ONNX model")
    config = description.config
    network = next((_NETWORKS[kind] for kind in _NETWORKS if isinstance(config, kind)), None)
    if network is None or not built_here(description):
        raise InputError(
            f"{description.name} is built by {description.builder!r}, which is not known here: of "
            "architectures, transformer, bert and gru can be written as ONNX"
        )
    graph = _Graph(onnx, arrays)
    types = getattr(config, "type_vocabulary_size", 0)
    inputs = ["input_word_ids"] + ["input_type_ids"] * bool(types)
    logits = network(graph, config, every_token)
    graph.node("Identity", [logits], output="logits")
    scaled = graph.node("Div", [logits, graph.constant(np.float32(description.temperature))])
    graph.node("Softmax", [scaled], output="scores", axis=-1)
    helper, kinds = onnx.helper, onnx.TensorProto
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "keras_agnews",
            [
                helper.make_tensor_value_info(name, kinds.INT32, ["batch", "length"])
                for name in inputs
            ],
            [
                helper.make_tensor_value_info(name, kinds.FLOAT, ["batch", len(description.labels)])
                for name in ("logits", "scores")
            ],
            graph.tensors,
        ),
        producer_name="keras_agnews",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,  # that of the opset's own release: older runtimes read no newer one
    )
    helper.set_model_props(
        model, {"labels": "\n".join(description.labels), "max_length": str(description.max_length)}
    )
    onnx.checker.check_model(model)
    onnx.save_model(model, str(path))


class _Graph:
    """Nodes and tensors, in the order of the computation."""

    def __init__(self, onnx: Any, arrays: Mapping[str, np.ndarray]) -> None:
        self._onnx, self._arrays = onnx, arrays
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self._known: set[str] = set()

    def node(
        self, kind: str, inputs: list[str], output: str = "", *more: str, **attributes: Any
    ) -> str:
        """Add an operation; returns the name of its (first) output."""
        output = output or f"{kind}_{len(self.nodes)}"
        outputs = [output, *more]
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, outputs, **attributes))
        return output

    def weight(self, name: str) -> str:
        """A variable of the model."""
        return self.tensor(name, self._arrays[name])

    def array(self, name: str) -> np.ndarray:
        """The value of a variable."""
        return self._arrays[name]

    def tensor(self, name: str, value: np.ndarray) -> str:
        """A float32 array under a name of its own."""
        return self._tensor(name, np.ascontiguousarray(value, np.float32))

    def constant(self, value: Any) -> str:
        """A number or a list of them."""
        array = np.asarray(value)
        return self._tensor(f"{array.dtype}_{array.tolist()}", array)

    def _tensor(self, name: str, value: np.ndarray) -> str:
        if name not in self._known:
            self._known.add(name)
            self.tensors.append(self._onnx.numpy_helper.from_array(value, name))
        return name

    def dense(self, hidden: str, name: str) -> str:
        product = self.node("MatMul", [hidden, self.weight(f"{name}/kernel")])
        return self.node("Add", [product, self.weight(f"{name}/bias")])

    def norm(self, hidden: str, name: str, epsilon: float) -> str:
        inputs = [hidden, self.weight(f"{name}/gamma"), self.weight(f"{name}/beta")]
        return self.node("LayerNormalization", inputs, axis=-1, epsilon=epsilon)


def _transformer(g: _Graph, config: TransformerConfig, every_token: bool) -> str:
    """The computation of `layers.TransformerEncoder` and of the head; returns the logits."""
    ids = "input_word_ids"
    mask = g.node("Not", [g.node("Equal", [ids, g.constant(np.int32(0))])])
    numbers = g.node("Cast", [mask], to=1)
    count = g.node("ReduceSum", [numbers, g.constant(np.array([1]))], keepdims=1)
    nothing = g.node("Equal", [count, g.constant(np.float32(0))])
    attend = g.node("Or", [mask, nothing])  # a text without tokens attends to its padding
    attend = g.node("Unsqueeze", [attend, g.constant(np.array([1, 2]))])
    zero, far = g.constant(np.float32(0)), g.constant(np.float32(-1e9))
    bias = g.node("Where", [attend, zero, far])

    embedding = "encoder/embedding"
    hidden = g.node("Gather", [g.weight(f"{embedding}/tokens/embeddings"), ids])
    length = g.node("Shape", [ids], start=1, end=2)
    slices = [g.weight(f"{embedding}/positions"), g.constant(np.array([0])), length]
    hidden = g.node("Add", [hidden, g.node("Slice", slices)])
    if config.type_vocabulary_size:
        types = g.node("Gather", [g.weight(f"{embedding}/types"), "input_type_ids"])
        hidden = g.node("Add", [hidden, types])
    if config.embedding_norm:
        hidden = g.norm(hidden, f"{embedding}/norm", config.epsilon)
    for i in range(config.layers):
        asking = hidden
        if i == config.layers - 1 and config.pooling == "first" and not every_token:
            starts, ends, axes = (g.constant(np.array([n])) for n in (0, 1, 1))
            asking = g.node("Slice", [hidden, starts, ends, axes])
        hidden = _block(g, config, asking, hidden, bias, f"encoder/block_{i}")

    if config.pooling == "first":
        hidden = g.node("Gather", [hidden, g.constant(np.int64(0))], axis=1)
        if config.pooler:
            hidden = g.node("Tanh", [g.dense(hidden, "encoder/pooler")])
    else:
        weights = g.node("Unsqueeze", [numbers, g.constant(np.array([2]))])
        total = g.node(
            "ReduceSum",
            [g.node("Mul", [hidden, weights]), g.constant(np.array([1]))],
            keepdims=0,
        )
        hidden = g.node("Div", [total, g.node("Max", [count, g.constant(np.float32(1))])])
    if config.head_size:
        hidden = g.node("Relu", [g.dense(hidden, "head_hidden")])
    return g.dense(hidden, "logits")


def _block(
    g: _Graph, config: TransformerConfig, asking: str, hidden: str, bias: str, name: str
) -> str:
    """A block's outputs for the tokens `asking`, which attend to all of `hidden`."""
    heads, width = config.heads, config.head_width

    def split(role: str, order: list[int]) -> str:
        tokens = asking if role == "query" else hidden
        projected = g.dense(tokens, f"{name}/attention/{role}")
        shape = g.constant(np.array([0, 0, heads, width]))
        return g.node("Transpose", [g.node("Reshape", [projected, shape])], perm=order)

    query, key = split("query", [0, 2, 1, 3]), split("key", [0, 2, 3, 1])
    scores = g.node("Mul", [g.node("MatMul", [query, key]), g.constant(np.float32(width**-0.5))])
    weights = g.node("Softmax", [g.node("Add", [scores, bias])], axis=-1)
    context = g.node("MatMul", [weights, split("value", [0, 2, 1, 3])])
    context = g.node("Transpose", [context], perm=[0, 2, 1, 3])
    context = g.node("Reshape", [context, g.constant(np.array([0, 0, heads * width]))])
    change = g.dense(context, f"{name}/attention/output")
    hidden = g.norm(g.node("Add", [asking, change]), f"{name}/attention_norm", config.epsilon)
    change = g.dense(hidden, f"{name}/feed_forward")
    if config.activation == "silu":
        change = g.node("Mul", [change, g.node("Sigmoid", [change])])
    else:
        kind, attributes = _ACTIVATIONS[config.activation]
        change = g.node(kind, [change], **attributes)
    change = g.dense(change, f"{name}/feed_forward_output")
    return g.norm(g.node("Add", [hidden, change]), f"{name}/feed_forward_norm", config.epsilon)


def _gru(g: _Graph, config: GruConfig, every_token: bool) -> str:
    """The computation of `layers.GruEncoder` and of the head; returns the logits."""
    ids, units = "input_word_ids", config.hidden_size // 2
    padding = g.constant(np.int32(0))
    # ONNX's GRU knows a length and no mask: tokens come first, in their order, wherever the padding
    # was. Of equal ones its TopK takes the first first.
    tokens = g.node("Cast", [g.node("Not", [g.node("Equal", [ids, padding])])], to=1)
    length = g.node("Shape", [ids], start=1, end=2)
    g.node("TopK", [tokens, length], "tokens first", "places", axis=1)
    ids = g.node("GatherElements", [ids, "places"], axis=1)
    mask = g.node("Not", [g.node("Equal", [ids, padding])])
    numbers = g.node("Cast", [mask], to=1)
    count = g.node("ReduceSum", [numbers, g.constant(np.array([1]))], keepdims=0)
    # A text without tokens is read as one that has one, whose weight is then 0.
    lengths = g.node("Cast", [g.node("Max", [count, g.constant(np.float32(1))])], to=6)
    hidden = g.node("Gather", [g.weight("encoder/embedding/embeddings"), ids])
    hidden = g.node("Transpose", [hidden], perm=[1, 0, 2])
    for i in range(config.layers):
        cells = [f"encoder/gru_{i}/{way}_gru/gru_cell" for way in ("forward", "backward")]

        def both(name: str, cells: list[str] = cells) -> str:
            values = [g.array(f"{cell}/{name}") for cell in cells]
            values = [value.ravel() if name == "bias" else value.T for value in values]
            return g.tensor(f"{cells[0]} and backward/{name}", np.stack(values))

        # Its gates have Keras's order, and its reset gate comes after the product as well.
        inputs = [hidden, both("kernel"), both("recurrent_kernel"), both("bias"), lengths]
        attributes: dict[str, Any] = {
            "hidden_size": units,
            "direction": "bidirectional",
            "linear_before_reset": 1,
        }
        hidden = g.node("Transpose", [g.node("GRU", inputs, **attributes)], perm=[0, 2, 1, 3])
        hidden = g.node("Reshape", [hidden, g.constant(np.array([0, 0, 2 * units]))])
    hidden = g.node("Transpose", [hidden], perm=[1, 0, 2])
    energies = g.node("Tanh", [g.dense(hidden, "encoder/attention/states")])
    score = g.tensor("encoder/attention/score", g.array("encoder/attention/score")[:, None])
    scores = g.node("MatMul", [energies, score])
    last = g.constant(np.array([2]))
    far = g.node("Where", [mask, g.constant(np.float32(0)), g.constant(np.float32(-1e9))])
    scores = g.node("Add", [scores, g.node("Unsqueeze", [far, last])])
    weights = g.node("Softmax", [scores], axis=1)
    weights = g.node("Mul", [weights, g.node("Unsqueeze", [numbers, last])])
    weighed = g.node("Mul", [hidden, weights])
    pooled = g.node("ReduceSum", [weighed, g.constant(np.array([1]))], keepdims=0)
    return g.dense(pooled, "logits")


_NETWORKS: dict[type[Any], Callable[[_Graph, Any, bool], str]] = {
    TransformerConfig: _transformer,
    GruConfig: _gru,
}
