"""ONNX Runtime on a graph as exporters of transformers make it, or as ours does.

Ours leaves out what no answer needs of the last block. Token ids come from the Hugging Face
tokenizer beside the graph, or from ours where it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.peers import Answer, Model
from keras_agnews import bundle, errors


def load(
    model: Model, by_length: bool = False, int8: bool = False, graph: str = "model.onnx"
) -> Callable[[Sequence[str]], Answer]:
    """`by_length` sorts the texts first; `int8` quantizes the weights, and inputs as they come."""
    runtime = errors.require("onnxruntime", "bench", "to compare with ONNX Runtime")
    file = model.directory / graph
    if int8:
        quantization = errors.require("onnxruntime.quantization", "bench", "to quantize a graph")
        quantized = file.with_name("model-int8.onnx")
        quantization.quantize_dynamic(file, quantized)
        file = quantized
    wanted = "CUDAExecutionProvider" if model.gpu else "CPUExecutionProvider"
    if wanted not in runtime.get_available_providers():
        raise errors.MissingDependencyError(f"onnxruntime has no {wanted}: onnxruntime-gpu has it")
    session = runtime.InferenceSession(file, providers=[wanted])
    if wanted not in session.get_providers():  # it goes on without a provider that fails to load
        raise errors.MissingDependencyError(f"onnxruntime cannot use its {wanted} here")
    names = [value.name for value in session.get_inputs()]
    tokenize = _tokenizer(model)

    def predict(texts: Sequence[str]) -> Answer:
        rows = tokenize(texts)
        order = list(range(len(rows)))
        if by_length:
            order.sort(key=lambda i: -len(rows[i]))
        scores, positions = None, 0
        for start in range(0, len(order), model.batch):
            chosen = order[start : start + model.batch]
            longest = max(1, *(len(rows[i]) for i in chosen))
            ids = np.zeros((len(chosen), longest), np.int32)
            for row, i in zip(ids, chosen, strict=True):
                row[: len(rows[i])] = rows[i]
            positions += ids.size
            inputs = {name: np.zeros_like(ids) for name in names} | {"input_word_ids": ids}
            (answer,) = session.run(["scores"], inputs)
            if scores is None:
                scores = np.empty((len(texts), answer.shape[1]), np.float32)
            scores[chosen] = answer
        return Answer(scores, positions)

    return predict


def _tokenizer(model: Model) -> Callable[[Sequence[str]], Sequence[Sequence[int]]]:
    file = model.directory / "tokenizer.json"
    if file.exists():
        import tokenizers

        theirs = tokenizers.Tokenizer.from_file(str(file))
        theirs.no_padding()
        return lambda texts: [found.ids for found in theirs.encode_batch(list(texts))]
    description = bundle.read(model.directory / "bundle")
    ours = bundle.read_tokenizer(model.directory / "bundle", description)

    def ids(texts: Sequence[str]) -> Sequence[Sequence[int]]:
        found = ours.batch(texts)
        ends = found.starts + found.lengths
        return [found.values[i:j] for i, j in zip(found.starts, ends, strict=True)]

    return ids
