"""`load`: from a name, a path or an address to a classifier with its weights."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from keras_agnews import bundle, delta, hub, records, registry, text_files
from keras_agnews.bundle import Bundle
from keras_agnews.classifier import TextClassifier
from keras_agnews.errors import BundleError, InputError, NotFoundError
from keras_agnews.files import expanded
from keras_agnews.importers import huggingface, keras_hub, tfhub
from keras_agnews.inference import compute_in_bfloat16
from keras_agnews.layers import weights_follow
from keras_agnews.models import initial_value
from keras_agnews.records import RecordedModel
from keras_agnews.tokenizers import Tokenizer


class Checkpoint(Protocol):
    """A model on disk, ours or foreign: what it is, and its weights."""

    @property
    def description(self) -> Bundle: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def arrays(self, wanted: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
        """Name and float32 value of each wanted variable that the checkpoint has.

        Raises `BundleError`, before the first one, where one has another shape or an encoder's
        is missing.
        """
        ...


@dataclass(frozen=True)
class BundleCheckpoint:
    """A bundle with its weights beside it."""

    directory: Path
    description: Bundle
    tokenizer: Tokenizer

    def arrays(self, wanted: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
        weights = self.description.weights
        if weights is None:
            raise NotFoundError(
                f"{self.directory} has no weights yet: load it with weights=None and train it"
            )
        path, shapes = self.directory / weights.file, self.description.variables()
        _check_wanted(path, shapes, wanted)
        stored = bundle.read_weights(path, shapes, weights.sha256)
        return ((name, value) for name, value in stored if name in wanted)


@dataclass(frozen=True)
class DeltaCheckpoint:
    """A bundle whose weights are those of a pretrained base and what training changed of them."""

    directory: Path
    description: Bundle
    tokenizer: Tokenizer
    base: Checkpoint

    def arrays(self, wanted: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
        weights, shapes = self.description.weights, self.description.variables()
        assert weights is not None
        assert weights.delta is not None
        path = self.directory / weights.delta
        _check_wanted(path, shapes, wanted)
        encoder = self.description.config.encoder_variables()
        of_base = {name: shape for name, shape in wanted.items() if name in encoder}
        # Before the checks, which are then of what is read.
        applied = delta.apply(path, self.base.arrays(of_base), wanted)
        delta.check_file(path, shapes, set(shapes) - set(encoder))
        bundle.check_sha256(path, weights.delta_sha256 or "", "weights.delta_sha256")
        return applied


def _check_wanted(
    path: Path, shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    for name, shape in wanted.items():
        if shapes.get(name) != shape:
            raise BundleError(f"{path}: {name} has shape {shapes.get(name)}, wanted is {shape}")


def load(
    source: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = "best",
    labels: Sequence[str] | None = None,
    max_length: int | None = None,
    base: str | os.PathLike[str] | None = None,
    mixed_precision: bool = False,
) -> TextClassifier:
    """A ready-made text classifier.

    Args:
        source: the name of a zoo entry, or the path of a bundle or a Hugging Face checkpoint, or
            `"hf://user/name@revision"`, or `"tfhub:"` and the path or address of a BERT encoder
            that was exported for TF-Hub, or `"keras_hub:"` and a preset of KerasHub's BERT.
        weights: `"best"`: trained on AG News where the entry has such weights, else pretrained;
            `"pretrained"`: the pretrained base and a new head; `None`: random; or another
            source, whose encoder (and, where its labels agree, head) is taken.
        labels: other labels than the model's; its head is then new, and a warning says so.
        max_length: cut texts at so many tokens.
        base: directory that has the pretrained base which the entry, or what `weights` names,
            pins on a hub; its SHA-256 must be the pinned one. Not looked at where none is needed.
        mixed_precision: compute in bfloat16, with weights and logits in float32. Faster with
            PyTorch on a processor that has instructions for it, but for the smallest models, and
            with JAX on a GPU; a probability changes by up to 0.02.

    Returns: a compiled `TextClassifier` (AdamW, cross-entropy from logits, accuracy).

    Raises:
        NotFoundError: no such entry, path or weights.
        BundleError: the files are not a whole, consistent model.
        DownloadError: the weights are on a hub that cannot be reached, or not what was pinned.
        MissingDependencyError: what reads a `tfhub:` or `keras_hub:` source is not installed.
        InputError: an argument that does not fit the model.

    Example:

    ```python
    clf = keras_agnews.load("tiny-transformer")
    clf = keras_agnews.load("bert-base", weights="path/to/bert")
    clf = keras_agnews.load("tiny-transformer", weights=None, labels=["good", "bad"])
    ```
    """
    origin = open_checkpoint(source)
    checkpoint = open_weights(origin, weights, base)
    target, tokenizer = origin.description, origin.tokenizer
    if weights is None or weights == "pretrained":
        # What begins anew is trained as the run was that began, not as the one that went on.
        target = dataclasses.replace(target, recipe=records.lineage(target.recipe)[-1])
    if checkpoint is not None and checkpoint is not origin:
        target = _adopt(target, checkpoint.description)
        tokenizer = checkpoint.tokenizer
    changes: dict[str, Any] = {}
    if labels is not None:
        if isinstance(labels, (str, Set)) or not isinstance(labels, Iterable):
            raise InputError(f"labels must be a list of names, not {labels!r}")
        changes["labels"] = list(labels)
    if max_length is not None:
        if isinstance(max_length, np.generic):  # as NumPy counts, and JSON does not
            max_length = max_length.item()
        changes["max_length"] = max_length
        if max_length != target.max_length:
            changes["results"] = []  # they are of texts that were cut elsewhere
    if changes:
        try:
            target = Bundle.from_dict(target.to_dict() | changes)
            target.make_tokenizer(tokenizer.vocabulary)
        except BundleError as error:
            raise InputError(str(error)) from None
    classifier = _assemble(target, target.make_tokenizer(tokenizer.vocabulary), checkpoint)
    if mixed_precision:
        compute_in_bfloat16(classifier.model)
    return classifier


def open_checkpoint(
    source: str | os.PathLike[str], pooling: str | None = None, **pin: Any
) -> Checkpoint:
    """The model that a name, a path or an address stands for, validated, its weights not read.

    Args:
        source: as `load` takes it.
        pooling: of a foreign checkpoint without a head: `"first"`, `"mean"`, or its own.
        **pin: `revision` and `sha256`, as `hub.download` takes them.
    """
    if isinstance(source, str) and source.startswith(keras_hub.SCHEME):
        return keras_hub.open_checkpoint(source.removeprefix(keras_hub.SCHEME))
    if isinstance(source, str) and source.startswith(tfhub.SCHEME):
        return tfhub.open_checkpoint(source.removeprefix(tfhub.SCHEME), hub.resolve_tfhub)
    if isinstance(source, str) and source.startswith(hub.SCHEME):
        directory = hub.download(source, **pin).directory
    else:
        directory = registry.locate(source)
    origin = hub.origin(directory)
    checkpoint: Checkpoint
    if huggingface.is_hugging_face(text_files.read_json(directory / bundle.CONFIG_FILE)):
        name = origin["repository"].rpartition("/")[2] if origin else None
        checkpoint = huggingface.open_checkpoint(directory, name=name, pooling=pooling)
    else:
        description = bundle.read(directory)
        tokenizer = bundle.read_tokenizer(directory, description)
        checkpoint = BundleCheckpoint(directory, description, tokenizer)
    if origin is not None:
        description = dataclasses.replace(checkpoint.description, source=origin)
        checkpoint = dataclasses.replace(checkpoint, description=description)
    return checkpoint


def recorded_as(source: str) -> RecordedModel:
    """How a bundle's `recipe` records a model that its run had.

    Not by where it lies, which says nothing elsewhere, or another day, but by how one gets the
    same: its own recipe, or its weights' sum where that tells of no run; of what is on the Hub the
    commit.
    """
    description = open_checkpoint(source).description
    if source.startswith(hub.SCHEME):
        origin = description.source
        return RecordedModel(f"{origin['repository']}@{origin['revision']}" if origin else source)
    name, recipe, pin = description.name, description.recipe, description.weights
    if registry.find(source) is not None:
        if "rows" not in recipe:
            return RecordedModel(source)
        name = source
    elif "rows" not in recipe and pin is not None and pin.sha256:
        recipe = recipe | {"weights_sha256": pin.delta_sha256 or pin.sha256}
    return RecordedModel(name, recipe)


def open_base(description: Bundle, base: str | os.PathLike[str] | None = None) -> Checkpoint:
    """The pretrained base that a bundle pins on a hub, or the same files from a directory."""
    pin, pooling = description.pretrained, getattr(description.config, "pooling", None)
    if pin is None or pin.source is None:
        raise NotFoundError(
            f"{description.name} has no pretrained base: weights='best' has what it was "
            "trained to, weights=None starts from nothing"
        )
    if base is None:
        sums = {pin.file: pin.sha256}
        return open_checkpoint(pin.source, pooling, revision=pin.revision, sha256=sums)
    base = expanded(base)
    if pin.sha256:
        bundle.check_sha256(base / pin.file, pin.sha256, f"the base of {description.name}")
    return open_checkpoint(base, pooling)


def open_weights(
    origin: Checkpoint,
    weights: str | os.PathLike[str] | None = "best",
    base: str | os.PathLike[str] | None = None,
) -> Checkpoint | None:
    """What `load(..., weights=, base=)` takes the weights from; `None` for random ones."""
    pin = origin.description.weights
    if weights is None:
        return None
    if weights not in ("best", "pretrained"):
        pooling = getattr(origin.description.config, "pooling", None)
        return open_weights(open_checkpoint(weights, pooling), "best", base)
    if weights == "best" and (pin is None or pin.source is None):
        return origin
    found = open_base(origin.description, base)
    if weights == "best" and pin is not None and pin.delta is not None:
        assert isinstance(origin, BundleCheckpoint)
        return DeltaCheckpoint(origin.directory, origin.description, origin.tokenizer, found)
    return found


def _adopt(target: Bundle, origin: Bundle) -> Bundle:
    """`target` with what the weights were trained with: activation, epsilon and tokenizer."""
    ours: dict[str, tuple[int, ...]]
    theirs: dict[str, tuple[int, ...]]
    ours, theirs = (  # which a third party's architecture need not tell apart
        getattr(config, "encoder_variables", dict)() for config in (target.config, origin.config)
    )
    for name, shape in ours.items():
        if theirs.get(name, shape) != shape:
            raise BundleError(
                f"{origin.name} does not fit {target.name}: {name} is {theirs[name]}, not {shape}"
            )
    for field in ("layers", "heads", "head_width", "type_vocabulary_size", "embedding_norm"):
        mine, its = getattr(target.config, field, None), getattr(origin.config, field, None)
        if mine != its:
            raise BundleError(
                f"{origin.name} does not fit {target.name}: config.{field} is {its}, not {mine}"
            )
    trained_with = {
        field: getattr(origin.config, field)
        for field in ("activation", "epsilon")
        if hasattr(target.config, field)
    }
    config = dataclasses.replace(target.config, **trained_with)
    return dataclasses.replace(
        target,
        config=config,
        tokenizer=origin.tokenizer,
        source=origin.source,
        recipe=origin.recipe if "rows" in origin.recipe else target.untrained().recipe,
        temperature=origin.temperature,
        results=origin.results if origin.max_length == target.max_length else (),
    )


def _assemble(
    target: Bundle, tokenizer: Tokenizer, checkpoint: Checkpoint | None
) -> TextClassifier:
    if checkpoint is None:
        classifier = TextClassifier(target.untrained(), tokenizer)
        classifier.compile_default()
        return classifier
    arrays = checkpoint.arrays(_takeable(target, checkpoint.description))
    with weights_follow():
        classifier = TextClassifier(target, tokenizer)
    variables = {variable.path: variable for variable in classifier.model.weights}
    aliases = keras.backend.backend() == "jax"
    for name, value in arrays:
        # JAX keeps an aligned array as it is, and with it the file that a value may be a window on.
        variables.pop(name).assign(np.array(value) if aliases else value)
    if variables:
        classifier.forget_training()  # that was of another head
        for variable in variables.values():
            variable.assign(initial_value(target.config, tuple(variable.shape)))
        warnings.warn(
            f"{target.name}: {', '.join(sorted(variables))} are new and untrained; "
            "fit the model before you use its answers",
            stacklevel=3,
        )
    classifier.compile_default()
    return classifier


def _takeable(target: Bundle, origin: Bundle) -> dict[str, tuple[int, ...]]:
    """The variables that `target` takes from a checkpoint: the head only where it means the same.

    Its last layer does with the same labels, the layers before it with the same pooling.
    """
    new = []
    if target.labels != origin.labels:
        new.append("logits/")
    if any(
        getattr(target.config, name, None) != getattr(origin.config, name, None)
        for name in ("pooler", "pooling", "head_size")
    ):
        new += ["head_hidden/", "logits/"]
    return {
        name: shape for name, shape in target.variables().items() if not name.startswith(tuple(new))
    }
