"""A loopback Hugging Face Hub that serves repositories from a directory, for the real client.

    root/{models|datasets}/{user}/{name}/{commit}/{path}

A commit is a folder named by its 40 hexadecimal digits; `main` is the last of them by name.

    with HubServer(tmp_path) as hub:
        subprocess.run([...], env=hub.environment(tmp_path / "home"))
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

KINDS = ("models", "datasets")


class HubServer:
    """Serves `root` on a free port of 127.0.0.1 for the length of a `with` block.

    Attributes:
        root: the directory that is served; files may come and go while it is.
        requests: `(method, path)` of every request, in the order they came.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[tuple[str, str]] = []
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


class _MissingError(Exception):
    """Answered with 404 and this text as X-Error-Code."""


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _commit(repository: Path, revision: str) -> Path:
    """The folder of a revision, whose name is the commit."""
    if not repository.is_dir():
        raise _MissingError("RepoNotFound")
    commits = {folder.name: folder for folder in sorted(repository.iterdir()) if folder.is_dir()}
    found = commits.get(max(commits, default="") if revision == "main" else revision)
    if found is None:
        raise _MissingError("RevisionNotFound")
    return found


def _files(commit: Path) -> list[Path]:
    return sorted(file for file in commit.rglob("*") if file.is_file())


def _info(kind: str, identifier: str, commit: Path) -> object:
    names = [file.relative_to(commit).as_posix() for file in _files(commit)]
    return {
        "id": identifier,
        f"{kind[:-1]}Id": identifier,
        "sha": commit.name,
        "private": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": [{"rfilename": name} for name in names],
    }


def _tree(commit: Path) -> object:
    return [
        {
            "type": "file",
            "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
            "size": file.stat().st_size,
            "path": file.relative_to(commit).as_posix(),
            "lfs": {"oid": _sha256(file), "size": file.stat().st_size, "pointerSize": 134},
        }
        for file in _files(commit)
    ]


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.requests.append((self.command, self.path))
            try:
                self._answer([unquote(part) for part in urlsplit(self.path).path.split("/")[1:]])
            except _MissingError as missing:
                self._send(404, b"{}", {"X-Error-Code": str(missing)})

        def do_HEAD(self) -> None:
            self.do_GET()

        def _answer(self, parts: list[str]) -> None:
            match parts:
                case ["api", kind, user, name] if kind in KINDS:
                    commit = _commit(hub.root / kind / user / name, "main")
                    self._send_json(_info(kind, f"{user}/{name}", commit), commit)
                case ["api", kind, user, name, "revision", revision] if kind in KINDS:
                    commit = _commit(hub.root / kind / user / name, revision)
                    self._send_json(_info(kind, f"{user}/{name}", commit), commit)
                case ["api", kind, user, name, "tree", revision] if kind in KINDS:
                    commit = _commit(hub.root / kind / user / name, revision)
                    self._send_json(_tree(commit), commit)
                case ["datasets", user, name, "resolve", revision, *path]:
                    self._resolve(hub.root / "datasets" / user / name, revision, path)
                case [user, name, "resolve", revision, *path]:
                    self._resolve(hub.root / "models" / user / name, revision, path)
                case _:
                    raise _MissingError("RepoNotFound")

        def _resolve(self, repository: Path, revision: str, path: list[str]) -> None:
            commit = _commit(repository, revision)
            file = commit.joinpath(*path).resolve()
            if not file.is_relative_to(commit.resolve()) or not file.is_file():
                raise _MissingError("EntryNotFound")
            content = file.read_bytes()
            headers = {
                "X-Repo-Commit": commit.name,
                "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
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

        def _send_json(self, value: object, commit: Path) -> None:
            headers = {"Content-Type": "application/json", "X-Repo-Commit": commit.name}
            self._send(200, json.dumps(value).encode(), headers)

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """The requests are in `HubServer.requests`."""

    return Handler
