"""Opens the program in which this user reads what is long: `PAGER`, else `less`."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO


@contextmanager
def opened_pager() -> Iterator[IO[str] | None]:
    """Yield a stream into the pager, and wait until its reader has left; None if there is no pager.

    The stream raises `BrokenPipeError` when the reader leaves before the end.
    """
    command = os.environ.get("PAGER", "less")
    try:
        program = shlex.split(command)[0]
    except (ValueError, IndexError):
        program = ""
    if program in ("", "cat") or shutil.which(program) is None:
        yield None
        return
    # As git does: leave at once what fits on the screen, let colours through, keep the text on the screen.
    environment = {"LESS": "FRX", "LV": "-c", **os.environ}
    # Through the shell, because `PAGER` may hold more than one program.
    process = subprocess.Popen(
        command, shell=True, stdin=subprocess.PIPE, env=environment, encoding="utf-8", errors="replace"
    )
    assert process.stdin is not None
    # Ctrl-C belongs to the pager now; if we went, it would have to share the terminal with the shell.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield process.stdin
    finally:
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()
        signal.signal(signal.SIGINT, before)
