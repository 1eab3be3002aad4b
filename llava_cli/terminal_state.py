"""Puts the terminal back as it was, when the process that used it has died."""

from __future__ import annotations

import os
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

DUMB = ("dumb", "unknown")
"""Values of TERM for a terminal that obeys nothing."""


@contextmanager
def typed_unseen() -> Iterator[None]:
    """Keep what is typed meanwhile off the screen, where it would stand among lines that are drawn anew; it waits."""
    try:
        before = termios.tcgetattr(0)
    except termios.error:
        yield  # there is none
        return
    silent = before.copy()
    silent[3] &= ~termios.ECHO
    _set(0, silent)
    try:
        yield
    finally:
        _set(0, before)


def _set(terminal: int, settings: list[Any]) -> None:
    """Set up a terminal, unless it is gone, or somebody else's: to touch it from the background would stop us."""
    with suppress(OSError, termios.error):
        if os.tcgetpgrp(terminal) == os.getpgrp():
            termios.tcsetattr(terminal, termios.TCSADRAIN, settings)


class TerminalState:
    """What the terminal was like, to make it so again when who used it has died."""

    def __init__(self) -> None:
        self._keyboard = next((one for one in (0, 1, 2) if os.isatty(one)), None)
        self._settings = None if self._keyboard is None else termios.tcgetattr(self._keyboard)

    @contextmanager
    def lent_out(self) -> Iterator[None]:
        """Make the terminal what it was while this job is stopped, and then what it is now: not all shells do so."""
        if self._keyboard is None or self._settings is None:
            yield
            return
        now = termios.tcgetattr(self._keyboard)
        _set(self._keyboard, self._settings)
        yield
        _set(self._keyboard, now)

    def restore(self, *, is_writing: bool) -> None:
        """Undo what a line editor or a moving line has left, and go where a line begins."""
        if self._keyboard is None or self._settings is None or os.tcgetpgrp(self._keyboard) != os.getpgrp():
            return  # in the background the terminal is somebody else's
        at_prompt = termios.tcgetattr(self._keyboard) != self._settings
        termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._settings)
        screen = next((one for one in (2, 1) if os.isatty(one)), None)
        if screen is None:
            return
        stays = at_prompt or (is_writing and os.isatty(1))
        if os.environ.get("TERM") in DUMB:
            os.write(screen, b"\r\n" if stays else b"")
            return
        # A cursor, no colour, no brackets around what is pasted; what was written stays, a moving line goes.
        os.write(screen, b"\x1b[?25h\x1b[0m\x1b[?2004l" + (b"\r\n\x1b[J" if stays else b"\r\x1b[K"))
