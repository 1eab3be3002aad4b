"""Writes a GGUF file again, with other keys, other names of tensors, or large tensors in half the room."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from llava_cli.errors import ModelUnusable, NotEnoughRoom
from llava_cli.gguf_format import GgufHeader, TensorInfo, pack_tensor, pack_value
from llava_cli.gguf_tensors import pack_q8_0, read_tensor
from llava_cli.private_files import make_directory

_CHUNK = 1 << 22


@dataclass(frozen=True)
class GgufCopy:
    """The file of `header` as it is to be written again. Tensors stay byte for byte, unless they are in `q8_0`."""

    header: GgufHeader
    add: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    """Keys, each with type and value, that come in or take another's place."""
    drop: Collection[str] = ()
    """Keys and tensors that are left out."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """New names of tensors."""
    q8_0: Collection[str] = ()
    """Tensors, by their old names, that are written as Q8_0."""

    @property
    def is_the_same(self) -> bool:
        return not (self.add or self.drop or self.rename or self.q8_0)

    @cached_property
    def head(self) -> bytes:
        """All bytes in front of the tensor data."""
        header = self.header
        kept = [span for key, span in header.spans.items() if key not in self.add and key not in self.drop]
        entries = [header.raw[start:end] for start, end in kept]
        entries += [pack_value(key, kind, value) for key, (kind, value) in self.add.items()]
        tensors = [pack_tensor(self.rename.get(name, name), tensor) for name, tensor in self._tensors.items()]
        counts = struct.pack("<4sIqq", b"GGUF", header.version, len(tensors), len(entries))
        head = b"".join((counts, *entries, *tensors))
        return head + bytes(-len(head) % header.alignment)

    @property
    def size(self) -> int:
        """Return how many bytes it takes."""
        return len(self.head) + max((tensor.offset + tensor.nbytes for tensor in self._tensors.values()), default=0)

    @cached_property
    def _tensors(self) -> dict[str, TensorInfo]:
        """The tensors by their old names, at their new places: llama.cpp allows no gaps between them."""
        placed: dict[str, TensorInfo] = {}
        offset = 0
        for name, tensor in self.header.tensors.items():
            if name in self.drop:
                continue
            offset += -offset % self.header.alignment
            packed = {"type": "Q8_0", "nbytes": _q8_0_bytes(tensor)} if name in self.q8_0 else {}
            placed[name] = replace(tensor, offset=offset, **packed)  # type: ignore[arg-type]
            offset += placed[name].nbytes
        return placed

    def write(self, target: Path) -> None:
        """Write it; `target` appears complete or not at all, and a file there is replaced."""
        header, start = self.header, len(self.head)
        try:
            with _appearing(target) as out, header.path.open("rb") as source:
                out.write(self.head)
                for name, tensor in self._tensors.items():
                    out.seek(start + tensor.offset)  # what is skipped is padding
                    if name in self.q8_0:
                        out.write(pack_q8_0(read_tensor(header, name)))
                    else:
                        source.seek(header.data_start + header.tensors[name].offset)
                        _pour(source, out, tensor.nbytes, header.name)
        except OSError as error:
            raise _no_place(header.name, target.parent, error) from error

    def is_written(self, target: Path) -> bool:
        """Tell whether `target` is this copy, as far as its size and its head show."""
        try:
            if target.stat().st_size != self.size:
                return False
            with target.open("rb") as file:
                return file.read(len(self.head)) == self.head
        except OSError:
            return False

    def make_room(self, directory: Path) -> None:
        """Make `directory`, private, and raise `NotEnoughRoom` if the copy does not fit there."""
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
            raise _no_place(self.header.name, directory, error) from error
        if free < self.size:
            raise NotEnoughRoom(
                self.header.name,
                f"its repaired copy takes {self.size / 1e6:,.0f} MB, and {directory} has {free / 1e6:,.0f} MB left",
                hint="make room there, or set LLAVA_CACHE to a directory on another disk",
            )


def write_copy(header: GgufHeader, target: Path, **changes: Any) -> None:
    """Write the file of `header` again; `changes` are fields of `GgufCopy`."""
    GgufCopy(header, **changes).write(target)


def _q8_0_bytes(tensor: TensorInfo) -> int:
    return math.prod(tensor.shape) // 32 * 34


def _pour(source: BinaryIO, out: BinaryIO, left: int, name: str) -> None:
    while left:
        chunk = source.read(min(_CHUNK, left))
        if not chunk:
            raise ModelUnusable(name, "the file became shorter while it was copied", hint="try again")
        out.write(chunk)
        left -= len(chunk)


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


def _no_place(name: str, directory: Path, error: OSError) -> ModelUnusable | NotEnoughRoom:
    kind = NotEnoughRoom if error.errno in (errno.ENOSPC, errno.EDQUOT) else ModelUnusable
    reason = (error.strerror or str(error)).lower()
    why = f"its repaired copy cannot be written to {directory} ({reason})"
    return kind(name, why, hint="set LLAVA_CACHE to a directory that can be written to")
