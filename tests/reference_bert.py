"""BERT and DistilBERT in float64 NumPy, slow and plain: an oracle for tests.

Written from the papers (arXiv:1810.04805, arXiv:1910.01108) on tensors named as in a Hugging Face
checkpoint. It shares no code with the package. `checkpoint` writes small checkpoints for tests, and
`python tests/reference_bert.py` writes `golden/bert_h16.npz` anew.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]

GOLDEN = Path(__file__).parent / "golden" / "bert_h16.npz"
WORDS = [
    *("the", "a", "of", "to", "in", "and", "rocket", "launch", "rises", "prices", "market", "oil"),
    *("team", "wins", "final", "goal", "peace", "talks", "minister", "new", "chip", "phone"),
    *("science", "storm", "coast", "bank", "shares", "fall", "after", "late", "record"),
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*string.ascii_lowercase, *string.digits, *".,!?'$-"]
VOCABULARY = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "##ing", "##s", *WORDS]
VOCABULARY = list(dict.fromkeys(VOCABULARY))
SENTENCES = [
    "The rocket launch rises after a late storm.",
    "Oil prices fall; shares of the new bank wins!",
    "Peace talks",
    "",
    "The team's final goal, in 1966 - a record?",
    "MINISTER launching phones in naïve café",
    "a",
    "markets and markets and markets and markets",
]
LABELS = ["calm", "storm", "late"]


def bert_config(**changes: Any) -> dict[str, Any]:
    """The config of a BERT of width 16, in the field names of its checkpoints."""
    return {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": 40,
        "type_vocab_size": 2,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "id2label": {str(i): label for i, label in enumerate(LABELS)},
    } | changes


def distilbert_config(**changes: Any) -> dict[str, Any]:
    """The config of a DistilBERT of width 16, in the field names of its checkpoints."""
    return {
        "model_type": "distilbert",
        "architectures": ["DistilBertForSequenceClassification"],
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": 40,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 24,
        "activation": "gelu",
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "id2label": {str(i): label for i, label in enumerate(LABELS)},
    } | changes


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model with a head."""
    bert = config["model_type"] == "bert"
    hidden = config["hidden_size" if bert else "dim"]
    inner = config["intermediate_size" if bert else "hidden_dim"]
    found: dict[str, tuple[int, ...]] = {}

    def dense(name: str, outputs: int, inputs: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name: str) -> None:
        found[f"{name}.weight"] = found[f"{name}.bias"] = (hidden,)

    prefix = "bert." if bert else "distilbert."
    embeddings = f"{prefix}embeddings."
    found[f"{embeddings}word_embeddings.weight"] = (config["vocab_size"], hidden)
    found[f"{embeddings}position_embeddings.weight"] = (config["max_position_embeddings"], hidden)
    if bert:
        found[f"{embeddings}token_type_embeddings.weight"] = (config["type_vocab_size"], hidden)
    norm(f"{embeddings}LayerNorm")
    for i in range(config["num_hidden_layers" if bert else "n_layers"]):
        names = _BERT_BLOCK if bert else _DISTILBERT_BLOCK
        block = f"{prefix}{'encoder' if bert else 'transformer'}.layer.{i}."
        for role in ("query", "key", "value", "output"):
            dense(block + names[role], hidden, hidden)
        norm(block + names["attention_norm"])
        dense(block + names["inner"], inner, hidden)
        dense(block + names["outer"], hidden, inner)
        norm(block + names["outer_norm"])
    dense("bert.pooler.dense" if bert else "pre_classifier", hidden, hidden)
    dense("classifier", len(config["id2label"]), hidden)
    return found


def random_tensors(config: Mapping[str, Any], seed: int) -> Tensors:
    """Weights in float32, every bias and norm away from its initial value."""
    rng = np.random.RandomState(seed)  # its numbers never change, unlike those of a Generator
    return {
        name: (
            rng.standard_normal(shape) * (0.3 if len(shape) > 1 else 0.2)
            + ("LayerNorm.weight" in name or "layer_norm.weight" in name)
        ).astype(np.float32)
        for name, shape in shapes(config).items()
    }


def checkpoint(
    directory: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray] | None = None
) -> Path:
    """Write a checkpoint as Hugging Face's libraries would; without tensors, no weights file."""
    from safetensors.numpy import save_file

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (directory / "vocab.txt").write_text("".join(f"{t}\n" for t in VOCABULARY), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}), encoding="utf-8"
    )
    if tensors is not None:
        save_file(dict(tensors), directory / "model.safetensors", metadata={"format": "pt"})
    return directory


# --- the model -------------------------------------------------------------------------------

_BERT_BLOCK = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "outer_norm": "output.LayerNorm",
}
_DISTILBERT_BLOCK = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "inner": "ffn.lin1",
    "outer": "ffn.lin2",
    "outer_norm": "output_layer_norm",
}
_erf = np.vectorize(math.erf, otypes=[np.float64])
ACTIVATIONS = {
    "gelu": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def forward(
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    ids: np.ndarray,
    mask: np.ndarray,
    types: np.ndarray | None = None,
) -> dict[str, Any]:
    """What the model answers, in float64.

    Args:
        config: of the checkpoint.
        tensors: of a model with a head, as `shapes` names them.
        ids: int `(n, length)`.
        mask: bool `(n, length)`.
        types: int `(n, length)`, or all 0.

    Returns:
        `hidden`, a list of `(n, length, width)`, one a block; `pooled` `(n, width)` of BERT;
        `mean` `(n, width)` over the tokens; `logits` `(n, classes)`.
    """
    bert = config["model_type"] == "bert"
    prefix = "bert." if bert else "distilbert."
    epsilon = config["layer_norm_eps"] if bert else 1e-12
    heads = config["num_attention_heads" if bert else "n_heads"]
    activate = ACTIVATIONS[config["hidden_act" if bert else "activation"]]

    def tensor(name: str) -> np.ndarray:
        return np.asarray(tensors[name], np.float64)

    def dense(name: str, x: np.ndarray) -> np.ndarray:
        return x @ tensor(f"{name}.weight").T + tensor(f"{name}.bias")

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        centered = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon)
        return centered / scale * tensor(f"{name}.weight") + tensor(f"{name}.bias")

    embeddings = f"{prefix}embeddings."
    x = tensor(f"{embeddings}word_embeddings.weight")[ids]
    x = x + tensor(f"{embeddings}position_embeddings.weight")[: ids.shape[1]]
    if bert:
        kinds = np.zeros_like(ids) if types is None else types
        x = x + tensor(f"{embeddings}token_type_embeddings.weight")[kinds]
    x = norm(f"{embeddings}LayerNorm", x)
    hidden = []
    for i in range(config["num_hidden_layers" if bert else "n_layers"]):
        names = _BERT_BLOCK if bert else _DISTILBERT_BLOCK
        block = f"{prefix}{'encoder' if bert else 'transformer'}.layer.{i}."
        query, key, value = (dense(block + names[r], x) for r in ("query", "key", "value"))
        width = x.shape[-1] // heads
        context = np.zeros_like(x)
        for text in range(len(x)):
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                scores = query[text, :, part] @ key[text, :, part].T / math.sqrt(width)
                scores[:, ~mask[text]] = -np.inf
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                weights /= weights.sum(-1, keepdims=True)
                context[text, :, part] = weights @ value[text, :, part]
        x = norm(block + names["attention_norm"], x + dense(block + names["output"], context))
        inner = activate(dense(block + names["inner"], x))
        x = norm(block + names["outer_norm"], x + dense(block + names["outer"], inner))
        hidden.append(x)
    answer: dict[str, Any] = {
        "hidden": hidden,
        "mean": (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True),
    }
    if bert:
        answer["pooled"] = np.tanh(dense("bert.pooler.dense", x[:, 0]))
        answer["logits"] = dense("classifier", answer["pooled"])
    else:
        first = np.maximum(dense("pre_classifier", x[:, 0]), 0)
        answer["logits"] = dense("classifier", first)
    return answer


def token_ids(texts: list[str]) -> np.ndarray:
    """Ids of texts in `VOCABULARY`, int32 `(n, length)`, padded with 0."""
    from bert_rule import pack, tokens

    numbers = {token: i for i, token in enumerate(VOCABULARY)}
    rows = [[numbers[t] for t in pack(tokens(text, numbers), None, 128)[0]] for text in texts]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, found in zip(ids, rows, strict=True):
        row[: len(found)] = found
    return ids


def golden() -> dict[str, np.ndarray]:
    """What `golden/bert_h16.npz` holds: BERT's answers on our own sentences."""
    config = bert_config()
    ids = token_ids(SENTENCES)
    answer = forward(config, random_tensors(config, seed=7), ids, ids != 0)
    return {
        "texts": np.array(SENTENCES),
        "ids": ids,
        "hidden_0": answer["hidden"][0].astype(np.float32),
        "hidden_1": answer["hidden"][1].astype(np.float32),
        "pooled": answer["pooled"].astype(np.float32),
        "mean": answer["mean"].astype(np.float32),
        "logits": answer["logits"].astype(np.float32),
    }


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **golden())
