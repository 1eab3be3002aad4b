"""Lets Ctrl-C stop an answer and keep what was written, and end in order what can be gone on with later."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Stoppable(Protocol):
    """What runs, and can be stopped from a signal handler."""

    def stop(self) -> None: ...


@contextmanager
def ctrl_c_stops(model: Stoppable) -> Iterator[None]:
    """Let Ctrl-C stop the answer and keep its text; a second one ends the program as usual."""

    def stop(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        model.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stops_in_order(on_stop: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end what runs and tidy up after it; then `on_stop` may say so."""

    def stop(number: int, _frame: object) -> None:
        # One is enough: a second one must not cut off the tidying up, which is short.
        for either in before:
            signal.signal(either, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        on_stop()
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is stop:
            for number, handler in before.items():
                signal.signal(number, handler)
