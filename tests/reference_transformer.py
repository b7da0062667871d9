"""Our architectures in float64 NumPy, slow and plain: an oracle for tests.

Written from Vaswani et al. 2017 and Devlin et al. 2019 on variables named as in a bundle. It
shares no code with the package. `python tests/reference_transformer.py` writes the golden answers
of the shipped entries, from the weights in `zoo/`, anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import reference_gru

GOLDEN = Path(__file__).parent / "golden"
_erf = np.vectorize(math.erf, otypes=[np.float64])
_ACTIVATIONS = {
    "gelu": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))),
    "relu": lambda x: np.maximum(x, 0),
}


def logits(config: Any, weights: Mapping[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """Logits `(classes,)` of one text, unpadded: there is nothing to mask."""
    if config.builder == "gru":
        hidden = reference_gru.embeddings(config, weights, ids)
        return reference_gru.forward(config, weights, hidden)[0]
    return forward(config, weights, embeddings(config, weights, ids))[0]


def embeddings(config: Any, weights: Mapping[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """Summed embeddings of one text, not yet normalized, `(length, hidden)`."""
    hidden = np.asarray(weights["encoder/embedding/tokens/embeddings"], np.float64)[ids]
    hidden = hidden + weights["encoder/embedding/positions"][: len(ids)]
    if config.type_vocabulary_size:
        hidden = hidden + weights["encoder/embedding/types"][0]
    return hidden


def forward(
    config: Any, weights: Mapping[str, np.ndarray], hidden: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Logits `(classes,)` and attention weights `(layers, heads, length, length)` of embeddings."""
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    attention = []

    def dense(name: str, x: np.ndarray) -> np.ndarray:
        return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + config.epsilon)
        return x * w[f"{name}/gamma"] + w[f"{name}/beta"]

    if config.embedding_norm:
        hidden = norm("encoder/embedding/norm", hidden)
    for i in range(config.layers):
        block = f"encoder/block_{i}"
        query, key, value = (
            np.stack(np.split(dense(f"{block}/attention/{name}", hidden), config.heads, axis=-1))
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores = scores / scores.sum(axis=-1, keepdims=True)
        attention.append(scores)
        context = np.concatenate(list(scores @ value), axis=-1)
        attended = hidden + dense(f"{block}/attention/output", context)
        hidden = norm(f"{block}/attention_norm", attended)
        inner = _ACTIVATIONS[config.activation](dense(f"{block}/feed_forward", hidden))
        hidden = hidden + dense(f"{block}/feed_forward_output", inner)
        hidden = norm(f"{block}/feed_forward_norm", hidden)
    pooled = hidden.mean(axis=0) if config.pooling == "mean" else hidden[0]
    if config.pooler:
        pooled = np.tanh(dense("encoder/pooler", pooled))
    if config.head_size:
        pooled = np.maximum(dense("head_hidden", pooled), 0)
    return dense("logits", pooled), np.array(attention)


def write_golden(name: str, texts: list[str]) -> None:
    """Store the logits of a shipped entry on these texts; a text without tokens has none."""
    from keras_agnews import bundle, registry

    directory = registry.find(name)
    assert directory is not None
    description = bundle.read(directory)
    weights = dict(bundle.read_weights(directory / "model.safetensors", description.variables()))
    tokenizer = bundle.read_tokenizer(directory, description)
    ids = [tokenizer.encode(text) for text in texts]
    missing = np.full(len(description.labels), np.nan)
    answers = [logits(description.config, weights, row) if row else missing for row in ids]
    np.savez_compressed(GOLDEN / f"{name}.npz", logits=np.array(answers))


if __name__ == "__main__":
    from conftest import HARD_TEXTS, SENTENCES

    for shipped in ("tiny-transformer", "gru-attention", "small-bert-L4"):
        write_golden(shipped, [text for text, _ in SENTENCES] + HARD_TEXTS)
