"""Writes answers into text files beside their pictures, and never over one that is there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llava_cli.errors import UsageError
from llava_cli.folders import is_elsewhere
from llava_cli.pictures import shown
from llava_cli.result_lines import Line
from llava_cli.results import Record, unwritten
from llava_cli.sanitiser import sanitise
from llava_cli.tasks import Task

_LONGEST_NAME = 255
"""Bytes, on every file system in use."""


class Sidecars:
    """A `Record` of text files that are called like their pictures: `photo.txt` beside `photo.jpg`."""

    pictures: Mapping[str, str] = {}

    def __init__(self, suffix: str, tasks: Sequence[Task]) -> None:
        if not suffix.startswith(".") or "/" in suffix or suffix in (".", ".."):
            raise UsageError("--sidecar", f"{suffix!r} is no ending of a file name", hint="--sidecar .txt")
        self._suffix = suffix
        self.others = 0
        """Files that hold something else than the answer, and were left as they are."""
        owners: dict[Path, Task] = {}
        for task in tasks:
            path = self.path(task)
            if len(os.fsencode(path.name)) > _LONGEST_NAME:
                raise UsageError(shown(path.name), "it would be too long for a name", hint="--sidecar .txt is shorter")
            other = owners.setdefault(path, task)
            if other is not task:
                mine, its = task.name, other.name
                twice = f"two questions about {mine}" if mine == its else f"{its} and {mine}"
                hint = "-o FILE has a line for each; for two pictures of one name, move one to another folder"
                raise UsageError(shown(str(path)), f"it would have to hold the answers to {twice}", hint=hint)

    def path(self, task: Task) -> Path:
        """Name the text file of a picture; raise `UsageError` for one that is no file."""
        if is_elsewhere(task.source):
            raise UsageError("--sidecar", f"{task.name} is no file that a text could stand beside", hint="use -o FILE")
        return Path(task.source).with_suffix(self._suffix)

    def is_done(self, task: Task) -> bool:
        """Tell whether there is a text already, whoever wrote it."""
        return os.path.lexists(self.path(task))

    def holds(self, number: int, task: Task, key: str, failure_key: str) -> bool:
        return False

    def write(self, number: int, line: Line, failure_key: str) -> None:
        """Write an answer, whole or not at all; a failure leaves nothing."""
        if line.error is None:
            path, text = self.path(line.task), f"{sanitise(line.answer)}\n".encode()
            self.others += not _place(path, text)

    def tidy(self) -> None:
        return


@dataclass(frozen=True)
class Beside:
    """A `Record` that writes both; what is there is told by the first."""

    results: Record
    sidecars: Sidecars

    @property
    def pictures(self) -> Mapping[str, str]:
        return self.results.pictures

    def is_done(self, task: Task) -> bool:
        return self.results.is_done(task)

    def holds(self, number: int, task: Task, key: str, failure_key: str) -> bool:
        return self.results.holds(number, task, key, failure_key)

    def write(self, number: int, line: Line, failure_key: str) -> None:
        # In this order: what stands in the results is not asked again.
        self.sidecars.write(number, line, failure_key)
        self.results.write(number, line, failure_key)

    def tidy(self) -> None:
        self.results.tidy()


def _place(path: Path, text: bytes) -> bool:
    """Put a new file at `path`; False if there is another one, which is left as it is."""
    part = path.with_name(f".llava-{os.getpid()}.part")  # the longest name there may be has no room for an ending
    try:
        part.write_bytes(text)
        try:
            os.link(part, path)  # unlike a renaming, it takes nobody's place
        except FileExistsError:
            pass
        except OSError:
            # A disk that knows no such links; nobody else writes here between the two.
            if not os.path.lexists(path):
                part.replace(path)
        return path.read_bytes() == text
    except OSError as error:
        raise unwritten(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
