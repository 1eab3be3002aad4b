"""Where a run writes: one line for each answer, in a file that is whole at every moment and holds nothing twice."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from llava_cli.errors import LlavaError, NotEnoughRoom, UsageError
from llava_cli.pictures import shown
from llava_cli.private_files import take_lock
from llava_cli.result_lines import Held, Line, Shape
from llava_cli.tasks import Task

_PATIENCE = 2
"""Seconds."""
_GO_ON = "the same command goes on where this one ended"


class Record(Protocol):
    """Where the lines of a run go."""

    @property
    def pictures(self) -> Mapping[str, str]:
        """Return the pictures it knows: the sha256 of the file, and of the picture that is in it."""

    def is_done(self, task: Task) -> bool:
        """Tell whether nothing is left to do, as far as that can be told without opening the picture."""

    def holds(self, number: int, task: Task, key: str, failure_key: str) -> bool:
        """Tell whether the answer to task `number` is there; each line that is there stands for one task.

        `failure_key` is the key its line has if it failed.
        """

    def write(self, number: int, line: Line, failure_key: str) -> None:
        """Add the line of task `number`."""

    def tidy(self) -> None:
        """Put everything in order once every task has had its turn."""


class Stream:
    """Lines that go where they cannot be looked at again."""

    pictures: Mapping[str, str] = {}

    def __init__(self, shape: Shape, write: Callable[[str], None]) -> None:
        self._shape, self._write = shape, write
        self._header = shape.format.header()

    def is_done(self, task: Task) -> bool:
        return False

    def holds(self, number: int, task: Task, key: str, failure_key: str) -> bool:
        return False

    def write(self, number: int, line: Line, failure_key: str) -> None:
        self._write((self._header + self._shape.encode(line)).decode())
        self._header = b""

    def tidy(self) -> None:
        return


class Results:
    """A file of lines, some of which may be there already. Use it with `opened_results`."""

    def __init__(self, path: Path, descriptor: int, shape: Shape, tasks: Sequence[Task]) -> None:
        self._path, self._descriptor, self._shape = path, descriptor, shape
        self._header = shape.format.header()
        self.was_torn = False
        """Whether the last line had been cut off in the middle, and is gone now."""
        self._held = self._read()
        self.pictures = {one.file: one.picture for one in self._held if one.file and one.picture}
        """As `Record` has it, from the start."""
        mine = {task.identity for task in tasks}
        self._answers = Counter(one.mark for one in self._held if not one.error)
        self._errors = {one.mark: one.error for one in self._held if one.error}
        self._renamed = Counter(one.key for one in self._held if not one.error and one.identity not in mine)
        self._places: dict[tuple[bytes, str], list[int]] = {}
        """Where in the order of this run lines belong."""
        # Tables that were put together one behind the other have a header in the middle.
        self._overtaken = {one.mark for one in [shape.held(self._header)] if one is not None}
        """Lines that say nothing any more, such as failures that were mended."""

    def is_done(self, task: Task) -> bool:
        return False

    def holds(self, number: int, task: Task, key: str, failure_key: str) -> bool:
        """As `Record` has it. A line about a picture that has another name now counts, too."""
        mark = task.identity, key
        if self._answers[mark]:
            self._answers[mark] -= 1
            self._places.setdefault(mark, []).append(number)
            self._overtaken.add((task.identity, failure_key))
            return True
        if not task.is_row and self._renamed[key]:
            self._renamed[key] -= 1
            return True
        return False

    def write(self, number: int, line: Line, failure_key: str) -> None:
        """As `Record` has it, in one go. A failure that is there already in the same words is not written again."""
        data = self._shape.encode(line)
        new = self._shape.held(data)
        assert new is not None
        self._places.setdefault(new.mark, []).append(number)
        if new.error and self._errors.get(new.mark) == new.error:
            return
        if not new.error:
            self._overtaken.add((new.identity, failure_key))
        self._append(data)
        self._held.append(new)

    def tidy(self) -> None:
        """Put the lines of this run in its order, in the places they take together, and take out what is overtaken.

        A new file takes the place of the old one, whole or not at all, and only if that changes anything.
        """
        left = {mark: list(places) for mark, places in self._places.items()}
        kept: list[tuple[int | None, int]] = []
        for at, one in reversed(list(enumerate(self._held))):
            if one.error and (one.mark in self._overtaken or left.get(one.mark) == []):
                continue  # there is an answer now, or a newer failure behind it
            kept.append((left[one.mark].pop() if left.get(one.mark) else None, at))
        mine = iter(sorted((place, at) for place, at in kept if place is not None))
        order = [at if place is None else next(mine)[1] for place, at in reversed(kept)]
        if order == list(range(len(self._held))):
            return
        lines = self._shape.format.split(self._data()[len(self._header) :])
        part = _part_of(self._path)
        try:
            with part.open("wb") as file:
                os.fchmod(file.fileno(), stat.S_IMODE(os.fstat(self._descriptor).st_mode))
                file.writelines([self._header, *(lines[at] for at in order)])
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
        except OSError:
            # Every line is there, only not in order: no reason to fail.
            part.unlink(missing_ok=True)

    def _data(self) -> bytes:
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            return file.read()

    def _read(self) -> list[Held]:
        """Read what is there, and take a torn line off its end; raise `UsageError` if no run has written it."""
        data, opening = self._data(), self._shape.opening
        if not data.startswith(self._header) and not opening.startswith(data):
            raise self._foreign("its columns are not those of this run")
        lines = self._shape.format.split(data[len(self._header) :])
        held = []
        for number, line in enumerate(lines, 2 if self._header else 1):
            one = self._shape.held(line)
            if one is None:
                raise self._foreign(f"row {number} of it was not written by llava run")
            held.append(one)
        whole = len(self._header) * data.startswith(self._header) + sum(map(len, lines))
        if rest := data[whole:]:
            self._mend(whole, rest, held)
        return held

    def _mend(self, whole: int, rest: bytes, held: list[Held]) -> None:
        """Make the end of the file one of a line: `rest` is behind the last whole one."""
        last = None if self._header else self._shape.held(rest)
        if last is not None:
            held.append(last)
            self._append(b"\n")  # an editor has taken it away
            return
        opening, is_row = self._shape.opening, not self._header and self._shape.format.decode(rest) is not None
        if is_row or not (whole or rest.startswith(opening) or opening.startswith(rest)):
            raise self._foreign("its last row was not written by llava run")
        os.ftruncate(self._descriptor, whole)
        self.was_torn = True

    def _foreign(self, why: str) -> UsageError:
        return UsageError(shown(str(self._path)), why, hint="nothing is overwritten: give -o another name")

    def _append(self, data: bytes) -> None:
        """Write a line in one call, so that even a killed process leaves it whole or not there at all."""
        before = os.fstat(self._descriptor).st_size
        data = data if before else self._header + data
        try:
            if os.write(self._descriptor, data) == len(data):
                return
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            full = error
        # A part of a line is worth nothing, and would make the file none.
        with suppress(OSError):
            os.ftruncate(self._descriptor, before)
        raise unwritten(self._path, full) from full


def unwritten(path: Path, error: OSError) -> LlavaError:
    """Say why something could not be written there."""
    what, why = shown(str(path)), (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NotEnoughRoom(what, why, hint=f"make room on that disk; {_GO_ON}")
    return LlavaError(what, why, hint=_GO_ON)


@contextmanager
def opened_results(path: Path, shape: Shape, tasks: Sequence[Task]) -> Iterator[Results]:
    """Open the file of a run for this process alone; raise `UsageError` if that cannot be, or it is not a run's."""
    path = path.resolve()
    is_new, is_mine = not path.exists(), False
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    except OSError as error:
        hint = f"make the folder: mkdir -p {path.parent}" if error.errno == errno.ENOENT else "give -o another name"
        raise UsageError(shown(str(path)), (error.strerror or str(error)).lower(), hint=hint) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UsageError(shown(str(path)), "it is not a file", hint="without -o the lines go to stdout")
        if not (is_mine := _is_locked(descriptor, path)):
            hint = "wait for it; shards of a run write a file each"
            raise UsageError(shown(str(path)), "another run is writing to it", hint=hint)
        _part_of(path).unlink(missing_ok=True)  # left behind by one that was killed
        yield Results(path, descriptor, shape, tasks)
        os.fsync(descriptor)
    finally:
        # One that is another run's is empty, too, until that has its first answer.
        if is_new and is_mine and os.fstat(descriptor).st_size == 0:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _is_locked(descriptor: int, path: Path) -> bool:
    """Lock the file for this process, and tell whether it has it; who was killed may take a moment to let go of it."""
    until = time.monotonic() + _PATIENCE
    try:
        while not (is_mine := take_lock(descriptor, path)) and time.monotonic() < until:
            time.sleep(0.05)
    except OSError:
        return True  # a disk that knows no locks
    return is_mine
