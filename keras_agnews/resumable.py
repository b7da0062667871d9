"""Long work that a killed process goes on with: epochs of `fit`, and rows computed once.

Both leave what they have in a directory as they go, and do again what a kill has cost, to the same
bits.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_agnews import text_files
from keras_agnews.batching import Batches, for_keras
from keras_agnews.console import Advance, progress_bar
from keras_agnews.errors import TrainingError
from keras_agnews.recipes import Recipe, make_optimizer
from keras_agnews.tensor_files import open_safetensors, save_tensors

CHECKPOINT_SECONDS = 1_800.0
CHUNK = 2_048  # rows that a kill may cost
_GENERATORS = ("torch_rng", "cuda_rng", "mps_rng")


class NotFiniteError(TrainingError):
    """The loss is not finite; the message says where."""


class ResumableFit:
    """Epochs of Keras's `fit` that go on from a checkpoint, in the midst of an epoch too.

    Args:
        model: what is trained.
        dataset: its batches, which depend on `(seed, epoch)` alone.
        settings: the recipe; its epochs, seed and optimizer are used.
        path: of the checkpoint; `None` to write none.
        identity: what must be the same for a checkpoint to be of this run.
        stage: what a person reads in front of the number of the epoch.

    Attributes:
        history: one dict an epoch, for the caller to fill; it is in the checkpoint.
        preparation: the seconds of each thing that the caller did before; it too.
        steps: batches an epoch.
        closed: whether what was restored is of a run that was done with, to the last file.
    """

    def __init__(
        self,
        model: keras.Model,
        dataset: Batches,
        settings: Recipe,
        path: Path | None,
        identity: dict[str, Any],
        stage: str = "epoch",
    ) -> None:
        self.model, self.dataset, self.settings = model, dataset, settings
        self.path, self.identity, self.stage = path, identity, stage
        self.history: list[dict[str, Any]] = []
        self.preparation: dict[str, float] = {}
        self.generators: dict[str, np.ndarray] = {}
        self.closed = False
        self._next = (0, 0)  # epoch and batch
        self._started = self._spent = 0.0  # when this epoch was, and seconds of it before that
        dataset.start_epoch(0)
        self.steps = len(dataset)

    def compile(self, loss: Any, **arguments: Any) -> None:
        """With the recipe's optimizer, its state and the model's random generators made anew."""
        self.optimizer = make_optimizer(self.settings, self.settings.epochs * self.steps)
        self.model.compile(optimizer=self.optimizer, loss=loss, **arguments)
        _seed_dropout(self.model, self.settings.seed)
        self.optimizer.build(self.model.trainable_variables)

    @property
    def seconds(self) -> float:
        """What the epochs so far and their preparation have taken."""
        return sum(self.preparation.values()) + sum(row["seconds"] for row in self.history)

    @property
    def finished(self) -> bool:
        """Whether no epoch is left."""
        return self._next[0] >= self.settings.epochs

    def epochs(self, progress: bool) -> Iterator[dict[str, Any]]:
        """Train, and yield the figures of each epoch: the caller adds them to the history."""
        first, batch = self._next
        total = self.settings.epochs
        with progress_bar(progress, total * self.steps) as advance:
            for epoch in range(first, total):
                advance(epoch * self.steps + batch, f"{self.stage} {epoch + 1}")
                self._started = time.monotonic() - self._spent
                self._spent = 0.0
                self.dataset.start_epoch(epoch, batch)
                watcher = _Watcher(self, epoch, batch, advance)
                batch = 0
                logs: dict[str, Any] = {}
                if len(self.dataset):
                    try:
                        fitted = keras.Model.fit(
                            self.model,
                            for_keras(self.dataset),
                            epochs=1,
                            shuffle=False,  # the dataset has done so, in a way that can be resumed
                            verbose=0,
                            callbacks=[watcher],
                        )
                    finally:
                        # Before 3.10, Keras leaves an interrupted model without values on JAX.
                        getattr(self.model, "jax_state_sync", lambda: None)()
                    logs = {name: values[-1] for name, values in fitted.history.items()}
                if self.settings.ema_momentum:
                    # As `fit` has done, unless the checkpoint was of an epoch's last batch.
                    self.optimizer.finalize_variable_values(self.model.trainable_variables)
                    for variable in self.model.trainable_variables:
                        # A copy: in a step, JAX takes the memory of the weight and of its average.
                        variable.assign(np.array(ops.convert_to_numpy(variable.value)))
                if watcher.broken is not None or not math.isfinite(logs.get("loss", 0.0)):
                    where = "" if watcher.broken is None else f", batch {watcher.broken + 1}"
                    raise NotFiniteError(
                        f"the loss is not finite in {self.stage} {epoch + 1}{where}"
                    )
                yield {
                    "epoch": epoch + 1,
                    "loss": logs.get("loss"),
                    "accuracy": logs.get("accuracy"),
                    "learning_rate": float(self.optimizer.learning_rate),
                    "seconds": time.monotonic() - self._started,
                }

    def checkpoint(self, epoch: int, batch: int) -> None:
        """Write everything that the run needs to go on, in one rename."""
        if self.path is None:
            return
        state = {
            "epoch": epoch,
            "batch": batch,
            "history": self.history,
            "preparation": self.preparation,
            "spent": time.monotonic() - self._started if batch else 0.0,
        }
        self._write(state, dict(self._state()))

    def close(self) -> None:
        """Keep of the checkpoint of a finished run only that it is finished."""
        state = {"epoch": self.settings.epochs, "batch": 0, "spent": 0.0}
        self._write(state | {"history": self.history, "preparation": self.preparation}, {})

    def _write(self, state: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        if self.path is None:
            return
        meta = {"state": json.dumps(state), "identity": json.dumps(self.identity)}
        save_tensors(tensors, self.path, self.path.with_name(f".{self.path.name}"), meta)

    def restore(self) -> bool:
        """Take the checkpoint, where there is one; `TrainingError` where it is another run's."""
        if self.path is None or not self.path.exists():
            return False
        with open_safetensors(self.path) as file:
            meta = file.metadata() or {}
            stored = set(file.keys())
            try:
                identity, state = json.loads(meta["identity"]), json.loads(meta["state"])
            except (KeyError, ValueError):
                raise TrainingError(f"{self.path} is not a checkpoint of a training run") from None
            for name, value in self.identity.items():
                if name == "start" and name not in identity:
                    continue  # of a run of an older version, or from Python
                if identity.get(name) != value:
                    raise TrainingError(
                        f"{self.path} is of a run with {name} {identity.get(name)!r}, not "
                        f"{value!r}: resume with the same data and options, or start anew without "
                        "resume"
                    )
            self.history, self._next = state["history"], (state["epoch"], state["batch"])
            self.preparation, self._spent = state["preparation"], state["spent"]
            self.closed = not stored
            for name, variable in () if self.closed else self._variables():
                value = file.get_tensor(name) if name in stored else None
                if value is None or value.shape != tuple(variable.shape):
                    raise TrainingError(
                        f"{self.path} does not fit the model at {variable.path}: start anew "
                        "without resume"
                    )
                variable.assign(value)
            self.generators = {
                name: file.get_tensor(name).copy() for name in _GENERATORS if name in stored
            }
        return True

    def _state(self) -> Iterator[tuple[str, np.ndarray]]:
        for name, variable in self._variables():
            yield name, np.array(ops.convert_to_numpy(variable.value), order="C")
        if keras.backend.backend() == "torch":  # its dropout draws from PyTorch's own generators
            import torch

            yield "torch_rng", torch.get_rng_state().numpy()
            if torch.cuda.is_initialized():  # one for each GPU
                yield "cuda_rng", torch.stack(torch.cuda.get_rng_state_all()).numpy()
            if torch.backends.mps.is_available():
                yield "mps_rng", torch.mps.get_rng_state().numpy()

    def _variables(self) -> Iterator[tuple[str, Any]]:
        for group, variables in (
            ("model", self.model.variables),
            ("optimizer", self.optimizer.variables),
        ):
            # By place, not by path: Keras numbers its seed generators anew in each process.
            for i, variable in enumerate(variables):
                yield f"{group}/{i}", variable


class _Watcher(keras.callbacks.Callback):
    """Shows progress, saves each half hour, stops at a loss that is not finite."""

    def __init__(self, run: ResumableFit, epoch: int, first_batch: int, advance: Advance) -> None:
        super().__init__()
        self._run, self._epoch, self._first, self._advance = run, epoch, first_batch, advance
        self._saved = time.monotonic()
        self.broken: int | None = None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # Not sooner: Keras and PyTorch draw from the generator themselves as `fit` begins.
        if batch == 0 and keras.backend.backend() == "torch":
            import torch

            generators = self._run.generators if self._first else {}
            if not generators:
                torch.manual_seed((self._run.settings.seed << 16) + self._epoch)
            else:
                torch.set_rng_state(torch.from_numpy(generators["torch_rng"]))
            if "cuda_rng" in generators and torch.cuda.is_initialized():
                torch.cuda.set_rng_state_all(list(torch.from_numpy(generators["cuda_rng"])))
            if "mps_rng" in generators and torch.backends.mps.is_available():
                torch.mps.set_rng_state(torch.from_numpy(generators["mps_rng"]))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        run, done = self._run, self._first + batch + 1
        loss = float((logs or {}).get("loss", 0.0))
        steps = self._epoch * run.steps + done
        self._advance(steps, f"{run.stage} {self._epoch + 1}, loss {loss:.4f}")
        if not math.isfinite(loss):
            self.broken = done - 1
            self.model.stop_training = True
        elif time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            _ = self.model  # on JAX, this brings the model's variables up to date
            run.checkpoint(self._epoch, done)
            self._saved = time.monotonic()


def compute_once(
    compute: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    shape: tuple[int, int],
    path: Path | None,
    identity: str,
    progress: bool = False,
) -> tuple[np.ndarray, float]:
    """An array of which the given rows are computed, in a file that a killed run goes on with.

    Args:
        compute: gives float32 `(k, width)` for row numbers int `(k,)`.
        rows: int `(m,)`, the rows that are wanted; the others stay 0.
        shape: of the array.
        path: of the file, which ends in `.npy`; `None` for memory.
        identity: what a file must be of to be gone on with.
        progress: whether a terminal shows a progress bar.

    Returns: float32 of that shape, mapped from the file where there is one, and the seconds that it
    took in all.
    """
    done, spent = 0, 0.0
    if path is None:
        array = np.zeros(shape, np.float32)
    else:
        mark = path.with_suffix(".json")
        found = text_files.read_json(mark) if path.exists() and mark.exists() else {}
        if found.get("identity") == identity and _is_whole(path, shape):
            array = np.lib.format.open_memmap(path, mode="r+")
            done, spent = found["done"], found["seconds"]
        else:
            mark.unlink(missing_ok=True)
            array = _create(path, shape)
    with progress_bar(progress and done < len(rows), len(rows)) as advance:
        for start in range(done, len(rows), CHUNK):
            advance(start, "" if path is None else path.stem)
            chunk = rows[start : start + CHUNK]
            began = time.monotonic()
            array[chunk] = compute(chunk)
            spent += time.monotonic() - began
            if path is not None:
                array.flush()  # type: ignore[attr-defined]
                state = {"identity": identity, "done": start + len(chunk), "seconds": spent}
                text_files.write_json(mark, state)
    return array, spent


def _is_whole(path: Path, shape: tuple[int, int]) -> bool:
    """Whether a file has the array: to be written to, it would be lengthened in silence."""
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError):
        return False
    return found.shape == shape and found.dtype == np.float32


def _create(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A mapped file of zeros that has its place on the disk.

    It would have none until it is written to, and where the disk is full that ends the process.
    """
    try:
        array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot
            return array
        raise TrainingError(
            f"{path} cannot have the {4 * math.prod(shape):,} bytes that it needs: "
            f"{error.strerror}: make room, or give another output"
        ) from None
    return array


def _seed_dropout(model: keras.Model, seed: int) -> None:
    """Start every random generator of the model from `seed`.

    `keras.utils.set_random_seed` would come too late for generators that exist, and it imports
    TensorFlow wherever that is installed.
    """
    states = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    for i, state in enumerate(states):
        state.assign(np.array([seed, i], "uint32"))
