"""Keeps what the engine was doing, and said last, in memory that outlives its process.

llama.cpp ends the whole process when it fails badly. A process that has called `share` before it forked can still read
there what its child has written. Without `share`, nothing is kept.
"""

from __future__ import annotations

import mmap
from typing import Literal

Name = Literal["stage", "complaint", "turn", "answer", "task"]

_ROOM: dict[Name, tuple[int, int]] = {
    "stage": (0, 64),
    "complaint": (64, 4032),
    "turn": (4096, 1 << 19),
    "answer": (4096 + (1 << 19), 1 << 19),
    "task": (4096 + (1 << 20), 4096),
}
"""Where each text begins, and how many bytes there are for it; memory is taken only where something is written."""

_LENGTH = 4
_shared: mmap.mmap | None = None


def share() -> None:
    """Begin to keep words for whoever forks from here, and for this process."""
    global _shared  # noqa: PLW0603 - one per process, as the engine is
    _shared = mmap.mmap(-1, sum(room for _, room in _ROOM.values()))


def are_kept() -> bool:
    """Tell whether anybody can read them later."""
    return _shared is not None


def say(name: Name, text: str) -> None:
    """Put `text` in the place of what was said before; what is too long loses its end."""
    if _shared is None:
        return
    start, room = _ROOM[name]
    data = text.encode("utf-8", "replace")[: room - _LENGTH]
    # The length last: whoever dies in between has said nothing.
    _shared[start : start + _LENGTH] = bytes(_LENGTH)
    _shared[start + _LENGTH : start + _LENGTH + len(data)] = data
    _shared[start : start + _LENGTH] = len(data).to_bytes(_LENGTH, "little")


def said(name: Name) -> str:
    """Return what was said last."""
    if _shared is None:
        return ""
    start = _ROOM[name][0]
    length = int.from_bytes(_shared[start : start + _LENGTH], "little")
    return _shared[start + _LENGTH : start + _LENGTH + length].decode("utf-8", "ignore")
