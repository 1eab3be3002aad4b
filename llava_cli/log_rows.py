"""Writes turns into the tables of the log, reads them, and removes them."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from llava_cli import log_search
from llava_cli.errors import LogUnusable
from llava_cli.pictures import RememberedPicture
from llava_cli.turns import PastChat, Turn

ABOUT = """
    WITH RECURSIVE about (id) AS (
        SELECT turn FROM turn_pictures WHERE sha256 = ?
        UNION SELECT turns.id FROM turns JOIN about ON turns.before = about.id
    ) SELECT id FROM about"""
"""Turns that showed a picture, and those that followed them."""

Record = TypeVar("Record")

_HINTS: dict[type, dict[str, Any]] = {kind: get_type_hints(kind) for kind in (Turn, RememberedPicture, PastChat)}
"""Worked out once: for each row it would take longer than all the rest."""

_END_OF_TIME = 1e11
"""Seconds since the epoch: the year 5138."""


def insert(database: sqlite3.Connection, turn: Turn, chat: int | None, after: int | None) -> Turn:
    """Write `turn` as what followed the turn `after` in `chat`, a new one if it is None; return it with its number."""
    # The chat may have been removed, or set aside with a damaged log, while it went on.
    made = database.execute("INSERT OR IGNORE INTO chats (id) VALUES (?)", (chat,))
    chat = made.lastrowid if chat is None else chat
    row = database.execute("SELECT id FROM turns WHERE id = ? AND chat = ?", (after, chat)).fetchone()
    before = row["id"] if row else None
    values = {
        "chat": chat, "before": before, "time": turn.time, "question": clean(turn.question),
        "answer": clean(turn.answer), "finish_reason": turn.finish_reason,
        "system": None if turn.system is None else clean(turn.system),
        "model": clean(turn.model), "own_files": turn.own_files, "model_path": clean(turn.model_path),
        "projector_path": clean(turn.projector_path), "model_bytes": turn.model_bytes,
        "projector_bytes": turn.projector_bytes, "program": turn.program, "layout": turn.layout, "seed": turn.seed,
        "parameters": json.dumps(dict(turn.parameters), default=str), "usage": json.dumps(dict(turn.usage)),
    }  # fmt: skip
    marks = ", ".join(f":{name}" for name in values)
    number = database.execute(f"INSERT INTO turns ({', '.join(values)}) VALUES ({marks})", values).lastrowid
    for place, picture in enumerate(turn.pictures):
        thumbnail = (turn.thumbnails or {}).get(picture.sha256) or None
        database.execute(
            "INSERT INTO pictures VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET thumbnail = coalesce(thumbnail, excluded.thumbnail)",
            (picture.sha256, picture.width, picture.height, thumbnail),
        )
        database.execute(
            "INSERT INTO turn_pictures VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                number,
                place,
                picture.sha256,
                clean(picture.name),
                picture.detail,
                os.fsencode(picture.path),
                picture.frame,
            ),
        )
    database.execute("UPDATE chats SET last = ? WHERE id = ?", (number, chat))
    return replace(turn, id=number or 0, chat=chat or 0, before=before, thumbnails=None)


def remove(database: sqlite3.Connection, numbers: Iterable[int] | None) -> int:
    """Remove these turns, or all, with what belongs to nothing else; return how many there were."""
    log_search.forget(database)
    if numbers is None:
        removed = database.execute("DELETE FROM turns").rowcount
    else:
        removed = sum(_remove_one(database, number) for number in set(numbers))
    database.execute("DELETE FROM chats WHERE id NOT IN (SELECT chat FROM turns)")
    database.execute("DELETE FROM pictures WHERE sha256 NOT IN (SELECT sha256 FROM turn_pictures)")
    return removed


def _remove_one(database: sqlite3.Connection, number: int) -> int:
    # What followed it follows what it followed.
    before = "(SELECT before FROM turns WHERE id = :number)"
    database.execute(f"UPDATE turns SET before = {before} WHERE before = :number", {"number": number})
    database.execute(f"UPDATE chats SET last = {before} WHERE last = :number", {"number": number})
    return database.execute("DELETE FROM turns WHERE id = ?", (number,)).rowcount


def turns(database: sqlite3.Connection, where: str, values: Sequence[object], rest: str = "") -> Iterator[Turn]:
    """Yield the turns that fulfil a condition in SQL, which never contains what a user typed.

    Raise `LogUnusable` over one of which the database holds something that nobody wrote.
    """
    columns = ", ".join(field.name for field in fields(Turn) if field.name not in ("pictures", "thumbnails"))
    for row in database.execute(f"SELECT {columns} FROM turns WHERE {where} {rest}", values).fetchall():
        shown = database.execute(
            "SELECT sha256, name, width, height, detail, path, frame FROM turn_pictures JOIN pictures USING (sha256)"
            " WHERE turn = ? ORDER BY place",
            (row["id"],),
        )
        with _told_as_damage(f"turn {row['id']}", f"llava log rm {row['id']}"):
            pictures = tuple(_made(RememberedPicture, {**dict(one), "path": os.fsdecode(one["path"])}) for one in shown)
            facts = {**dict(row), "parameters": json.loads(row["parameters"]), "usage": json.loads(row["usage"])}
            turn = _made(Turn, {**facts, "own_files": bool(row["own_files"]), "pictures": pictures})
        yield turn


def path(database: sqlite3.Connection, last: str, value: object) -> list[Turn]:
    """Return the turn `last`, an expression in SQL, and all that it followed, the first one first."""
    known = (
        f"WITH RECURSIVE path (id) AS (SELECT {last} UNION"
        " SELECT before FROM turns JOIN path USING (id)) SELECT id FROM path"
    )
    # A turn always has a higher number than the one it followed.
    return list(turns(database, f"id IN ({known})", [value], "ORDER BY id"))


def chats(database: sqlite3.Connection) -> list[PastChat]:
    """Return all chats, the most recently used first."""
    rows = database.execute(
        "SELECT chat, count(*) AS length, min(id) AS first, max(id) AS newest FROM turns"
        " GROUP BY chat ORDER BY newest DESC"
    )

    def value(column: str, table: str, number: int) -> Any:
        row = database.execute(f"SELECT {column} FROM {table} WHERE id = ?", (number,)).fetchone()
        return row[0] if row else None

    found = []
    for row in rows.fetchall():
        with _told_as_damage(f"chat {row['chat']}", f"llava log rm {row['first']}"):
            chat = {
                "id": row["chat"],
                "name": value("name", "chats", row["chat"]),
                "question": value("question", "turns", row["first"]),
                "length": row["length"],
                "used": value("time", "turns", row["newest"]),
            }
            found.append(_made(PastChat, chat))
    return found


@contextlib.contextmanager
def _told_as_damage(what: str, mends: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        raise LogUnusable("log", f"{what} is damaged", hint=mends) from error


def _made(kind: type[Record], values: Mapping[str, object]) -> Record:
    """Make a record of what a database holds, which keeps no type for itself; raise `ValueError` if one is wrong."""
    for name, hint in _HINTS[kind].items():
        if name in values and not _fits(values[name], hint):
            raise ValueError(name)
    return kind(**values)


def _fits(value: object, hint: Any) -> bool:
    """Tell whether `value` is what a type hint says, as far as those of records go."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is Mapping:
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    if hint is float:
        # Every float here is a time; those that no calendar has fail when they are shown.
        return isinstance(value, float | int) and 0 <= value < _END_OF_TIME
    return hint is Any or isinstance(value, origin or hint)


def clean(text: str) -> str:
    """Make text storable."""
    # SQLite stores UTF-8; a name or a question may hold halves of characters that have none.
    return text.encode("utf-8", "replace").decode()
