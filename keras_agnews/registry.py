"""Names to bundles and to builders: the zoo, and what third parties add to it.

Nothing here imports a backend, so `keras-agnews list` need not wait for one.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import functools
import importlib
import importlib.metadata
import os
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_agnews.configs import BertConfig, GruConfig, TransformerConfig
from keras_agnews.errors import (
    BundleError,
    InputError,
    MissingDependencyError,
    NotFoundError,
)
from keras_agnews.files import expanded

ENTRY_POINTS = "keras_agnews.models"


@dataclasses.dataclass(frozen=True)
class Builder:
    """An architecture: a config class and the function that builds a model from it.

    Attributes:
        config: frozen dataclass with `from_dict`, `to_dict` and `variables(classes)`.
        build: `build(config, classes)` gives a `keras.Model` on token ids; or `"module:function"`,
            imported when it is first needed.
    """

    config: type[Any]
    build: Callable[[Any, int], Any] | str

    def __call__(self, config: Any, classes: int) -> Any:
        build = self.build
        if isinstance(build, str):
            module, _, function = build.partition(":")
            try:
                found = getattr(importlib.import_module(module), function, None)
            except ImportError as error:
                raise MissingDependencyError(
                    f"the builder {build} cannot be had: {error}"
                ) from error
            if found is None:
                raise BundleError(
                    f"{module} has no {function!r}, the builder {build} of {config!r}"
                )
            build = found
        return build(config, classes)


_builders: dict[str, Builder] = {
    "transformer": Builder(TransformerConfig, "keras_agnews.models:transformer"),
    "bert": Builder(BertConfig, "keras_agnews.models:transformer"),
    "gru": Builder(GruConfig, "keras_agnews.models:gru"),
}
_directories: dict[str, Path] = {}
_plugins_loaded = False
_lock = threading.RLock()


def zoo_directory() -> Path:
    """Where the shipped bundles lie: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for directory in (package / "zoo", package.parent / "zoo"):
        if directory.is_dir():
            return directory
    raise NotFoundError(f"no zoo/ in {package} or beside it: reinstall keras-agnews")


def register(
    source: str | os.PathLike[str],
    builder: Callable[[Any, int], Any] | str | None = None,
    config: type[Any] | None = None,
) -> None:
    """Add bundles or an architecture to the zoo.

    Args:
        source: a bundle directory, or a directory of bundle directories; or, with `builder`, the
            name under which bundles ask for the architecture.
        builder: `builder(config, classes)` gives a `keras.Model` from a dict of token ids to
            logits, whose last layer is named "logits"; or `"module:function"`, imported when
            first needed.
        config: the builder's frozen dataclass, with `from_dict(values)`, `to_dict()` and
            `variables(classes)`, a dict from variable path to shape. How many texts are computed
            at once follows its `hidden_size`, where it has one.

    Raises:
        InputError: the name is taken, or builder and config do not fit each other.
        NotFoundError: no bundle there.

    Example:

    ```python
    keras_agnews.register("models/")                                 # every bundle in it
    keras_agnews.register("my-rnn", builder=build_rnn, config=RnnConfig)
    ```

    A package does the same without being imported by its users, with an entry point in the group
    `keras_agnews.models` that names a function (called without arguments, to call `register`).
    """
    if builder is not None or config is not None:
        if builder is None or config is None:
            raise InputError(f"register({source!r}): builder and config go together")
        if isinstance(builder, str) and not re.fullmatch(r"[\w.]+:\w+", builder):
            raise InputError(f"builder {builder!r} is no 'module:function'")
        missing = [n for n in ("from_dict", "to_dict", "variables") if not hasattr(config, n)]
        if missing:
            raise InputError(f"config {config.__name__} lacks {', '.join(missing)}()")
        with _lock:
            if str(source) in _builders:
                raise InputError(f"a builder {str(source)!r} is registered already")
            _builders[str(source)] = Builder(config, builder)
        return
    root = Path(os.path.abspath(expanded(source)))  # without ".." in a model's name
    found = _bundles_in(root)
    if not found:
        raise NotFoundError(f"no bundle in {root}: a bundle is a directory with a config.json")
    with _lock:
        for name, directory in found.items():
            if name in _shipped() or _directories.get(name, directory) != directory:
                raise InputError(f"a model {name!r} is registered already: rename {directory}")
        _directories.update(found)


def builder(name: str) -> Builder:
    """The registered builder of that name."""
    _load_entry_points()
    try:
        return _builders[name]
    except (KeyError, TypeError):
        raise BundleError(
            f"builder {name!r} is not registered (known: {', '.join(sorted(_builders))}); "
            "a newer keras-agnews or the package that brings it may have it"
        ) from None


def list_models(pattern: str = "*") -> list[str]:
    """Names of the zoo's entries that match a shell pattern, sorted.

    Example: `list_models("*bert*")`.
    """
    _load_entry_points()
    return sorted(fnmatch.filter([*_shipped(), *_directories], pattern))


def find(name: str) -> Path | None:
    """The bundle directory of an entry, or `None` where no entry has that name."""
    _load_entry_points()
    return (_shipped() | _directories).get(name)


def locate(source: str | os.PathLike[str]) -> Path:
    """The directory that a name or a path stands for; a `Path` is never a name.

    Raises:
        NotFoundError: there is no such entry and no such directory; the message names the ways on.
        InputError: it is neither a str nor a path.
    """
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"a model is a name, a path or an address, not {source!r}")
    if isinstance(source, str) and (found := find(source)) is not None:
        return found
    path = expanded(source)
    if source and os.path.isdir(path):  # also False of a text that is too long for a path
        return path
    if isinstance(source, str) and re.match("[a-z_]{2,}:", source):
        raise NotFoundError(
            f"{source}: this version loads names, paths, hf://, tfhub: and keras_hub:"
        )
    if os.path.isfile(path):
        remedy = "keras.saving.load_model reads a .keras file; load wants a directory"
        raise NotFoundError(f"{path} is a file: {remedy}")
    known = list_models()
    shown = str(source)[:200]
    close = difflib.get_close_matches(shown, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    raise NotFoundError(f"{shown!r} is neither a model of the zoo nor a directory; {hint}")


@functools.cache
def _shipped() -> dict[str, Path]:
    return _bundles_in(zoo_directory())


def _bundles_in(root: Path) -> dict[str, Path]:
    if (root / "config.json").is_file():
        return {root.name: root}
    if not root.is_dir():
        return {}
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def _load_entry_points() -> None:
    global _plugins_loaded
    with _lock:  # other threads wait
        if _plugins_loaded:
            return
        _plugins_loaded = True  # from here on, since a plugin may ask for the zoo itself
        for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
            try:
                point.load()()
            except Exception as error:  # one broken plugin must not take the zoo down
                warnings.warn(
                    f"entry point {point.name!r} ({point.value}) of group {ENTRY_POINTS} failed: "
                    f"{type(error).__name__}: {error}",
                    stacklevel=3,
                )
