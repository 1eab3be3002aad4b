"""The log: what was asked about which picture, with what, and what the answer was.

>>> history = History()
>>> first = history.record(turn_of(reply, model, "What is this?", [picture]))  # of a new chat
>>> history.record(turn_of(reply, model, "And that?"), chat=first.chat, after=first.id)  # its next turn
>>> turns = history.turns(first.chat)  # tomorrow
>>> model.chat(system=turns[-1].system, messages=messages_of(turns))
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from llava_cli import last_words, log_rows, log_search
from llava_cli.errors import LogUnusable, UsageError
from llava_cli.log_file import LogFile
from llava_cli.pictures import RememberedPicture
from llava_cli.settings import data_dir
from llava_cli.turns import PastChat, Turn, messages_of, turn_asked, turn_of

__all__ = ["History", "PastChat", "Turn", "messages_of", "turn_asked", "turn_of"]


class History:
    """The log of this user. `record` never fails a question: what goes wrong is in `notes`, once."""

    def __init__(self, path: Path | None = None, *, recording: bool = True) -> None:
        self.path = path or data_dir() / "log.db"
        self.is_on = recording
        """Whether turns are recorded."""
        self._file = LogFile(self.path)
        self._failures: list[str] = []

    @property
    def notes(self) -> list[str]:
        """Return what is worth saying: that a turn could not be recorded, or a damaged log was set aside."""
        return [*self._file.notes, *self._failures]

    # Writing.

    def record(self, turn: Turn, *, chat: int | None = None, after: int | None = None) -> Turn | None:
        """Keep `turn` as what followed the turn `after` in `chat`; return it with its number, None if it is not kept.

        Without `chat` it is the first one of a new chat, without `after` the first one of `chat`.
        """
        self.announce(None)
        was_stopped_at_once = turn.finish_reason == "stopped" and not turn.answer
        if not self.is_on or was_stopped_at_once:
            return None
        try:
            return self._file.write(lambda database: log_rows.insert(database, turn, chat, after))
        except LogUnusable as error:
            note = f"this is not in the log: {error.why}"
            if note not in self._failures:
                self._failures.append(note)
        return None

    def announce(self, turn: Turn | None, *, chat: int | None = None, after: int | None = None) -> None:
        """Say what is about to be answered, and would follow `after`, in case that ends this process; None: no more."""
        said = {"turn": asdict(turn), "chat": chat, "after": after} if turn is not None and self.is_on else None
        last_words.say("turn", json.dumps(said, default=str) if said else "")

    def rescue(self) -> bool:
        """Record what a process announced and did not survive, with what there was of its answer; tell whether it did.

        Its chat goes on from before it: what made the engine crash once would do so again.
        """
        try:
            said = json.loads(last_words.said("turn"))
        except ValueError:
            return False  # nothing, or more than there is room for
        pictures = tuple(RememberedPicture(**one) for one in said["turn"]["pictures"])
        turn = replace(Turn(**{**said["turn"], "pictures": pictures}), answer=last_words.said("answer"))
        kept = self.record(turn, chat=said["chat"], after=said["after"])
        if kept is not None:
            self.rewind(kept.chat, kept.before)
        return kept is not None

    def rewind(self, chat: int, turn: int | None) -> None:
        """Let `chat` stand at an earlier `turn`, which the next one will follow; None: at its beginning.

        What came after it stays in the log.
        """
        self._file.write(lambda database: database.execute("UPDATE chats SET last = ? WHERE id = ?", (turn, chat)))

    def name_chat(self, chat: int, name: str) -> None:
        """Call `chat` by `name`; an older chat of that name loses it."""

        def work(database: sqlite3.Connection) -> None:
            database.execute("UPDATE chats SET name = NULL WHERE name = ?", (log_rows.clean(name),))
            database.execute("UPDATE chats SET name = ? WHERE id = ?", (log_rows.clean(name), chat))

        self._file.write(work)

    def remove(self, turns: Iterable[int] | None = None) -> int:
        """Remove these turns, or all, and leave no trace of them; return how many there were."""

        removed = self._file.read(lambda database: log_rows.remove(database, turns), 0)
        if removed:
            self._file.shrink()
        return removed

    # Reading.

    def turn(self, number: int | None = None) -> Turn:
        """Return one turn, the newest if no `number` is given; raise `UsageError` if there is none."""

        def work(database: sqlite3.Connection) -> list[Turn]:
            if number is None:
                return list(log_rows.turns(database, "id = (SELECT max(id) FROM turns)", []))
            return list(log_rows.turns(database, "id = ?", [number]))

        found: list[Turn] = self._file.read(work, [])
        if found:
            return found[0]
        if number is None:
            raise UsageError("log", "nothing was asked yet", hint='llava ask photo.jpg "…"')
        raise UsageError("log", f"there is no turn {number}", hint="llava log shows the numbers")

    def turns(self, chat: int) -> list[Turn]:
        """Return the turns of `chat`, from its first to the one it stands at."""
        last = "(SELECT last FROM chats WHERE id = ?)"
        return self._file.read(lambda database: log_rows.path(database, last, chat), [])

    def turns_before(self, turn: Turn) -> list[Turn]:
        """Return the turns that `turn` followed, the first one first."""
        return self._file.read(lambda database: log_rows.path(database, "?", turn.before), [])

    def find(self, *, words: str = "", picture: str | None = None, limit: int = -1) -> list[Turn]:
        """Return turns, the newest first: those with all these `words`, those about the picture with this hash.

        About a picture is also what was asked later in its chat. A negative `limit` is none.
        """

        def work(database: sqlite3.Connection) -> list[Turn]:
            where, values = ["TRUE"], []
            if words.strip():
                where.append("id IN (SELECT value FROM json_each(?))")
                values.append(json.dumps(log_search.matching(database, log_rows.clean(words))))
            if picture is not None:
                where.append(f"id IN ({log_rows.ABOUT})")
                values.append(picture)
            return list(log_rows.turns(database, " AND ".join(where), values, f"ORDER BY id DESC LIMIT {limit:d}"))

        return self._file.read(work, [])

    def chats(self) -> list[PastChat]:
        """List the chats, the most recently used first."""
        return self._file.read(log_rows.chats, [])

    def last_chat(self) -> PastChat | None:
        """Return the chat that was used last, of those that can be gone on with: not all of it was taken back."""
        return next((chat for chat in self.chats() if self.turns(chat.id)), None)

    def named(self, name: str) -> PastChat | None:
        """Return the chat that is called `name`."""
        return next((chat for chat in self.chats() if chat.name == log_rows.clean(name)), None)

    def thumbnail(self, sha256: str) -> bytes | None:
        """Return a small JPEG of a picture."""

        def work(database: sqlite3.Connection) -> bytes | None:
            rows = database.execute("SELECT thumbnail FROM pictures WHERE sha256 = ?", (sha256,))
            return next((row["thumbnail"] for row in rows), None)

        return self._file.read(work, None)
