"""The log: what was asked about which picture, with what, and what the answer was.

>>> history = History()
>>> first = history.record(turn_of(reply, model, "What is this?", [picture]))  # of a new chat
>>> history.record(turn_of(reply, model, "And that?"), chat=first.chat, after=first.id)  # its next turn
>>> turns = history.turns(first.chat)  # tomorrow
>>> model.chat(system=turns[-1].system, messages=messages_of(turns))
"""

from __future__ import annotations

import io
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_cli.errors import LogUnusable
from llava_cli.log_file import LogFile
from llava_cli.pictures import Picture, RememberedPicture
from llava_cli.settings import data_dir

if TYPE_CHECKING:
    from llava_cli.model import Model, Reply

_THUMBNAIL_BYTES = 10_000


@dataclass(frozen=True)
class Turn:
    """One question and its answer, and all it takes to ask it again."""

    time: float
    """When it was asked, seconds since the epoch."""
    question: str
    answer: str
    finish_reason: str
    system: str | None
    model: str
    own_files: bool
    """Whether the model was a pair of files the user named, and no name of the registry."""
    model_path: str
    projector_path: str
    layout: str
    seed: int
    parameters: Mapping[str, Any]
    """The fields of `Sampling` and `LoadOptions` it was answered with, by name."""
    usage: Mapping[str, Any]
    """The fields of `Usage`."""
    pictures: tuple[RememberedPicture, ...] = ()
    """The pictures that were new in this turn."""
    thumbnails: Mapping[str, bytes] | None = None
    """JPEGs by the hash of the picture, to be recorded; a turn that was read from the log has none."""
    id: int = 0
    chat: int = 0
    before: int | None = None
    """The turn it followed."""

    def load_arguments(self) -> dict[str, Any]:
        """Return the arguments of `load` that open the same model."""
        if not self.own_files:
            return {"name": self.model}
        return {
            "model_path": self.model_path, "projector_path": self.projector_path, "prompt_layout": self.layout,
        }  # fmt: skip


@dataclass(frozen=True)
class PastChat:
    """A chat in the log."""

    id: int
    name: str | None
    question: str
    """The first that was asked in it."""
    length: int
    """How many turns were recorded in it."""
    used: float
    """When the newest of them was asked."""


def turn_of(
    reply: Reply,
    model: Model,
    question: str,
    pictures: Sequence[Picture | RememberedPicture] = (),
    *,
    system: str | None = None,
) -> Turn:
    """Write down a reply that has ended; `pictures` are those that were sent with this question."""
    spec, weights = model.spec, model.weights
    # A name that is published in several quants does not say by itself which of them answered.
    name = f"{spec.name}:{spec.quant}" if len(spec.quants) > 1 else spec.name
    return Turn(
        time=reply.asked_at,
        question=question,
        answer=reply.so_far,
        finish_reason=reply.finish_reason,
        system=system,
        model=name,
        own_files=spec.local is not None,
        model_path=str(weights.model.absolute()),
        projector_path=str((spec.local[1] if spec.local else weights.projector).absolute()),
        layout=spec.layout,
        seed=reply.seed,
        parameters={**vars(model.options), **vars(reply.sampling), "seed": reply.seed},
        usage=vars(reply.usage),
        pictures=tuple(one.remembered() if isinstance(one, Picture) else one for one in pictures),
        thumbnails={one.sha256: make_thumbnail(one) for one in pictures if isinstance(one, Picture)},
    )


def messages_of(turns: Iterable[Turn], pictures: Iterable[Picture] = ()) -> list[dict[str, Any]]:
    """Return `turns` as `Model.chat` takes them; `pictures`, opened again, stand in for the remembered ones."""
    known = {picture.sha256: picture for picture in pictures}
    messages: list[dict[str, Any]] = []
    for turn in turns:
        shown = [{"type": "picture", "picture": known.get(one.sha256, one)} for one in turn.pictures]
        messages.append({"role": "user", "content": [*shown, {"type": "text", "text": turn.question}]})
        messages.append({"role": "assistant", "content": turn.answer})
    return messages


class History:
    """The log of this user. `record` never fails a question: what goes wrong is in `notes`, once."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or data_dir() / "log.db"
        self._file = LogFile(self.path)
        self._failures: list[str] = []

    @property
    def notes(self) -> list[str]:
        """Return what is worth saying: that a turn could not be recorded, or a damaged log was set aside."""
        return [*self._file.notes, *self._failures]

    # Writing.

    def record(self, turn: Turn, *, chat: int | None = None, after: int | None = None) -> Turn | None:
        """Keep `turn` as what followed the turn `after` in `chat`; return it with its number, None if that failed.

        Without `chat` it is the first one of a new chat, without `after` the first one of `chat`.
        """
        try:
            return self._file.write(lambda database: _insert(database, turn, chat, after))
        except LogUnusable as error:
            note = f"this is not in the log: {error.why}"
            if note not in self._failures:
                self._failures.append(note)
        return None

    def rewind(self, chat: int, turn: int | None) -> None:
        """Let `chat` stand at an earlier `turn`, which the next one will follow; None: at its beginning.

        What came after it stays in the log.
        """
        self._file.write(lambda database: database.execute("UPDATE chats SET last = ? WHERE id = ?", (turn, chat)))

    def name_chat(self, chat: int, name: str) -> None:
        """Call `chat` by `name`; an older chat of that name loses it."""

        def work(database: sqlite3.Connection) -> None:
            database.execute("UPDATE chats SET name = NULL WHERE name = ?", (_text(name),))
            database.execute("UPDATE chats SET name = ? WHERE id = ?", (_text(name), chat))

        self._file.write(work)

    def remove(self, turns: Iterable[int] | None = None) -> int:
        """Remove these turns, or all, and leave no trace of them; return how many there were."""

        def work(database: sqlite3.Connection) -> int:
            wanted = [row[0] for row in database.execute("SELECT id FROM turns")] if turns is None else set(turns)
            return sum(_remove(database, number) for number in wanted)

        removed = self._file.read(work, 0)
        if removed:
            self._file.shrink()
        return removed

    # Reading.

    def turn(self, number: int | None = None) -> Turn | None:
        """Return one turn, the newest if no `number` is given; None if there is none."""

        def work(database: sqlite3.Connection) -> Turn | None:
            where = "id = ?" if number is not None else "id = (SELECT max(id) FROM turns)"
            return next(_turns(database, where, [number] if number is not None else []), None)

        return self._file.read(work, None)

    def turns(self, chat: int) -> list[Turn]:
        """Return the turns of `chat`, from its first to the one it stands at."""
        last = "(SELECT last FROM chats WHERE id = ?)"
        return self._file.read(lambda database: _path(database, last, chat), [])

    def turns_before(self, turn: Turn) -> list[Turn]:
        """Return the turns that `turn` followed, the first one first."""
        return self._file.read(lambda database: _path(database, "?", turn.before), [])

    def chats(self) -> list[PastChat]:
        """List the chats, the most recently used first."""
        return self._file.read(_chats, [])

    def last_chat(self) -> PastChat | None:
        """Return the chat that was used last."""
        return next(iter(self.chats()), None)

    def named(self, name: str) -> PastChat | None:
        """Return the chat that is called `name`."""
        return next((chat for chat in self.chats() if chat.name == _text(name)), None)

    def thumbnail(self, sha256: str) -> bytes | None:
        """Return a small JPEG of a picture."""

        def work(database: sqlite3.Connection) -> bytes | None:
            rows = database.execute("SELECT thumbnail FROM pictures WHERE sha256 = ?", (sha256,))
            return next((row["thumbnail"] for row in rows), None)

        return self._file.read(work, None)


def _insert(database: sqlite3.Connection, turn: Turn, chat: int | None, after: int | None) -> Turn:
    # The chat may have been removed, or set aside with a damaged log, while it went on.
    made = database.execute("INSERT OR IGNORE INTO chats (id) VALUES (?)", (chat,))
    chat = made.lastrowid if chat is None else chat
    row = database.execute("SELECT id FROM turns WHERE id = ?", (after,)).fetchone()
    before = row["id"] if row else None
    values = {
        "chat": chat, "before": before, "time": turn.time, "question": _text(turn.question),
        "answer": _text(turn.answer), "finish_reason": turn.finish_reason,
        "system": None if turn.system is None else _text(turn.system),
        "model": _text(turn.model), "own_files": turn.own_files, "model_path": _text(turn.model_path),
        "projector_path": _text(turn.projector_path), "layout": turn.layout, "seed": turn.seed,
        "parameters": json.dumps(dict(turn.parameters), default=str), "usage": json.dumps(dict(turn.usage)),
    }  # fmt: skip
    marks = ", ".join(f":{name}" for name in values)
    number = database.execute(f"INSERT INTO turns ({', '.join(values)}) VALUES ({marks})", values).lastrowid
    for place, picture in enumerate(turn.pictures):
        thumbnail = (turn.thumbnails or {}).get(picture.sha256)
        database.execute(
            "INSERT INTO pictures VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET thumbnail = coalesce(thumbnail, excluded.thumbnail)",
            (picture.sha256, picture.width, picture.height, thumbnail),
        )
        database.execute(
            "INSERT INTO turn_pictures VALUES (?, ?, ?, ?, ?, ?)",
            (number, place, picture.sha256, _text(picture.name), os.fsencode(picture.path), picture.frame),
        )
    database.execute("UPDATE chats SET last = ? WHERE id = ?", (number, chat))
    return replace(turn, id=number or 0, chat=chat or 0, before=before, thumbnails=None)


def _remove(database: sqlite3.Connection, number: int) -> bool:
    row = database.execute("SELECT chat, before FROM turns WHERE id = ?", (number,)).fetchone()
    if row is None:
        return False
    # What followed it follows what it followed.
    database.execute("UPDATE turns SET before = ? WHERE before = ?", (row["before"], number))
    database.execute("UPDATE chats SET last = ? WHERE last = ?", (row["before"], number))
    database.execute("DELETE FROM turns WHERE id = ?", (number,))
    database.execute("DELETE FROM chats WHERE id = ? AND id NOT IN (SELECT chat FROM turns)", (row["chat"],))
    database.execute("DELETE FROM pictures WHERE sha256 NOT IN (SELECT sha256 FROM turn_pictures)")
    return True


def _turns(database: sqlite3.Connection, where: str, values: Sequence[object], rest: str = "") -> Iterator[Turn]:
    """Yield the turns that fulfil a condition in SQL, which never contains what a user typed."""
    for row in database.execute(f"SELECT * FROM turns WHERE {where} {rest}", values).fetchall():
        shown = database.execute(
            "SELECT sha256, name, width, height, path, frame FROM turn_pictures JOIN pictures USING (sha256)"
            " WHERE turn = ? ORDER BY place",
            (row["id"],),
        )
        pictures = tuple(RememberedPicture(**{**dict(one), "path": os.fsdecode(one["path"])}) for one in shown)
        facts = {**dict(row), "parameters": json.loads(row["parameters"]), "usage": json.loads(row["usage"])}
        yield Turn(**{**facts, "own_files": bool(row["own_files"])}, pictures=pictures)


def _path(database: sqlite3.Connection, last: str, value: object) -> list[Turn]:
    """Return the turn `last`, an expression in SQL, and all that it followed, the first one first."""
    known = (
        f"WITH RECURSIVE path (id) AS (SELECT {last} UNION"
        " SELECT before FROM turns JOIN path USING (id)) SELECT id FROM path"
    )
    # A turn always has a higher number than the one it followed.
    return list(_turns(database, f"id IN ({known})", [value], "ORDER BY id"))


def _chats(database: sqlite3.Connection) -> list[PastChat]:
    rows = database.execute(
        "SELECT chats.id, name, count(*), max(turns.id) AS newest, time FROM chats"
        " JOIN turns ON turns.chat = chats.id GROUP BY chats.id ORDER BY newest DESC"
    )
    first = "SELECT question FROM turns WHERE chat = ? ORDER BY id LIMIT 1"
    return [
        PastChat(number, name, database.execute(first, (number,)).fetchone()[0], length, used)
        for number, name, length, _newest, used in rows.fetchall()
    ]


def _text(text: str) -> str:
    # SQLite stores UTF-8; a name or a question may hold halves of characters that have none.
    return text.encode("utf-8", "replace").decode()


def make_thumbnail(picture: Picture) -> bytes:
    """Return a small JPEG of `picture`."""
    image = picture.image()
    image.thumbnail((160, 160), reducing_gap=2.0)
    for quality in (75, 50, 25):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        if file.tell() <= _THUMBNAIL_BYTES:
            break
    return file.getvalue()
