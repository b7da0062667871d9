"""The backend's start for the command: chosen, checked, and without the noise that it makes."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import tempfile
from collections.abc import Iterator

from keras_agnews.errors import InputError, MissingDependencyError

BACKENDS = ("tensorflow", "jax", "torch")


def start_backend() -> None:
    """Import Keras and the backend in use, without the noise that they make."""
    name = os.environ.setdefault("KERAS_BACKEND", BACKENDS[0])
    if name not in BACKENDS:
        raise InputError(f"KERAS_BACKEND is {name!r}, not one of {', '.join(BACKENDS)}")
    if importlib.util.find_spec(name) is None:
        others = ", ".join(n for n in BACKENDS if n != name and importlib.util.find_spec(n))
        raise MissingDependencyError(
            f'the backend {name} is not installed: pip install "keras-agnews[{name}]"'
            + (f", or choose one that is with --backend ({others})" if others else "")
        )
    if name == "jax":
        # What has been compiled once is not compiled again by the next command.
        from keras_agnews.data import cache_directory

        cache = cache_directory() / "jax"
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    for noisy in ("jax", "tensorflow"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with tensorflow_silenced():
        importlib.import_module("keras")


@contextlib.contextmanager
def tensorflow_silenced() -> Iterator[None]:
    """Keep back what the import of TensorFlow writes to standard error, unless it fails.

    Its C++ code writes to file descriptor 2 before its log level holds. Who sets that level to 0
    wants to hear it all.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        terminal = os.dup(2)
    except OSError:  # closed, so there is nothing to keep quiet
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
