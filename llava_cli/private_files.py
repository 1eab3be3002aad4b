"""Makes files and directories that are their owner's alone under any umask, and that one process writes at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def make_directory(directory: Path) -> None:
    """Make `directory` and what is missing above it, for nobody else to look into (0700)."""
    missing = [one for one in (directory, *directory.parents) if not one.exists()]
    for one in reversed(missing):
        with contextlib.suppress(FileExistsError):
            one.mkdir(mode=0o700)
            one.chmod(0o700)


def require_own(directory: Path) -> None:
    """Raise `OSError` unless `directory` is ours to write to, and ours alone."""
    status, above = directory.stat(), directory.parent.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is not a directory", directory)
    if status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to somebody else", directory)
    if status.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "others can write to it (chmod go-w mends that)", directory)
    if above.st_mode & 0o002 and not above.st_mode & stat.S_ISVTX:
        # Whoever may rename our directory can put another one in its place.
        raise PermissionError(errno.EPERM, "others can write to it (chmod go-w mends that)", directory.parent)
    # root may write where the mode says no; on a disk mounted read-only nobody may.
    if not status.st_mode & stat.S_IWUSR or not os.access(directory, os.W_OK):
        raise PermissionError(errno.EROFS, "it is read-only", directory)


def open_own(path: Path) -> io.FileIO:
    """Open a file for reading; raise `OSError` if it is a link, a pipe or anything else but a file."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a file", path)
    return file


def secret(path: Path, size: int) -> bytes:
    """Return the random bytes this user keeps in `path`; make them if they are not there or not private any more."""
    make_directory(path.parent)
    with contextlib.suppress(OSError), open_own(path) as file:
        status, known = os.fstat(file.fileno()), file.read(size + 1)
        if len(known) == size and status.st_uid == os.geteuid() and not status.st_mode & 0o077:
            return known
        # What others could read, or what was cut short, protects nothing.
        path.unlink()
    descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as new:
            os.fchmod(descriptor, 0o600)
            new.write(secrets.token_bytes(size))
            new.flush()
            os.fsync(descriptor)
        # Two processes that make one at once must end with the same: the second link fails.
        with contextlib.suppress(FileExistsError):
            os.link(part, path)
    finally:
        Path(part).unlink()
    with open_own(path) as file:
        return file.read(size)


@contextlib.contextmanager
def only_writer(part: Path) -> Iterator[io.BufferedWriter | None]:
    """Open `part` empty and locked for writing; None if another process has it. What is not renamed is removed.

    The lock goes with its process: what a killed one left behind is taken over.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(part, flags, 0o600), "wb") as file:
        if not take_lock(file.fileno(), part):
            yield None
            return
        try:
            os.fchmod(file.fileno(), 0o600)
            file.truncate()
            yield file
        finally:
            if _is_at(file.fileno(), part):
                part.unlink()


def read_table(path: Path, longest: int = 1 << 16) -> dict[str, Any]:
    """Return the JSON object in a small file that may hold anything; an empty one if it holds something else."""
    try:
        with open_own(path) as file:
            table = json.loads(file.read(longest + 1))
    except (OSError, ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


def write_table(path: Path, table: Mapping[str, Any]) -> bool:
    """Put a JSON object in the place of `path`, whole or not at all; False if that cannot be."""
    part = path.with_name(f".{path.name}.part")
    try:
        make_directory(path.parent)
        require_own(path.parent)
        with only_writer(part) as file:
            if file is None:
                return False
            file.write(json.dumps(table).encode())
            file.flush()
            part.replace(path)
    except OSError:
        return False
    return True


def replace_text(path: Path, text: str) -> None:
    """Write a text file that is there whole or as it was before; raise `OSError` if that cannot be done.

    It keeps its mode. If it is a link to where its owner keeps such files, what it leads to is written.
    """
    target = path.resolve()
    make_directory(target.parent)
    descriptor, part = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o600)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(part).replace(target)
    finally:
        Path(part).unlink(missing_ok=True)


def remove(path: Path) -> int:
    """Remove a file and return its size; 0 if it is gone or cannot be removed."""
    try:
        size = path.lstat().st_size
        path.unlink()
    except OSError:
        return 0
    return size


def take_lock(descriptor: int, part: Path) -> bool:
    """Lock an open file for this process, without waiting; tell whether it has the lock and still the name `part`."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    # Between our opening and locking it, whoever had it may have renamed it.
    return _is_at(descriptor, part)


def _is_at(descriptor: int, part: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), part.lstat())
    except FileNotFoundError:
        return False
