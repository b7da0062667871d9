"""Requests by the Hugging Face Hub's client: tried again while it is ill, and errors of ours."""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from keras_agnews.errors import DownloadError, KerasAgnewsError, NotFoundError, UploadError

SCHEME = "hf://"
WAYS = (
    "ways on: a local copy (its path in place of the hf:// address, or load(..., weights=PATH); "
    "base=PATH or --base PATH where a model is stored as a difference to it), a mirror (the "
    "environment variable HF_ENDPOINT), or no weights (load(..., weights=None)); of `train`, "
    "--weights takes a PATH, none, or best: what a shipped model was trained to"
)
# Seconds before the second try, the third, and so on; and the time after which there is no other,
# since the client has back-offs of its own for some requests.
_PAUSES = (0.5, 1.0, 2.0, 4.0)
_PATIENCE = 60.0
PASSING = {429, 500, 502, 503, 504}  # what a Hub answers in a weak moment
_T = TypeVar("_T")


def ask(repository: str, revision: str, call: Callable[[Any], _T], upload: bool = False) -> _T:
    """The client's answer, or one error of ours: an `UploadError` instead of a `DownloadError`."""
    import huggingface_hub
    from huggingface_hub import errors

    address, ways = f"{SCHEME}{repository}", "" if upload else f"; {WAYS}"
    try:
        with _quiet():
            return call(huggingface_hub)
    except KerasAgnewsError:
        raise
    except errors.GatedRepoError:
        message = f"{address} is gated: accept its terms on its page and set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        message = f"{address} does not exist, or is private and HF_TOKEN is not set to see it"
    except errors.RevisionNotFoundError:
        message = f"{address} has no revision {revision!r}"
    # The client lets through what its HTTP library raises, and has changed that library before.
    except Exception as error:
        if upload:
            raise UploadError(
                f"the push to {address} did not go through ({reason(error)}); what is there is "
                "whole, the old state or the new one: "
                + (
                    "set HF_TOKEN to a token that may write to it"
                    if status(error) in (401, 403)
                    else "push again"
                )
            ) from None
        raise DownloadError(
            f"{address} at {revision} could not be fetched and is not in the cache "
            f"({reason(error)}); {WAYS}"
        ) from None
    raise NotFoundError(message + ways)


def retried(call: Callable[[], _T]) -> _T:
    """The answer, after waiting where the Hub has a weak moment that the client takes for final."""
    end = time.monotonic() + _PATIENCE
    for pause in _PAUSES:
        try:
            return call()
        except Exception as error:
            pause = max(pause, _retry_after(error))
            if status(error) not in PASSING or time.monotonic() + pause > end:
                raise
        time.sleep(pause)
    return call()


def status(error: BaseException | None) -> int | None:
    """The HTTP status that an error, or what it was raised from, tells of."""
    response = _response(error)
    return None if response is None else int(response.status_code)


def _retry_after(error: BaseException) -> float:
    """How many seconds the Hub asks us to wait."""
    wanted = getattr(_response(error), "headers", {}).get("Retry-After", "")
    return float(wanted) if re.fullmatch(r"\d{1,4}", wanted) else 0.0


def _response(error: BaseException | None) -> Any:
    while error is not None:
        if hasattr(response := getattr(error, "response", None), "status_code"):
            return response
        error = error.__cause__
    return None


def reason(error: BaseException) -> str:
    """What an error says, on one line, without a token or a signed address."""
    import huggingface_hub

    text = " ".join(str(error).split()) or type(error).__name__
    if token := huggingface_hub.get_token():
        text = text.replace(token, "***")
    text = re.sub(r"hf_\w{8,}|(?i:bearer) \S+", "***", text)
    return re.sub(r"(https?://[^\s?]+)\?\S+", r"\1", text)[:300]


def is_offline() -> bool:
    """Whether the client has been told to ask nobody."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars but on a terminal."""
    bars: Any = importlib.import_module("huggingface_hub.utils")
    if bars.are_progress_bars_disabled() or (sys.stderr is not None and sys.stderr.isatty()):
        yield
        return
    bars.disable_progress_bars()
    try:
        yield
    finally:
        bars.enable_progress_bars()
