"""Knows what a run is to ask: every question about every picture, or the rows of a file."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_cli.errors import UnreadablePicture, UsageError
from llava_cli.fetching import is_address, public_name, without_password
from llava_cli.folders import Found, Search, is_elsewhere
from llava_cli.pictures import shown
from llava_cli.row_files import SUFFIXES, cell, read_rows
from llava_cli.settings import DEFAULT_QUESTION


@dataclass(frozen=True)
class Fields:
    """What the fields of a row are called that a run reads and writes."""

    image: str = "image"
    question: str = "question"
    answer: str = "answer"
    shape: str = ""
    """What else an answer has: `parsed`, `choices` or nothing."""
    error: str = "error"
    facts: str = "llava"

    def __post_init__(self) -> None:
        """Raise `UsageError` if two of them have one name: one would take the other's place."""
        names = (self.image, self.question, *self.written)
        if twice := [name for at, name in enumerate(names) if name in names[:at]]:
            hint = "--image-field, --question-field and --answer-field name three different ones"
            raise UsageError("fields", f"two of them would be called {twice[0]!r:.80}", hint=hint)

    @property
    def written(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.answer, self.shape, self.error, self.facts)))


@dataclass(frozen=True)
class Task:
    """One question about one picture."""

    source: str
    """As `open_source` takes it."""
    question: str
    row: Mapping[str, Any]
    """What its line begins with: image, question, and whatever else a row has."""
    place: str
    """What decides the shard: no questions about one picture are torn apart."""
    is_row: bool = False
    """Whether it came from a file of rows."""
    error: UnreadablePicture | None = None
    """Why it cannot be asked, if that is known already."""

    @property
    def name(self) -> str:
        """Name the picture so that it may be shown."""
        return public_name(self.source) if is_address(self.source) else shown(self.source)

    @property
    def identity(self) -> bytes:
        """Tell this task from all others by what its line begins with."""
        return identity(self.row)


def identity(row: Mapping[str, Any]) -> bytes:
    """Digest the fields of a row, however the file it stands in writes them."""
    cells = sorted((name, text) for name, value in row.items() if (text := cell(value)))
    return hashlib.sha256(repr(cells).encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True)
class Shard:
    """The share of one machine, of several that are given the same list."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `3/16`."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError("--shard", f"{text!r} is no share", hint="the third of sixteen is 3/16, the first 1/16")
        return cls(int(found[1]), int(found[2]))

    def has(self, task: Task) -> bool:
        """Tell whether a task is in this share: by its name alone, so a longer list moves no picture."""
        digest = hashlib.sha256(task.place.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.of == self.number - 1


@dataclass
class Asked:
    """What the user named, on the way to tasks."""

    sources: Sequence[str]
    listed: Sequence[str] = ()
    """The names that `-` among the sources stands for."""
    questions: Sequence[str] = ()
    """Asked about every picture, and for every row that brings none; empty: the default question."""
    fields: Fields = field(default_factory=Fields)
    search: Search = field(default_factory=Search)
    _lacking: bool = False
    """Whether anything was named that brings no question."""

    def tasks(self) -> list[Task]:
        """Return every task in order; raise `UsageError` for what can be told to be wrong before anything is asked."""
        tasks = [task for source in self.sources for task in self._of(source)]
        if self.questions and tasks and not self._lacking:
            why = "every row brings a question of its own, so the one given would never be asked"
            raise UsageError("question", why, hint="leave it out, or take that field out of the rows")
        # A picture may be named twice, by itself and with its folder; rows are as they are.
        unique: dict[object, Task] = {}
        for task in tasks:
            unique.setdefault(id(task) if task.is_row else task.identity, task)
        return list(unique.values())

    def _of(self, source: str) -> Iterator[Task]:
        if source != "-" and is_row_file(source):
            for number, row in enumerate(read_rows(Path(source)), 1):
                yield from self._of_row(Path(source), number, row)
            return
        literal = source == "-"
        for name in self.listed if literal else [source]:
            for found in self.search.find(name, literal=literal):
                yield from self._about(found)

    def _about(self, found: Found) -> Iterator[Task]:
        self._lacking = True
        for question in self.questions or (DEFAULT_QUESTION,):
            row = {self.fields.image: without_password(found.source), self.fields.question: question}
            yield Task(found.source, question, row, found.place, error=found.error)

    def _of_row(self, path: Path, number: int, row: dict[str, Any]) -> Iterator[Task]:
        where, fields = f"{shown(str(path))}, row {number}", self.fields
        for name in fields.written:
            if name in row:
                hint = f"--answer-field NAME gives the answer another name than {fields.answer}"
                why = f"it has a field {name!r} already, which the run writes"
                raise UsageError(where, why, hint=hint if name == fields.answer else "give that field another name")
        image = row.get(fields.image)
        if not isinstance(image, str) or not image:
            there = ", ".join(map(shown, row)) or "nothing"
            hint = f"--image-field NAME says which field names the picture (there are {there})"
            raise UsageError(where, f"it has no field {fields.image!r} that names a picture", hint=hint)
        own = row.get(fields.question)
        if own is not None and not isinstance(own, str):
            hint = "--question-field NAME says which field asks"
            raise UsageError(where, f"its {fields.question!r} is no text", hint=hint)
        own = (own or "").strip()
        self._lacking = self._lacking or not own
        for question in [own] if own else self.questions or (DEFAULT_QUESTION,):
            written = row if own else {**row, fields.question: question}
            yield Task(_beside(path, image), question, written, image, is_row=True)


def is_row_file(argument: str) -> bool:
    """Tell whether an argument is a file of rows."""
    return Path(argument).suffix.lower() in SUFFIXES and not is_address(argument)


def _beside(path: Path, image: str) -> str:
    """Name a picture from where `path` is; what is no file stays as it is."""
    # No file has a say over stdin or the clipboard.
    named = "./" if image in ("-", "clip:") else ""
    return image if is_elsewhere(image) and not named else os.path.join(path.parent, f"{named}{image}")  # noqa: PTH118


def read_questions(data: bytes) -> tuple[str, ...]:
    """Return the questions of a list, one on a line, each once."""
    lines = data.decode("utf-8-sig", "replace").split("\n")
    questions = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not questions:
        raise UsageError("--ask", "there is no question in it", hint="one question on each line")
    return questions
