"""What a line of a run looks like: how an answer, or why there is none, is written down and read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_cli.errors import UsageError
from llava_cli.pictures import shown
from llava_cli.row_files import JsonLines, RowFormat, Table
from llava_cli.tasks import Fields, Task, identity

_IN_TABLES = ("key", "picture", "file", "model", "seed", "finish_reason", "seconds")
"""The facts that stand in a table, which is for people; JSON Lines have all of them."""


@dataclass(frozen=True)
class Line:
    """What a run has found out about one task."""

    task: Task
    key: str
    facts: Mapping[str, Any]
    """How it came about."""
    answer: str = ""
    shape: Any = None
    """What the answer says if it was held to a schema, or every choice with its probability."""
    error: Mapping[str, Any] | None = None
    """If there is no answer: `exit_code`, `what` and `why`."""


@dataclass(frozen=True)
class Held:
    """A line that is in the file, as far as it matters."""

    identity: bytes
    key: str
    error: str
    """What went wrong; empty for an answer."""
    file: str
    """The sha256 of the file the picture came from, if it came from one."""
    picture: str
    """The sha256 of the picture itself."""

    @property
    def mark(self) -> tuple[bytes, str]:
        return self.identity, self.key


class Shape:
    """How the lines of a run look in a format: `jsonl`, `csv` or `tsv`."""

    def __init__(self, name: str, fields: Fields, tasks: Sequence[Task]) -> None:
        self._fields = fields
        self._is_table = name != "jsonl"
        facts = [f"{fields.facts}_{fact}" for fact in _IN_TABLES] if self._is_table else [fields.facts]
        asked = dict.fromkeys([fields.image, fields.question, *(name for task in tasks for name in task.row)])
        self._written = {*fields.written, *facts}
        if clash := self._written & set(asked):
            why = "the rows have a field of this name, and the run writes one"
            raise UsageError(shown(min(clash)), why, hint="give that field of the rows another name")
        columns = [*asked, *fields.written[:-1], *facts]
        self.format: RowFormat = Table(columns, "\t" if name == "tsv" else ",") if self._is_table else JsonLines()
        first = next(iter(tasks[0].row)) if tasks else fields.image
        self.opening = self.format.header() or self.format.encode({first: ""}).rpartition(b'""')[0]
        """What the first line begins with."""

    def encode(self, line: Line) -> bytes:
        """Return the bytes of one line."""
        fields, row, facts = self._fields, dict(line.task.row), {"key": line.key, **line.facts}
        if line.error is None:
            row[fields.answer] = line.answer
            row |= {fields.shape: line.shape} if fields.shape else {}
        else:
            row[fields.error] = _sentence(line.error) if self._is_table else line.error
        if self._is_table:
            picture = facts["picture"] or {}
            seconds = round(sum(facts["seconds"].values()), 3) if "seconds" in facts else None
            flat = {
                **facts, **facts["parameters"],
                "picture": picture.get("sha256"), "file": picture.get("file"), "seconds": seconds,
            }  # fmt: skip
            row |= {f"{fields.facts}_{name}": flat.get(name) for name in _IN_TABLES}
        else:
            row[fields.facts] = facts
        return self.format.encode(row)

    def held(self, line: bytes) -> Held | None:
        """Read a line back; None if no run has written it."""
        row = self.format.decode(line)
        if row is None:
            return None
        error, facts = row.get(self._fields.error), self._facts(row)
        key, picture = facts.get("key"), facts.get("picture") or {}
        if not isinstance(key, str) or not key or not (error or self._fields.answer in row):
            return None
        asked = {name: value for name, value in row.items() if name not in self._written}
        said = _sentence(error) if isinstance(error, dict) else str(error or "")
        return Held(identity(asked), key, said, str(picture.get("file", "")), str(picture.get("sha256", "")))

    def _facts(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._is_table:
            facts = row.get(self._fields.facts)
            return facts if isinstance(facts, dict) else {}
        key, picture, file, *_ = (row[f"{self._fields.facts}_{name}"] for name in _IN_TABLES)
        return {"key": key, "picture": {"sha256": picture, "file": file}}


def _sentence(error: Mapping[str, Any]) -> str:
    return f"{error.get('what', '')}: {error.get('why', '')}"
