"""A loopback Hugging Face Hub for the real client: commits, branches, tags, LFS and failures.

    root/{models|datasets}/{user}/{name}/{commit}/{path}    the files of a commit
    root/{models|datasets}/{user}/{name}/.state.json        refs, parents, titles and visibility
    root/.lfs/{sha256}                                      large files that were sent

A commit is a folder named by its 40 hexadecimal digits, so that a test may put one there by hand:
without a branch `main`, it is the last of them by name.

    with HubServer(tmp_path) as hub:
        hub.fail("GET .*/resolve/", 503)
        subprocess.run([...], env=hub.environment(tmp_path / "home"))
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub

KINDS = ("models", "datasets")
TOKEN = "hf_loopbackOwnerToken"  # of the user `user`; another user's is no good for a private one
STRANGER = "hf_loopbackStrangerToken"
_LARGE = 1 << 20


@dataclass
class Failure:
    """What goes wrong with the next requests whose `"METHOD /path?query"` matches.

    Attributes:
        request: a regular expression, searched for.
        how: a status to answer with; "cut" (half a body), "flip" (a byte of the body), "lost" (it
            is done, and answered with 503), "echo" (500 and a body that repeats every header); or
            a function that is called before the request is answered as ever.
        times: how many requests are left to fail.
    """

    request: str
    how: int | str | Callable[[], object]
    times: float


class HubServer:
    """Serves `root` on a free port of 127.0.0.1 for the length of a `with` block.

    Attributes:
        root: the directory that is served; files may come and go while it is.
        requests: `(method, path)` of every request, in the order they came.
        sent: bytes of the bodies that clients sent.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[tuple[str, str]] = []
        self.sent = 0
        self.failures: list[Failure] = []
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, home: Path) -> dict[str, str]:
        """The environment of a process whose Hub client talks to this server, caching in `home`."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def fail(self, request: str, how: Any, times: float = 1) -> None:
        """Let the next `times` requests that match fail; `math.inf` for ever."""
        self.failures.append(Failure(request, how, times))

    def repository(self, identifier: str, kind: str = "models") -> Repository:
        return Repository(self, kind, identifier)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _RefusedError(Exception):
    """Answered with a status and X-Error-Code."""

    def __init__(self, code: str, status: int = 404) -> None:
        super().__init__(code)
        self.code, self.status = code, status


class Repository:
    """A repository on disk; every change of it is one rename."""

    def __init__(self, hub: HubServer, kind: str, identifier: str) -> None:
        self.hub, self.kind, self.identifier = hub, kind, identifier
        self.path = hub.root / kind / identifier

    @property
    def state(self) -> dict[str, Any]:
        file = self.path / ".state.json"
        known = json.loads(file.read_text()) if file.is_file() else {}
        return {"heads": {}, "tags": {}, "pulls": {}, "commits": {}} | known

    def change(self, **changes: Any) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = self.path / f".{uuid.uuid4().hex}"
        temporary.write_text(json.dumps(self.state | changes))
        os.replace(temporary, self.path / ".state.json")

    @property
    def refs(self) -> dict[str, str]:
        state = self.state
        folders = sorted(
            f.name for f in self.path.iterdir() if re.fullmatch("[0-9a-f]{40}", f.name)
        )
        main = {"main": folders[-1]} if folders else {}
        return (
            {name: name for name in folders}
            | main
            | state["pulls"]
            | state["tags"]
            | state["heads"]
        )

    def commit(self, revision: str = "main") -> Path:
        """The folder of a revision, whose name is the commit."""
        if not self.path.is_dir():
            raise _RefusedError("RepoNotFound")
        if revision not in self.refs:
            raise _RefusedError("RevisionNotFound")
        return self.path / self.refs[revision]

    def write(
        self,
        revision: str,
        added: dict[str, bytes | Path],
        deleted: list[str],
        title: str = "",
        parent: str | None = None,
        pull: bool = False,
    ) -> tuple[str, str]:
        """A new commit on a branch or pull request; its sum, and the reference that it is on."""
        with self.hub.lock:
            head = self.commit(revision) if self.path.is_dir() and self.refs else None
            if parent and head and head.name != parent and not pull:
                raise _RefusedError("", 412)
            folder = self.path / f".{uuid.uuid4().hex}"
            folder.mkdir(parents=True)
            if head is not None:
                shutil.copytree(head, folder, dirs_exist_ok=True, copy_function=os.link)
            for path in deleted:
                (folder / path).unlink()
            for path, content in added.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).unlink(missing_ok=True)
                if isinstance(content, Path):
                    os.link(content, folder / path)
                else:
                    (folder / path).write_bytes(content)
            told = f"{head and head.name}\n{title}\n{uuid.uuid4().hex}".encode()
            commit = hashlib.sha1(told).hexdigest()
            os.rename(folder, self.path / commit)
            state = self.state
            state["commits"][commit] = {"title": title, "parent": head and head.name}
            reference = revision
            if pull:
                reference = f"refs/pr/{len(state['pulls']) + 1}"
            state["pulls" if reference.startswith("refs/pr/") else "heads"][reference] = commit
            self.change(**state)
            return commit, reference

    def info(self, revision: str) -> dict[str, Any]:
        commit, state = self.commit(revision), self.state
        card = _card_data(commit / "README.md")
        return {
            "id": self.identifier,
            f"{self.kind[:-1]}Id": self.identifier,
            "sha": commit.name,
            "private": state.get("private", False),
            "gated": state.get("gated", False),
            "tags": [card["library_name"]] if "library_name" in card else [],
            "cardData": card,
            "library_name": card.get("library_name"),
            "downloads": 0,
            "likes": 0,
            "siblings": [
                {"rfilename": f["path"], "size": f["size"], "blobId": f["oid"]}
                | ({"lfs": f["lfs"] | {"sha256": f["lfs"]["oid"]}} if "lfs" in f else {})
                for f in tree(commit)
            ],
        }


def is_large(path: str, size: int) -> bool:
    return path.endswith((".safetensors", ".bin", ".parquet")) or size > _LARGE


def git_sum(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def tree(commit: Path) -> list[dict[str, Any]]:
    entries = []
    for file in sorted(file for file in commit.rglob("*") if file.is_file()):
        path, content = file.relative_to(commit).as_posix(), file.read_bytes()
        entry = {"type": "file", "oid": git_sum(content), "size": len(content), "path": path}
        if is_large(path, len(content)):
            large = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": large, "size": len(content), "pointerSize": 134}
        entries.append(entry)
    return entries


def _card_data(readme: Path) -> dict[str, Any]:
    if not readme.is_file():
        return {}
    text = readme.read_text("utf-8", "replace")
    data: dict[str, Any] = huggingface_hub.ModelCard(text).data.to_dict()
    return data


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        how: Any = None

        def do_GET(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with hub.lock:
                hub.requests.append((self.command, self.path))
                hub.sent += len(self.body)
                self.how = self._failure()
            if isinstance(self.how, int):
                self._send(self.how, b"{}", {"Retry-After": "1"} if self.how == 429 else {})
                return
            if self.how == "echo":
                self._send(500, str(self.headers).encode(), {"X-Error-Message": self.token})
                return
            if callable(self.how):
                self.how()
            url = urlsplit(self.path)
            self.query = parse_qs(url.query)
            try:
                self._answer([unquote(part) for part in url.path.split("/")[1:]])
            except _RefusedError as refused:
                self._send(refused.status, b"{}", {"X-Error-Code": refused.code})

        do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 (the base class's names)

        def _failure(self) -> Any:
            for failure in hub.failures:
                if failure.times > 0 and re.search(failure.request, f"{self.command} {self.path}"):
                    failure.times -= 1
                    return failure.how
            return None

        @property
        def token(self) -> str:
            return self.headers.get("Authorization", "").removeprefix("Bearer ")

        def _readable(self, kind: str, identifier: str, files: bool = False) -> Repository:
            repository = hub.repository(identifier, kind)
            state, owner = repository.state, self.token == TOKEN
            if not repository.path.is_dir() or (state.get("private") and not owner):
                raise _RefusedError("RepoNotFound", 404 if self.token else 401)
            if files and state.get("gated") and not owner:
                raise _RefusedError("GatedRepo", 403 if self.token else 401)
            return repository

        def _writable(self, kind: str, identifier: str) -> Repository:
            if self.token != TOKEN:
                raise _RefusedError("", 403 if self.token else 401)
            return self._readable(kind, identifier)

        def _answer(self, parts: list[str]) -> None:
            match self.command, parts:
                case _, ["api", "models"]:
                    self._list()
                case "POST", ["api", "repos", "create"]:
                    self._create(json.loads(self.body))
                case "POST", ["api", "validate-yaml"]:
                    self._validate(json.loads(self.body)["content"])
                case "GET", ["api", "whoami-v2"]:
                    self._send_json({"type": "user", "name": "user"})
                case "PUT", [".lfs", oid]:
                    self._store(oid)
                case "POST", [*prefix, user, name, "info", "lfs", "objects", "batch"]:
                    kind = prefix[0] if prefix else "models"
                    self._batch(self._writable(kind, f"{user}/{name.removesuffix('.git')}"))
                case _, ["api", kind, user, name, *rest] if kind in KINDS:
                    self._repository(kind, f"{user}/{name}", rest)
                case _, ["datasets", user, name, "resolve", revision, *path]:
                    self._resolve("datasets", f"{user}/{name}", revision, path)
                case _, [user, name, "resolve", revision, *path]:
                    self._resolve("models", f"{user}/{name}", revision, path)
                case _:
                    raise _RefusedError("RepoNotFound")

        def _repository(self, kind: str, identifier: str, rest: list[str]) -> None:
            match self.command, rest:
                case _, []:
                    self._send_json(self._readable(kind, identifier).info("main"))
                case _, ["revision", revision]:
                    self._send_json(self._readable(kind, identifier).info(revision))
                case _, ["tree", revision]:
                    repository = self._readable(kind, identifier, files=True)
                    self._send_json(tree(repository.commit(revision)))
                case _, ["refs"]:
                    self._refs(self._readable(kind, identifier))
                case "POST", ["preupload", revision]:
                    self._preupload(self._writable(kind, identifier), revision)
                case "POST", ["commit", revision]:
                    self._commit(self._writable(kind, identifier), revision)
                case "POST", ["tag" | "branch" as what, name]:
                    self._reference(self._writable(kind, identifier), what, name)
                case _:
                    raise _RefusedError("EntryNotFound")

        def _list(self) -> None:
            author, wanted = self.query.get("author", [""])[0], self.query.get("filter", [])
            found = []
            for path in sorted(hub.root.glob("models/*/*")):
                repository = hub.repository(f"{path.parent.name}/{path.name}")
                if author not in ("", path.parent.name) or not repository.refs:
                    continue
                if repository.state.get("private") and self.token != TOKEN:
                    continue
                info = repository.info("main")
                if set(wanted) <= set(info["tags"]):
                    found.append(info)
            self._send_json(found)

        def _create(self, asked: dict[str, Any]) -> None:
            identifier = f"{asked['organization'] or 'user'}/{asked['name']}"
            repository = hub.repository(identifier, f"{asked.get('type') or 'model'}s")
            url = {"url": f"{hub.url}/{identifier}"}
            if self.token != TOKEN:
                raise _RefusedError("", 403 if self.token else 401)
            with hub.lock:
                if repository.path.is_dir():
                    self._send_json(url, 409)
                    return
                private = bool(asked.get("private")) or asked.get("visibility") == "private"
                repository.change(private=private)
                attributes = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
                repository.write("main", {".gitattributes": attributes}, [], "initial commit")
            self._send_json(url)

        def _validate(self, content: str) -> None:
            try:
                huggingface_hub.ModelCard(content).data.to_dict()
            except Exception as error:
                self._send_json({"errors": [{"message": str(error)}], "warnings": []}, 400)
            else:
                self._send_json({"errors": [], "warnings": []})

        def _preupload(self, repository: Repository, revision: str) -> None:
            there = {entry["path"]: entry for entry in tree(repository.commit(revision))}
            files = []
            for file in json.loads(self.body)["files"]:
                large = is_large(file["path"], file["size"])
                known = there.get(file["path"], {})
                files.append(
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if large else "regular",
                        "shouldIgnore": False,
                        "oid": known.get("lfs", known).get("oid"),
                    }
                )
            self._send_json({"files": files})

        def _batch(self, repository: Repository) -> None:
            objects = []
            for wanted in json.loads(self.body)["objects"]:
                answer = {"oid": wanted["oid"], "size": wanted["size"]}
                if not (hub.root / ".lfs" / wanted["oid"]).is_file():
                    href = f"{hub.url}/.lfs/{wanted['oid']}?X-Amz-Signature=secret"
                    answer["actions"] = {"upload": {"href": href}}
                objects.append(answer)
            self._send_json({"transfer": "basic", "objects": objects})

        def _store(self, oid: str) -> None:
            if hashlib.sha256(self.body).hexdigest() != oid:
                raise _RefusedError("", 400)
            store = hub.root / ".lfs"
            store.mkdir(exist_ok=True)
            temporary = store / f".{uuid.uuid4().hex}"
            temporary.write_bytes(self.body)
            os.replace(temporary, store / oid)
            self._send_json({})

        def _commit(self, repository: Repository, revision: str) -> None:
            lines = [json.loads(line) for line in self.body.splitlines()]
            header: dict[str, Any] = {}
            added: dict[str, bytes | Path] = {}
            deleted: list[str] = []
            for line in lines:
                value = line["value"]
                match line["key"]:
                    case "header":
                        header = value
                    case "file":
                        added[value["path"]] = base64.b64decode(value["content"])
                    case "lfsFile":
                        added[value["path"]] = hub.root / ".lfs" / value["oid"]
                        if not (hub.root / ".lfs" / value["oid"]).is_file():
                            raise _RefusedError("", 400)
                    case "deletedFile":
                        deleted.append(value["path"])
            commit, reference = repository.write(
                revision,
                added,
                deleted,
                header["summary"],
                header.get("parentCommit"),
                "create_pr" in self.query,
            )
            url = f"{hub.url}/{repository.identifier}"
            answer = {"commitOid": commit, "commitUrl": f"{url}/commit/{commit}"}
            if reference.startswith("refs/pr/"):
                number = reference.rpartition("/")[2]
                answer["pullRequestUrl"] = f"{url}/discussions/{number}"
            self._send_json(answer)

        def _reference(self, repository: Repository, what: str, name: str) -> None:
            asked = json.loads(self.body or b"{}")
            with hub.lock:
                state = repository.state
                if what == "tag":
                    kept, name, start = state["tags"], asked["tag"], name
                else:
                    kept, start = state["heads"], asked.get("startingPoint") or "main"
                if name in kept:
                    raise _RefusedError("", 409)
                kept[name] = repository.commit(start).name
                repository.change(**state)
            self._send_json({})

        def _refs(self, repository: Repository) -> None:
            state = repository.state
            kinds = (("branches", "heads"), ("tags", "tags"), ("pullRequests", "pulls"))
            answer: dict[str, Any] = {"converts": []}
            for title, key in kinds:
                answer[title] = [
                    {"name": name, "ref": f"refs/{key}/{name}", "targetCommit": commit}
                    for name, commit in state[key].items()
                ]
            self._send_json(answer)

        def _resolve(self, kind: str, identifier: str, revision: str, path: list[str]) -> None:
            commit = self._readable(kind, identifier, files=True).commit(revision)
            file = commit.joinpath(*path).resolve()
            if not file.is_relative_to(commit.resolve()) or not file.is_file():
                raise _RefusedError("EntryNotFound")
            content = file.read_bytes()
            large = is_large(file.name, len(content))
            oid = hashlib.sha256(content).hexdigest() if large else git_sum(content)
            headers = {
                "X-Repo-Commit": commit.name,
                "ETag": f'"{oid}"',
                "Accept-Ranges": "bytes",
            }
            wanted = self.headers.get("Range", "")
            if wanted.startswith("bytes="):
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start = int(first)
                end = min(int(last), len(content) - 1) if last else len(content) - 1
                headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
                self._send(206, content[start : end + 1], headers)
            else:
                self._send(200, content, headers)

        def _send_json(self, value: object, status: int = 200) -> None:
            if self.how == "lost":
                self._send(503, b"{}", {})
                return
            body = json.dumps(value).encode()
            self._send(status, body, {"Content-Type": "application/json"})

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.how == "flip" and body:
                middle = len(body) // 2
                body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            if self.how == "cut":
                body = body[: len(body) // 2]
                self.close_connection = True
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """The requests are in `HubServer.requests`."""

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                """The client is gone: it was killed, or is done."""

    return Handler


FOR_EVER = math.inf
