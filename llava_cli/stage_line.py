"""Shows on a terminal that something takes its time, and how long that should be."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def elapsed(seconds: float, expected: float = 0.0) -> str:
    """Write how long something has taken, of how long it should take: `12 s of about 40 s`."""
    if expected < 2:
        return f"{seconds:.0f} s"
    # No false precision, and no promise that has been broken already.
    step = 1 if expected < 10 else 5 if expected < 60 else 10
    return f"{seconds:.0f} s of about {max(step * round(expected / step), step * math.ceil(seconds / step))} s"


def console_on(stream: TextIO, *, force_terminal: bool | None = None) -> Console:
    """Return rich's console on a stream; nothing in a text is markup to it."""
    from rich.console import Console

    return Console(
        file=stream, force_terminal=force_terminal, highlight=False, markup=False, emoji=False, soft_wrap=False
    )


class StageLine:
    """A spinner with the elapsed time on stderr."""

    def __init__(self, text: str, expected: float = 0.0) -> None:
        from rich.live import Live
        from rich.spinner import Spinner
        from rich.text import Text

        # Our own descriptor: llama-cpp-python points descriptor 2 at /dev/null while it loads a model.
        self._stream = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
        start = time.monotonic()

        class Line(Spinner):
            def render(self, now: float) -> Any:
                self.text = Text(f"{text}… {elapsed(time.monotonic() - start, expected)}", style="dim")
                return super().render(now)

        self._live = Live(
            Line("dots"), console=console_on(self._stream), transient=True, refresh_per_second=8,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self._live.start()

    def end(self) -> None:
        self._live.stop()
        self._stream.close()
