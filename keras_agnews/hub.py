"""Models from the Hugging Face Hub: pinned to a commit, every file checked by its SHA-256.

Files stay in the Hub client's own cache. Sums that nobody has told us are recorded under
`cache_directory()` when a file is first fetched, and hold from then on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import re
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_agnews import bundle, registry, text_files
from keras_agnews.bundle import COMMIT, REPOSITORY, SHA256
from keras_agnews.data import cache_directory
from keras_agnews.errors import (
    BundleError,
    DownloadError,
    InputError,
    KerasAgnewsError,
    NotFoundError,
    require,
)
from keras_agnews.files import digest, expanded, make_directory
from keras_agnews.hub_requests import SCHEME as SCHEME
from keras_agnews.hub_requests import WAYS, ask, is_offline, reason, retried, status

LIBRARY = "keras_agnews"  # the tag by which the Hub knows our bundles
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
_MAX_FILES = 1_000

_REVISION = r"\w[\w.\-/]*"  # of all that git allows what cannot lead a path elsewhere
_SOURCE = re.compile(rf"hf://({REPOSITORY})(?:@({_REVISION}))?", re.ASCII)
_CACHED = re.compile(r"models--([\w.\-]+)--([\w.\-]+)/snapshots/([0-9a-f]{40})", re.ASCII)


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


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit, by the Hub's own record.

    Attributes:
        revision: the full commit.
        sums: from path to SHA-256, or to git's own sum where the file is a small one.
        private: whether only some may see it.
    """

    revision: str
    sums: dict[str, str]
    private: bool


@dataclass(frozen=True)
class VerifiedFile:
    """A file that is what it should be.

    Attributes:
        name: its path in the model's directory; of a base that the model is stored as a difference
            to, in the base's, after `base/`.
        sha256: its sum.
        against: who else says so: "hub", "bundle" (its config.json), or "record" (of an earlier
            download); empty where nobody does.
    """

    name: str
    sha256: str
    against: tuple[str, ...]


# --- taking ----------------------------------------------------------------------------------


def pull(
    source: str, *, revision: str | None = None, local_dir: str | os.PathLike[str] | None = None
) -> Path:
    """Fetch a model, check every file, and return its directory, for `load` to read.

    The base of a model that is stored as a difference is fetched into the Hub client's cache, where
    `load` finds it without a network. Where it cannot be had a warning says so.

    Args:
        source: `"hf://user/name"` or `"hf://user/name@revision"`.
        revision: a commit, branch or tag, here instead of in the address.
        local_dir: where to put it, and nothing else; a bundle that is there is replaced as a
            whole. By default the files stay in the Hub client's cache.

    Raises: as `download`, and `BundleError` where a bundle is none that this version reads.

    Example: `keras_agnews.load(keras_agnews.pull("hf://user/my-topics@v1.0"))`.
    """
    snapshot = download(source, revision=revision)
    target = snapshot.directory if local_dir is None else expanded(local_dir)
    if not _is_bundle(snapshot.directory):
        if local_dir is not None:
            _copy_foreign(snapshot.directory, target)
        return target
    description = bundle.read(snapshot.directory)
    if local_dir is not None:
        if _holds_another(target):
            raise InputError(
                f"{target} holds another checkpoint: give another local_dir or empty it"
            )
        origin = {"repository": snapshot.source, "revision": snapshot.revision}
        bundle.copy(snapshot.directory, target, origin)
    if (pin := description.weights) is not None and pin.source is not None:
        try:
            _download_pinned(pin)
        except KerasAgnewsError as error:
            warnings.warn(f"the base of {source} was not fetched: {error}", stacklevel=2)
    return target


def _download_pinned(pin: bundle.Weights, repair: bool = True) -> Snapshot:
    assert pin.source is not None
    sums = {pin.file: pin.sha256}
    return download(pin.source, revision=pin.revision, sha256=sums, repair=repair)


def _holds_another(directory: Path) -> bool:
    """Whether there are weights that a bundle would replace and that are no bundle's."""
    if not (directory / bundle.CONFIG_FILE).exists():
        return (directory / bundle.WEIGHTS_FILE).exists()
    try:
        return not _is_bundle(directory)
    except BundleError:  # a damaged one, which is mended so
        return False


def _copy_foreign(directory: Path, target: Path) -> None:
    """A checkpoint that is not ours has no config.json that could name other files meanwhile."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is not empty: give another local_dir or empty it")
    make_directory(target.parent)
    there = target.exists()
    with tempfile.TemporaryDirectory(prefix=".", dir=target if there else target.parent) as scratch:
        passing = Path(scratch) / "model"
        for name in _names(directory):
            (passing / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(directory / name, passing / name)
        if not there:
            os.rename(passing, target)
            return
        # It may be somebody's working directory, and stays; what makes it a model comes last.
        for path in sorted(passing.iterdir(), key=lambda path: path.name == bundle.CONFIG_FILE):
            os.rename(path, target / path.name)


def download(
    source: str,
    *,
    revision: str | None = None,
    sha256: Mapping[str, str] | None = None,
    repair: bool = True,
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
        repair: whether to fetch a damaged file once more.

    Raises:
        InputError: the address is none.
        NotFoundError: the Hub says that it has no such repository, revision or file, or keeps it
            from us.
        DownloadError: the Hub cannot be reached and the cache has not all of it, or what came is
            not what was pinned.
    """
    repository, wanted = parse_address(source, revision)
    pins = dict(sha256 or {})
    # A pin's record is read before, another revision's when its commit is known.
    blank = wanted == ""
    pinned = blank or COMMIT.fullmatch(wanted) is not None
    place = _record_file(repository, "" if blank else wanted)
    record = _read_record(place) if pinned else {}
    wanted = record.get("revision", "main") if blank else wanted
    directory, declared, unheard = ask(
        repository,
        wanted,
        lambda client: _snapshot(client, repository, wanted, record.get("sha256", {})),
    )
    commit = directory.name
    if not pinned:
        place = _record_file(repository, commit)
        record = _read_record(place)
    known = {**record.get("sha256", {}), **{name: value for name, value in pins.items() if value}}
    names = _names(directory)
    for name in ("config.json", *pins):
        if name not in names:
            _check_heard(repository, commit, name, unheard)
            raise NotFoundError(f"{SCHEME}{repository} has no {name} at {commit}; {WAYS}")
    if lost := sorted(set(known) - set(names)):
        raise DownloadError(
            f"{lost[0]} of {SCHEME}{repository} is gone from {directory}: go online once with "
            f"HF_HUB_OFFLINE unset, or delete that directory; {WAYS}"
        )
    sums = {
        name: _checked(
            repository, directory, name, known.get(name) or declared.get(name, ""), repair
        )
        for name in names
    }
    # The client's cache may hold a pickle that another program has fetched.
    if _WEIGHTS.isdisjoint(names) and not _is_bundle(directory):
        _check_heard(repository, commit, bundle.WEIGHTS_FILE, unheard)
        raise NotFoundError(
            f"{SCHEME}{repository} has no model.safetensors at {commit}, and a pytorch_model.bin "
            "is not taken from a hub, since it can hold code: choose a repository that has "
            "safetensors, or fetch it yourself and load its directory"
        )
    if sums != record.get("sha256"):
        _write_record(place, {"source": SCHEME + repository, "revision": commit, "sha256": sums})
    return Snapshot(directory, SCHEME + repository, commit)


def _check_heard(repository: str, commit: str, missing: str, unheard: str) -> None:
    """`DownloadError` where the Hub was not asked: it may have what the cache lacks."""
    if unheard:
        raise DownloadError(
            f"{missing} of {SCHEME}{repository} at {commit} is not in the cache, and the Hub could "
            f"not be asked for it ({unheard}); {WAYS}"
        )


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
        why = " ".join(str(error).split()) or type(error).__name__
        raise DownloadError(
            f"{handle} could not be fetched ({why[:300]}); "
            "a local copy loads from its path: load('tfhub:PATH')"
        ) from None


def parse_address(source: str, revision: str | None = None) -> tuple[str, str]:
    """Repository and revision of an address; `InputError` where it is none."""
    match = _SOURCE.fullmatch(source) if isinstance(source, str) else None
    if match is None or ".." in source:
        raise InputError(f"{source!r} is not an address: hf://user/name or hf://user/name@revision")
    repository, inline = match.groups()
    if revision and (
        not isinstance(revision, str)
        or not re.fullmatch(_REVISION, revision, re.ASCII)
        or ".." in revision
    ):
        raise InputError(f"revision={revision!r} is no commit, branch or tag")
    if inline and revision and inline != revision:
        raise InputError(f"{source!r} and revision={revision!r} ask for two revisions")
    return repository, inline or ("main" if revision is None else revision)


def origin(directory: Path) -> dict[str, str] | None:
    """The repository and the commit of a directory in a Hub client's cache, else `None`."""
    match = _CACHED.fullmatch("/".join(directory.absolute().parts[-3:]))
    if match is None:
        return None
    user, name, commit = match.groups()
    return {"repository": f"{SCHEME}{user}/{name}", "revision": commit}


def leads_out(directory: Path, name: str) -> bool:
    """Whether a file of a directory is a link out of it, or out of the client's cache."""
    # The client links to blobs in its cache, which is three folders up.
    home = directory if origin(directory) is None else directory.absolute().parents[2]
    return not (directory / name).resolve().is_relative_to(home.resolve())


def _names(directory: Path) -> list[str]:
    """The files of a snapshot that are ours to read; `DownloadError` where one lies elsewhere."""
    names = _present(directory)
    for name in names:
        if leads_out(directory, name):
            raise DownloadError(
                f"{directory / name} is a link that leads out of the cache, and is not followed: "
                "delete that directory and fetch it again"
            )
    return names


def _is_bundle(directory: Path) -> bool:
    values = text_files.read_json(directory / bundle.CONFIG_FILE)
    return isinstance(values, dict) and "format" in values


def _present(directory: Path) -> list[str]:
    return sorted(
        {
            path.relative_to(directory).as_posix()
            for glob in FILES
            for path in directory.glob(glob)
            if path.is_file()  # no link to what is gone
        }
    )


def _snapshot(
    client: Any, repository: str, revision: str, files: Iterable[str]
) -> tuple[Path, dict[str, str], str]:
    """The directory of a revision, what the Hub says of its files, and why where it says nothing.

    It has `files` at least where the Hub can be asked.
    """
    get = functools.partial(
        client.snapshot_download,
        repository,
        revision=revision,
        allow_patterns=list(FILES),
        ignore_patterns=list(_OTHERS),
    )
    pinned = COMMIT.fullmatch(revision)
    local = None
    with contextlib.suppress(FileNotFoundError):  # nothing cached, or not all that it knows of
        local = Path(get(local_files_only=True))
    if pinned and local and files and all((local / name).is_file() for name in files):
        return local, {}, ""
    try:
        there = listing(client, repository, revision)
    except Exception as error:
        if local is None or (not pinned and status(error) in (401, 403, 404)):
            raise
        if not pinned and not is_offline():
            warnings.warn(
                f"{SCHEME}{repository} cannot be reached ({reason(error)}): taken is "
                f"{local.name}, which was its {revision} when it was last seen",
                stacklevel=6,
            )
        return local, {}, reason(error)
    # By its name, so that the client remembers what that was, for when we are offline. It then
    # asks by itself, and takes its cache's word without a warning where it gets no answer.
    directory = Path(retried(get))
    if directory.name != there.revision:
        directory = Path(retried(functools.partial(get, revision=there.revision)))
    return directory, there.sums, ""


def listing(client: Any, repository: str, revision: str) -> Listing:
    """What the Hub says that a revision is and holds."""
    info = retried(
        lambda: client.model_info(repository, revision=revision, files_metadata=True, timeout=30)
    )
    if not COMMIT.fullmatch(info.sha or ""):
        raise DownloadError(f"{SCHEME}{repository}: the Hub gives no commit for {revision!r}")
    sums = {
        file.rfilename: (file.lfs.sha256 if file.lfs else file.blob_id) or ""
        for file in info.siblings or ()
    }
    if len(sums) > _MAX_FILES:
        raise DownloadError(f"{SCHEME}{repository} has {len(sums):,} files, too many for a model")
    return Listing(info.sha, sums, bool(info.private))


def _checked(repository: str, directory: Path, name: str, known: str, repair: bool) -> str:
    """The file's SHA-256, after it has been fetched again if that was wrong."""
    path = directory / name
    for last in (False, True) if repair else (True,):
        known = known or _cached_sum(path)
        found = digest(path)
        if matches(path, known, found):
            return found
        if not last:
            again = functools.partial(_fetch, repository, directory.name, name, force=True)
            try:
                with _aside(path):
                    ask(repository, directory.name, again)
            except DownloadError as error:
                raise DownloadError(f"{path} is damaged, and cannot be had anew: {error}") from None
    raise DownloadError(
        f"{name} of {SCHEME}{repository} at {directory.name} has SHA-256 {found}, not "
        f"{known if SHA256.fullmatch(known) else 'what the Hub declares'}: it is not the file that "
        f"was pinned, and is not used{'' if repair else '; `keras-agnews pull` fetches it anew'}"
    )


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[None]:
    """Out of the way of the client, which leaves a file alone where its cache has no links."""
    if path.is_symlink():
        yield
        return
    old = path.with_name(f".{uuid.uuid4().hex[:8]}{path.name}")
    with contextlib.suppress(FileNotFoundError):  # another process repairs it too
        os.replace(path, old)
    try:
        yield
    finally:
        if path.exists():
            old.unlink(missing_ok=True)
        elif old.exists():
            os.replace(old, path)


def _fetch(repository: str, commit: str, name: str, client: Any, force: bool = False) -> str:
    """The path of one file in the client's cache."""
    get = functools.partial(client.hf_hub_download, repository, name, revision=commit)
    return retried(functools.partial(get, force_download=force))


def matches(content: Path | bytes, known: str, sha256: str = "") -> bool:
    """Whether a file has a sum: SHA-256, git's own of a small file, or an unknown one.

    Args:
        content: the file, or what is in it.
        known: the sum.
        sha256: the file's SHA-256, where it has been taken.
    """
    if SHA256.fullmatch(known):
        if isinstance(content, Path):
            return (sha256 or digest(content)) == known
        return hashlib.sha256(content).hexdigest() == known
    if COMMIT.fullmatch(known):
        content = content.read_bytes() if isinstance(content, Path) else content
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        return blob.hexdigest() == known
    return True


def _cached_sum(path: Path) -> str:
    """What the Hub declared, as far as the cache tells: the client names a file's blob by it."""
    return Path(os.readlink(path)).name if path.is_symlink() else ""


# --- checking --------------------------------------------------------------------------------


def verify(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    base: str | os.PathLike[str] | None = None,
) -> tuple[VerifiedFile, ...]:
    """Check every file of a model: against the Hub's record, and against the bundle's own.

    Of a model that is stored as a difference these are the base's too, since what it answers is
    made of both. A damaged file is reported, not repaired; `pull` repairs it.

    Args:
        source: `"hf://user/name@revision"`, whose files are fetched where the cache has them not;
            or the name of an entry, or a directory. A bundle that `pull` has made is held against
            the Hub too.
        revision: a commit, branch or tag, here instead of in the address.
        base: directory that has the base, as `load` takes it; its weights alone are checked.

    Raises:
        DownloadError: a file is not what the Hub has, or the base cannot be had.
        BundleError: a file is not what the bundle says.
        NotFoundError: as `download`.
        InputError: a revision of what is no address.
    """
    if isinstance(source, str) and source.startswith(SCHEME):
        snapshot = download(source, revision=revision, repair=False)
        directory, names = snapshot.directory, _names(snapshot.directory)
        place: dict[str, Any] | None = {
            "repository": snapshot.source,
            "revision": snapshot.revision,
        }
    else:
        if revision is not None:
            raise InputError(f"revision {revision!r} goes with an hf:// address, not with {source}")
        directory = registry.locate(source)
        if not (directory / bundle.CONFIG_FILE).is_file():
            raise NotFoundError(f"{directory} is no model: it has no {bundle.CONFIG_FILE}")
        place = origin(directory)
        names = _present(directory)
    description = None
    if _is_bundle(directory):
        description = bundle.read(directory)
        bundle.check(directory, description)
        if place is None:
            place = description.source
    own = description.weights if description else None
    # Where `bundle.check` has compared it.
    witnessed = own.beside if own and (own.delta or own.sha256) else None
    found = _compared(directory, names, _theirs(directory, description, place), witnessed)
    if own is None or own.source is None:
        return tuple(found)
    if base is None:
        snapshot = _download_pinned(own, repair=False)
        place = {"repository": snapshot.source, "revision": snapshot.revision}
        directory, names = snapshot.directory, _names(snapshot.directory)
        theirs = _theirs(directory, None, place)
    else:
        directory, names, theirs = expanded(base), [own.file], {}
        if not (directory / own.file).is_file():
            raise NotFoundError(f"{directory} has no {own.file}, the base of {source}")
        if own.sha256:
            bundle.check_sha256(directory / own.file, own.sha256, f"the base of {source}")
    of_base = _compared(directory, names, theirs, own.file if own.sha256 else None)
    return *found, *(dataclasses.replace(f, name=f"base/{f.name}") for f in of_base)


def _compared(
    directory: Path,
    names: Iterable[str],
    theirs: Mapping[str, tuple[str, str]],
    witnessed: str | None,
) -> list[VerifiedFile]:
    """Files with their sums, which must be what others say; `witnessed` is the bundle's already."""
    found = []
    for name in names:
        path = directory / name
        sum_, against = digest(path), []
        if name in theirs:
            known, who = theirs[name]
            if not matches(path, known, sum_):
                raise DownloadError(
                    f"{path} has SHA-256 {sum_}, which is not what the Hub has: pull it anew"
                )
            against.append(who)
        if name == witnessed:
            against.append("bundle")
        found.append(VerifiedFile(name, sum_, tuple(against)))
    return found


def _theirs(
    directory: Path, description: bundle.Bundle | None, place: dict[str, Any] | None
) -> dict[str, tuple[str, str]]:
    """What others say of the files of a directory that came from a hub: sum, and who says so."""
    repository = str((place or {}).get("repository", ""))
    commit = str((place or {}).get("revision", ""))
    if not _SOURCE.fullmatch(repository) or not COMMIT.fullmatch(commit):
        return {}
    name, _ = parse_address(repository)
    try:
        there = ask(name, commit, lambda client: listing(client, name, commit))
    except KerasAgnewsError as error:
        warnings.warn(f"not held against the Hub: {error}", stacklevel=3)
        if origin(directory) is None:
            return {}
        recorded = _read_record(_record_file(name, commit)).get("sha256", {})
        return {file: (value, "record") for file, value in recorded.items()}
    sums = {file: (value, "hub") for file, value in there.sums.items()}
    if origin(directory) is not None or description is None:
        return sums
    if bundle.CONFIG_FILE not in there.sums:
        return {}
    get = functools.partial(_fetch, name, commit, bundle.CONFIG_FILE)
    file = ask(name, commit, lambda client: Path(get(client)))
    _checked(name, file.parent, file.name, there.sums[file.name], repair=True)
    if not _is_bundle(file.parent):
        return {}  # a checkpoint that these weights began with: it says nothing of these files
    # A copy has one field of its own. Anything else has been trained on, and is another model.
    pushed = bundle.read(file.parent)
    if dataclasses.replace(pushed, source=None) != dataclasses.replace(description, source=None):
        warnings.warn(
            f"{directory} comes from {repository}@{commit} and is another model by now: "
            "not held against the Hub",
            stacklevel=3,
        )
        return {}
    return sums | {bundle.CONFIG_FILE: ("", "hub")}


# --- looking around --------------------------------------------------------------------------


def list_bundles(address: str) -> list[dict[str, Any]]:
    """The bundles of a user that the Hub shows us: name, revision, private, accuracy.

    Args:
        address: `"hf://user"`.
    """
    user = address.removeprefix(SCHEME).strip("/")
    if not address.startswith(SCHEME) or not re.fullmatch(r"[\w.\-]+", user, re.ASCII):
        raise InputError(f"{address!r} is not a user's address, which is hf://user")

    def found(client: Any) -> list[Any]:
        models = functools.partial(
            client.list_models, author=user, filter=LIBRARY, cardData=True, full=True
        )
        return retried(lambda: list(models()))

    rows = []
    for info in ask(user, "main", found):
        results = getattr(info.card_data, "eval_results", None) or ()
        scores = [r.metric_value for r in results if r.metric_type == "accuracy"]
        rows.append(
            {
                "name": f"{SCHEME}{info.id}",
                "revision": info.sha,
                "private": bool(info.private),
                "accuracy": next((s for s in scores if isinstance(s, (int, float))), None),
            }
        )
    return rows


# --- our record ------------------------------------------------------------------------------


def _record_file(repository: str, commit: str) -> Path:
    suffix = f"@{commit}" if commit else ""
    return cache_directory() / "hub" / f"{repository.replace('/', '--')}{suffix}.json"


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        record = text_files.read_json(path)
    except BundleError:
        record = None
    sums = record.get("sha256") if isinstance(record, dict) else None
    whole = (
        isinstance(sums, dict)
        and all(isinstance(value, str) and SHA256.fullmatch(value) for value in sums.values())
        and isinstance(record.get("revision"), str)
        and COMMIT.fullmatch(record["revision"])
    )
    if not whole:
        raise DownloadError(f"{path} is damaged: delete it to trust anew what the Hub has")
    found: dict[str, Any] = record
    return found


def _write_record(path: Path, record: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text_files.write_json(path, record)
    except OSError as error:
        warnings.warn(
            f"{path} could not be written ({error.strerror or error}), so the next download is "
            "not held against this one: set KERAS_AGNEWS_CACHE to a directory that can",
            stacklevel=3,
        )
