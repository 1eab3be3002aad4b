"""What comes into a command beside its arguments."""

from __future__ import annotations

import sys

from llava_cli.errors import UsageError
from llava_cli.render import Output


def read_stdin(what: str) -> bytes:
    """Return all of stdin, where `what` should come from; raise `UsageError` if nothing can come."""
    if sys.stdin is None:
        raise UsageError("stdin", f"nothing to read the {what} from", hint=f"- means the {what} comes through a pipe")
    if sys.stdin.isatty():
        Output().say(f"waiting for the {what} on stdin, which is this terminal; Ctrl-D ends it, Ctrl-C leaves")
    return sys.stdin.buffer.read()
