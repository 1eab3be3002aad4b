"""The front of the rooms about GGUF files; keeps a copy of a projector in which its faults are mended."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_cli.errors import ModelUnusable
from llava_cli.gguf_copy import GgufCopy, write_copy
from llava_cli.gguf_format import GgufArray, GgufHeader
from llava_cli.gguf_gate import check_model, check_pair
from llava_cli.gguf_header import read_header
from llava_cli.gguf_projector import (
    HIDDEN_PINPOINTS,
    PINPOINTS,
    check_projector,
    is_siglip,
    large_matrices,
    projector_type,
    reference_layer,
    todays_names,
)
from llava_cli.settings import PROJECTOR_QUANTS

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

_REPAIR_VERSION = 2
_MOSTLY_Q8_0 = 7


@dataclass(frozen=True)
class RepairedProjector:
    """A projector that llama.cpp runs as LLaVA's authors do, and what had to be done to it."""

    path: Path
    repairs: tuple[str, ...]
    fresh: bool = False
    """Whether a copy was written for it just now."""


def repaired_projector(path: Path, cache_dir: Path, *, quant: str = "original") -> RepairedProjector:
    """Return `path` itself if nothing is to be done to it, else a copy in `cache_dir` in which it is done.

    The copy is written once. In it, llama.cpp does not see how a LLaVA-1.6 cuts pictures: that is ours to do. `quant`
    "q8_0" stores the large matrices in half the room.
    Raise `ModelUnusable` if the file cannot be used at all, `NotEnoughRoom` if there is no place for the copy.
    """
    identity = _identity(path)
    header = read_header(path)
    check_projector(header)
    copy, notes = _mended(header, quant)
    if copy.is_the_same:
        return RepairedProjector(path, notes)
    target = _copy_path(copy, identity, cache_dir)
    fresh = not copy.is_written(target)
    if fresh:
        copy.make_room(target.parent)
        copy.write(target)
        if _identity(path) != identity:
            target.unlink()
            raise ModelUnusable(header.name, "the file was changed while it was copied", hint="try again")
        check_projector(read_header(target))
    return RepairedProjector(target, notes, fresh)


def repaired_copies(path: Path, cache_dir: Path) -> list[Path]:
    """Return the copies that were written of a projector; none if the file cannot be read."""
    try:
        header = read_header(path)
    except ModelUnusable:
        return []
    copies = (_copy_path(_mended(header, quant)[0], _identity(path), cache_dir) for quant in PROJECTOR_QUANTS)
    return [copy for copy in dict.fromkeys(copies) if copy.exists()]


def _mended(header: GgufHeader, quant: str) -> tuple[GgufCopy, tuple[str, ...]]:
    """Return the file as llama.cpp should see it, and what is said about the difference."""
    add: dict[str, tuple[str, Any]] = {}
    drop: list[str] = []
    notes: list[str] = []
    rename = todays_names(header)
    if rename:
        notes.append("some of its tensors have names that old converters gave them")
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
    if last_norm := [name for name in header.tensors if name.startswith("v.post_ln.")]:
        drop += last_norm
        notes.append("its last norm is taken out: LLaVA reads the picture in front of it")
    if is_siglip(header) and not (header.metadata.get("clip.use_gelu") or header.metadata.get("clip.use_silu")):
        add["clip.use_gelu"] = ("bool", True)
        notes.append("a SigLIP tower: its activation is GELU, which old converters did not know by its name")
    pinpoints = header.metadata.get(PINPOINTS)
    if isinstance(pinpoints, GgufArray):
        add[HIDDEN_PINPOINTS] = (header.types[PINPOINTS], pinpoints.values())
        drop.append(PINPOINTS)
    small = large_matrices(header) if quant == "q8_0" else ()
    if small:
        add["general.file_type"] = ("u32", _MOSTLY_Q8_0)
        notes.append("its matrices are used as Q8_0, in half the memory, as projector_quant says")
    return GgufCopy(header, add, drop, rename, small), tuple(notes)


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


def _copy_path(copy: GgufCopy, identity: tuple[int, ...], cache_dir: Path) -> Path:
    # Two fine-tunes have the same header and other tensors. Hashing 600 MB takes half a second from memory, but ten
    # from an SD card, at every start; so the data is known as `make` knows it: by its place, size and time.
    facts = repr((_REPAIR_VERSION, identity)).encode()
    key = hashlib.sha256(hashlib.sha256(copy.header.raw).digest() + hashlib.sha256(copy.head).digest() + facts)
    return cache_dir / "projectors" / f"{key.hexdigest()[:32]}.gguf"
