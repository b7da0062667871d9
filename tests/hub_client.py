"""A process with the real Hub client in it, that calls our functions one after another.

The client reads its environment when it is imported, so each machine that talks to a Hub is a
process of its own; it stays, since most of a call's time would be the imports. Its clock runs
fast: waiting takes a two-hundredth of the time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from hub_server import TOKEN, HubServer

_SCRIPT = r"""
import dataclasses, importlib, json, os, signal, sys, time, warnings
import huggingface_hub, keras_agnews
from keras_agnews import hub, publishing
from keras_agnews.errors import KerasAgnewsError

answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
sleep, time.sleep = time.sleep, lambda seconds: sleep(seconds / 200)

def plain(value):
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value

def answer(call):
    os.environ.update(call["environment"])
    module, _, name = call["function"].rpartition(".")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            function = getattr(importlib.import_module(module or "keras_agnews"), name)
            told = {"value": plain(function(*call["arguments"], **call["options"]))}
        except KerasAgnewsError as error:
            alone = error.__cause__ is None and (
                error.__context__ is None or error.__suppress_context__
            )
            told = {"error": type(error).__name__, "message": str(error), "alone": alone}
    return told | {"warnings": [str(w.message) for w in caught if w.category is UserWarning]}

for line in sys.stdin:
    call = json.loads(line)
    if call["killed_after"] is None:
        print(json.dumps(answer(call)), file=answers, flush=True)
        continue
    if not (child := os.fork()):
        try:
            answer(call)
        finally:
            os._exit(0)
    sleep(call["killed_after"])
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(json.dumps({"value": os.WIFSIGNALED(status), "warnings": []}), file=answers, flush=True)
"""


class CallError(Exception):
    """An exception of ours on the other side.

    Attributes:
        kind: the name of its class.
        alone: whether it comes without the exceptions that it was made of.
    """

    def __init__(self, kind: str, message: str, alone: bool) -> None:
        super().__init__(message)
        self.kind, self.alone = kind, alone


class HubClient:
    """One machine: `client("push", directory, "user/name")`.

    Attributes:
        home: its caches.
        warnings: the messages of the `UserWarning`s of the last call.
    """

    def __init__(self, server: HubServer, home: Path, **changes: str) -> None:
        self.home, self.warnings = home, list[str]()
        own = {"KERAS_AGNEWS_CACHE": str(home / "own"), "HF_TOKEN": ""}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT],
            env=server.environment(home) | own | changes,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(home.with_suffix(".log"), "wb"),  # noqa: SIM115 (as long as the process)
            text=True,
        )

    def __call__(
        self,
        function: str,
        *arguments: Any,
        token: str = TOKEN,
        killed_after: float | None = None,
        **options: Any,
    ) -> Any:
        """What a function of the package returns, or `CallError`.

        Args:
            function: a public name, or `"module.name"`.
            arguments: its arguments; paths become str.
            token: the user's, or none.
            killed_after: seconds until the caller is killed; returned is whether it was running.
            options: more arguments.
        """
        call = {
            "function": function,
            "arguments": arguments,
            "options": options,
            "environment": {"HF_TOKEN": token},
            "killed_after": killed_after,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(call, default=os.fspath) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self.home.with_suffix(".log").read_text()[-4_000:]
        answer = json.loads(line)
        self.warnings = answer["warnings"]
        if "error" in answer:
            raise CallError(answer["error"], answer["message"], answer["alone"])
        return answer["value"]

    def __enter__(self) -> HubClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()
