"""`TextClassifier`, the Keras model that users hold: strings in, labels out."""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
import os
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np

from keras_agnews import batching, bundle, card, delta, exporting, inference
from keras_agnews.bundle import Bundle
from keras_agnews.errors import BundleError, InputError
from keras_agnews.exporters import huggingface, keras_hub
from keras_agnews.files import expanded, make_directory, replacing
from keras_agnews.inputs import check_texts, label_ids, sample_weights
from keras_agnews.tokenizers import Tokenizer, write_vocabulary

# Texts whose tokens are in memory at a time: enough to sort by length with little waste.
WINDOW = 4_096
_COMPUTING = 2  # threads that call the forward pass: one fills the gaps of the other
_AHEAD = 64  # batches that wait for a compute thread: bounds memory, hides tokenization
_DEFAULT_LEARNING_RATE = 1e-3


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one text.

    Attributes:
        label: the most probable label.
        score: its probability.
        scores: the probability of every label.
        truncated: whether the text was longer than the model's `max_length` and was cut.
    """

    label: str
    score: float
    scores: dict[str, float]
    truncated: bool


@keras.saving.register_keras_serializable(package="keras_agnews")
class TextClassifier(keras.Model):
    """A tokenizer and a Keras model on token ids, as one Keras model on strings.

    Made by `keras_agnews.load`. `fit` and `evaluate` take texts and labels; `predict` gives
    probabilities and `classify` labels; calling it on token ids gives logits, as `clf.model` does.

    Args:
        description: the `Bundle` that says what it is.
        tokenizer: texts to ids; `None` only until `load_assets` reads its vocabulary.

    Example:

    ```python
    clf = keras_agnews.load("tiny-transformer")
    clf.classify("Oil prices soar to an all-time record").label      # "Business"
    ```
    """

    def __init__(
        self, description: Bundle, tokenizer: Tokenizer | None = None, **kwargs: Any
    ) -> None:
        # A TensorFlow scope: letters of ASCII, and no underscore in front.
        plain = re.sub(r"\W", "_", description.name, flags=re.ASCII)
        kwargs.setdefault("name", f"model{plain}" if plain.startswith("_") else plain)
        super().__init__(**kwargs)
        self._description = description
        self._tokenizer = tokenizer
        self.model = description.build()
        self._forward = inference.compile_forward(self.model)
        self._features_forward: inference.Forward | None = None
        self.built = True

    # What it is.

    @property
    def description(self) -> Bundle:
        """Everything that `config.json` would say of it."""
        return self._description

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self._description.labels

    @property
    def max_length(self) -> int:
        """The longest text in tokens; longer ones are cut."""
        return self._description.max_length

    @property
    def temperature(self) -> float:
        """Logits are divided by it before the softmax."""
        return self._description.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        try:
            self.describe(temperature=float(value))
        except (TypeError, ValueError) as error:
            reason = str(error) if isinstance(error, InputError) else "it must be a number"
            raise InputError(f"temperature {value!r}: {reason}") from None

    @property
    def source(self) -> dict[str, Any] | None:
        """Where the weights came from."""
        return self._description.source

    @property
    def tokenizer(self) -> Tokenizer:
        """Texts to token ids."""
        if self._tokenizer is None:
            raise InputError("this classifier has no vocabulary: load it with load_model or load")
        return self._tokenizer

    @property
    def encoder(self) -> keras.layers.Layer:
        """The layer from token ids to hidden states; see `layers.TransformerEncoder`."""
        return self.layer("encoder")

    def layer(self, name: str) -> keras.layers.Layer:
        """A layer of the model, e.g. `"logits"`; `InputError` where the architecture has none."""
        try:
            return self.model.get_layer(name)
        except ValueError:
            raise InputError(
                f"{self.description.name} is built by {self.description.builder!r}, and its model "
                f"has no layer {name!r}, which this needs"
            ) from None

    def describe(self, **changes: Any) -> None:
        """Change fields of the description, e.g. `describe(results=(...,))`.

        Raises: `InputError` for what no bundle can say, other labels than there are classes, and
            what the model or its tokenizer has built in: `load(...)` gives another one.
        """
        fixed = {"builder", "config", "tokenizer", "max_length"} & changes.keys()
        if fixed:
            raise InputError(f"{min(fixed)} is built into the model: load one that has another")
        if unknown := changes.keys() - {field.name for field in dataclasses.fields(Bundle)}:
            raise InputError(f"describe({min(unknown)}): a description has no such field")
        labels, count = changes.get("labels", self.labels), len(self.labels)
        if not isinstance(labels, (list, tuple)) or len(labels) != count:
            raise InputError(
                f"labels must be a list of {count} names, since the model has {count} classes: "
                "load(..., labels=[...]) gives one that has others"
            )
        try:
            changed = dataclasses.replace(self._description, **changes)
            self._description = Bundle.from_dict(changed.to_dict())
        except BundleError as error:
            raise InputError(str(error)) from None
        except TypeError as error:  # a value of another kind
            raise InputError(f"describe({', '.join(changes)}): {error}") from None

    def forget_training(self) -> None:
        """Take back what the description says of how the weights were trained, and how well."""
        self._description = self._description.untrained()

    # Answers.

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Logits, float32 `(batch, classes)`, of a dict of token ids."""
        return self.model(inputs, training=training)

    def predict(
        self, x: Any, batch_size: int | None = None, verbose: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """Probabilities of texts, in the order of the texts. Safe to call from several threads.

        Args:
            x: a str, or a list, tuple, NumPy array or pandas Series of str.
            batch_size: at most so many texts a batch; by default as many as suit their length.
            verbose: ignored; here for Keras's signature.
            **kwargs: none; a name that is not known is an error.

        Returns: float32 `(n, classes)`; rows sum to 1. `(1, classes)` for a str.

        Raises:
            InputError: a text that is no str, by its index; or answers that are not finite.
        """
        if kwargs:
            raise InputError(f"predict() knows no {', '.join(sorted(kwargs))}")
        texts = check_texts(x)
        return self._probabilities(texts, batch_size)[0]

    def classify(self, texts: Any, batch_size: int | None = None) -> Any:
        """The label of each text. Safe to call from several threads.

        Args:
            texts: a str, or a list, tuple, NumPy array or pandas Series of str.
            batch_size: at most so many texts a batch.

        Returns: one `Prediction` for a str, else a list of them.

        Raises:
            InputError: as `predict`.
        """
        checked = check_texts(texts)
        probabilities, truncated = self._probabilities(checked, batch_size)
        best = probabilities.argmax(axis=1)
        predictions = [
            Prediction(self.labels[i], row[i], dict(zip(self.labels, row, strict=True)), cut)
            for i, row, cut in zip(
                best.tolist(), probabilities.tolist(), truncated.tolist(), strict=True
            )
        ]
        return predictions[0] if isinstance(texts, str) else predictions

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Logits of token ids, as `call`; `InputError` for texts, which `classify` takes."""
        first = args[0] if args else None
        if isinstance(first, str) or (
            isinstance(first, (list, tuple)) and len(first) and isinstance(first[0], str)
        ):
            raise InputError("a call takes token ids: classify(texts) or predict(texts)")
        return super().__call__(*args, **kwargs)

    def predict_on_batch(self, x: Any) -> np.ndarray:
        """As `predict`."""
        return self.predict(x)

    def features(self, texts: Any, batch_size: int | None = None) -> np.ndarray:
        """What the classification head sees of each text, float32 `(n, hidden_size)`.

        Texts and batch size as for `predict`. They can be the inputs of a model of your own.
        """
        if self._features_forward is None:
            head = self.layer("head_dropout")
            self._features_forward = inference.compile_forward(
                keras.Model(self.model.input, head.input)
            )
        width = self.layer("head_dropout").input.shape[-1]
        return self._run(self._features_forward, check_texts(texts), width, batch_size)[0]

    def logits(self, texts: Any, batch_size: int | None = None) -> np.ndarray:
        """What `predict` divides by the temperature, float32 `(n, classes)`."""
        return self._run(self._forward, check_texts(texts), len(self.labels), batch_size)[0]

    def _probabilities(
        self, texts: Sequence[str], batch_size: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        logits, truncated = self._run(self._forward, texts, len(self.labels), batch_size)
        if not np.isfinite(logits).all():  # of which the first label would come out as the best
            raise InputError(
                f"{self.description.name} gives answers that are not finite numbers: its weights "
                "are damaged, or it was fitted at too high a learning rate; load it anew"
            )
        return softmax(logits / self.temperature), truncated

    def _run(
        self, forward: inference.Forward, texts: Sequence[str], width: int, batch_size: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Outputs `(n, width)` in the order of the texts, and which of them were cut."""
        if batch_size is not None and (
            not isinstance(batch_size, (int, np.integer)) or batch_size < 1
        ):
            raise InputError(f"batch_size must be a positive integer, not {batch_size!r}")
        self._attach_weights()
        outputs = np.empty((len(texts), width), np.float32)
        truncated = np.empty(len(texts), bool)

        def compute(window: slice, inputs: dict[str, np.ndarray], indices: np.ndarray) -> None:
            outputs[window][indices] = forward(inputs)[: len(indices)]

        tokens = batching.tokens_per_batch(getattr(self.description.config, "hidden_size", None))
        # Other threads compute while this one tokenizes and pads what comes next.
        pool = ThreadPoolExecutor(_COMPUTING, "keras_agnews")
        running: deque[Future[None]] = deque()
        try:
            for window in batching.windows(len(texts), WINDOW):
                ids = self.tokenizer.batch(texts[window])
                truncated[window] = ids.truncated
                for batch in batching.plan(
                    ids.lengths, self.max_length, max_rows=batch_size, tokens=tokens
                ):
                    matrix = batching.pad(ids, batch.indices, batch.rows, batch.length)
                    while len(running) >= _AHEAD:
                        running.popleft().result()
                    task = (window, self._inputs(matrix), batch.indices)
                    running.append(pool.submit(compute, *task))
            while running:
                running.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C waits for one batch, not for all
        return outputs, truncated

    def _inputs(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        inputs = {"input_word_ids": ids}
        if "input_type_ids" in self.model.input:
            inputs["input_type_ids"] = np.zeros_like(ids)
        return inputs

    # Training.

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **kwargs: Any) -> None:
        """As `keras.Model.compile`; the loss must take logits, which is what `call` gives.

        Raises: `InputError` for a loss that expects probabilities: it would train wrong.
        """
        if expects_probabilities(loss):
            raise InputError(
                f"loss {_shown(loss)!r} expects probabilities and this model gives logits: pass "
                "keras.losses.SparseCategoricalCrossentropy(from_logits=True)"
            )
        super().compile(optimizer=optimizer, loss=loss, **kwargs)

    def compile_default(self, learning_rate: float = _DEFAULT_LEARNING_RATE) -> None:
        """Compile with AdamW, cross-entropy from logits and accuracy, as `load` does."""
        self.compile(
            optimizer=keras.optimizers.AdamW(learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            # By its name alone Keras would take the accuracy of two classes for one logit.
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        )

    def get_compile_config(self) -> dict[str, Any] | None:
        config = super().get_compile_config()
        return config and {**config, "optimizer_built": getattr(self.optimizer, "built", False)}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        config = dict(config)
        # One that has taken no step has no state in the file: Keras would miss it, and say so.
        built = config.pop("optimizer_built", True)
        self.compile(**keras.saving.deserialize_keras_object(config))
        if built and getattr(self, "optimizer", None) is not None:
            self.optimizer.build(self.trainable_variables)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        *,
        validation_data: Any = None,
        validation_split: float = 0.0,
        shuffle: bool = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Train on texts and labels, each epoch in new batches of texts of like length.

        Args:
            x: texts; or a `keras.utils.PyDataset` of token ids, passed on to Keras.
            y: labels, ints or label names.
            batch_size: texts a batch, 32 by default.
            epochs: passes over the texts.
            validation_data: `(texts, labels)` or `(texts, labels, sample_weight)`.
            validation_split: fraction of the texts, at the end, to validate on where there is no
                `validation_data`.
            shuffle: whether batches are drawn anew each epoch.
            class_weight: dict from label, int or name, to weight.
            sample_weight: float `(n,)`.
            seed: of the shuffling; by default what `keras.utils.set_random_seed` makes of it.
            **kwargs: callbacks, verbose, initial_epoch, ...: as `keras.Model.fit`.

        Returns: Keras's `History`. Where a step was taken, the temperature is 1 afterwards, and the
            description no longer says how the weights were trained.

        Raises:
            InputError: a text that is no str or a label that is not the model's, by its index.
        """
        size = 32 if batch_size is None else batch_size
        if _is_dataset(x):
            _check_alone(
                y=y,
                sample_weight=sample_weight,
                validation_split=validation_split or None,
                batch_size=batch_size if validation_data is None else None,
                shuffle=None if shuffle else shuffle,
                seed=seed,
            )
            dataset = x
        else:
            texts = check_texts(x)
            labels, weights = self.label_ids(y, len(texts)), sample_weights(sample_weight)
            if validation_split and validation_data is None:
                if not 0 < validation_split < 1:
                    raise InputError(f"validation_split is {validation_split}, not in 0 to 1")
                cut = int(len(texts) * (1 - validation_split))
                held = None if weights is None else weights[cut:]
                names = [self.labels[i] for i in labels[cut:].tolist()]
                validation_data = (texts[cut:], names, held)
                texts, labels = texts[:cut], labels[:cut]
                weights = None if weights is None else weights[:cut]
            if not len(texts):
                raise InputError("fit() needs at least one text")
            self._check_loss()
            dataset = self.dataset(texts, labels, size, weights, shuffle=shuffle, seed=seed)
        if validation_data is not None and not _is_dataset(validation_data):
            self._check_loss()
            if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
                raise InputError(
                    "validation_data must be (texts, labels) or (texts, labels, sample_weight)"
                )
            texts, (y, *weight) = check_texts(validation_data[0]), validation_data[1:]
            if not len(texts):
                raise InputError("validation_data has no text")
            weights = sample_weights(weight[0] if weight else None)
            own_size = kwargs.pop("validation_batch_size", None)
            size = size if own_size is None else own_size
            validation_data = self.dataset(texts, self.label_ids(y, len(texts)), size, weights)
        if class_weight is not None:
            if not isinstance(class_weight, Mapping):
                raise InputError(
                    f"class_weight must be a dict from label to weight, not {class_weight!r}"
                )
            try:
                keys = self.label_ids(list(class_weight), len(class_weight)).tolist()
            except InputError as error:
                raise InputError(f"the keys of class_weight as labels: {error}") from None
            if sample_weight is not None:
                raise InputError("class_weight and sample_weight: pass the product of the two")
            for label, weight in class_weight.items():
                if not isinstance(weight, numbers.Real) or not math.isfinite(weight):
                    raise InputError(f"class_weight[{label!r}] is {weight!r}, not a finite number")
            # All of them: on TensorFlow Keras has no weight for a class that is left out.
            class_weight = dict.fromkeys(range(len(self.labels)), 1.0) | dict(
                zip(keys, class_weight.values(), strict=True)
            )
        _check_known(keras.Model.fit, kwargs)
        before, steps = self._description, self._steps()
        self.forget_training()
        try:
            return super().fit(
                _for_keras(dataset),
                epochs=epochs,
                shuffle=False,  # the dataset has done so
                validation_data=_for_keras(validation_data),
                class_weight=class_weight,
                **kwargs,
            )
        finally:
            # Before 3.10, Keras leaves variables without values on JAX where it is interrupted.
            self._attach_weights()
            if self._steps() == steps:  # none was taken: the weights are what they were
                self._description = before

    def _steps(self) -> int | None:
        """How many the optimizer has taken."""
        optimizer = getattr(self, "optimizer", None)
        return optimizer and int(keras.ops.convert_to_numpy(optimizer.iterations))

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        *,
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Loss and metrics on texts and labels, the loss at temperature 1.

        Args:
            x: texts; or a `keras.utils.PyDataset` of token ids, passed on to Keras.
            y: labels, ints or label names.
            batch_size: texts a batch, 128 by default.
            sample_weight: float `(n,)`.
            **kwargs: callbacks, verbose, return_dict, ...: as `keras.Model.evaluate`.

        Returns: `[loss, accuracy]` as `load` compiles it; a dict with `return_dict=True`.

        Raises:
            InputError: no text, one that is no str, or a label that is not the model's; it names
                the index.
        """
        _check_known(keras.Model.evaluate, kwargs)
        self._attach_weights()  # a callback may ask within an epoch
        if _is_dataset(x):
            _check_alone(y=y, sample_weight=sample_weight, batch_size=batch_size)
            return super().evaluate(_for_keras(x), **kwargs)
        texts = check_texts(x)
        if not len(texts):
            raise InputError("evaluate() needs at least one text")
        self._check_loss()
        labels = self.label_ids(y, len(texts))
        size = 128 if batch_size is None else batch_size
        dataset = self.dataset(texts, labels, size, sample_weights(sample_weight))
        return super().evaluate(_for_keras(dataset), **kwargs)

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any
    ) -> Any:
        """As `keras.Model.train_on_batch`, of texts and labels or of token ids.

        The temperature is 1 afterwards, and the description says nothing of how it was trained.
        """
        trained = super().train_on_batch(*self._batch(x, y, sample_weight), **kwargs)
        self.forget_training()
        return trained

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any) -> Any:
        """As `keras.Model.test_on_batch`, of texts and labels or of token ids."""
        return super().test_on_batch(*self._batch(x, y, sample_weight), **kwargs)

    def _batch(self, x: Any, y: Any, sample_weight: Any) -> tuple[Any, ...]:
        if isinstance(x, Mapping):
            return x, y, sample_weight
        texts, weights = check_texts(x), sample_weights(sample_weight)
        if not len(texts):
            raise InputError("a batch needs at least one text")
        self._check_loss()
        return self.dataset(texts, self.label_ids(y, len(texts)), len(texts), weights)[0]

    def _check_loss(self) -> None:
        """`InputError` for a loss of Keras that takes something else than numbers of classes."""
        for loss in keras.tree.flatten(getattr(self, "loss", None)):
            name = _name_in_keras(keras.losses.get(loss))
            if name and not name.startswith("sparse"):
                raise InputError(
                    f"loss {_shown(loss)!r} does not take labels, one a text: compile with "
                    "keras.losses.SparseCategoricalCrossentropy(from_logits=True), or fit a "
                    "dataset whose targets it takes"
                )

    def load_weights(self, filepath: Any, **kwargs: Any) -> None:
        """As `keras.Model.load_weights`; how these were trained, and how well, is not in the file.

        So the temperature is 1 afterwards, and the description says nothing of it.
        """
        super().load_weights(filepath, **kwargs)
        self.forget_training()

    def dataset(
        self,
        texts: Sequence[str],
        labels: np.ndarray,
        batch_size: int = 32,
        sample_weight: np.ndarray | None = None,
        *,
        word_dropout: float = 0.0,
        **options: Any,
    ) -> batching.Batches:
        """Texts and int labels as batches of token ids, for `fit` and `evaluate`.

        Args:
            texts: list of str.
            labels: int32 `(n,)`.
            batch_size: texts a batch.
            sample_weight: float32 `(n,)`, optional.
            word_dropout: share of the tokens that are replaced by the unknown one, drawn anew
                each epoch.
            **options: `shuffle`, `seed` and `steps`, as `batching.Batches`.
        """
        ids = self.tokenizer.batch(check_texts(texts))
        unknown = self.tokenizer.unknown_id
        special = self.tokenizer.special_tokens > 0

        def fetch(rows: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
            longest = max(1, int(ids.lengths[rows].max()))
            matrix = batching.pad(ids, rows, len(rows), batching.bucket(longest, self.max_length))
            if word_dropout:
                drop = (rng.random(matrix.shape) < word_dropout) & (matrix != 0)
                if special:  # the first and the last token stay
                    drop[:, 0] = False
                    drop[np.arange(len(rows)), ids.lengths[rows] - 1] = False
                matrix[drop] = unknown
            return self._inputs(matrix)

        return batching.Batches(ids.lengths, labels, fetch, batch_size, sample_weight, **options)

    def label_ids(self, labels: Any, count: int) -> np.ndarray:
        """Labels as `inputs.label_ids` takes them, as places in `self.labels`."""
        return label_ids(labels, self.labels, count)

    # Disk.

    def get_config(self) -> dict[str, Any]:
        frozen = [x.path for x in inference.nested_layers(self.model) if not x.trainable]
        return {
            "name": self.name,
            "bundle": self._description.to_dict(),
            "frozen": frozen,
            "dtype_policy": inference.precision(self.model),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        # Keras's own policy may be another one than when it was saved.
        present, policy = keras.config.dtype_policy(), config.get("dtype_policy")
        keras.config.set_dtype_policy(policy or present)
        try:
            classifier = cls(Bundle.from_dict(config["bundle"]), name=config["name"])
        finally:
            keras.config.set_dtype_policy(present)
        frozen = set(config.get("frozen", ()))
        inference.set_trainable(
            (x, x.path not in frozen) for x in inference.nested_layers(classifier.model)
        )
        return classifier

    def save_assets(self, directory: str) -> None:
        """Called by Keras when it saves: the vocabulary goes into the .keras file."""
        write_vocabulary(Path(directory) / bundle.VOCABULARY_FILE, self.tokenizer.vocabulary)

    def load_assets(self, directory: str) -> None:
        """Called by Keras when it loads."""
        known = bundle.canonical(self._description)
        self._tokenizer = bundle.read_tokenizer(Path(directory), known)

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Save the whole thing, tokenizer and optimizer included, to a `.keras` file.

        A crash leaves the old file or the new one.
        """
        path = expanded(filepath)
        if path.suffix != ".keras":
            raise InputError(f"{path}: give a name that ends in .keras, or use save_bundle")
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists: overwrite=True replaces it")
        if path.is_dir():
            raise InputError(f"{path} is a directory: give the name of a file")
        self.check_whole()
        self._attach_weights()
        make_directory(path.parent)
        with replacing(path) as passing:
            super().save(passing, **kwargs)

    def save_bundle(
        self,
        directory: str | os.PathLike[str],
        dtype: str | None = None,
        *,
        base: Iterable[tuple[str, np.ndarray]] | None = None,
        rank: int = 16,
    ) -> Path:
        """Write config.json, model.safetensors, vocab.txt and a card, for `load(directory)`.

        Args:
            directory: made where it is missing; a model in it is replaced as a whole.
            dtype: `"float32"`, or `"float16"` for half the size; `None`: in float16 where that
                loses nothing, as of a model that was loaded from such a file, else in float32.
            base: name and value of the variables of the pretrained base that the model pins on a
                hub, as `loading.open_base(...).arrays(...)` gives them, of its encoder all: only
                the difference to it is then written, which `load` applies to the base.
            rank: of the kernels' differences in the mean; what training moved more gets more.

        Returns: the directory.

        Raises: `InputError` for a model that pins no base, and a base that is none of it.
        """
        root, record = expanded(directory), self._description
        if base is not None and (record.pretrained is None or not record.pretrained.sha256):
            raise InputError(f"{record.name} pins no base, to which a difference could be written")
        if type(rank) is not int or rank < 1:
            raise InputError(f"rank must be a positive integer, not {rank!r}")
        arrays = self.arrays()
        change = None
        if base is not None:
            encoder = record.config.encoder_variables()
            change = delta.difference(arrays, base, encoder, rank)
        card.write(
            root, bundle.write(root, record, self.tokenizer.vocabulary, arrays, dtype, change)
        )
        return root

    def save_hugging_face(self, directory: str | os.PathLike[str]) -> Path:
        """Write a checkpoint for `transformers.AutoModelForSequenceClassification`.

        With config.json, model.safetensors, and the files of `AutoTokenizer`, whose ids are this
        model's but for a text that holds the name of a special token, such as "[MASK]", a word that
        ends in a capital sigma, a character for private use, or one that is newer than the
        `tokenizers` library's tables.

        Args:
            directory: made where it is missing.

        Returns: the directory.

        Raises: `InputError` where their BERT and DistilBERT cannot be this model, naming the field.
        """
        root = expanded(directory)
        huggingface.write(root, self._description, self.tokenizer, self.arrays())
        return root

    def save_keras_hub_preset(self, directory: str | os.PathLike[str]) -> Path:
        """Write a preset for `keras_hub.models.BertTextClassifier.from_preset`.

        KerasHub's BERT has its activation (GELU by tanh), epsilon (1e-12) and pooling (first token)
        built in, and no names of classes. Its tokenizer is another one: a no-break space does not
        part words there and a zero-width one does, "ß" is "ss", and a compatibility character, such
        as "…" or a full-width letter, is what it stands for.

        Args:
            directory: made where it is missing.

        Returns: the directory.

        Raises:
            InputError: for a model that it cannot be, naming the field.
            MissingDependencyError: KerasHub is not installed.
        """
        root = expanded(directory)
        keras_hub.write(root, self._description, self.tokenizer, self.arrays())
        return root

    def export(self, filepath: str | os.PathLike[str]) -> Path:
        """Write the model for another runtime, in the format that the suffix says.

        A name without a suffix is a directory, a TensorFlow SavedModel, and needs Keras on
        TensorFlow. It takes strings, `texts` `(n,)` in UTF-8, and returns, in a dict, the `label`
        and the `score` of each, `(n,)`, and all `classes` and their `scores`, `(n, classes)`.
        The tokenizer is inside: answers are those of `classify` but for characters newer than
        TensorFlow's Unicode tables, and nothing tells that a text was cut. What serves it needs
        TensorFlow, and with word pieces tensorflow-text too, and nothing of this package:

        ```python
        clf.export("served")
        served = tf.saved_model.load("served")       # after `import tensorflow_text`
        served(tf.constant(["Oil prices soar"]))["label"]
        ```

        A name that ends in `.onnx` is an ONNX graph, written on any backend. It takes
        `input_word_ids` and, where the architecture has token types, `input_type_ids`, int32
        `(n, length)` of any size (of a GRU at least 1 by 1), 0 for padding, and returns `logits`
        and `scores`, float32 `(n, classes)`; its metadata have the labels. With word pieces a
        `tokenizer.json` comes beside it, from which the `tokenizers` library gives the ids, cut and
        padded, but for a text as `save_hugging_face` tells of. A word tokenizer has none, and a
        warning says so.

        A name that ends in `.tflite` is a TensorFlow Lite model with the same inputs, to `logits`
        alone, and the same `tokenizer.json`; it needs Keras 3.13 on TensorFlow.

        Args:
            filepath: an older SavedModel there is replaced as a whole.

        Returns: the path.

        Raises:
            InputError: the suffix is not known, Keras runs on another backend, or the
                `tokenizer.json` there is another model's.
            MissingDependencyError: a package is missing; the message says what to install.
        """
        return exporting.export(self, expanded(filepath))

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights, float32, by their paths, with what `enable_lora` has added merged into them.

        Raises: `InputError` for a quantized model.
        """
        self.check_whole()
        self._attach_weights()
        values = {
            v.path: np.asarray(keras.ops.convert_to_numpy(v.value), np.float32)
            for v in self.model.weights
        }
        merged = {path: value for path, value in values.items() if "/lora_" not in path}
        for layer in inference.nested_layers(self.model):
            if getattr(layer, "lora_enabled", False):
                # Keras's own sum is rounded to the precision that the layer computes in.
                name = "embeddings" if hasattr(layer, "embeddings") else "kernel"
                a, b = (values[f"{layer.path}/lora_{name}_{x}"] for x in "ab")
                scale = getattr(layer, "lora_alpha", layer.lora_rank) / layer.lora_rank
                merged[f"{layer.path}/{name}"] = values[f"{layer.path}/{name}"] + scale * (a @ b)
        return merged

    def _attach_weights(self) -> None:
        """On JAX, Keras's `fit` takes them out of the variables within an epoch."""
        if hasattr(self, "jax_state_sync"):
            self.jax_state_sync()

    def check_whole(self) -> None:
        """`InputError` where weights are quantized, which hardly a format here can hold."""
        for layer in inference.nested_layers(self.model):
            if mode := getattr(layer, "quantization_mode", None):
                raise InputError(
                    f"{self._description.name} is quantized ({mode}): save or export it first, "
                    "and quantize what you load"
                )


def _is_dataset(x: Any) -> bool:
    """Whether it is batches already: Keras's own, or TensorFlow's, as which Keras gets ours."""
    return isinstance(x, keras.utils.PyDataset) or hasattr(x, "element_spec")


def _check_alone(**beside: Any) -> None:
    """`InputError` for what is given beside a dataset, where nothing would look at it."""
    for name, value in beside.items():
        if value is not None:
            raise InputError(f"{name} goes with texts, not with a dataset, which has its own")


def _check_known(method: Any, keywords: Mapping[str, Any]) -> None:
    known = inspect.signature(method).parameters
    if unknown := [x for x in sorted(keywords) if x not in known and not x.startswith("_")]:
        raise InputError(f"{method.__name__}() knows no {', '.join(unknown)}")


def _for_keras(dataset: Any) -> Any:
    return batching.for_keras(dataset) if isinstance(dataset, batching.Batches) else dataset


def expects_probabilities(loss: Any) -> bool:
    """Whether a loss of Keras, by name, function or object, expects probabilities.

    So does a list or dict of losses where one of them does.
    """
    return any(map(_expects_probabilities, keras.tree.flatten(loss)))


def _expects_probabilities(loss: Any) -> bool:
    try:
        if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
            return True  # Keras chooses one by the shapes, of those that take probabilities
        known = keras.losses.get(loss)
    except ValueError:
        return False
    if (from_logits := getattr(known, "from_logits", None)) is not None:
        return not from_logits
    kinds = ("crossentropy", "kldivergence", "poisson")
    return any(kind in _name_in_keras(known) for kind in kinds)


def _name_in_keras(loss: Any) -> str:
    """Of one of Keras's own losses the name, in small letters alone, else nothing."""
    function = getattr(loss, "fn", loss)
    if (getattr(function, "__module__", None) or "").partition(".")[0] != "keras":
        return ""
    name: str = getattr(function, "__name__", type(function).__name__)
    return name.lower().replace("_", "")


def _shown(loss: Any) -> str:
    return loss if isinstance(loss, str) else str(getattr(loss, "name", loss))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, `(n, classes)`; each row sums to 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities
