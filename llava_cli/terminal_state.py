"""Puts the terminal back as it was, when the process that used it has died."""

from __future__ import annotations

import os
import termios
from collections.abc import Iterator
from contextlib import contextmanager

DUMB = ("dumb", "unknown")
"""Values of TERM for a terminal that obeys nothing."""


@contextmanager
def typed_unseen() -> Iterator[None]:
    """Keep what is typed meanwhile off the screen, where it would stand among lines that are drawn anew; it waits."""
    try:
        before = termios.tcgetattr(0) if os.tcgetpgrp(0) == os.getpgrp() else None
    except (OSError, termios.error):
        before = None  # no terminal
    if before is None:
        yield
        return
    silent = before.copy()
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(0, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        # In the background it is somebody else's, and to touch it would stop us.
        if os.tcgetpgrp(0) == os.getpgrp():
            termios.tcsetattr(0, termios.TCSADRAIN, before)


class TerminalState:
    """What the terminal was like, to make it so again when who used it has died."""

    def __init__(self) -> None:
        self._keyboard = next((one for one in (0, 1, 2) if os.isatty(one)), None)
        self._settings = None if self._keyboard is None else termios.tcgetattr(self._keyboard)

    @contextmanager
    def lent_out(self) -> Iterator[None]:
        """Make the terminal what it was while this job is stopped, and then what it is now: not all shells do so."""
        now = self._settings and termios.tcgetattr(self._keyboard)  # type: ignore[arg-type]
        if not now or self._settings is None or self._keyboard is None:
            yield
            return
        termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._settings)
        yield
        if os.tcgetpgrp(self._keyboard) == os.getpgrp():
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, now)

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
