"""Fixtures that several test modules share, and the small models and sentences they use."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# An example that takes longer than usual says that the machine is busy, and nothing of the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# For processes that compute nothing: Keras's NumPy, which takes its Fourier transforms from JAX.
LIGHT = next(
    (name for name, package in (("numpy", "jax"), ("torch", "torch")) if find_spec(package)),
    "tensorflow",
)

# Sentences of our own, two a class, so that a small model can learn them by heart.
SENTENCES = [
    ("Ministers of five countries signed a peace accord in the capital on Tuesday", "World"),
    ("Voters queued for hours as the island held its first free election", "World"),
    ("The keeper saved two penalties and the visitors won the cup final", "Sports"),
    ("A sprinter from Kenya broke the championship record in the last race", "Sports"),
    ("Shares of the car maker fell after it cut its profit forecast", "Business"),
    ("Oil prices rose as traders feared a shortage of crude this winter", "Business"),
    ("Engineers taught a robot to fold laundry with a new learning chip", "Sci/Tech"),
    ("The telescope sent back sharp pictures of a comet near Jupiter", "Sci/Tech"),
]
# What users and attackers send: each must get a valid answer.
HARD_TEXTS = [
    "",
    " ",
    "\t \n\r",
    "zzzqx qqqzv",
    "a",
    "nul\x00byte",
    "lone \ud800 surrogate",
    "emoji 👩\u200d👩\u200d👧 😀",
    "שלום עולם مرحبا",
    "日本語のニュース",
    "İstanbul ǅ ß \u0301",
    "x" * 5_000,
    "word " * 3_000,
    "<b>&lt;script&gt;</b> #39; \\\\",
    "[MASK] [CLS] [SEP] [PAD] [UNK]",
]


class Lazy:
    """A module that is imported when a test first uses it: TensorFlow takes its seconds."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skip unless all of them are installed; imports none."""
    missing = [name for name in modules if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


def _directory(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    return Path(value)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The directory of reference checkpoints and golden outputs."""
    return _directory("KERAS_AGNEWS_REFERENCE")


@pytest.fixture(scope="session")
def agnews() -> Path:
    """The directory of AG News."""
    return _directory("KERAS_AGNEWS_DATA")


@pytest.fixture(scope="session")
def fresh() -> Callable[..., str]:
    """Run Python code in a fresh process and return what it printed; a failure shows stderr."""

    def run(code: str, *arguments: str, **environment: str) -> str:
        env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            env={name: value for name, value in env.items() if value},
        )
        assert done.returncode == 0, done.stderr[-4_000:]
        return done.stdout

    return run
