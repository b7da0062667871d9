"""Processes that are spoken to in lines, and that end when they are told to."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class ChildError(Exception):
    """A process that did not answer; `status` and `note` are the row's."""

    def __init__(self, status: str, note: str) -> None:
        super().__init__(f"{status}: {note}")
        self.status, self.note = status, note


class Child:
    """A process that answers a line of JSON to each line."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log.open("a", encoding="utf-8")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **environment},
            cwd=Path(__file__).resolve().parents[1],
            start_new_session=True,  # to end it with the processes that it has started
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def ask(self, line: str, limit: float) -> dict[str, Any]:
        """Its answer; `ChildError` where there is none within `limit` seconds."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # why, its last line or its exit code says
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        try:
            answer = self._lines.get(timeout=max(0.0, limit))
        except queue.Empty:
            raise ChildError(
                "timeout", f"no answer within {limit:.0f} s: --patience gives more time"
            ) from None
        if answer is None:
            code = self._process.wait()
            status = "out of memory" if code in (-9, 137) else "failed"
            raise ChildError(status, f"ended with exit code {code}")
        try:
            values: dict[str, Any] = json.loads(answer)
        except ValueError:
            raise ChildError("failed", f"answered {answer[:80]!r}") from None
        if "status" in values:
            raise ChildError(values["status"], values.get("note", ""))
        return values

    def close(self) -> None:
        """End it and what it has started, whatever they do."""
        for force, seconds in ((False, 5), (True, None)):
            with contextlib.suppress(ProcessLookupError):
                self._stop(force)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        for stream in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def _stop(self, force: bool) -> None:
        if sys.platform == "win32":  # which has no groups of processes
            self._process.kill() if force else self._process.terminate()
        else:
            os.killpg(self._process.pid, signal.SIGKILL if force else signal.SIGTERM)
