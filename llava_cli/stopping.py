"""Lets Ctrl-C stop an answer and keep what was written, and end in order what can be gone on with later."""

from __future__ import annotations

import os
import select
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from llava_cli.errors import ReaderGone, Stopped

_ONE_CTRL_C = 0.3
"""Seconds in which two are one: what is sent to a group of processes comes by itself and through the parent, too."""


class Stoppable(Protocol):
    """What runs, and can be stopped from a signal handler."""

    def stop(self) -> None: ...


@contextmanager
def ctrl_c_stops(model: Stoppable, *, writes: bool = True) -> Iterator[Reader]:
    """Let Ctrl-C stop the answer and keep its text; a second one ends the program as usual.

    If the answer `writes` to stdout, a reader of it who leaves stops it, too: writing would notice that only with the
    next word.
    """

    heard = 0.0

    def stop(_signal: int, _frame: object) -> None:
        nonlocal heard
        if heard and time.monotonic() - heard > _ONE_CTRL_C:
            raise KeyboardInterrupt
        heard = heard or time.monotonic()
        model.stop()

    reader = Reader(model.stop, watched=writes)
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield reader
    except Stopped:
        reader.require()
        raise
    finally:
        reader.forget()
        signal.signal(signal.SIGINT, before)


class Reader:
    """Who reads stdout, if it is a pipe; `on_leaving` is called, in a thread, when nobody does any more."""

    def __init__(self, on_leaving: Callable[[], None], *, watched: bool) -> None:
        self.has_left = False
        self._forgotten = threading.Event()
        self._on_leaving = on_leaving
        # Where no thread can be made, the next write finds out, or the engine says what is wrong.
        with suppress(OSError, RuntimeError):
            if watched and stat.S_ISFIFO(os.fstat(1).st_mode) and hasattr(select, "poll"):
                threading.Thread(target=self._watch, name="llava watches its reader", daemon=True).start()

    def require(self) -> None:
        """Raise `ReaderGone` if nobody reads any more."""
        if self.has_left:
            raise ReaderGone("standard output", "the reader has left")

    def forget(self) -> None:
        """Watch no longer."""
        self._forgotten.set()

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(1, 0)  # an error needs no asking
        while not self._forgotten.is_set():
            if any(event & select.POLLERR for _, event in poll.poll(200)):
                self.has_left = True
                self._on_leaving()
                return


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
