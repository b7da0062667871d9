"""Fine-tuning: recipes, schedule, checkpoints that a killed run goes on from.

Two recipes. `"full"` trains every weight with AdamW, weight decay not on biases and norms, linear
warm-up, then linear decay to 0, and gradients clipped at norm 1 (Devlin et al. 2019, appendix
A.3; Loshchilov and Hutter 2019, arXiv:1711.05101). `"head"` freezes the encoder, computes each
text's features once, and trains the head on them.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_agnews import batching, bundle, loading
from keras_agnews.classifier import TextClassifier, check_texts, softmax
from keras_agnews.errors import InputError, TrainingError
from keras_agnews.inference import compile_forward
from keras_agnews.schedules import WarmupLinearDecay

CHECKPOINT_FILE, LOG_FILE, CURVES_FILE = "checkpoint.safetensors", "log.csv", "curves.png"
CHECKPOINT_SECONDS = 1_800.0
_LOG_FIELDS = (
    "epoch",
    "loss",
    "accuracy",
    "validation_loss",
    "validation_accuracy",
    "learning_rate",
    "seconds",
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained. What an entry's `config.json` has under `recipe` are its defaults.

    Attributes:
        recipe: `"full"`, or `"head"` with the encoder frozen.
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
        delta_rank: store only what training has changed of the pretrained base, each kernel's
            change at this rank; the finished model and its figures are then those of that.
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

    def __post_init__(self) -> None:
        if self.recipe not in _HEAD_DEFAULTS:
            raise InputError(f"recipe is {self.recipe!r}, not 'full' or 'head'")
        for name in (
            "epochs",
            "batch_size",
            "steps_per_epoch",
            "validation_steps",
            "delta_rank",
        ):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise InputError(f"{name} must be a positive integer, not {value!r}")
        limits = {"learning_rate": 10, "warmup": 1, "weight_decay": 10, "clip_norm": 1e6}
        for name, high in (limits | {"word_dropout": 1}).items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value <= high:
                raise InputError(f"{name} must be a number in 0 to {high}, not {value!r}")


# A head on frozen features is a small convex problem: it wants larger steps and more of them.
_HEAD_DEFAULTS: dict[str, dict[str, Any]] = {
    "full": {},
    "head": {"epochs": 20, "learning_rate": 3e-3, "word_dropout": 0.0},
}


def make_recipe(classifier: TextClassifier, recipe: str | None = None, **options: Any) -> Recipe:
    """The entry's recipe with what `options` has that is not `None`."""
    known = {field.name for field in dataclasses.fields(Recipe)}
    if unknown := sorted(set(options) - known):
        raise InputError(f"{unknown[0]!r} is not an option of a recipe: {', '.join(sorted(known))}")
    entry = {k: v for k, v in classifier.description.recipe.items() if k in known}
    kind = recipe or entry.get("recipe", "full")
    if kind != entry.get("recipe", "full"):
        entry = {}
    given = {name: value for name, value in options.items() if value is not None}
    return Recipe(**{**_HEAD_DEFAULTS.get(kind, {}), **entry, **given, "recipe": kind})


def make_optimizer(recipe: Recipe, total_steps: int) -> keras.optimizers.Optimizer:
    """AdamW with warm-up and linear decay, clipping, and no decay on biases and norms."""
    optimizer = keras.optimizers.AdamW(
        WarmupLinearDecay(recipe.learning_rate, total_steps, float(recipe.warmup)),
        weight_decay=recipe.weight_decay,
        epsilon=1e-8,
        global_clipnorm=recipe.clip_norm or None,
    )
    # Keras compares a variable's name; on TensorFlow that is its path, with ":0" behind it.
    optimizer.exclude_from_weight_decay(var_names=[r"(^|/)(bias|gamma|beta)(:0)?$"])
    return optimizer


def finetune(
    classifier: TextClassifier,
    train: tuple[Any, Any] | Any,
    validation: tuple[Any, Any] | Any = None,
    *,
    recipe: str | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
    dtype: str = "float32",
    record: dict[str, Any] | None = None,
    base: str | os.PathLike[str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train a classifier by a recipe; it ends with the weights of its best epoch.

    Args:
        classifier: what `keras_agnews.load` gave; it is changed in place.
        train: `(texts, labels)`, or a dataset of `keras_agnews.data`.
        validation: the same, to choose the best epoch by; without it the last epoch is kept.
        recipe: `"full"` or `"head"`; by default the entry's.
        output: directory for checkpoints, `log.csv`, `curves.png` and the finished bundle.
            The bundle in it is always that of the best epoch so far.
        resume: go on from the checkpoint in `output`, to the same result as an unbroken run; a
            run that has none starts anew, one that is finished returns at once.
        progress: whether a terminal shows a progress bar with the time left.
        dtype: how the finished bundle stores its weights, `"float32"` or `"float16"`.
        record: what else the bundle's recipe shall say, e.g. the data's name.
        base: directory of the pretrained base, for `delta_rank`; else it comes from the hub.
        **options: fields of `Recipe` that differ from the entry's.

    Returns: a dict of `recipe`, `history` (one dict an epoch, as in `log.csv`), `best_epoch`.

    Raises:
        TrainingError: a single class, a loss that is not finite (the last good weights are
            kept), or a checkpoint of another run.
        InputError: texts, labels or options that cannot be used.
    """
    if resume and output is None:
        raise InputError("resume=True needs output=, the directory of the run to go on with")
    settings = make_recipe(classifier, recipe, **options)
    texts, labels = _checked(classifier, train, "training")
    _check_classes(classifier, labels, settings)
    held = None if validation is None else _checked(classifier, validation, "validation")
    before = [(layer, layer.dtype_policy) for layer in _policy_layers(classifier, settings)]
    trainable = classifier.encoder.trainable
    try:
        for layer, _ in before:
            layer.dtype_policy = "mixed_bfloat16"
        job = (_Head if settings.recipe == "head" else _Full)(classifier, settings, texts, labels)
        run = _Run(classifier, job, settings, held, output, dtype, record or {}, base)
        return run.go(resume, progress)
    finally:
        classifier.encoder.trainable = trainable
        for layer, policy in before:
            layer.dtype_policy = policy


class _Full:
    """Every weight is trained on token ids."""

    def __init__(
        self, classifier: TextClassifier, settings: Recipe, texts: Sequence[str], labels: np.ndarray
    ) -> None:
        self.classifier, self.model, self.settings = classifier, classifier, settings
        self.dataset = classifier.dataset(
            texts,
            labels,
            settings.batch_size,
            word_dropout=settings.word_dropout,
            shuffle=True,
            seed=settings.seed,
            steps=settings.steps_per_epoch,
        )

    def prepare(self, directory: Path | None) -> None:
        """Nothing to do before the first epoch."""

    def validator(self, texts: Sequence[str]) -> Callable[[], np.ndarray]:
        """A function that gives the probabilities of these texts as the model now is."""
        return lambda: self.classifier.predict(texts)


class _Head:
    """The head alone is trained, on features that are computed once."""

    _CHUNK = 2_048

    def __init__(
        self, classifier: TextClassifier, settings: Recipe, texts: Sequence[str], labels: np.ndarray
    ) -> None:
        self.classifier, self.texts = classifier, texts
        classifier.encoder.trainable = False
        layers = classifier.model.layers
        first = classifier.model.get_layer("head_dropout")
        inputs = keras.Input(first.input.shape[1:], name="features")
        hidden = inputs
        for layer in layers[layers.index(first) :]:
            hidden = layer(hidden)
        self.model = keras.Model(inputs, hidden, name="head")
        self._forward = compile_forward(self.model)
        self._width = first.input.shape[-1]
        self._features = np.zeros((0, self._width), np.float32)
        self.dataset = batching.Batches(
            np.ones(len(texts), np.int32),
            labels,
            lambda rows, rng: self._features[rows],
            settings.batch_size,
            shuffle=True,
            seed=settings.seed,
            steps=settings.steps_per_epoch,
        )
        self._rows = self._needed(settings)

    def prepare(self, directory: Path | None) -> None:
        """Compute the features, in a file where there is a directory, so that a kill loses few."""
        shape = (len(self.texts), self._width)
        done = 0
        if directory is None:
            self._features = np.zeros(shape, np.float32)
        else:
            path, mark = directory / "features.npy", directory / "features.count"
            if path.exists() and mark.exists():
                self._features = np.lib.format.open_memmap(path, mode="r+")
                done = int(mark.read_text())
            if self._features.shape != shape:
                self._features = np.lib.format.open_memmap(path, "w+", np.float32, shape)
                done = 0
        for start in range(done, len(self._rows), self._CHUNK):
            rows = self._rows[start : start + self._CHUNK]
            self._features[rows] = self.classifier.features([self.texts[i] for i in rows])
            if directory is not None:
                self._features.flush()  # type: ignore[attr-defined]
                mark.write_text(str(start + len(rows)))

    def validator(self, texts: Sequence[str]) -> Callable[[], np.ndarray]:
        features = self.classifier.features(texts)

        def probabilities() -> np.ndarray:
            parts = [features[w] for w in batching.windows(len(features), 4_096)]
            return softmax(np.concatenate([self._forward(part) for part in parts]))

        return probabilities

    def _needed(self, settings: Recipe) -> np.ndarray:
        """The rows that any epoch will ask for: all of them, but for `steps_per_epoch`."""
        needed = []
        for epoch in range(settings.epochs if settings.steps_per_epoch else 1):
            self.dataset.start_epoch(epoch)
            needed.append(self.dataset.rows)
        return np.unique(np.concatenate(needed))


class _Run:
    """The epochs of one training run, and its state on disk."""

    def __init__(
        self,
        classifier: TextClassifier,
        job: _Full | _Head,
        settings: Recipe,
        held: tuple[Sequence[str], np.ndarray] | None,
        output: str | os.PathLike[str] | None,
        dtype: str,
        record: dict[str, Any],
        base: str | os.PathLike[str] | None,
    ) -> None:
        self.classifier, self.job, self.settings = classifier, job, settings
        self.base, self.pinned = base, classifier.description
        if settings.delta_rank is not None:
            if output is None:
                raise InputError("delta_rank needs output=, where the difference is stored")
            self._open_base()  # so that a wrong one is told before the hours, not after
        self.directory = None if output is None else Path(output)
        self.dtype, self.record = dtype, record
        self.history: list[dict[str, Any]] = []
        self.best: int | None = None
        self.best_weights: list[np.ndarray] | None = None
        self.torch_rng: np.ndarray | None = None
        if held is not None and settings.validation_steps is not None:
            count = settings.validation_steps * settings.batch_size
            rows = np.random.default_rng(settings.seed).permutation(len(held[1]))[:count]
            held = ([held[0][i] for i in rows], held[1][rows])
        self.held = held
        job.dataset.start_epoch(0)
        self.steps = len(job.dataset)
        self.identity = self._identity()

    def go(self, resume: bool, progress: bool) -> dict[str, Any]:
        settings, model = self.settings, self.job.model
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            if not resume:
                for name in (CHECKPOINT_FILE, LOG_FILE, "features.npy", "features.count"):
                    (self.directory / name).unlink(missing_ok=True)
        optimizer = make_optimizer(settings, settings.epochs * self.steps)
        arguments = {
            "optimizer": optimizer,
            "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "metrics": ["accuracy"],
        }
        model.compile(**arguments)
        _seed_dropout(model, settings.seed)
        optimizer.build(model.trainable_variables)
        epoch, first_batch = self._restore() if resume else (0, 0)
        if epoch < settings.epochs:
            self.job.prepare(self.directory)
        validate = None if self.held is None else self.job.validator(self.held[0])
        with _progress(progress, settings.epochs * self.steps) as advance:
            advance(epoch * self.steps + first_batch, epoch, "")
            for number in range(epoch, settings.epochs):
                start = time.monotonic()
                self.job.dataset.start_epoch(number, first_batch)
                watcher = _Watcher(self, number, first_batch, advance)
                first_batch = 0
                logs: dict[str, Any] = {}
                if len(self.job.dataset):
                    fitted = keras.Model.fit(
                        model,
                        self.job.dataset,
                        epochs=1,
                        shuffle=False,  # the dataset has done so, in a way that can be resumed
                        verbose=0,
                        callbacks=[watcher],
                    )
                    logs = {name: values[-1] for name, values in fitted.history.items()}
                if watcher.broken is not None or not math.isfinite(logs.get("loss", 0.0)):
                    self._stop_broken(number, watcher.broken)
                row = {"epoch": number + 1, "loss": logs.get("loss"), **self._validated(validate)}
                row |= {"accuracy": logs.get("accuracy"), "seconds": time.monotonic() - start}
                row["learning_rate"] = float(optimizer.learning_rate)
                self._finish_epoch(row)
        self._take_best()
        if self.directory is not None:
            self._write_bundle(self.dtype)
            if settings.delta_rank is not None:
                self._keep_difference(settings.delta_rank, validate)
            _draw(self.history, self.directory / CURVES_FILE)
            for name in ("features.npy", "features.count"):
                (self.directory / name).unlink(missing_ok=True)
        return {
            "recipe": dataclasses.asdict(settings),
            "history": self.history,
            "best_epoch": None if self.best is None else self.best + 1,
        }

    def checkpoint(self, epoch: int, batch: int) -> None:
        """Write everything that the run needs to go on, in one rename."""
        if self.directory is None:
            return
        state = {"epoch": epoch, "batch": batch, "best": self.best, "history": self.history}
        meta = {"state": json.dumps(state), "identity": json.dumps(self.identity)}
        path = self.directory / CHECKPOINT_FILE
        bundle.save_tensors(dict(self._state()), path, path.with_name(f".{path.name}"), meta)

    def _state(self) -> Iterator[tuple[str, np.ndarray]]:
        for name, variable in self._variables():
            yield name, np.array(ops.convert_to_numpy(variable.value), order="C")
        if keras.backend.backend() == "torch":  # its dropout draws from PyTorch's own generator
            import torch

            yield "torch_rng", torch.get_rng_state().numpy()

    def _variables(self) -> Iterator[tuple[str, Any]]:
        model = self.job.model
        for group, variables in (
            ("model", model.variables),
            ("optimizer", model.optimizer.variables),
        ):
            # By place, not by path: Keras numbers its seed generators anew in each process.
            for i, variable in enumerate(variables):
                yield f"{group}/{i}", variable

    def _restore(self) -> tuple[int, int]:
        assert self.directory is not None
        path = self.directory / CHECKPOINT_FILE
        if not path.exists():
            return 0, 0
        with bundle.open_safetensors(path) as file:
            meta = file.metadata() or {}
            stored = set(file.keys())
            try:
                identity, state = json.loads(meta["identity"]), json.loads(meta["state"])
            except (KeyError, ValueError):
                raise TrainingError(f"{path} is not a checkpoint of a training run") from None
            for name, value in self.identity.items():
                if identity.get(name) != value:
                    raise TrainingError(
                        f"{path} is of a run with {name} {identity.get(name)!r}, not {value!r}: "
                        "resume with the same data and options, or start anew without resume"
                    )
            for name, variable in self._variables():
                value = file.get_tensor(name) if name in stored else None
                if value is None or value.shape != tuple(variable.shape):
                    raise TrainingError(
                        f"{path} does not fit the model at {variable.path}: start anew without "
                        "resume"
                    )
                variable.assign(value)
            if "torch_rng" in stored:
                self.torch_rng = file.get_tensor("torch_rng").copy()
        self.history, self.best = state["history"], state["best"]
        return state["epoch"], state["batch"]

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be this run's."""
        digest = hashlib.sha256()
        for row in self.job.dataset.rows.tolist():
            digest.update(row.to_bytes(8, "little"))
        for labels in (self.job.dataset.labels, None if self.held is None else self.held[1]):
            digest.update(b"" if labels is None else np.ascontiguousarray(labels).tobytes())
        return {
            "backend": keras.backend.backend(),
            "model": self.classifier.description.name,
            **dataclasses.asdict(dataclasses.replace(self.settings, delta_rank=None)),
            "data": digest.hexdigest()[:16],
        }

    def _validated(self, validate: Callable[[], np.ndarray] | None) -> dict[str, Any]:
        if validate is None or self.held is None:
            return {"validation_loss": None, "validation_accuracy": None}
        labels = self.held[1]
        probabilities = validate()
        chosen = np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)
        return {
            "validation_loss": float(-np.log(chosen).mean()),
            "validation_accuracy": float((probabilities.argmax(axis=1) == labels).mean()),
        }

    def _finish_epoch(self, row: dict[str, Any]) -> None:
        self.history.append(row)
        best = None if self.best is None else self.history[self.best]
        if best is None or row["validation_accuracy"] is None or _score(row) > _score(best):
            self.best = len(self.history) - 1
            if self.directory is None:
                weights = self.classifier.model.weights
                self.best_weights = [ops.convert_to_numpy(w.value).copy() for w in weights]
            else:
                self._write_bundle("float32")
        self.checkpoint(row["epoch"], 0)
        if self.directory is not None:
            with open(self.directory / LOG_FILE, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, _LOG_FIELDS)
                writer.writeheader()
                writer.writerows(self.history)

    def _take_best(self) -> None:
        if self.best is None:
            return
        if self.directory is None:
            assert self.best_weights is not None
            weights = self.classifier.model.weights
            for variable, value in zip(weights, self.best_weights, strict=True):
                variable.assign(value)
            return
        self._read_back()

    def _read_back(self) -> None:
        """Take the weights of the bundle in the directory."""
        assert self.directory is not None
        variables = {variable.path: variable for variable in self.classifier.model.weights}
        shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
        checkpoint = loading.open_weights(
            loading.open_checkpoint(self.directory), "best", self.base
        )
        assert checkpoint is not None
        for name, value in checkpoint.arrays(shapes):
            variables[name].assign(np.array(value))

    def _open_base(self) -> loading.Checkpoint:
        return loading.open_base(self.pinned, self.base)

    def _keep_difference(self, rank: int, validate: Callable[[], np.ndarray] | None) -> None:
        """Store the difference to the base in place of the weights, and measure what that gives."""
        assert self.directory is not None
        assert self.best is not None
        encoder = self.pinned.config.encoder_variables()
        self.classifier.describe(weights=self.pinned.weights)
        self.classifier.save_bundle(
            self.directory, base=self._open_base().arrays(encoder), rank=rank
        )
        (self.directory / bundle.WEIGHTS_FILE).unlink(missing_ok=True)
        self._read_back()
        self.classifier.describe(results=self._results(self._validated(validate)))
        stored = dataclasses.replace(
            bundle.read(self.directory), results=self.classifier.description.results
        )
        bundle.write_json(self.directory / bundle.CONFIG_FILE, stored.to_dict())

    def _write_bundle(self, dtype: str) -> None:
        assert self.directory is not None
        assert self.best is not None
        recipe = dataclasses.asdict(self.settings) | {"rows": len(self.job.dataset.labels)}
        self.classifier.describe(
            recipe={**recipe, **self.record},
            results=self._results(self.history[self.best]),
            temperature=1.0,
        )
        self.classifier.save_bundle(self.directory, dtype)

    def _results(self, row: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        return tuple(
            {
                "data": "validation",
                "rows": len(self.held[1]) if self.held is not None else 0,
                "metric": name.removeprefix("validation_"),
                "value": row[name],
            }
            for name in ("validation_accuracy", "validation_loss")
            if row[name] is not None
        )

    def _stop_broken(self, epoch: int, batch: int | None) -> None:
        kept = "the weights are those before the run"
        if self.best is not None:
            self._take_best()
            kept = f"the weights of epoch {self.best + 1} are kept"
        raise TrainingError(
            f"the loss is not finite in epoch {epoch + 1}"
            + (f", batch {batch + 1}" if batch is not None else "")
            + f": {kept}; try a lower learning_rate than {self.settings.learning_rate:g}"
        )


class _Watcher(keras.callbacks.Callback):
    """Shows progress, saves each half hour, stops at a loss that is not finite."""

    def __init__(
        self, run: _Run, epoch: int, first_batch: int, advance: Callable[[int, int, str], None]
    ) -> None:
        super().__init__()
        self._run, self._epoch, self._first, self._advance = run, epoch, first_batch, advance
        self._saved = time.monotonic()
        self.broken: int | None = None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # Not sooner: Keras and PyTorch draw from the generator themselves as `fit` begins.
        if batch == 0 and keras.backend.backend() == "torch":
            import torch

            if self._run.torch_rng is None or not self._first:
                torch.manual_seed((self._run.settings.seed << 16) + self._epoch)
            else:
                torch.set_rng_state(torch.from_numpy(self._run.torch_rng))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        done = self._first + batch + 1
        loss = float((logs or {}).get("loss", 0.0))
        self._advance(self._epoch * self._run.steps + done, self._epoch, f"loss {loss:.4f}")
        if not math.isfinite(loss):
            self.broken = done - 1
            self.model.stop_training = True
        elif time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            _ = self.model  # on JAX, this brings the model's variables up to date
            self._run.checkpoint(self._epoch, done)
            self._saved = time.monotonic()


def _checked(classifier: TextClassifier, rows: Any, what: str) -> tuple[Sequence[str], np.ndarray]:
    try:
        texts, labels = rows[0], rows[1]
    except (TypeError, KeyError, IndexError):
        texts, labels, *_ = tuple(rows)
    try:
        texts = check_texts(texts)
        return texts, classifier.label_ids(labels, len(texts))
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


def _check_classes(classifier: TextClassifier, labels: np.ndarray, settings: Recipe) -> None:
    counts = np.bincount(labels, minlength=len(classifier.labels))
    if np.count_nonzero(counts) < 2:
        raise TrainingError(
            f"{len(labels)} training rows of {np.count_nonzero(counts)} class: there is nothing "
            "to learn without a second one"
        )
    for label, count in zip(classifier.labels, counts, strict=True):
        if not count:
            warnings.warn(f"no training row has the label {label!r}", stacklevel=3)
    if len(labels) < settings.batch_size:
        warnings.warn(
            f"{len(labels)} training rows are fewer than batch_size {settings.batch_size}: each "
            "epoch is one small batch",
            stacklevel=3,
        )


def _seed_dropout(model: keras.Model, seed: int) -> None:
    """Start every random generator of the model from `seed`.

    `keras.utils.set_random_seed` would come too late for generators that exist, and it imports
    TensorFlow wherever that is installed.
    """
    states = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    for i, state in enumerate(states):
        state.assign(np.array([seed, i], "uint32"))


def _policy_layers(classifier: TextClassifier, settings: Recipe) -> list[keras.layers.Layer]:
    if not settings.mixed_precision:
        return []
    # Keras has no public way to walk the layers inside layers.
    layers = classifier.model._flatten_layers(include_self=False)  # noqa: SLF001
    return [layer for layer in layers if layer.name != "logits"]


def _score(row: dict[str, Any]) -> tuple[float, float]:
    return row["validation_accuracy"], -row["validation_loss"]


@contextlib.contextmanager
def _progress(wanted: bool, total: int) -> Iterator[Callable[[int, int, str], None]]:
    """A function `advance(steps done, epoch, note)` that shows a bar on a terminal's stderr."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    if not (wanted and console.is_terminal):
        yield lambda done, epoch, note: None
        return
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        task = bar.add_task("training", total=total, epoch=1, note="")
        yield lambda done, epoch, note: bar.update(task, completed=done, epoch=epoch + 1, note=note)


def _draw(history: list[dict[str, Any]], path: Path) -> None:
    """Loss and accuracy by epoch as a PNG, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        warnings.warn(
            f"{path.name} beside the model needs matplotlib: pip install matplotlib; "
            f"the figures are in {LOG_FILE}",
            stacklevel=2,
        )
        return
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for key, label in ((name, "training"), (f"validation_{name}", "validation")):
            if all(row[key] is not None for row in history):
                axes.plot(epochs, [row[key] for row in history], marker="o", label=label)
        axes.set(xlabel="epoch", ylabel=name, xticks=epochs if len(epochs) < 12 else None)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
