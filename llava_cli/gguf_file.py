"""The front of the rooms about GGUF files; writes copies with other metadata, such as a repaired projector."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from llava_cli.errors import ModelUnusable, NotEnoughRoom
from llava_cli.gguf_format import GgufArray, GgufHeader, pack_value
from llava_cli.gguf_gate import check_model, check_pair
from llava_cli.gguf_header import read_header
from llava_cli.gguf_projector import HIDDEN_PINPOINTS, PINPOINTS, check_projector, projector_type, reference_layer
from llava_cli.private_files import make_directory

__all__ = [
    "GgufHeader",
    "RepairedProjector",
    "check_model",
    "check_pair",
    "check_projector",
    "file_identity",
    "read_header",
    "repaired_copies",
    "repaired_projector",
    "write_copy",
]

_REPAIR_VERSION = 1
_CHUNK = 1 << 22


@dataclass(frozen=True)
class RepairedProjector:
    """A projector that llama.cpp runs as LLaVA's authors do, and what had to be done to it."""

    path: Path
    repairs: tuple[str, ...]
    fresh: bool = False
    """Whether a copy was written for it just now."""


def repaired_projector(path: Path, cache_dir: Path) -> RepairedProjector:
    """Return `path` itself if nothing is wrong with it, else a copy with mended metadata in `cache_dir`.

    The copy is written once. In it, llama.cpp does not see how a LLaVA-1.6 cuts pictures: that is ours to do.
    Raise `ModelUnusable` if the file cannot be used at all, `NotEnoughRoom` if there is no place for the copy.
    """
    identity = _identity(path)
    header = read_header(path)
    check_projector(header)
    add: dict[str, tuple[str, Any]] = {}
    drop: list[str] = []
    notes: list[str] = []
    if projector_type(header) is None:
        add["clip.projector_type"] = ("str", "mlp")
        notes.append('it does not say what it is; read as a LLaVA projector (clip.projector_type = "mlp")')
    if "clip.vision.feature_layer" not in header.types:
        layer = reference_layer(header)
        if layer is None:
            notes.append("unknown vision tower: feature layer left to llama.cpp")
        else:
            add["clip.vision.feature_layer"] = ("i32[]", [layer])
            notes.append(f"picture features are read after layer {layer}, as LLaVA's authors do")
    if "v.post_ln.weight" in header.tensors:
        notes.append("llama.cpp applies this tower's last norm to the picture features, LLaVA's authors do not")
    pinpoints = header.metadata.get(PINPOINTS)
    if isinstance(pinpoints, GgufArray):
        add[HIDDEN_PINPOINTS] = (header.types[PINPOINTS], pinpoints.values())
        drop.append(PINPOINTS)
    if not add and not drop:
        return RepairedProjector(path, tuple(notes))
    copy = _copy_path(header, identity, sorted(drop), cache_dir)
    head = _head(header, add, drop)
    fresh = not _is_finished(copy, head, header)
    if fresh:
        _make_room(copy.parent, len(head) + _data_length(header), header.name)
        write_copy(header, copy, add=add, drop=drop)
        if _identity(path) != identity:
            copy.unlink()
            raise ModelUnusable(header.name, "the file was changed while it was copied", hint="try again")
        check_projector(read_header(copy))
    return RepairedProjector(copy, tuple(notes), fresh)


def repaired_copies(path: Path, cache_dir: Path) -> list[Path]:
    """Return the copies that were written of a projector; none if the file cannot be read."""
    try:
        header = read_header(path)
    except ModelUnusable:
        return []
    copies = (_copy_path(header, _identity(path), drop, cache_dir) for drop in ([], [PINPOINTS]))
    return [copy for copy in dict.fromkeys(copies) if copy.exists()]


def write_copy(
    header: GgufHeader,
    target: Path,
    *,
    add: Mapping[str, tuple[str, Any]] | None = None,
    drop: Collection[str] = (),
) -> None:
    """Write the file of `header` again with the keys of `add` (each a type and a value) and without those of `drop`.

    The tensors stay byte for byte. `target` appears complete or not at all; a file there is replaced.
    """
    try:
        with _appearing(target) as out, header.path.open("rb") as source:
            out.write(_head(header, add or {}, drop))
            source.seek(header.data_start)
            left = _data_length(header)
            while left:
                chunk = source.read(min(_CHUNK, left))
                if not chunk:
                    raise ModelUnusable(header.name, "the file became shorter while it was copied", hint="try again")
                out.write(chunk)
                left -= len(chunk)
    except OSError as error:
        raise _no_place(header.name, target.parent, error) from error


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the name `target` when all is written, and leaves nothing behind otherwise."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.stem[:32]}.", suffix=".part", dir=target.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as out:
            os.fchmod(out.fileno(), 0o600)
            yield out
            out.flush()
            os.fsync(out.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _head(header: GgufHeader, add: Mapping[str, tuple[str, Any]], drop: Collection[str]) -> bytes:
    """Return all bytes in front of the tensor data."""
    kept = [span for key, span in header.spans.items() if key not in add and key not in drop]
    tensor_list = max((end for _, end in header.spans.values()), default=24)
    entries = [header.raw[start:end] for start, end in kept]
    entries += [pack_value(key, kind, value) for key, (kind, value) in add.items()]
    counts = struct.pack("<4sIqq", b"GGUF", header.version, len(header.tensors), len(entries))
    head = b"".join((counts, *entries, header.raw[tensor_list:]))
    return head + bytes(-len(head) % header.alignment)


def _data_length(header: GgufHeader) -> int:
    return max((tensor.offset + tensor.nbytes for tensor in header.tensors.values()), default=0)


def _identity(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()  # `read_header` says what is wrong with it
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def file_identity(path: Path, since_ns: int) -> str | None:
    """Name what is in a model file, as far as that shows without reading it all; None if it changed after `since_ns`.

    Its sha256 would cost two minutes for 4 GB on an SD card. So it is known by its place, size and times, as in
    `_copy_path`, and by its first megabyte, which is most of the header. A copy is another file: that costs time,
    never a wrong answer. `since_ns` is a moment before the file was opened (`time.time_ns`): renaming a file to a
    name changes its ctime, so what is older than that moment is what was opened.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            head = file.read(1 << 20)
    except OSError:
        return None
    if status.st_ctime_ns > since_ns:
        return None
    facts = (*_identity(path), status.st_ctime_ns)
    return hashlib.sha256(head + repr(facts).encode()).hexdigest()


def _copy_path(header: GgufHeader, identity: tuple[int, ...], drop: list[str], cache_dir: Path) -> Path:
    # Two fine-tunes have the same header and other tensors. Hashing 600 MB takes half a second from memory, but ten
    # from an SD card, at every start; so the data is known as `make` knows it: by its place, size and time.
    facts = repr((_REPAIR_VERSION, identity, drop)).encode()
    key = hashlib.sha256(hashlib.sha256(header.raw).digest() + facts).hexdigest()
    return cache_dir / "projectors" / f"{key[:32]}.gguf"


def _is_finished(copy: Path, head: bytes, header: GgufHeader) -> bool:
    try:
        if copy.stat().st_size != len(head) + _data_length(header):
            return False
        with copy.open("rb") as file:
            return file.read(len(head)) == head
    except OSError:
        return False


def _make_room(directory: Path, needed: int, name: str) -> None:
    try:
        make_directory(directory)
        directory.chmod(0o700)
        # What a killed process left behind would keep 600 MB each.
        for part in directory.glob(".*.part"):
            with contextlib.suppress(FileNotFoundError):
                if part.stat().st_mtime < time.time() - 3600:
                    part.unlink()
        free = shutil.disk_usage(directory).free
    except OSError as error:
        raise _no_place(name, directory, error) from error
    if free < needed:
        raise NotEnoughRoom(
            name,
            f"its repaired copy takes {needed / 1e6:,.0f} MB, and {directory} has {free / 1e6:,.0f} MB left",
            hint="make room there, or set LLAVA_CACHE to a directory on another disk",
        )


def _no_place(name: str, directory: Path, error: OSError) -> ModelUnusable | NotEnoughRoom:
    kind = NotEnoughRoom if error.errno in (errno.ENOSPC, errno.EDQUOT) else ModelUnusable
    reason = (error.strerror or str(error)).lower()
    why = f"its repaired copy cannot be written to {directory} ({reason})"
    return kind(name, why, hint="set LLAVA_CACHE to a directory that can be written to")
