"""Shows how a run goes: a bar on a terminal, a line for every 5 % elsewhere, nothing if quiet."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from llava_cli.errors import LlavaError
from llava_cli.progress import bars, time_left
from llava_cli.render import STAGES, Output
from llava_cli.run import Tally
from llava_cli.sanitiser import sanitise
from llava_cli.tasks import Task

STOPPED = "stopped; the same command goes on from here"
_STEP = 5
_WINDOW = 30
"""Answers over which the speed is told."""


class RunDisplay:
    """What is seen of one run. Its methods are the listener of a `Run`."""

    def __init__(self, output: Output, *, has_bar: bool) -> None:
        """Prepare it; `has_bar` is whether nothing else moves on the terminal."""
        self._output = output
        self._has_bar = has_bar and output.lively
        self._bars: Any = None
        self._bar: Any = None
        self._ends: deque[float] = deque(maxlen=_WINDOW)
        self._answered = 0
        self._percent = 0

    def __enter__(self) -> RunDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def stage(self, name: str, amount: int) -> None:
        """Say what the model does, as long as there is nothing better to say."""
        if name != "loading" and not self._ends:
            self._ends.append(time.monotonic())
        if self._bars is None:
            self._output.stage(name, amount)
        elif not self._answered:
            self._bars.update(self._bar, doing=STAGES[name])

    def note(self, text: str) -> None:
        """Say one thing worth knowing."""
        self._say(f"note: {text}")

    def stopped(self) -> None:
        """Say that this is no loss."""
        self._say(STOPPED)

    def begins(self, task: Task) -> None:
        """Show which picture it is now."""
        if self._has_bar and self._bars is None:
            self._begin()
        if self._bars is not None:
            self._bars.update(self._bar, description=task.name)

    def failed(self, error: LlavaError) -> None:
        """Show what went wrong with one of them; the run goes on."""
        self._say(f"failed: {error.what}: {error.why}")

    def ended(self, tally: Tally) -> None:
        """Show how far the run is."""
        if tally.answered > self._answered:
            self._answered = tally.answered
            self._ends.append(time.monotonic())
        left = tally.total - tally.done
        count, pace = f"{tally.done} of {tally.total}", self._pace(left) if left else ""
        if self._bars is not None:
            doing = {"doing": pace} if pace else {}
            self._bars.update(self._bar, completed=tally.done, total=tally.total, count=count, **doing)
            return
        percent = 100 * tally.done // tally.total // _STEP * _STEP
        if percent > self._percent and not self._output.lively and tally.answered:
            self._percent = percent
            self._output.report(f"{percent:3} %  {count}{f' · {pace}' if pace else ''}")

    def _pace(self, left: int) -> str:
        """Write the speed and the time left, once there is something to tell."""
        count = len(self._ends) - 1
        if count < 1:
            return ""
        each = (self._ends[-1] - self._ends[0]) / count
        speed = f"{each:.1f} s each" if each >= 1 else f"{1 / each:.0f} a second" if each else ""
        return f"{speed} · {time_left(each * left)}" if speed else ""

    def _say(self, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(sanitise(text).replace("\n", " "), soft_wrap=True)
        else:
            self._output.report(text.replace("\n", " "))

    def _begin(self) -> None:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.table import Column

        def text(field: str, **column: Any) -> TextColumn:
            return TextColumn(f"{{task.{field}}}", markup=False, table_column=Column(no_wrap=True, **column))

        self._output.end_stage()
        self._bars = bars(
            self._output.console(),
            text("description", overflow="ellipsis", ratio=1),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            text("fields[count]"),
            text("fields[doing]"),
        )
        self._bar = self._bars.add_task("", total=None, count="", doing="")
        self._bars.start()
