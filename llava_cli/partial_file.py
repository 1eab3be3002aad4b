"""Keeps what has come of a file so far: written by one process at a time, hashed as it grows, whole or not there.

A process may be killed at any byte, and the power may go at any byte: what was written is then taken up again from
the last mark that surely reached the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from llava_cli.private_files import take_lock

MARK = 8 << 20
"""Bytes between two flushes to the disk; the most that an interruption can cost."""


class PartialFile:
    """A file that is being written, held locked."""

    def __init__(self, path: Path, file: io.FileIO) -> None:
        self.path = path
        self._file = file
        self._digest = hashlib.sha256()
        self.length = 0
        """Bytes that are there and hashed."""

    def take_up(self, size: int, on_bytes: Callable[[int], None]) -> None:
        """Hash what is there of `size` bytes; what may not have reached the disk before a power cut is dropped."""
        there = os.fstat(self._file.fileno()).st_size
        if there > size:
            there = 0
        elif there < size:
            there = max(0, there - 1) // MARK * MARK
        self._file.truncate(there)
        while self.length < there and (chunk := self._file.read(min(1 << 20, there - self.length))):
            self._digest.update(chunk)
            self.length += len(chunk)
            on_bytes(self.length)

    def append(self, chunk: bytes) -> None:
        """Write `chunk` behind the rest; raise `OSError` if the disk does not take it."""
        view = memoryview(chunk)
        while view:
            written = self._file.write(view) or 0
            self._digest.update(view[:written])
            before, self.length = self.length, self.length + written
            view = view[written:]
            if before // MARK != self.length // MARK:
                os.fsync(self._file.fileno())

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def become(self, target: Path) -> None:
        """Take the name `target`, once all is on the disk."""
        os.fsync(self._file.fileno())
        self.path.replace(target)
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def discard(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def open_part(path: Path) -> Iterator[PartialFile | None]:
    """Open what is there of a file, or begin it; None if another process is writing it.

    The lock goes with its process, so what a killed one left behind is taken up.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not private: others who share this cache may read models, as far as the umask lets them.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with io.FileIO(os.open(path, flags, 0o666), "r+") as file:
        yield PartialFile(path, file) if take_lock(file.fileno(), path) else None


def remove_stale(path: Path) -> None:
    """Remove a part that nobody is writing."""
    with contextlib.suppress(OSError), open_part(path) as part:
        if part is not None:
            part.discard()
