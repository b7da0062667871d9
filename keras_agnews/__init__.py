"""News text to topics in Keras 3: serializable layers and a model zoo.

    import keras_agnews

    clf = keras_agnews.load("tiny-transformer")
    clf.classify("Oil prices soar to an all-time record")

Importing this package imports neither Keras nor a backend. As soon as Keras is imported, by
whomever, the package's layers are registered, so that `keras.saving.load_model` finds them.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.util
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# The public names, by the module that has them; each is imported when it is first asked for.
_PUBLIC = {
    "classifier": ("Prediction", "TextClassifier"),
    "errors": (
        "BundleError",
        "DataError",
        "DownloadError",
        "InputError",
        "KerasAgnewsError",
        "MissingDependencyError",
        "NotFoundError",
        "TrainingError",
        "UploadError",
    ),
    "explain": ("Explanation", "attention"),
    "hub": ("pull", "verify"),
    "loading": ("load",),
    "publishing": ("push",),
    "registry": ("list_models", "register"),
    "schedules": ("WarmupLinearDecay",),
    "training": ("finetune",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
_MODULES = {path.stem for path in Path(__file__).parent.glob("[a-z]*.py")}
_REGISTERING = ("layers", "schedules", "classifier")  # the modules whose classes .keras files name

__all__ = [
    "BundleError",
    "DataError",
    "DownloadError",
    "Explanation",
    "InputError",
    "KerasAgnewsError",
    "MissingDependencyError",
    "NotFoundError",
    "Prediction",
    "TextClassifier",
    "TrainingError",
    "UploadError",
    "WarmupLinearDecay",
    "__version__",
    "attention",
    "finetune",
    "list_models",
    "load",
    "pull",
    "push",
    "register",
    "verify",
]

if TYPE_CHECKING:
    from keras_agnews.classifier import Prediction, TextClassifier
    from keras_agnews.errors import (
        BundleError,
        DataError,
        DownloadError,
        InputError,
        KerasAgnewsError,
        MissingDependencyError,
        NotFoundError,
        TrainingError,
        UploadError,
    )
    from keras_agnews.explain import Explanation, attention
    from keras_agnews.hub import pull, verify
    from keras_agnews.loading import load
    from keras_agnews.publishing import push
    from keras_agnews.registry import list_models, register
    from keras_agnews.schedules import WarmupLinearDecay
    from keras_agnews.training import finetune


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"keras_agnews.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"keras_agnews.{name}")
    raise AttributeError(f"module 'keras_agnews' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


def _choose_backend() -> None:
    """Set `KERAS_BACKEND` to what is installed, unless the user has chosen what is installed.

    Keras writes a keras.json that says tensorflow even where there is none.
    """
    if os.environ.get("KERAS_BACKEND"):
        return
    home = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    path = Path(os.path.expanduser(os.path.join(home, "keras.json")))
    try:
        chosen = json.loads(path.read_text(encoding="utf-8"))["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        chosen = None
    for name in (chosen, "tensorflow", "jax", "torch"):
        if isinstance(name, str) and name.isidentifier() and importlib.util.find_spec(name):
            os.environ["KERAS_BACKEND"] = name
            return


def _register_layers() -> None:
    for module in _REGISTERING:
        importlib.import_module(f"keras_agnews.{module}")


class _AfterKeras(importlib.abc.MetaPathFinder):
    """Registers our layers as soon as Keras is imported and no module of ours is half-way.

    Finds modules as the others would, and adds to their execution only. A module of ours that
    imports Keras could not be imported again from inside that.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> Any:
        if name != "keras" and not name.startswith("keras_agnews."):
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next(filter(None, specs), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with self._counted():
                execute(module)
            if not self._running and "keras" in sys.modules:
                self._finish()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def _finish(self) -> None:
        with self._counted():
            _register_layers()
        if self in sys.meta_path:
            sys.meta_path.remove(self)


if "keras" in sys.modules:
    _register_layers()
else:
    _choose_backend()
    sys.meta_path.insert(0, _AfterKeras())
