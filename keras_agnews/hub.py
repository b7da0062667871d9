"""Models from the Hugging Face Hub: pinned to a commit, every file checked by its SHA-256.

Files stay in the Hub client's own cache. Sums that nobody has told us are recorded under
`cache_directory()` when a file is first fetched, and hold from then on.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from keras_agnews import bundle
from keras_agnews.data import cache_directory
from keras_agnews.errors import (
    BundleError,
    DownloadError,
    InputError,
    NotFoundError,
    require,
)

SCHEME = "hf://"
# All that a bundle or a Hugging Face checkpoint needs, and nothing that could hold code.
FILES = (
    "config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "1_Pooling/config.json",
)
_WEIGHTS = {"model.safetensors", "model.safetensors.index.json"}
_OTHERS = ("*/*.safetensors",)  # to the client's `*` a slash is a character like any other

_SOURCE = re.compile(r"hf://([\w.\-]+/[\w.\-]+?)(?:@([\w.\-/]+))?", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")
_SUM = re.compile("[0-9a-f]{64}")
_WAYS = (
    "ways on: a local copy (its path in place of the hf:// address, or load(..., weights=PATH)), "
    "a mirror (the environment variable HF_ENDPOINT), or no weights (load(..., weights=None))"
)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Snapshot:
    """What a repository held at one commit, on this machine.

    Attributes:
        directory: has the files.
        source: the repository, `"hf://user/name"`.
        revision: the full commit.
    """

    directory: Path
    source: str
    revision: str


def download(
    source: str, *, revision: str | None = None, sha256: Mapping[str, str] | None = None
) -> Snapshot:
    """Fetch a model's files, or find them in the Hub client's cache, and check them.

    A file whose SHA-256 is not what it should be is fetched once more, and then refused. It
    should be what `sha256` says, else what was recorded when it was first fetched, else what the
    Hub declares. With a full commit and a full cache no request is made.

    Args:
        source: `"hf://user/name"` or `"hf://user/name@revision"`.
        revision: a commit, branch or tag; `None` for the main branch as it is now. The empty
            string is a blank pin: the main branch as it was when first fetched on this machine.
        sha256: from the names of files that must be there to their sums; an empty sum is unknown.

    Raises:
        InputError: the address is none.
        NotFoundError: the Hub says that it has no such repository, revision or file, or keeps it
            from us.
        DownloadError: the Hub cannot be reached and the cache has not all of it, or what came is
            not what was pinned.
    """
    repository, wanted = _parse(source, revision)
    pins = dict(sha256 or {})
    # A pin's record is read before, another revision's when its commit is known.
    blank = wanted == ""
    pinned = blank or _COMMIT.fullmatch(wanted) is not None
    place = _record_file(repository, "" if blank else wanted)
    record = _read_record(place) if pinned else {}
    wanted = record.get("revision", "main") if blank else wanted
    directory = _fetch(
        repository,
        wanted,
        lambda client: _snapshot(client, repository, wanted, record.get("sha256", {})),
    )
    commit = directory.name
    if not pinned:
        place = _record_file(repository, commit)
        record = _read_record(place)
    known = {**record.get("sha256", {}), **{name: value for name, value in pins.items() if value}}
    names = sorted(
        {path.relative_to(directory).as_posix() for glob in FILES for path in directory.glob(glob)}
    )
    for name in ("config.json", *pins):
        if name not in names:
            raise NotFoundError(f"{SCHEME}{repository} has no {name} at {commit}; {_WAYS}")
    # The client's cache may hold a pickle that another program has fetched.
    if _WEIGHTS.isdisjoint(names) and "format" not in bundle.read_json(directory / "config.json"):
        raise NotFoundError(
            f"{SCHEME}{repository} has no model.safetensors at {commit}, and a pytorch_model.bin "
            "is not taken from a hub, since it can hold code: choose a repository that has "
            "safetensors, or fetch it yourself and load its directory"
        )
    if lost := sorted(set(known) - set(names)):
        raise DownloadError(
            f"{lost[0]} of {SCHEME}{repository} is gone from {directory}: go online once with "
            f"HF_HUB_OFFLINE unset, or delete that directory; {_WAYS}"
        )
    sums = {name: _checked(repository, directory, name, known.get(name, "")) for name in names}
    if sums != record.get("sha256"):
        _write_record(place, {"source": SCHEME + repository, "revision": commit, "sha256": sums})
    return Snapshot(directory, SCHEME + repository, commit)


def resolve_tfhub(handle: str) -> Path:
    """The directory of a SavedModel that has an address at tfhub.dev, kaggle.com or elsewhere.

    tensorflow_hub fetches it and keeps it in its own cache, `TFHUB_CACHE_DIR`.

    Raises:
        MissingDependencyError: tensorflow_hub is not installed.
        DownloadError: it could not be fetched.
    """
    client = require("tensorflow_hub", "tfhub", f"to fetch {handle}")
    try:
        return Path(client.resolve(handle))
    except Exception as error:  # urllib's, tarfile's, TensorFlow's: the client lets all through
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DownloadError(
            f"{handle} could not be fetched ({reason[:300]}); "
            "a local copy loads from its path: load('tfhub:PATH')"
        ) from None


def _parse(source: str, revision: str | None) -> tuple[str, str]:
    match = _SOURCE.fullmatch(source)
    if match is None or ".." in source:
        raise InputError(f"{source!r} is not an address: hf://user/name or hf://user/name@revision")
    repository, inline = match.groups()
    if inline and revision and inline != revision:
        raise InputError(f"{source!r} and revision={revision!r} ask for two revisions")
    return repository, inline or ("main" if revision is None else revision)


def _snapshot(client: Any, repository: str, revision: str, files: Iterable[str]) -> Path:
    """The directory of a revision, with `files` in it at least where the Hub can be asked."""
    get = functools.partial(
        client.snapshot_download,
        repository,
        revision=revision,
        allow_patterns=list(FILES),
        ignore_patterns=list(_OTHERS),
    )
    if not _COMMIT.fullmatch(revision):
        return Path(get())  # the client resolves it first, and fetches every file at its commit
    local = None
    with contextlib.suppress(FileNotFoundError):  # nothing cached, or not all that it knows of
        local = Path(get(local_files_only=True))
    if local and files and all((local / name).is_file() for name in files):
        return local
    try:
        # Where the Hub cannot be reached this fails at once, the list of files after many tries.
        client.model_info(repository, revision=revision)
    except Exception:
        if local is None:
            raise
        return local
    return Path(get())


def _fetch(repository: str, revision: str, call: Callable[[Any], _T]) -> _T:
    """The client's answer, or one error of ours."""
    import huggingface_hub
    from huggingface_hub import errors

    address = f"{SCHEME}{repository}"
    try:
        return call(huggingface_hub)
    except errors.GatedRepoError:
        message = f"{address} is gated: accept its terms on its page and set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        message = f"{address} does not exist, or is private and HF_TOKEN is not set to see it"
    except errors.RevisionNotFoundError:
        message = f"{address} has no revision {revision!r}"
    # The client lets through what its HTTP library raises, and has changed that library before.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DownloadError(
            f"{address} at {revision} could not be fetched and is not in the cache "
            f"({reason[:300]}); {_WAYS}"
        ) from None
    raise NotFoundError(f"{message}; {_WAYS}")


def _checked(repository: str, directory: Path, name: str, known: str) -> str:
    """The file's SHA-256, after it has been fetched again if that was wrong."""
    path = directory / name
    for repaired in (False, True):
        found = bundle.file_sha256(path)
        if found == known or (not known and _as_declared(path, found)):
            return found
        if not repaired:
            _fetch(
                repository,
                directory.name,
                lambda client: client.hf_hub_download(
                    repository, name, revision=directory.name, force_download=True
                ),
            )
    raise DownloadError(
        f"{name} of {SCHEME}{repository} at {directory.name} has SHA-256 {found}, not "
        f"{known or 'what the Hub declares'}: it is not the file that was pinned, and is not used"
    )


def _as_declared(path: Path, sha256: str) -> bool:
    """Whether a file is what the Hub said that it would be, as far as the cache tells.

    The client links to a blob that it names by the sum which the Hub declares, git's own for a
    small file, and never checks.
    """
    declared = Path(os.readlink(path)).name if path.is_symlink() else ""
    if _SUM.fullmatch(declared):
        return sha256 == declared
    if _COMMIT.fullmatch(declared):
        content = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        return blob.hexdigest() == declared
    return True


def _record_file(repository: str, commit: str) -> Path:
    suffix = f"@{commit}" if commit else ""
    return cache_directory() / "hub" / f"{repository.replace('/', '--')}{suffix}.json"


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        record = bundle.read_json(path)
    except BundleError:
        record = None
    sums = record.get("sha256") if isinstance(record, dict) else None
    whole = (
        isinstance(sums, dict)
        and all(isinstance(value, str) and _SUM.fullmatch(value) for value in sums.values())
        and isinstance(record.get("revision"), str)
        and _COMMIT.fullmatch(record["revision"])
    )
    if not whole:
        raise DownloadError(f"{path} is damaged: delete it to trust anew what the Hub has")
    found: dict[str, Any] = record
    return found


def _write_record(path: Path, record: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        bundle.write_json(path, record)
    except OSError as error:
        warnings.warn(
            f"{path} could not be written ({error.strerror or error}), so the next download is "
            "not held against this one: set KERAS_AGNEWS_CACHE to a directory that can",
            stacklevel=3,
        )
