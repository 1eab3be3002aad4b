"""Lets writing to stdout fail in two ways only, whoever writes: the reader has left, or it cannot be written."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

from llava_cli.errors import LlavaError, ReaderGone

_NAME = "standard output"


class Guarded:
    """A stream like stdout, perhaps a closed one (None), that raises `LlavaError` when it cannot be written."""

    def __init__(self, stream: TextIO | Guarded | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if self._stream is None:
            raise LlavaError(_NAME, "it is closed, so the answer has nowhere to go")
        try:
            return self._stream.write(text)
        except OSError as error:
            raise _failure(error) from error

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except OSError as error:
                raise _failure(error) from error

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard() -> None:
    """Put a guard before stdout for the rest of this process."""
    sys.stdout = Guarded(sys.stdout)


def give_up() -> None:
    """Let go of a stdout that cannot be written: Python would complain again while it flushes it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _failure(error: OSError) -> LlavaError:
    if isinstance(error, BrokenPipeError):
        return ReaderGone(_NAME, "the reader has left")
    return LlavaError(_NAME, (error.strerror or str(error)).lower(), hint="make room there, and ask again")
