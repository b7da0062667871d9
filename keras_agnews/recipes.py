"""What a training run is told: `Recipe`, where its values come from, and its optimizer."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_agnews import records
from keras_agnews.bundle import Bundle
from keras_agnews.classifier import TextClassifier
from keras_agnews.errors import InputError
from keras_agnews.inference import compute_in_bfloat16, computes_in_bfloat16, nested_layers
from keras_agnews.schedules import WarmupLinearDecay


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained. What an entry's `config.json` has under `recipe` are its defaults.

    Attributes:
        recipe: `"full"`; `"head"` with the encoder frozen; or `"lora"` with its matrices frozen and
            a product of rank `delta_rank` added to each dense kernel.
        epochs: passes over the texts.
        batch_size: texts a step.
        learning_rate: the peak.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: not on biases and norms.
        clip_norm: gradients are scaled down to this global norm.
        word_dropout: share of the tokens replaced by the unknown one, drawn anew each epoch.
        seed: of shuffling, dropout and new weights.
        steps_per_epoch: batches an epoch, all where `None`.
        validation_steps: batches of validation, all where `None`.
        mixed_precision: compute in bfloat16, keep the weights in float32.
        delta_rank: store only what training has changed of the pretrained base, the kernels'
            changes at this rank in the mean; the finished model and its figures are then those of
            that.
        teacher: classifier with the same labels whose probabilities are learned, as `load` takes
            it; of several, separated by commas (`finetune` takes a list too), the mean is.
        teacher_weight: share of the target that is the teacher's answer; the rest is the label.
        crops: so many random spans of each text are further rows, labelled by the teacher alone.
        replacements: so many copies of each text, words of which are replaced by near ones as the
            first teacher's embeddings have them, are further rows, labelled by the teacher alone.
        teacher_embeddings: start from the teacher's token embeddings, projected.
        openings: so many beginnings of each text, of 3 to 12 words as a headline has, are further
            rows, labelled as the text is.
        ema_momentum: each epoch ends with the exponential moving average of its weights, of this
            momentum a step; 0 for none.
        pretrain_epochs: passes of masked-language-model training over the texts, beforehand.
        pretrain_learning_rate: the peak of that.
    """

    recipe: str = "full"
    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 3e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    word_dropout: float = 0.0
    seed: int = 0
    steps_per_epoch: int | None = None
    validation_steps: int | None = None
    mixed_precision: bool = False
    delta_rank: int | None = None
    teacher: str | None = None
    teacher_weight: float = 0.9
    crops: int = 0
    replacements: int = 0
    teacher_embeddings: bool = False
    openings: int = 0
    ema_momentum: float = 0.0
    pretrain_epochs: int = 0
    pretrain_learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if not isinstance(self.recipe, str) or self.recipe not in _KIND_DEFAULTS:
            kinds = " or ".join(map(repr, _KIND_DEFAULTS))
            raise InputError(f"recipe is {self.recipe!r}, not {kinds}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                kind = "a positive" if least else "0 or a positive"
                raise InputError(f"{name} must be {kind} integer, not {value!r}")
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise InputError(f"seed must be an integer in 0 to {2**32 - 1}, not {self.seed!r}")
        for name in ("mixed_precision", "teacher_embeddings"):
            if type(getattr(self, name)) is not bool:
                raise InputError(f"{name} must be True or False, not {getattr(self, name)!r}")
        for name, (high, excluded) in _RANGES.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value <= high or value == excluded:
                but = "" if excluded is None else f" but {excluded:g}"
                raise InputError(f"{name} must be a number in 0 to {high:g}{but}, not {value!r}")
        if self.teacher is None:
            for name in ("crops", "replacements", "teacher_embeddings"):
                if getattr(self, name):
                    raise InputError(f"{name} needs a teacher: give teacher=")
        if self.recipe == "lora" and self.delta_rank is None:
            raise InputError("recipe 'lora' needs a delta_rank")
        if self.recipe != "full":
            for name in ("teacher_embeddings", "pretrain_epochs"):
                if getattr(self, name):
                    raise InputError(f"{name} changes what recipe {self.recipe!r} freezes")

    def record(self) -> dict[str, Any]:
        """The fields that play a part, from which `Recipe(**record)` is the same."""
        values = dataclasses.asdict(self)
        if self.teacher is None:
            for name in ("teacher", "teacher_weight", "crops", "teacher_embeddings"):
                del values[name]
        for name in ("replacements", "openings", "ema_momentum"):
            if not values[name]:
                del values[name]
        if not self.pretrain_epochs:
            del values["pretrain_epochs"], values["pretrain_learning_rate"]
        return values

    @property
    def teachers(self) -> list[str]:
        """The sources of the teachers."""
        return [] if self.teacher is None else self.teacher.split(",")


_LEAST = dict.fromkeys(
    ("epochs", "batch_size", "steps_per_epoch", "validation_steps", "delta_rank"), 1
) | dict.fromkeys(("crops", "replacements", "openings", "pretrain_epochs"), 0)
# From 0 to what, and the end that is no value.
_RANGES: dict[str, tuple[float, float | None]] = {
    "learning_rate": (10.0, 0.0),
    "warmup": (1.0, 1.0),
    "weight_decay": (10.0, None),
    "clip_norm": (1e6, None),
    "word_dropout": (1.0, None),
    "teacher_weight": (1.0, None),
    "ema_momentum": (1.0, None),
    "pretrain_learning_rate": (10.0, 0.0),
}
# A head on frozen features is a small convex problem: it wants larger steps and more of them.
_KIND_DEFAULTS: dict[str, dict[str, Any]] = {
    "full": {},
    "head": {"epochs": 20, "learning_rate": 3e-3, "word_dropout": 0.0},
    "lora": {"learning_rate": 5e-4, "delta_rank": 16},
}


def make_recipe(classifier: TextClassifier, recipe: str | None = None, **options: Any) -> Recipe:
    """The entry's recipe with what `options` has that is not `None`.

    An entry's teacher, and the epochs that it took to learn from one, are its own: they are not
    taken over. What computes in bfloat16 is trained so.
    """
    known = {field.name for field in dataclasses.fields(Recipe)}
    if unknown := sorted(set(options) - known):
        raise InputError(f"{unknown[0]!r} is not an option of a recipe: {', '.join(sorted(known))}")
    recorded = classifier.description.untrained().recipe
    entry = {name: value for name, value in recorded.items() if name in known}
    kind = recipe or entry.get("recipe", "full")
    if kind != entry.get("recipe", "full"):
        entry = {}
    entry["mixed_precision"] = computes_in_bfloat16(classifier.model)
    given = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in options.items()
        if value is not None
    }
    if kind == "head" and given.get("word_dropout"):
        raise InputError("word_dropout is nothing to recipe 'head', which reads each text once")
    if "teacher" in given:
        given["teacher"] = _joined(given["teacher"])
    usual = _KIND_DEFAULTS.get(kind, {}) if isinstance(kind, str) else {}
    return Recipe(**{**usual, **entry, **given, "recipe": kind})


def shipped_recipe(description: Bundle) -> Recipe:
    """The recipe by which an entry was made, to the last value.

    Raises: `InputError` for an entry whose config does not record a run.
    """
    recorded = description.recipe
    if "rows" not in recorded:
        raise InputError(
            f"{description.name} was not trained by this package, so there is no shipped recipe of "
            f"it: give one of {', '.join(_KIND_DEFAULTS)}"
        )
    known = {field.name for field in dataclasses.fields(Recipe)}
    values = {name: value for name, value in recorded.items() if name in known}
    if teachers := records.teachers(recorded):
        values["teacher"] = ",".join(teacher.name for teacher in teachers)
    if values.get("recipe") == "head":
        values["word_dropout"] = 0.0  # whatever was said of it: it was nothing
    return Recipe(**values)


def _joined(teacher: Any) -> str:
    several = (
        teacher if isinstance(teacher, Sequence) and not isinstance(teacher, str) else [teacher]
    )
    if not several or not all(isinstance(one, str | os.PathLike) for one in several):
        raise InputError(f"teacher must be a name, a path or a list of them, not {teacher!r}")
    return ",".join(str(one).strip() for part in several for one in os.fspath(part).split(","))


def make_optimizer(recipe: Recipe, total_steps: int) -> keras.optimizers.Optimizer:
    """AdamW with warm-up and linear decay, clipping, and no decay on biases and norms."""
    optimizer = keras.optimizers.AdamW(
        WarmupLinearDecay(recipe.learning_rate, total_steps, float(recipe.warmup)),
        weight_decay=recipe.weight_decay,
        epsilon=1e-8,
        global_clipnorm=recipe.clip_norm or None,
        use_ema=recipe.ema_momentum > 0,
        ema_momentum=recipe.ema_momentum,
    )
    # Keras compares a variable's name; on TensorFlow that is its path, with ":0" behind it.
    optimizer.exclude_from_weight_decay(var_names=[r"(^|/)(bias|gamma|beta)(:0)?$"])
    return optimizer


@contextlib.contextmanager
def mixed_precision(classifier: TextClassifier, settings: Recipe) -> Iterator[None]:
    """Within it, all but the last layer compute in bfloat16 where the recipe says so, else none."""
    before = [(layer, layer.dtype_policy) for layer in nested_layers(classifier.model)]
    if settings.mixed_precision:
        compute_in_bfloat16(classifier.model)
    elif computes_in_bfloat16(classifier.model):
        for layer, _ in before:
            layer.dtype_policy = "float32"
    try:
        yield
    finally:
        for layer, policy in before:
            if layer.dtype_policy != policy:
                layer.dtype_policy = policy
