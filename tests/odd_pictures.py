"""Odd and bad pictures, made here and fetched from nowhere, each with what must become of it.

    python -m tests.odd_pictures DIR

writes them all as files, for other programs to try, and `expected.json`: of each the sentence of its refusal, or
width and height.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests import odd_refused, odd_seen
from tests.drawings import Levels


@dataclass(frozen=True)
class Odd:
    """One file. Either it is refused, or it is seen as these levels."""

    name: str
    data: bytes
    refused: tuple[str, str] | None = None
    """Why, and the hint."""
    seen: Levels | None = None
    """Rows, columns, 3."""
    off_by: int = 0
    """How many levels the worst may differ: lossy formats, and rounding."""


def _refused(group: str, files: Iterator[odd_refused.Refused]) -> Iterator[Odd]:
    for number, (why, hint, data) in enumerate(files):
        yield Odd(f"{group} {number:02}", data, refused=(why, hint))


def _seen(group: str, files: Iterator[odd_seen.Seen]) -> Iterator[Odd]:
    for name, data, levels, off_by in files:
        yield Odd(f"{group}, {name}", data, seen=levels.astype(np.uint8), off_by=off_by)


_REFUSED: dict[str, Callable[[], Iterator[odd_refused.Refused]]] = {
    "no picture": odd_refused.no_pictures,
    "cut": odd_refused.cut,
    "damaged": odd_refused.damaged,
    "too large": odd_refused.too_large,
    "pieces": odd_refused.in_pieces,
}
_SEEN: dict[str, Callable[[], Iterator[odd_seen.Seen]]] = {
    "pixels": odd_seen.pixels,
    "16 bits": odd_seen.deep,
    "alpha": odd_seen.transparent,
    "inks": odd_seen.inked,
    "profiles": odd_seen.profiled,
    "orientation": odd_seen.orientations,
    "broken EXIF": odd_seen.broken_exif,
    "frames": odd_seen.animated,
    "many values": odd_seen.many_values,
    "shapes": odd_seen.shapes,
}
GROUPS = (*_REFUSED, *_SEEN)


def drawn(group: str) -> list[Odd]:
    """Draw the files of one group."""
    return list(_refused(group, _REFUSED[group]()) if group in _REFUSED else _seen(group, _SEEN[group]()))


def write(directory: Path) -> list[Odd]:
    """Write all of them into a directory, under their names."""
    everything = [odd for group in GROUPS for odd in drawn(group)]
    for odd in everything:
        (directory / odd.name).write_bytes(odd.data)
    return everything


def main() -> None:
    """Write them where the command line says."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    expected = {
        odd.name: odd.refused[0]
        if odd.refused
        else [odd.seen.shape[1], odd.seen.shape[0]]
        if odd.seen is not None
        else ""
        for odd in write(directory)
    }
    (directory / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")


if __name__ == "__main__":
    main()
