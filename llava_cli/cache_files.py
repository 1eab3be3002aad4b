"""Keeps entries on disk that nobody else can read or forge, within bounds; every byte it returns has been checked.

An entry is a file: magic, length and keyed hash of the header; the header (JSON); the payload, whose keyed hash
stands in the header. The key never leaves this user's data directory, so that entries somebody else made, or a whole
cache directory copied from elsewhere, are as foreign as damaged ones.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import io
import json
import mmap
import os
import re
import shutil
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_cli import private_files
from llava_cli.errors import NotEnoughRoom

Key = Mapping[str, Any]
"""Everything that shapes a payload, as JSON knows it (lists, not tuples)."""

_MAGIC = b"llava 1\n"
_FRONT = struct.Struct("<8sI32s")
_LONGEST_HEADER = 1 << 24
_ENTRY = re.compile(r"[0-9a-f]{40}\.[a-z]+")
_PART = re.compile(rf"\.{_ENTRY.pattern}\.part")
_SECRET_BYTES = 32
_CHUNK = 1 << 20  # read and hashed while it is in the processor's own cache


_NO_ENTRY = {errno.ELOOP, errno.EINVAL, errno.EACCES, errno.ENXIO}
"""What opening a link, a directory, a pipe or somebody else's file ends with."""


class _Damaged(Exception):
    """An entry that is not what this user's llava wrote."""


@dataclass(frozen=True)
class Entry:
    """What the header of an entry says, and what the file system says about it."""

    kind: str
    key: Key
    about: Mapping[str, str]
    """What the entry is about, for people: told when it was written, no part of the key."""
    size: int
    created: float
    used: float
    """When it was last written or read, seconds since the epoch."""


class CacheFiles:
    """Entries in one directory. Of several processes, one writes an entry, and any may read it."""

    def __init__(self, directory: Path, secret_file: Path, limit: int) -> None:
        self.directory = directory
        self._limit = limit
        self._secret = b""
        self.refusal = ""
        """Why the directory is not used; empty if it is."""
        try:
            private_files.make_directory(directory)
            private_files.require_own(directory)
            if directory.stat().st_mode & 0o077:
                directory.chmod(0o700)
            self._secret = private_files.secret(secret_file, _SECRET_BYTES)
        except OSError as error:
            self.refusal = f"{error.filename or directory}: {(error.strerror or str(error)).lower()}"

    def has(self, kind: str, key: Key) -> bool:
        """Tell whether there is such an entry, whatever is in it."""
        return not self.refusal and self._path(kind, key).exists()

    def touch(self, kind: str, key: Key) -> None:
        """Note that an entry was of use, if it is there."""
        if not self.refusal:
            with contextlib.suppress(OSError):
                os.utime(self._path(kind, key))

    def read(self, kind: str, key: Key) -> memoryview | None:
        """Return the payload kept under `key`; None if there is none. What is no good is removed."""
        if self.refusal:
            return None
        path = self._path(kind, key)
        try:
            with private_files.open_own(path) as file:
                payload = self._payload(file, self._header(file, (kind, key)))
        except (OSError, MemoryError, _Damaged) as error:
            if _is_no_entry(error):
                private_files.remove(path)
            return None
        self.touch(kind, key)
        return payload

    def write(self, kind: str, key: Key, payload: bytes | bytearray | memoryview, about: Mapping[str, str]) -> None:
        """Keep `payload` under `key`, unless it is there or another process is writing it.

        Raise `OSError` or `NotEnoughRoom` when that cannot be; nothing is left behind then.
        """
        path = self._path(kind, key)
        if self.refusal or path.exists():
            return
        part = path.with_name(f".{path.name}.part")
        with private_files.only_writer(part) as file:
            if file is None or path.exists():
                return
            facts = {"kind": kind, "key": key, "about": about, "created": int(time.time())}
            header = json.dumps({**facts, "length": len(payload), "hash": self._hash(b"payload", payload)}).encode()
            front = _FRONT.pack(_MAGIC, len(header), bytes.fromhex(self._hash(_MAGIC, header)))
            self._make_room(len(front) + len(header) + len(payload))
            file.write(front + header)
            for start in range(0, len(payload), _CHUNK):
                file.write(memoryview(payload)[start : start + _CHUNK])
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)

    def entries(self) -> list[Entry]:
        """List what is there, most recently used first; what is no good is removed. Payloads are not read."""
        found = []
        for path in self._names(_ENTRY):
            try:
                with private_files.open_own(path) as file:
                    header = self._header(file)
                    status = os.fstat(file.fileno())
            except (OSError, _Damaged) as error:
                if _is_no_entry(error):
                    private_files.remove(path)
                continue
            kind, key, about = header["kind"], header["key"], header["about"]
            found.append(Entry(kind, key, about, status.st_size, header["created"], status.st_mtime))
        return sorted(found, key=lambda entry: entry.used, reverse=True)

    def remove(self, kind: str, key: Key) -> int:
        """Remove an entry, if it is there; return the bytes that gives back."""
        return private_files.remove(self._path(kind, key))

    def clear(self) -> int:
        """Remove everything that is not just being written; return the bytes that gives back."""
        freed = sum(private_files.remove(path) for path in self._names(_ENTRY, even_if_refused=True))
        return freed + self._remove_left_behind()

    def _path(self, kind: str, key: Key) -> Path:
        # Keyed, too: a name must not tell which pictures somebody has looked at.
        name = self._hash(kind.encode(), json.dumps(key, sort_keys=True).encode())[:40]
        return self.directory / f"{name}.{kind}"

    def _hash(self, purpose: bytes, data: bytes | bytearray | memoryview) -> str:
        digest = hmac.new(self._secret, purpose + b"\0", "sha256")
        digest.update(data)
        return digest.hexdigest()

    def _header(self, file: io.FileIO, wanted: tuple[str, Key] | None = None) -> dict[str, Any]:
        """Read the header; raise `_Damaged` unless it is ours, is the `wanted` one and the file has its length."""
        front = file.read(_FRONT.size)
        if len(front) != _FRONT.size:
            raise _Damaged
        magic, length, tag = _FRONT.unpack(front)
        if magic != _MAGIC or length > _LONGEST_HEADER:
            raise _Damaged
        raw = file.read(length)
        if not hmac.compare_digest(bytes.fromhex(self._hash(_MAGIC, raw)), tag):
            raise _Damaged
        header: dict[str, Any] = json.loads(raw)
        if wanted is not None and (header["kind"], header["key"]) != wanted:
            raise _Damaged
        if os.fstat(file.fileno()).st_size != _FRONT.size + length + header["length"]:
            raise _Damaged
        return header

    def _payload(self, file: io.FileIO, header: Mapping[str, Any]) -> memoryview:
        payload = _memory(header["length"])
        digest = hmac.new(self._secret, b"payload\0", "sha256")
        done = 0
        while count := file.readinto(payload[done : done + _CHUNK]):
            digest.update(payload[done : done + count])
            done += count
        if not hmac.compare_digest(digest.hexdigest(), header["hash"]):
            raise _Damaged
        return payload

    def _make_room(self, needed: int) -> None:
        """Remove what has not been used for longest, until `needed` more bytes are within the bounds."""
        self._remove_left_behind()
        found = []
        for path in self._names(_ENTRY):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        # Then at most a tenth of what is free once the entries are written is theirs.
        of_disk = (shutil.disk_usage(self.directory).free + total) // 11
        most = min(self._limit, of_disk)
        if needed > most:
            reason = "a tenth of the free disk" if most == of_disk else "its largest size, cache_size"
            why = f"{needed / 1e6:,.2f} MB do not fit into {most / 1e6:,.2f} MB ({reason})"
            raise NotEnoughRoom("picture cache", why)
        for _, size, path in sorted(found):
            if total + needed <= most:
                break
            private_files.remove(path)
            total -= size

    def _remove_left_behind(self) -> int:
        """Remove what killed processes were writing; return the bytes that gives back."""
        freed = 0
        for part in self._names(_PART, even_if_refused=True):
            # Whoever can lock it is alone with it, and what is not renamed goes.
            with contextlib.suppress(OSError):
                size = part.lstat().st_size
                with private_files.only_writer(part) as file:
                    freed += size if file is not None else 0
        return freed

    def _names(self, pattern: re.Pattern[str], *, even_if_refused: bool = False) -> list[Path]:
        if self.refusal and not even_if_refused:
            return []
        try:
            return [path for path in self.directory.iterdir() if pattern.fullmatch(path.name)]
        except OSError:
            return []


def _memory(length: int) -> memoryview:
    """Return writable memory of its own, that goes back to the system when it is let go; raise `MemoryError`."""
    try:
        pages = mmap.mmap(-1, max(length, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # Handing out 325 MB in small pages takes as long as reading them.
        with contextlib.suppress(OSError):
            pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)[:length]


def _is_no_entry(error: Exception) -> bool:
    """Tell whether what could not be read is no good; that nothing more can be opened just now says nothing of it."""
    return isinstance(error, _Damaged) or (isinstance(error, OSError) and error.errno in _NO_ENTRY)
