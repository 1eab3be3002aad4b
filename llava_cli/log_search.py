"""Finds turns by the words in them.

The index follows the turns: it is brought up to date when somebody looks for something, so that writing a turn
depends on nothing but plain tables, and it is thrown away when turns are removed.
"""

from __future__ import annotations

import contextlib
import sqlite3

_NAMES = "(SELECT group_concat(name, ' ') FROM turn_pictures WHERE turn = turns.id)"
_TEXT = f"question || ' ' || answer || ' ' || coalesce({_NAMES}, '')"


def matching(database: sqlite3.Connection, words: str) -> list[int]:
    """Return the numbers of the turns in which all of `words` stand: in the question, the answer, a picture's name.

    A word may be the beginning of one. Where none is found so, any run of letters will do: not all scripts have spaces.
    """
    wanted = words.replace("\0", " ").split()
    found: list[int] = []
    # A damaged index, which holds nothing of its own, must not cost the log.
    with contextlib.suppress(sqlite3.DatabaseError):
        found = _by_word(database, wanted)
    return found or _by_letters(database, wanted)


def forget(database: sqlite3.Connection) -> None:
    """Throw the index away, and so every trace of what was in it."""
    inside = database.execute("SELECT name FROM sqlite_master WHERE name GLOB 'turns_text_*'").fetchall()
    try:
        database.execute("DROP TABLE IF EXISTS turns_text")
    except sqlite3.DatabaseError:
        # It is damaged, or this SQLite has no FTS5; what it consists of are plain tables.
        for row in inside:
            database.execute(f"DELETE FROM {row['name']}")


def has_fts5(database: sqlite3.Connection) -> bool:
    """Tell whether this build of SQLite can search full text."""
    return bool(database.execute("SELECT sqlite_compileoption_used('ENABLE_FTS5')").fetchone()[0])


def _by_word(database: sqlite3.Connection, words: list[str]) -> list[int]:
    if not has_fts5(database):
        return []
    database.execute("CREATE VIRTUAL TABLE IF NOT EXISTS turns_text USING fts5 (text, content='')")
    database.execute(
        f"INSERT INTO turns_text (rowid, text) SELECT id, {_TEXT} FROM turns"
        " WHERE id > (SELECT coalesce(max(rowid), 0) FROM turns_text)"
    )
    # Between quotation marks nothing is an operator.
    query = " ".join('"{}" *'.format(word.replace('"', '""')) for word in words)
    return [row[0] for row in database.execute("SELECT rowid FROM turns_text WHERE turns_text MATCH ?", (query,))]


def _by_letters(database: sqlite3.Connection, words: list[str]) -> list[int]:
    where = " AND ".join([f"instr(lower({_TEXT}), lower(?))"] * len(words))
    return [row[0] for row in database.execute(f"SELECT id FROM turns WHERE {where}", words)]
