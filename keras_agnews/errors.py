"""The exceptions of this package.

Each one names the offending thing (a file, a key, a row, an index) and the remedy. They also
derive from the built-in exception that a caller would guess, so `except ValueError` works.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from types import ModuleType

_LONGEST = 2_000  # characters of a message


class KerasAgnewsError(Exception):
    """Base of every exception that this package raises on purpose."""

    def __str__(self) -> str:
        # What a message repeats of a file may be as long as the file.
        text = super().__str__()
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


class InputError(KerasAgnewsError, ValueError):
    """A text, a label or an argument that cannot be used; the message names its index."""


class BundleError(KerasAgnewsError, ValueError):
    """A model directory that cannot be read; the message names file and field."""


class DataError(KerasAgnewsError, ValueError):
    """A data file that cannot be read; the message names file and line."""


class NotFoundError(KerasAgnewsError, LookupError):
    """A model, a revision or weights that are not to be had; the message names the ways on."""


class DownloadError(KerasAgnewsError, OSError):
    """A download that failed or whose content is not what was pinned."""


class UploadError(KerasAgnewsError, OSError):
    """A push that failed; nothing half-written is left on the Hub, and it can be repeated."""


class TrainingError(KerasAgnewsError, RuntimeError):
    """A training run that cannot start or go on."""


class MissingDependencyError(KerasAgnewsError, ImportError):
    """An optional package that is needed and not installed; the message says what to install."""


def listed(items: Sequence[str], mark: str = "; ", most: int = 20) -> str:
    """What a message says of several: the first of them, and how many more there are."""
    more = f"{mark}and {len(items) - most} more" if len(items) > most else ""
    return mark.join(items[:most]) + more


def located(error: Exception, place: str | os.PathLike[str]) -> str:
    """The message of an error, which begins with the place where it was found."""
    message = str(error)
    return message if message.startswith(os.fspath(place)) else f"{place}: {message}"


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module, or raise `MissingDependencyError` with the line to type.

    Args:
        module: the module to import, e.g. `"pyarrow.parquet"`.
        extra: the extra of this package that installs it, e.g. `"data"`.
        purpose: what it is needed for, e.g. `"to read parquet files"`.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependencyError(
            f"{package} is needed {purpose} and cannot be imported ({error}): "
            f'pip install "keras-agnews[{extra}]"'
        ) from error
