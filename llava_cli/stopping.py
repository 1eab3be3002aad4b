"""Lets Ctrl-C stop an answer and keep what was written."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llava_cli.model import Model


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
