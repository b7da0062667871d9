"""Fine-tuning: recipes, and runs that a killed process goes on with.

Three recipes. `"full"` trains every weight with AdamW, weight decay not on biases and norms, linear
warm-up, then linear decay to 0, and gradients clipped at norm 1 (Devlin et al. 2019, appendix
A.3; Loshchilov and Hutter 2019, arXiv:1711.05101). `"head"` freezes the encoder, computes each
text's features once, and trains the head on them. `"lora"` trains low-rank updates of the encoder's
kernels; see `keras_agnews.lora`. Each can learn from a teacher.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_agnews import batching, bundle, card, delta, loading, records, text_files
from keras_agnews.augmentation import crop, cut_openings, replace_words, words_of
from keras_agnews.classifier import TextClassifier, softmax
from keras_agnews.data import Dataset
from keras_agnews.device import device_name
from keras_agnews.distillation import Teacher, near_words, start_embeddings, targets
from keras_agnews.errors import InputError, TrainingError
from keras_agnews.files import check_writable, digest, expanded, make_directory
from keras_agnews.inference import compile_forward, nested_layers, set_trainable
from keras_agnews.inputs import check_texts
from keras_agnews.lora import LowRankCopy
from keras_agnews.metrics import calibration_error, fit_temperature
from keras_agnews.pretraining import check_encoder, pretrain
from keras_agnews.recipes import Recipe, make_recipe, mixed_precision
from keras_agnews.resumable import NotFiniteError, ResumableFit, compute_once
from keras_agnews.tensor_files import save_tensors

CHECKPOINT_FILE, LOG_FILE, CURVES_FILE = "checkpoint.safetensors", "log.csv", "curves.png"
_PRETRAINING_FILE, _PRETRAINING_LOG = "pretraining.safetensors", "pretraining.csv"
_FEATURES_FILE, _ANSWERS_FILE = "features.npy", "teacher.npy"
_DIFFERENCE_FILE = "difference.safetensors"
# What only an unfinished run has.
_PASSING = (_PRETRAINING_FILE, _FEATURES_FILE, _ANSWERS_FILE, _DIFFERENCE_FILE)
_LOG_FIELDS = (
    "epoch",
    "loss",
    "accuracy",
    "validation_loss",
    "validation_accuracy",
    "validation_calibration_error",
    "temperature",
    "learning_rate",
    "seconds",
)


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
        recipe: `"full"`, `"head"` or `"lora"`; by default the entry's.
        output: directory for checkpoints, `log.csv`, the finished bundle and, where matplotlib is
            installed, `curves.png`. The bundle in it is always that of the best epoch so far.
        resume: go on from the checkpoint in `output`, to the same weights as an unbroken run; a
            run that has none starts anew, one that is finished returns at once. A teacher has to be
            there still. The training loss and accuracy of the epoch that was broken off are then
            those of its rest.
        progress: whether standard error shows progress and the time left: a bar on a terminal,
            else a line a minute.
        dtype: how the finished bundle stores its weights, `"float32"` or `"float16"`.
        record: what else the bundle's recipe shall say, e.g. the data's name.
        base: directory of the pretrained base, for `delta_rank` and for a teacher that is stored
            as a difference; else it comes from the hub.
        **options: fields of `Recipe` that differ from the entry's.

    Returns: a dict of `recipe`, `history` (one dict an epoch, as in `log.csv`) and `best_epoch`,
        from 1. The classifier is compiled as by `load` afterwards, and its layers are frozen or not
        as they were. Its temperature is the one that suits the validation rows best, at which their
        loss and calibration error are measured.

    Raises:
        TrainingError: a single class, a loss that is not finite (the weights of the best epoch
            are kept, or those that there were), or a checkpoint of another run, or of one that
            has finished and has stored its model otherwise.
        InputError: texts, labels or options that cannot be used.
    """
    if resume and output is None:
        raise InputError("resume=True needs output=, the directory of the run to go on with")
    bundle.check_dtype(dtype)
    classifier.check_whole()
    if any(getattr(layer, "lora_enabled", False) for layer in nested_layers(classifier.model)):
        raise InputError(
            "enable_lora has been called on this model: save_bundle merges its updates, so load "
            "what that writes, and train it by the recipe 'lora'"
        )
    settings = make_recipe(classifier, recipe, **options)
    texts, labels = _checked(classifier, train, "training")
    _check_classes(classifier, labels, settings)
    held = None if validation is None else _checked(classifier, validation, "validation")
    if held is not None and not len(held[1]):
        raise InputError("validation: there is no row: give some, or validation=None")
    if held is not None and len(held[1]) < _ENOUGH_TO_CHOOSE and settings.epochs > 1:
        warnings.warn(
            f"{len(held[1])} validation rows choose the best epoch nearly by chance, since each is "
            f"{1 / len(held[1]):.1%} of the accuracy: hold out {_ENOUGH_TO_CHOOSE} or more",
            stacklevel=2,
        )
    frozen = [(layer, layer.trainable) for layer in nested_layers(classifier.model)]
    run = None
    try:
        with mixed_precision(classifier, settings):
            run = _Run(classifier, settings, texts, labels, held, output, dtype, record or {}, base)
            return run.go(resume, progress)
    finally:
        set_trainable(frozen)
        if run is not None:
            classifier.compile_default()  # a spent optimizer would teach nothing more


class _Full:
    """Every weight is trained on token ids."""

    def __init__(
        self, classifier: TextClassifier, settings: Recipe, texts: Sequence[str], labels: np.ndarray
    ) -> None:
        self.classifier, self.model = classifier, classifier
        self.dataset = classifier.dataset(
            texts,
            labels,
            settings.batch_size,
            word_dropout=settings.word_dropout,
            shuffle=True,
            seed=settings.seed,
            steps=settings.steps_per_epoch,
        )

    def prepare(self, path: Path | None, identity: str, progress: bool) -> float:
        """What is to do before the first epoch: nothing; gives the seconds that it took."""
        return 0.0

    def release(self) -> None:
        """Let go of what `prepare` has taken: Windows removes no file that is mapped."""

    def finish_epoch(self) -> None:
        """Give the classifier what was trained; here it is what is trained."""

    def validator(self, texts: Sequence[str]) -> Callable[[], np.ndarray]:
        """A function that gives the logits of these texts as the classifier now is."""
        return lambda: self.classifier.logits(texts)


class _LowRank(_Full):
    """A copy with low-rank updates is trained, and merged into the classifier."""

    def __init__(
        self, classifier: TextClassifier, settings: Recipe, texts: Sequence[str], labels: np.ndarray
    ) -> None:
        super().__init__(classifier, settings, texts, labels)
        self._copy = LowRankCopy(classifier, settings)
        self.model = self._copy.classifier

    def finish_epoch(self) -> None:
        self._copy.merge()


class _Head(_Full):
    """The head alone is trained, on features that are computed once."""

    def __init__(
        self, classifier: TextClassifier, settings: Recipe, texts: Sequence[str], labels: np.ndarray
    ) -> None:
        self.classifier, self.texts = classifier, texts
        classifier.encoder.trainable = False
        layers = classifier.model.layers
        first = classifier.layer("head_dropout")
        inputs = keras.Input(first.input.shape[1:], name="features")
        hidden = inputs
        for layer in layers[layers.index(first) :]:
            hidden = layer(hidden)
        self.model = keras.Model(inputs, hidden, name="head")
        self._forward = compile_forward(self.model)
        self._width = first.input.shape[-1]
        self.release()
        self.dataset = batching.Batches(
            np.ones(len(texts), np.int32),
            labels,
            lambda rows, rng: self._features[rows],
            settings.batch_size,
            shuffle=True,
            seed=settings.seed,
            steps=settings.steps_per_epoch,
        )
        self._settings = settings

    def prepare(self, path: Path | None, identity: str, progress: bool) -> float:
        """Compute the features, in a file where there is a path, so that a kill loses few."""
        self._features, seconds = compute_once(
            lambda rows: self.classifier.features([self.texts[i] for i in rows]),
            _needed(self.dataset, self._settings),
            (len(self.texts), self._width),
            path,
            identity,
            progress,
        )
        return seconds

    def release(self) -> None:
        self._features = np.zeros((0, self._width), np.float32)

    def validator(self, texts: Sequence[str]) -> Callable[[], np.ndarray]:
        features = self.classifier.features(texts)

        def logits() -> np.ndarray:
            parts = [features[w] for w in batching.windows(len(features), 4_096)]
            return np.concatenate([self._forward(part) for part in parts])

        return logits


_JOBS: dict[str, type[_Full]] = {"full": _Full, "head": _Head, "lora": _LowRank}


def _needed(dataset: batching.Batches, settings: Recipe) -> np.ndarray:
    """The rows that any epoch will ask for: all of them, but for `steps_per_epoch`."""
    needed = []
    for epoch in range(settings.epochs if settings.steps_per_epoch else 1):
        dataset.start_epoch(epoch)
        needed.append(dataset.rows)
    return np.unique(np.concatenate(needed))


class _Run:
    """One training run, from its first epoch to the finished model."""

    def __init__(
        self,
        classifier: TextClassifier,
        settings: Recipe,
        texts: Sequence[str],
        labels: np.ndarray,
        held: tuple[Sequence[str], np.ndarray] | None,
        output: str | os.PathLike[str] | None,
        dtype: str,
        record: dict[str, Any],
        base: str | os.PathLike[str] | None,
    ) -> None:
        self.classifier, self.settings, self.texts, self.labels = (
            classifier,
            settings,
            texts,
            labels,
        )
        self.base, self.pinned = base, classifier.description
        # So that what is wrong is told before the hours, not after.
        if settings.delta_rank is not None and output is not None:
            self._open_base()
        elif settings.delta_rank is not None and settings.recipe != "lora":
            raise InputError("delta_rank needs output=, where the difference is stored")
        if settings.pretrain_epochs:
            check_encoder(classifier)
        self.teacher = Teacher(settings, classifier.labels, base)
        self.directory = None if output is None else expanded(output)
        self.dtype = dtype
        self.record: dict[str, Any] = {"rows": len(labels), "max_length": classifier.max_length}
        self.record |= {"dtype": dtype, "backend": keras.backend.backend()}
        if self.teacher.record is not None:
            self.record["teacher"] = self.teacher.record
        self.record |= record
        # Now, too: what could not be written.
        recipe = settings.record() | self.record
        bundle.check_storable(dataclasses.replace(classifier.description, recipe=recipe))
        self.best_weights: list[np.ndarray] | None = None
        if held is not None and settings.validation_steps is not None:
            count = settings.validation_steps * settings.batch_size
            rows = np.random.default_rng(settings.seed).permutation(len(held[1]))[:count]
            held = ([held[0][i] for i in rows], held[1][rows])
        self.held = held
        made = crop(texts, settings.crops, settings.seed)
        openings = cut_openings(texts, settings.openings, settings.seed)
        if settings.replacements:
            near = near_words(self.teacher.classifiers[0], words_of(texts))
            made += replace_words(texts, settings.replacements, settings.seed, near)
        self.all_texts = [*texts, *made, *openings]
        self.answered = len(texts) + len(made)
        # What is made for the teacher has its text's label for the shuffling alone.
        counts = (1, settings.crops, settings.replacements, settings.openings)
        all_labels = np.concatenate([np.repeat(labels, count) for count in counts])
        self.job = _JOBS[settings.recipe](classifier, settings, self.all_texts, all_labels)
        if not self.job.model.trainable_weights:
            raise InputError("every layer is frozen, so nothing would be trained")
        self.identity = self._identity()
        self.digest = hashlib.sha256(text_files.json_text(self.identity).encode()).hexdigest()
        self.fit = ResumableFit(
            self.job.model, self.job.dataset, settings, self._path(CHECKPOINT_FILE), self.identity
        )

    def go(self, resume: bool, progress: bool) -> dict[str, Any]:
        settings = self.settings
        if self.directory is not None:
            make_directory(self.directory)
            check_writable(self.directory, f"output {self.directory}")
            if not resume:
                for name in (CHECKPOINT_FILE, LOG_FILE, _PRETRAINING_LOG):
                    (self.directory / name).unlink(missing_ok=True)
                self._clear()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if settings.teacher is not None:
            loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        self.fit.compile(loss, metrics=["accuracy"])
        before: tuple[bundle.Bundle, list[np.ndarray]] | None
        before = self.classifier.description, self._weights()
        try:
            if not self.fit.restore():
                self._start(progress)
            stored = self.fit.finished and self._stored()
            if stored and self.fit.closed:
                return self._report()
            if not self.fit.finished:
                path = self._path(_FEATURES_FILE)
                self.fit.preparation["features"] = self.job.prepare(path, self.digest, progress)
                if settings.teacher is not None:
                    self.job.dataset.labels = self._targets(progress)
            validate = None if self.held is None else self.job.validator(self.held[0])
        except BaseException:
            self._give_back(*before)
            raise
        if stored:
            return self._close()
        if self.fit.history:
            before = None
        # A run that is interrupted leaves weights of which nothing is known.
        self.classifier.forget_training()
        try:
            for row in self.fit.epochs(progress):
                self.job.finish_epoch()
                self._finish_epoch(row | self._validated(validate))
                before = None
        except NotFiniteError as error:
            kept = "the weights are those before the run"
            if before is not None:
                self._give_back(*before)
            else:
                self._take_best()
                kept = f"the weights of epoch {(self.best or 0) + 1} are kept"
            raise TrainingError(
                f"{error}: {kept}; try a lower learning_rate than {settings.learning_rate:g}"
            ) from None
        finally:
            self.job.release()
        self._take_best()
        if self.directory is None:
            return self._report()
        if settings.delta_rank is None:
            self.classifier.save_bundle(self.directory, self.dtype)
        else:
            self._keep_difference(settings.delta_rank, validate)
        return self._close()

    def _close(self) -> dict[str, Any]:
        """Write what lies beside the finished model, and take away what only the run needed."""
        assert self.directory is not None
        if self.settings.delta_rank is not None:
            (self.directory / bundle.WEIGHTS_FILE).unlink(missing_ok=True)
        _write_log(self.fit.history, self.directory / LOG_FILE)
        _draw(self.fit.history, self.directory / CURVES_FILE)
        self.fit.close()
        self._clear()
        return self._report()

    def _report(self) -> dict[str, Any]:
        return {
            "recipe": dataclasses.asdict(self.settings),
            "history": self.fit.history,
            "best_epoch": None if self.best is None else self.best + 1,
        }

    @property
    def best(self) -> int | None:
        """Place in the history of the best epoch so far: the last one without validation."""
        history = self.fit.history
        if not history:
            return None
        if self.held is None:
            return len(history) - 1
        return max(range(len(history)), key=lambda i: _score(history[i]))

    def _stored(self) -> bool:
        """Take the finished model, where it is stored as this run stores it.

        It is not to be written again: what is read of a difference is not what was written, and
        whoever has trained or measured a finished model since has put his own there.

        Raises: `TrainingError` where the run stored it in another dtype, or it is stored as one
            that has too little of the change.
        """
        assert self.directory is not None
        stored = bundle.read(self.directory)
        if self.fit.closed and (dtype := stored.recipe.get("dtype")) not in (None, self.dtype):
            raise TrainingError(
                f"{self.directory} has the model of a run that stored it in {dtype}: start anew "
                f"without resume, or load it and save_bundle it in {self.dtype}"
            )
        rank, wanted = stored.recipe.get("delta_rank", 0), self.settings.delta_rank
        if stored.weights is None or stored.weights.delta is None:
            if wanted is not None or not self.fit.closed:
                return False
        elif wanted is None or wanted > rank:
            raise TrainingError(
                f"{self.directory} has the finished model as a difference of rank {rank}, of which "
                f"{'the whole model' if wanted is None else f'one of rank {wanted}'} cannot be "
                "made: start anew without resume, or load the one there"
            )
        elif wanted < rank:
            return False
        self._read_back()
        self.classifier.describe(
            recipe=stored.recipe, results=stored.results, temperature=stored.temperature
        )
        return True

    def _weights(self) -> list[np.ndarray]:
        weights = self.classifier.model.weights
        return [np.array(ops.convert_to_numpy(weight.value)) for weight in weights]

    def _give_back(self, description: bundle.Bundle, weights: list[np.ndarray]) -> None:
        self._assign(weights)
        self.classifier.describe(
            recipe=description.recipe,
            results=description.results,
            temperature=description.temperature,
        )

    def _assign(self, values: list[np.ndarray]) -> None:
        for variable, value in zip(self.classifier.model.weights, values, strict=True):
            variable.assign(value)

    def _path(self, name: str) -> Path | None:
        return None if self.directory is None else self.directory / name

    def _clear(self) -> None:
        assert self.directory is not None
        for name in _PASSING:
            for path in (self.directory / name, (self.directory / name).with_suffix(".json")):
                path.unlink(missing_ok=True)

    def _start(self, progress: bool) -> None:
        """Give a run that begins the weights that it begins with."""
        settings = self.settings
        if settings.teacher_embeddings:
            start_embeddings(self.classifier, self.teacher.classifiers[0])
        if settings.pretrain_epochs:
            path = self._path(_PRETRAINING_FILE)
            history = pretrain(self.classifier, self.texts, settings, path, self.identity, progress)
            self.fit.preparation["pretraining"] = sum(row["seconds"] for row in history)
            if self.directory is not None:
                _write_log(history, self.directory / _PRETRAINING_LOG)

    def _targets(self, progress: bool) -> np.ndarray:
        needed = _needed(self.job.dataset, self.settings)
        classes = len(self.classifier.labels)
        answers, self.fit.preparation["answers"] = compute_once(
            lambda rows: self.teacher.probabilities([self.all_texts[i] for i in rows]),
            needed[needed < self.answered],
            (self.answered, classes),
            self._path(_ANSWERS_FILE),
            self.digest,
            progress,
        )
        self.teacher.release()
        mixed = targets(answers, self.labels, self.settings.teacher_weight)
        of_openings = np.repeat(self.labels, self.settings.openings)
        return np.concatenate([mixed, np.eye(classes, dtype=np.float32)[of_openings]])

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be this run's."""
        digest = hashlib.sha256()
        for row in self.job.dataset.rows.tolist():
            digest.update(row.to_bytes(8, "little"))
        for labels in (self.job.dataset.labels, None if self.held is None else self.held[1]):
            digest.update(b"" if labels is None else np.ascontiguousarray(labels).tobytes())
        for texts in (self.texts, () if self.held is None else self.held[0]):
            for text in texts:
                digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        description = self.classifier.description
        digest.update(text_files.json_text([description.labels, description.max_length]).encode())
        if self.settings.recipe == "head":  # whose checkpoint has not what is frozen
            for weight in self.classifier.encoder.weights:
                digest.update(ops.convert_to_numpy(weight.value).tobytes())
        settings = self.settings
        if settings.recipe != "lora":  # it only says how the result is stored
            settings = dataclasses.replace(settings, delta_rank=None)
        values = dataclasses.asdict(settings)
        if self.teacher.marks:
            # A path says nothing of what lies there, and these say it all, where there are sums.
            values["teacher_marks"] = self.teacher.marks
            if all(any(mark["sha256"]) for mark in self.teacher.marks):
                del values["teacher"]
        if (start := self.record.get("start")) is not None:
            model = records.start(self.record)
            values["start"] = start if model is None else model.fingerprint
        return {
            "backend": keras.backend.backend(),
            "model": self.classifier.description.name,
            **values,
            "data": digest.hexdigest()[:16],
        }

    def _validated(self, validate: Callable[[], np.ndarray] | None) -> dict[str, Any]:
        """The figures of the answers to the validation rows, at the temperature that suits them."""
        if validate is None or self.held is None:
            names = ("loss", "accuracy", "calibration_error")
            return {"temperature": 1.0} | {f"validation_{name}": None for name in names}
        logits, labels = validate(), self.held[1]
        if not np.isfinite(logits).all():
            raise NotFiniteError("the answers to the validation rows are not finite")
        temperature = fit_temperature(logits, labels)
        probabilities = softmax(logits / temperature)
        chosen = np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)
        return {
            "validation_loss": float(-np.log(chosen).mean()),
            "validation_accuracy": float((probabilities.argmax(axis=1) == labels).mean()),
            "validation_calibration_error": calibration_error(probabilities, labels),
            "temperature": temperature,
        }

    def _finish_epoch(self, row: dict[str, Any]) -> None:
        history = self.fit.history
        history.append(row)
        if self.best == len(history) - 1:
            if self.directory is None:
                self.best_weights = self._weights()
            else:
                self._describe(row)
                self.classifier.save_bundle(self.directory)
                self.classifier.forget_training()  # the next epoch moves the weights
        self.fit.checkpoint(row["epoch"], 0)
        if self.directory is not None:
            _write_log(history, self.directory / LOG_FILE)

    def _take_best(self) -> None:
        if self.best is None:
            return
        if self.directory is None:
            assert self.best_weights is not None
            self._assign(self.best_weights)
        else:
            self._read_back()
        self._describe(self.fit.history[self.best])

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
        if self.pinned.pretrained is None:
            raise InputError(
                f"{self.pinned.name} has no pretrained base, of which recipe 'lora' and delta_rank "
                "store the difference: train it without them, or an entry that has one, such as "
                "minilm-L6"
            )
        return loading.open_base(self.pinned, self.base)

    def _keep_difference(self, rank: int, validate: Callable[[], np.ndarray] | None) -> None:
        """Store the difference to the base in place of the weights, with the figures that it has.

        They are measured first, so that a kill leaves the whole weights or the finished model.
        """
        assert self.directory is not None
        encoder = self.pinned.config.encoder_variables()
        change = delta.difference(
            self.classifier.arrays(), self._open_base().arrays(encoder), encoder, rank
        )
        path = self.directory / _DIFFERENCE_FILE
        save_tensors(change, path, path.with_name(f".{path.name}"))
        variables = {variable.path: variable for variable in self.classifier.model.weights}
        self.classifier.forget_training()
        for name, value in delta.apply(path, self._open_base().arrays(encoder), variables):
            variables[name].assign(value)
        self._describe(self._validated(validate))
        self._pin_base()
        description, words = self.classifier.description, self.classifier.tokenizer.vocabulary
        arrays = self.classifier.arrays()
        card.write(
            self.directory, bundle.write(self.directory, description, words, arrays, delta=change)
        )

    def _pin_base(self) -> None:
        """Where the entry's pin of its base has no sum, that of what the difference is to."""
        description = self.classifier.description
        pin, found = description.pretrained, self._open_base()
        assert pin is not None
        if not pin.sha256:
            assert hasattr(found, "directory")  # as what is on the Hub has
            sha256 = digest(found.directory / pin.file)
            own = description.weights is not None and description.weights.source is not None
            pinned = dataclasses.replace(pin, sha256=sha256)
            self.classifier.describe(**{"weights" if own else "base": pinned})

    def _describe(self, row: dict[str, Any]) -> None:
        """Let the classifier tell how it was trained and, of this epoch, how well."""
        cost = {"minutes": round(self.fit.seconds / 60, 1), "device": device_name()}
        self.classifier.describe(
            recipe=self.settings.record() | self.record | cost,
            results=self._results(row),
            temperature=row["temperature"],
        )

    def _results(self, row: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        names = ("validation_accuracy", "validation_loss", "validation_calibration_error")
        return tuple(
            {
                "data": "validation",
                "rows": len(self.held[1]) if self.held is not None else 0,
                "metric": name.removeprefix("validation_"),
                "value": row[name],
            }
            for name in names
            if row[name] is not None
        )


def _checked(classifier: TextClassifier, rows: Any, what: str) -> tuple[Sequence[str], np.ndarray]:
    texts: Any
    if isinstance(rows, Dataset):  # which may have its labels in another order
        texts, labels = rows.texts, [rows.label_names[i] for i in rows.labels.tolist()]
    elif isinstance(rows, (tuple, list)) and len(rows) == 2 and not isinstance(rows[1], str):
        texts, labels = rows
    else:
        raise InputError(
            f"{what} rows must be (texts, labels) or a dataset of keras_agnews.data, as read_rows "
            f"gives one, not {type(rows).__name__}"
        )
    try:
        texts = check_texts(texts)
        return texts, classifier.label_ids(labels, len(texts))
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


_FEW_STEPS, _ENOUGH_STEPS = 50, 300
_ENOUGH_TO_CHOOSE = 50  # of them, at 90 %, the standard error is 4 points


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
    rows = len(labels) * (1 + settings.crops + settings.replacements + settings.openings)
    of_epoch = settings.steps_per_epoch or -(-rows // settings.batch_size)
    if of_epoch * settings.epochs < _FEW_STEPS:
        warnings.warn(
            f"{of_epoch * settings.epochs} steps in all teach a model little: give more epochs, "
            f"{-(-_ENOUGH_STEPS // of_epoch)} for {_ENOUGH_STEPS} steps",
            stacklevel=3,
        )


def _score(row: dict[str, Any]) -> tuple[float, float]:
    return row["validation_accuracy"], -row["validation_loss"]


def _write_log(history: list[dict[str, Any]], path: Path) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(
        text, [name for name in _LOG_FIELDS if name in history[0]], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(history)
    text_files.write_text(path, text.getvalue())


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
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
