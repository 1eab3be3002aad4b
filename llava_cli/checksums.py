"""Computes the sha256 of large files once, and remembers it for as long as they stay what they are."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from llava_cli.private_files import make_directory, open_own
from llava_cli.settings import cache_dir

CHUNK = 1 << 20


def sha256_of(path: Path, *, on_bytes: Callable[[int], None] | None = None, anew: bool = False) -> str:
    """Return the sha256 of a file; raise `OSError` if it cannot be read.

    It is read only if it is not the file that was read before (device, inode, size, time of change), or `anew`.
    `on_bytes` hears how many bytes have been read.
    """
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if not anew and (known := _recall(status)) is not None:
            return known
        digest, done = hashlib.sha256(), 0
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if on_bytes is not None:
                on_bytes(done)
        # What changed while it was read has no sum.
        if _entry(status) == _entry(os.fstat(file.fileno())):
            _keep(status, digest.hexdigest())
    return digest.hexdigest()


def remember(path: Path, sha256: str) -> None:
    """Note the sha256 of a file that was hashed while it was written."""
    with contextlib.suppress(OSError):
        _keep(path.stat(), sha256)


def _entry(status: os.stat_result) -> Path:
    facts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return cache_dir() / "checksums" / hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _recall(status: os.stat_result) -> str | None:
    with contextlib.suppress(OSError, ValueError), open_own(_entry(status)) as file:
        known = file.read(65).decode("ascii")
        return known if len(known) == hashlib.sha256().digest_size * 2 else None
    return None


def _keep(status: os.stat_result, sha256: str) -> None:
    # Where nothing can be kept, the file is read again next time.
    with contextlib.suppress(OSError):
        entry = _entry(status)
        make_directory(entry.parent)
        new = entry.with_suffix(f".{os.getpid()}")
        new.write_text(sha256, encoding="ascii")
        new.replace(entry)
