"""`push`: a bundle to the Hub, in one commit."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_agnews import bundle, card, hub, hub_requests, registry, text_files
from keras_agnews.errors import InputError, UploadError


@dataclass(frozen=True)
class Pushed:
    """What a push has done, or would do; as a str it is the commit.

    Attributes:
        address: the repository, `"hf://user/name"`.
        revision: the full commit that has the model now; of a dry run, the one that it builds on
            (empty where there is no repository yet).
        files: what was sent, from path to bytes; nothing where nothing had changed.
        pull_request: the address of its page, where one was asked for.
    """

    address: str
    revision: str
    files: dict[str, int]
    pull_request: str | None = None

    def __str__(self) -> str:
        return self.revision


def push(
    model: Any,
    repository: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    tag: str | None = None,
    license: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Share a model: one commit with its config, weights, vocabulary and card.

    Files that the repository has already are not sent again, and without any there is no commit.
    Weights there that the model has no longer, whole ones where it is a difference now, are taken
    away with it. A card that a person has written is kept: see `card.render`. Where the repository
    and the directory have one each, their metadata come together, and where they differ the
    repository's stay, with a warning. A push that failed can be repeated, and ends then as if it
    had not failed.

    Args:
        model: a classifier, the directory of a bundle, or the name of an entry.
        repository: `"user/name"`; made where it is missing.
        private: whether only you see it; by default a new one is public, unless your account says
            otherwise, and an existing one stays as it is.
        revision: a branch, made from `main` where it is missing.
        create_pr: propose the commit in a pull request.
        commit_message: its title.
        tag: a name for the commit, e.g. `"v1.0"`.
        license: the Hub's identifier of a licence, e.g. `"mit"`, for the card.
        dry_run: send nothing, and say what would be sent.

    Raises:
        InputError: an argument that does not fit, or a tag that is taken.
        BundleError: the directory is not a whole bundle, or a card cannot be read.
        NotFoundError: there is no such model, or the Hub has no such repository or revision for us.
        UploadError: the Hub refused, cannot be reached, or the branch has moved meanwhile.

    Example:

    ```python
    commit = keras_agnews.push(clf, "user/my-topics", private=True, tag="v1.0")
    clf = keras_agnews.load(f"hf://user/my-topics@{commit}")
    ```
    """
    name, inline = hub.parse_address(hub.SCHEME + repository.removeprefix(hub.SCHEME), revision)
    branch = inline or "main"
    if bundle.COMMIT.fullmatch(branch):
        raise InputError(f"{branch} is a commit: push to a branch, whose head then moves")
    if create_pr and (tag or branch != "main"):
        raise InputError("create_pr makes a branch of its own: it goes without revision and tag")
    if not (
        tag is None or (isinstance(tag, str) and re.fullmatch(r"[\w.][\w.\-]*", tag, re.ASCII))
    ):
        raise InputError(f"{tag!r} cannot be a tag: a str of letters, digits, '.', '_' and '-' can")
    with contextlib.ExitStack() as stack:
        if hasattr(model, "save_bundle"):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            model.save_bundle(directory)
        else:
            if not isinstance(model, (str, os.PathLike)):
                kind = type(model).__name__
                raise InputError(f"push wants a classifier or a bundle's directory, not {kind}")
            directory = registry.locate(model)
        job = _Job(directory, name, branch, private, create_pr, tag, license, dry_run)
        job.message = commit_message or f"Push {job.description.name} with keras_agnews"
        return job.run()


class _Job:
    """One push: what is sent, and where to."""

    def __init__(
        self,
        directory: Path,
        name: str,
        branch: str,
        private: bool | None,
        create_pr: bool,
        tag: str | None,
        license_: str | None,
        dry_run: bool,
    ) -> None:
        self.name, self.branch, self.private = name, branch, private
        self.create_pr, self.tag, self.license, self.dry_run = create_pr, tag, license_, dry_run
        self.address = hub.SCHEME + name
        self.message = ""
        self.description = bundle.canonical(described := bundle.read(directory))
        bundle.check(directory, described)
        if described.weights is None:
            raise InputError(f"{directory} has no weights yet: train it before you push it")
        # From a path on the Hub to what it is to be.
        self.files: dict[str, bytes | Path] = {
            bundle.CONFIG_FILE: text_files.json_text(self.description.to_dict()).encode(),
            bundle.VOCABULARY_FILE: directory / described.vocabulary_file,
        }
        if beside := described.weights.beside:
            name = bundle.DELTA_FILE if described.weights.delta else bundle.WEIGHTS_FILE
            self.files[name] = directory / beside
        own = directory / bundle.CARD_FILE
        for file in (*self.files.values(), own):
            if isinstance(file, Path) and hub.leads_out(directory, file.name):
                raise InputError(f"{file} is a link that leads out of {directory}: copy the file")
        self.card = card.read(own) if own.is_file() else None
        self.names = f"{bundle.CARD_FILE} of {self.address}", str(own)
        # What is wrong with it is told before there is a repository.
        card.render(self.description, self.address, self.card, self.license, self.names[1])

    def run(self) -> Pushed:
        """Push, tag, and say what was done."""
        there = self._ask(self._ready)
        self.files[bundle.CARD_FILE] = self._card(there).encode("utf-8")
        if there is None:
            return Pushed(self.address, "", {p: _size(c) for p, c in self.files.items()})
        changed = self._changed(there)
        moves = bool(changed or self._stale(there))
        if self.tag:
            self._check_tag("" if moves else there.revision)
        pushed = Pushed(self.address, there.revision, {p: _size(c) for p, c in changed.items()})
        if self.dry_run:
            return pushed
        if moves:
            pushed = self._commit(there, pushed, changed)
        if self.tag:
            self._ask(
                lambda client: hub_requests.retried(
                    lambda: client.create_tag(
                        self.name, tag=self.tag, revision=pushed.revision, exist_ok=True
                    )
                )
            )
        return pushed

    def _check_sum(self, path: str, found: str) -> None:
        """`UploadError` for weights that are no longer those of the config."""
        assert self.description.weights is not None
        weights = self.description.weights
        pins = {bundle.WEIGHTS_FILE: weights.sha256, bundle.DELTA_FILE: weights.delta_sha256}
        if pins.get(path) not in (None, "", found):
            raise UploadError(
                f"{path} was replaced while it was to be pushed, and nothing was: push again"
            )

    def _ready(self, client: Any) -> hub.Listing | None:
        """The branch as it is, made where it is missing; `None` in a dry run without one."""
        from huggingface_hub import errors

        with contextlib.suppress(errors.RepositoryNotFoundError):
            there = self._listing(client)
            if self.private is not None and there is not None and there.private != self.private:
                has = "private" if there.private else "public"
                raise InputError(
                    f"{self.address} exists and is {has}: change that on its page, or push "
                    "without saying private"
                )
            return there
        if self.dry_run:
            return None
        options = {} if self.private is None else {"private": self.private}
        hub_requests.retried(lambda: client.create_repo(self.name, exist_ok=True, **options))
        return self._listing(client)

    def _listing(self, client: Any) -> hub.Listing | None:
        from huggingface_hub import errors

        try:
            return hub.listing(client, self.name, self.branch)
        except errors.RevisionNotFoundError:
            if self.branch.startswith("refs/"):
                raise
        there = hub.listing(client, self.name, "main")
        if self.dry_run:
            return there
        hub_requests.retried(
            lambda: client.create_branch(
                self.name, branch=self.branch, revision=there.revision, exist_ok=True
            )
        )
        return hub.listing(client, self.name, self.branch)

    def _commit(
        self, there: hub.Listing, pushed: Pushed, changed: dict[str, bytes | Path]
    ) -> Pushed:
        def send(client: Any) -> Pushed:
            added = [
                client.CommitOperationAdd(
                    path, content if isinstance(content, bytes) else str(content)
                )
                for path, content in changed.items()
            ]
            for file in added:  # whose sums have just been taken
                self._check_sum(file.path_in_repo, file.upload_info.sha256.hex())
            sent = client.create_commit(
                self.name,
                added + [client.CommitOperationDelete(path) for path in self._stale(there)],
                commit_message=self.message,
                revision=self.branch,
                create_pr=self.create_pr,
                parent_commit=there.revision,
            )
            return Pushed(self.address, sent.oid, pushed.files, sent.pr_url)

        def settled(client: Any) -> Pushed:
            """The commit; where its answer was lost, the one that the branch has meanwhile."""
            try:
                return send(client)
            except Exception as error:
                if self.create_pr or hub_requests.status(error) not in (412, *hub_requests.PASSING):
                    raise
                now = hub.listing(client, self.name, self.branch)
                if now.revision == there.revision:
                    raise
                if not self._changed(now):
                    return Pushed(self.address, now.revision, pushed.files)
                raise UploadError(
                    f"{self.branch} of {self.address} has moved from {there.revision} to "
                    f"{now.revision} since it was read: nothing was changed; look at what is new "
                    "there, and push again"
                ) from None

        # Each try of a pull request that got through unheard would be a pull request.
        again = (lambda call: call()) if self.create_pr else hub_requests.retried
        return self._ask(lambda client: again(lambda: settled(client)))

    def _changed(self, there: hub.Listing) -> dict[str, bytes | Path]:
        """The files that the Hub has not, or has otherwise."""
        return {
            path: content
            for path, content in self.files.items()
            if not there.sums.get(path) or not hub.matches(content, there.sums[path])
        }

    def _stale(self, there: hub.Listing) -> list[str]:
        """Weights there that the model no longer has, now that it is stored otherwise."""
        weights = {bundle.WEIGHTS_FILE, bundle.DELTA_FILE}
        return sorted((weights & there.sums.keys()) - self.files.keys())

    def _card(self, there: hub.Listing | None) -> str:
        """The card that comes of this one and the Hub's."""
        theirs = None
        if there is not None and bundle.CARD_FILE in there.sums:
            path = self._ask(
                lambda client: hub_requests.retried(
                    lambda: client.hf_hub_download(
                        self.name, bundle.CARD_FILE, revision=there.revision
                    )
                )
            )
            if not hub.matches(Path(path), there.sums[bundle.CARD_FILE]):
                raise UploadError(f"{path} is damaged: delete it and push again")
            theirs = card.read(Path(path), self.names[0])
        cards = zip((None, theirs, self.card), ("", *self.names), strict=True)
        plain, hubs, own = (
            card.render(self.description, self.address, existing, self.license, name)
            for existing, name in cards
        )
        if theirs is None:
            return own
        if self.card is None:
            return hubs
        by_others, by_us = card.words(hubs), card.words(own)
        if by_others and by_us and by_others != by_us:
            warnings.warn(
                f"{self.names[0]} and yours are both written by hand and differ: "
                "the Hub's is kept; bring yours into it on its page",
                stacklevel=4,
            )
        kept = own if by_us and not by_others else hubs
        text, differing = card.with_metadata(kept, hubs, own, plain)
        if differing:
            warnings.warn(
                f"the metadata of {self.names[0]} and of yours differ in {', '.join(differing)}: "
                "the Hub's are kept; change them on its page",
                stacklevel=4,
            )
        return text

    def _check_tag(self, may_be: str) -> None:
        """A tag that is taken is told before anything is sent."""
        refs = self._ask(
            lambda client: hub_requests.retried(lambda: client.list_repo_refs(self.name))
        )
        taken = {tag.name: tag.target_commit for tag in refs.tags}
        if taken.get(self.tag, may_be) != may_be:
            raise InputError(
                f"{self.address} has a tag {self.tag!r} already, on {taken[self.tag]}: "
                "choose another one"
            )

    def _ask(self, call: Any) -> Any:
        return hub_requests.ask(self.name, self.branch, call, upload=True)


def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else os.stat(content).st_size
