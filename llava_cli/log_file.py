"""Opens the database of the log: its owner's alone, brought up to date, set aside when it is damaged."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from llava_cli import private_files
from llava_cli.errors import LogUnusable

Result = TypeVar("Result")

_PATIENCE = 5.0
"""Seconds to wait for another process that is writing."""

_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # AUTOINCREMENT: the number of a turn that was removed never names another one.
        """CREATE TABLE chats (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT UNIQUE,
            last INTEGER  -- the turn it stands at; the turns before it are found through turns.before
        )""",
        """CREATE TABLE turns (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            chat INTEGER NOT NULL REFERENCES chats ON DELETE CASCADE,
            before INTEGER REFERENCES turns ON DELETE SET NULL,
            time REAL NOT NULL,
            question TEXT NOT NULL,
            answer TEXT NOT NULL,
            finish_reason TEXT NOT NULL,
            system TEXT,
            model TEXT NOT NULL,
            own_files INTEGER NOT NULL,
            model_path TEXT NOT NULL,
            projector_path TEXT NOT NULL,
            model_bytes INTEGER NOT NULL,
            projector_bytes INTEGER NOT NULL,
            program TEXT NOT NULL,
            layout TEXT NOT NULL,
            seed INTEGER NOT NULL,
            parameters TEXT NOT NULL,  -- JSON
            usage TEXT NOT NULL  -- JSON
        )""",
        "CREATE INDEX turns_of_chat ON turns (chat)",
        "CREATE INDEX turns_behind ON turns (before)",
        """CREATE TABLE pictures (
            sha256 TEXT PRIMARY KEY,
            width INTEGER NOT NULL,
            height INTEGER NOT NULL,
            thumbnail BLOB
        )""",
        """CREATE TABLE turn_pictures (
            turn INTEGER NOT NULL REFERENCES turns ON DELETE CASCADE,
            place INTEGER NOT NULL,
            sha256 TEXT NOT NULL REFERENCES pictures,
            name TEXT NOT NULL,
            detail TEXT,
            path BLOB NOT NULL,  -- as the file system has it, which need not be UTF-8
            frame INTEGER NOT NULL,
            PRIMARY KEY (turn, place)
        )""",
        "CREATE INDEX turns_about_picture ON turn_pictures (sha256)",
    ),
)
"""What makes version 1, 2, … of the schema out of the one before. Never change one that was released: add one."""


class _Database(sqlite3.Connection):
    """A connection on which damage is always an error of SQLite's."""

    def execute(self, *statement: Any) -> sqlite3.Cursor:
        try:
            return super().execute(*statement)
        except UnicodeDecodeError:
            # SQLite's message holds a name from the damaged file, and Python cannot make a string of it.
            error = sqlite3.DatabaseError("the schema is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error from None


class LogFile:
    """One SQLite file. It is opened for each piece of work, so that threads and long chats share it freely."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        """Things worth saying once: that a damaged log was set aside."""

    def read(self, work: Callable[[sqlite3.Connection], Result], without: Result) -> Result:
        """Return what `work` finds, or `without` if there is no log yet."""
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return without
        except OSError as error:
            raise _unusable(self.path, error) from error
        return self.write(work)

    def write(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Do `work` in one transaction: all of it is kept, or nothing. Raise `LogUnusable` if it cannot be done."""
        try:
            try:
                return self._write(work)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._set_aside()
                return self._write(work)
        except sqlite3.Error as error:
            raise LogUnusable("log", f"{self.path}: {error}", hint=_hint(error)) from error
        except OSError as error:
            raise _unusable(self.path, error) from error

    def shrink(self) -> None:
        """Give back the room of what was removed, and leave no trace of it."""
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._connect()) as database:
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint (TRUNCATE)")

    def _write(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        with contextlib.closing(self._connect()) as database:
            _migrate(database)
            with _transaction(database):
                return work(database)

    def _connect(self) -> sqlite3.Connection:
        private_files.make_directory(self.path.parent)
        private_files.require_own(self.path.parent)
        # SQLite gives its side files the mode of this one, whatever the umask.
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_mode & 0o077:
                os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
        database = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None, factory=_Database)
        try:
            database.row_factory = sqlite3.Row
            # Readers and a writer do not wait for each other, and a killed writer leaves nothing half done.
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA foreign_keys = ON")
            database.execute("PRAGMA secure_delete = ON")
        except BaseException:
            database.close()
            raise
        return database

    def _set_aside(self) -> None:
        """Rename a damaged log and its side files; of several processes that find it damaged, one does."""
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            if not self._is_damaged():
                return
            aside = _unused(self.path.with_name(f"{self.path.name}.bad-{time.strftime('%Y%m%d-%H%M%S')}"))
            # The side files first: left behind, they would be taken for those of the new log.
            for suffix in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
            self.notes.append(f"the log was damaged; it is kept as {aside}, and a new one begins")
        finally:
            os.close(directory)

    def _is_damaged(self) -> bool:
        try:
            with contextlib.closing(self._connect()) as database:
                _migrate(database)
                return [tuple(row) for row in database.execute("PRAGMA quick_check (1)")] != [("ok",)]
        except sqlite3.DatabaseError as error:
            return _is_damage(error)


def _unusable(path: Path, error: OSError) -> LogUnusable:
    """Say in words why a file cannot be used."""
    return LogUnusable("log", f"{error.filename or path}: {(error.strerror or str(error)).lower()}")


def _migrate(database: sqlite3.Connection) -> None:
    """Bring the schema up to date; raise `LogUnusable` if it comes from a newer program."""
    if _version(database) == len(_MIGRATIONS):
        return
    with _transaction(database):
        # Another process may have done it while this one waited.
        version = _version(database)
        if version > len(_MIGRATIONS):
            why = f"a newer llava wrote it (version {version} of the log; this one knows {len(_MIGRATIONS)})"
            raise LogUnusable("log", why, hint="use the newer llava, or `llava log off`")
        for statements in _MIGRATIONS[version:]:
            for statement in statements:
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    # IMMEDIATE: to wait for the other writer now, not to fail when the first row is written.
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _is_damage(error: sqlite3.Error) -> bool:
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: sqlite3.Error) -> int:
    # Python's own errors have none; the upper bits only tell more of the same.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _hint(error: sqlite3.Error) -> str:
    code = _code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "another program has it open for long; try again when that has ended"
    return "make room on the disk" if code == sqlite3.SQLITE_FULL else "llava log path says where it is"


def _unused(path: Path) -> Path:
    while path.exists():
        path = path.with_name(f"{path.name}+")
    return path
