"""Other people's software at the same work, with the same weights: a file each, a function each.

Each file has one function, `load(model, **options)`, from a `Model` on disk to a function from
texts to an `Answer`. Packages come with the extra `bench`; where one is missing, `load` raises
ImportError, which becomes a row of the results.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Model:
    """What a peer gets: one set of weights in several forms, and where it is to compute.

    Attributes:
        directory: has `bundle` (ours), and of `hugging_face`, `keras_hub`, `model.onnx` and
            `export.onnx` what the peer asked for in `Peer.form`; and room for what it writes.
        backend: of the cell, e.g. "torch".
        precision: of the cell.
        batch: texts a batch.
        gpu: whether to compute on one.
        data: AG News, as `keras_agnews.data.load_agnews` takes it; for those that learn.
        texts: those of a training pass.
        labels: their right answers.
        seed: of what is drawn.
    """

    directory: Path
    backend: str = ""
    precision: str = "float32"
    batch: int = 32
    gpu: bool = False
    data: str | None = None
    texts: Sequence[str] = ()
    labels: Sequence[int] = ()
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """What a peer says of n texts, and what it computed for that.

    Attributes:
        scores: float32 `(n, classes)`, in the order of the texts, the highest one wins; `None`
            after a training pass.
        positions: tokens and padding that went through the network; 0 where there is none.
        probabilities: whether the scores are.
    """

    scores: np.ndarray | None
    positions: int = 0
    probabilities: bool = True


@dataclass(frozen=True)
class Peer:
    """An entry of the table below.

    Attributes:
        title: what a reader calls it.
        module: in this package.
        options: of its `load`.
        form: of the weights, in `Model.directory`; "" where the bundle is enough.
        kinds: builders of the entries that it can be; "pooled bert" for those that answer by
            BERT's pooled output; or "classic" where it learns by itself. What no class of theirs
            comes near is not listed as a failure of theirs.
        backends: what it runs on; empty for each of Keras's that is asked for.
        precisions: from the precision asked for to its own.
        share: of the texts that ours get: those that pad each text to one length are slow, and
            as fast with a few.
        package: whose version is noted.
        work: as a cell's.
        family: what a reader calls it and its like together; "" where it is alone.
    """

    title: str
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)
    form: str = ""
    kinds: tuple[str, ...] = ("bert",)
    backends: tuple[str, ...] = ()
    precisions: Mapping[str, str] = field(default_factory=lambda: {"float32": "float32"})
    share: float = 1.0
    package: str = ""
    work: str = "strings"
    family: str = ""


_FLOATS = {"float32": "float32", "bfloat16": "bfloat16"}
_ANY = ("bert", "transformer", "gru")


def _transformers(title: str, module: str = "transformers", **rest: Any) -> Peer:
    rest = {"precisions": _FLOATS, "family": "transformers, model called in a loop"} | rest
    return Peer(
        title, module, form="hugging_face", backends=("torch",), package="transformers", **rest
    )


def _pipeline(title: str, **rest: Any) -> Peer:
    return _transformers(title, "transformers_pipeline", family="transformers, pipeline", **rest)


def _onnx(title: str, **rest: Any) -> Peer:
    rest = {"kinds": _ANY, "form": "onnx", "family": "ONNX Runtime"} | rest
    return Peer(title, "onnx_runtime", backends=("onnxruntime",), package="onnxruntime", **rest)


def _keras_hub(title: str, length: int, share: float) -> Peer:
    return Peer(
        title,
        "keras_hub",
        {"length": length},
        "keras_hub",
        kinds=("pooled bert",),
        backends=("jax",),  # its fastest (NOTES.md)
        precisions=_FLOATS,
        share=share,
        package="keras_hub",
        family="KerasHub",
    )


PEERS: dict[str, Peer] = {
    "transformers": _transformers("transformers, eager, fused attention"),
    "transformers-sorted": _transformers(
        "transformers, eager, sorted by length", options={"by_length": True}
    ),
    "transformers-compile": _transformers("transformers, torch.compile", options={"compiled": 1}),
    "transformers-pipeline": _pipeline("transformers, pipeline, in batches"),
    "transformers-pipeline-1": _pipeline(
        "transformers, pipeline, a text at a time", options={"batch": 1}
    ),
    "keras-hub-128": _keras_hub("KerasHub on JAX, length 128", 128, 1 / 8),
    "keras-hub-512": _keras_hub("KerasHub on JAX as it comes, length 512", 512, 1 / 32),
    "tfhub": Peer(
        "TF-Hub SavedModels",
        "tfhub",
        kinds=("pooled bert",),
        backends=("tensorflow",),
        share=1 / 8,
        package="tensorflow_hub",
    ),
    "onnx": _onnx("ONNX Runtime"),
    "onnx-sorted": _onnx("ONNX Runtime, sorted by length", options={"by_length": True}),
    "onnx-export": _onnx(
        "ONNX Runtime, our export, sorted by length",
        options={"by_length": True, "graph": "export.onnx"},
        kinds=("bert",),
        family="ONNX Runtime, our export",
    ),
    "onnx-int8": _onnx(
        "ONNX Runtime, int8, sorted by length",
        options={"by_length": True, "int8": True},
        precisions={"float32": "int8"},
    ),
    "padded": Peer(
        "padded, Keras's predict",
        "padded_keras",
        kinds=("transformer", "gru"),
        share=1 / 8,
        package="keras",
    ),
    "tfidf-svm": Peer(
        "TF-IDF bigrams, linear SVM",
        "tfidf_svm",
        kinds=("classic",),
        backends=("sklearn",),
        package="sklearn",
    ),
    "fasttext": Peer(
        "fastText, bigrams",
        "fasttext",
        kinds=("classic",),
        backends=("fasttext",),
        package="fasttext",
    ),
    "transformers-training": _transformers(
        "transformers, a PyTorch loop", "transformers_training", work="training"
    ),
}


def load(name: str, model: Model) -> Callable[[Sequence[str]], Answer]:
    """A peer, ready to answer."""
    peer = PEERS[name]
    module = importlib.import_module(f"benchmarks.peers.{peer.module}")
    return module.load(model, **peer.options)  # type: ignore[no-any-return]
