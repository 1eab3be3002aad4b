"""Runs `llava` in a real pseudo-terminal: keys are sent, and what the screen shows is read."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import pexpect

_CONTROLS = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][A-Z0-9]|\x1b[=>78]|[\r\x08]"
)


def plain(text: str) -> str:
    """Return what is left of a terminal's input without colours and movements."""
    return _CONTROLS.sub("", text)


class Terminal:
    """One `llava` in a terminal of its own. Use it with `with`."""

    def __init__(self, *arguments: object, code: str = "", rows: int = 40, columns: int = 100, **environment: str):
        program = ["-c", code] if code else ["-m", "llava_cli"]
        self.process: Any = pexpect.spawn(
            sys.executable,
            [*program, *map(str, arguments)],
            env={**os.environ, "TERM": "xterm-256color", **environment},
            dimensions=(rows, columns),
            encoding="utf-8",
            codec_errors="replace",
            timeout=60,
        )
        # pexpect waits before each line it sends, for programs that are slow to turn the echo off.
        self.process.delaybeforesend = None
        self.raw = ""
        """All that has come, as it came."""
        self._seen = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.close(force=True)

    def send(self, keys: str) -> None:
        """Press keys."""
        self.process.send(keys)

    def enter(self, line: str) -> None:
        """Type a line and press Enter."""
        self.process.send(f"{line}\r")

    def wait(self, pattern: str) -> str:
        """Wait until `pattern` shows behind what was waited for last; return the text up to its end."""
        while not (found := re.compile(pattern).search(plain(self.raw), self._seen)):
            try:
                self._read()
            except (pexpect.TIMEOUT, pexpect.EOF) as error:
                raise AssertionError(f"{pattern!r} is not in {plain(self.raw)[self._seen :]!r}") from error
        start, self._seen = self._seen, found.end()
        return plain(self.raw)[start : found.end()]

    def _read(self) -> None:
        new = self.process.read_nonblocking(65536, timeout=20)
        self.raw += new
        # The program asks where the cursor is, to know how much room is below it.
        self.process.send("\x1b[5;1R" * new.count("\x1b[6n"))

    def end(self) -> int:
        """Wait for the end of the program and return its exit code, or minus the signal that ended it."""
        while True:
            try:
                self._read()
            except pexpect.EOF:
                break
        self.process.close()
        status = self.process.exitstatus
        return int(-self.process.signalstatus if status is None else status)
