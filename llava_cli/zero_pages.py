"""Gives memory back to the system that llama.cpp has taken and only zeroed: most of a context window is never used.

A new KV cache is filled with zeros, which makes all of it resident: 1.07 GB for 2,048 cells of a 7B model, of which one
picture and its answer use a third. A page that Linux has taken back reads as zeros again, so nobody sees a difference.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PIECE = 1 << 20
"""Bytes that are looked at and given back together; the tensors of a KV cache are 4 MB and more."""
_LARGE = 16 << 20
"""Smaller areas are not worth a look."""
_MADV_DONTNEED = 4

Range = tuple[int, int]
"""From and to, as addresses."""


@contextmanager
def zero_pages_given_back() -> Iterator[None]:
    """Give back, at the end, the pages that were made inside and hold nothing but zeros. Only Linux can do that.

    Nobody but Python's own threads may be at work at the end: these wait until it is done.
    """
    before = _private_memory()
    yield
    interval = sys.getswitchinterval()
    # Whoever wrote to a page between the look and the giving back would lose what was written.
    sys.setswitchinterval(3600)
    try:
        for area in _private_memory():
            for start, end in _without(area, before):
                if end - start >= _LARGE:
                    _give_back(start, end)
    finally:
        sys.setswitchinterval(interval)


def _give_back(start: int, end: int) -> None:
    libc = ctypes.PyDLL(None)  # unlike CDLL it keeps Python's lock, so that no other thread runs
    libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    zeros = ctypes.create_string_buffer(_PIECE)
    for piece in range(-(-start // _PIECE) * _PIECE, end - _PIECE + 1, _PIECE):
        if libc.memcmp(piece, zeros, _PIECE) == 0:
            libc.madvise(piece, _PIECE, _MADV_DONTNEED)


def _private_memory() -> list[Range]:
    """Return the areas of private memory that no file stands behind, in order; none if this system does not tell."""
    text = ""
    if sys.platform == "linux":
        with suppress(OSError):
            text = Path("/proc/self/maps").read_text()
    areas = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ 0 *$", text, flags=re.MULTILINE)
    return [(int(start, 16), int(end, 16)) for start, end in areas]


def _without(area: Range, others: list[Range]) -> Iterator[Range]:
    """Yield what of `area` is in none of `others`, which are in order."""
    start, end = area
    for other_start, other_end in others:
        if other_end <= start or other_start >= end:
            continue
        if other_start > start:
            yield start, other_start
        start = max(start, other_end)
    if start < end:
        yield start, end
