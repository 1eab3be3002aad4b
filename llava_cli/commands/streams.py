"""What comes into a command beside its arguments: stdin, and Ctrl-C."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llava_cli.errors import UsageError

if TYPE_CHECKING:
    from llava_cli.model import Model


def read_stdin(what: str) -> bytes:
    """Return all of stdin, where `what` should come from; raise `UsageError` if nothing can come."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("stdin", f"nothing to read the {what} from", hint=f"- means the {what} comes through a pipe")
    return sys.stdin.buffer.read()


@contextmanager
def ctrl_c_stops(model: Model) -> Iterator[None]:
    """Let Ctrl-C stop the answer and keep its text; a second one ends the program as usual."""

    def stop(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        model.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
