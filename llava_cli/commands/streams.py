"""What comes into a command beside its arguments."""

from __future__ import annotations

import sys

from llava_cli.errors import UsageError


def read_stdin(what: str) -> bytes:
    """Return all of stdin, where `what` should come from; raise `UsageError` if nothing can come."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("stdin", f"nothing to read the {what} from", hint=f"- means the {what} comes through a pipe")
    return sys.stdin.buffer.read()
