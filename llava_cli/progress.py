"""Shows how a download goes: two bars on a terminal, a line for every 5 % elsewhere, nothing if quiet."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from llava_cli.amounts import in_bytes
from llava_cli.pull import FETCHING, HERE, WAITING, Progress
from llava_cli.render import Output
from llava_cli.sanitiser import sanitise

_STEP = 5
_WINDOW = 20
"""Seconds over which the speed is told."""


class PullDisplay:
    """What is seen of one pull. Its methods are `pull`'s listeners."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._state: dict[str, Progress] = {}
        self._pace = _Pace()
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._coming: set[str] = set()
        """The files that were not here."""
        self._percent = -1

    def __enter__(self) -> PullDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def note(self, text: str) -> None:
        """Say one thing worth knowing, above the bars."""
        if self._bars is not None:
            self._bars.console.print(f"note: {sanitise(text)}")
        else:
            self._output.note(text)

    def progress(self, progress: Progress) -> None:
        """Show how far one of the files is."""
        before = self._state.get(progress.role)
        self._state[progress.role] = progress
        self._pace.add(before, progress)
        if progress.doing == WAITING:
            self._coming.add(progress.role)
        if self._output.lively:
            self._show_bar(progress)
        elif not self._output.quiet:
            self._show_line(before, progress)

    def _show_bar(self, progress: Progress) -> None:
        if progress.doing == HERE and progress.role not in self._tasks:
            return
        bars = self._begun()
        if progress.role not in self._tasks:
            self._tasks[progress.role] = bars.add_task(progress.role, total=progress.size, amount="", doing="")
        doing = self._pace.text(progress) if progress.doing == FETCHING else progress.doing
        bars.update(
            self._tasks[progress.role],
            total=progress.size,
            completed=progress.done,
            amount=f"{in_bytes(progress.done)} of {in_bytes(progress.size)}",
            doing=sanitise(doing),
        )

    def _begun(self) -> Any:
        if self._bars is None:
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn
            from rich.table import Column

            self._bars = bars(
                self._output.console(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                TaskProgressColumn(),
                TextColumn("{task.fields[amount]}", markup=False, table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[doing]}", markup=False),
            )
            self._bars.start()
        return self._bars

    def _show_line(self, before: Progress | None, now: Progress) -> None:
        if now.doing != FETCHING:
            if before is not None and before.doing != now.doing != HERE:
                self._output.report(f"{now.role}: {now.doing}")
            return
        coming = [self._state[role] for role in self._coming]
        done, size = sum(one.done for one in coming), sum(one.size for one in coming)
        percent = 100 * done // max(size, 1) // _STEP * _STEP
        if percent > self._percent:
            self._percent = percent
            self._output.report(f"{percent:3} %  {in_bytes(done)} of {in_bytes(size)}{self._pace.suffix(size - done)}")


def bars(console: Any, *columns: Any) -> Any:
    """Return rich's bars on a console, which go when they are done; they are not started yet."""
    from rich.constrain import Constrain
    from rich.progress import Progress as RichProgress

    class Bars(RichProgress):
        def get_renderables(self) -> Iterator[Any]:
            # A terminal writes ^C behind the last bar; on a full line that would make another line of it.
            yield Constrain(self.make_tasks_table(self.tasks), console.width - 3)

    return Bars(
        *columns, console=console, transient=True, expand=True, refresh_per_second=5,
        redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip


class _Pace:
    """How fast bytes come, over the last seconds; what was here before does not count."""

    def __init__(self) -> None:
        self._came: deque[tuple[float, int]] = deque()
        self._total = 0

    def add(self, before: Progress | None, now: Progress) -> None:
        """Count what came between two reports about a file."""
        if now.doing != FETCHING or before is None or before.doing != FETCHING:
            return
        self._total += max(0, now.done - before.done)
        self._came.append((time.monotonic(), self._total))
        while self._came[-1][0] - self._came[0][0] > _WINDOW:
            self._came.popleft()

    def suffix(self, left: int) -> str:
        """Write the speed and the time left, once there is something to tell."""
        if not self._came:
            return ""
        (start, first), (end, last) = self._came[0], self._came[-1]
        if end - start < 0.5 or last == first:
            return ""
        speed = (last - first) / (end - start)
        return f" · {in_bytes(speed)}/s · {time_left(left / speed)}"

    def text(self, progress: Progress) -> str:
        """Write them for one file."""
        return self.suffix(progress.size - progress.done).removeprefix(" · ")


def time_left(seconds: float) -> str:
    """Write how long something will take for people."""
    if seconds < 60:
        return f"{seconds:.0f} s left"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min left"
    return f"{seconds / 3600:.1f} h left"
