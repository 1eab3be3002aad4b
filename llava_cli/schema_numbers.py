"""Writes ranges of numbers down as rules of a grammar, digit by digit."""

from __future__ import annotations

from collections.abc import Iterator

DIGITS = 15
"""The longest number, and the longest fraction: as many digits as every reader of JSON keeps."""


def numerals(kind: str, low: int, high: int | None) -> list[str]:
    """Return rules for the numbers from `low` to `high`, neither below zero."""
    if kind == "integer":
        return list(_digits(low, high))
    if high is None:
        return [f"{one} fraction?" for one in _digits(low, None)]
    whole = [] if high == low else [f"{one} fraction?" for one in _digits(low, high - 1)]
    return [*whole, f'"{high}" ("." "0"{{1,{DIGITS}}})?']


def _digits(low: int, high: int | None) -> Iterator[str]:
    """Yield rules for the whole numbers from `low` to `high`, by how many digits they have."""
    for count in range(len(str(low)), (DIGITS if high is None else len(str(high))) + 1):
        first, last = max(low, 10 ** (count - 1) if count > 1 else 0), 10**count - 1
        yield from _between(str(first), str(last if high is None else min(last, high)))


def _between(low: str, high: str) -> Iterator[str]:
    """Yield rules for the numbers between two of as many digits."""
    rest = len(low) - 1
    zeros, nines = "0" * rest, "9" * rest
    if not low:
        yield ""
    elif low[0] == high[0]:
        yield from (f'"{low[0]}" {one}' for one in _between(low[1:], high[1:]))
    else:
        first, last = int(low[0]), int(high[0])
        if low[1:] != zeros:
            yield from (f'"{first}" {one}' for one in _between(low[1:], nines))
            first += 1
        if high[1:] != nines:
            yield from (f'"{last}" {one}' for one in _between(zeros, high[1:]))
            last -= 1
        if first <= last:
            yield f"[{first}-{last}]" + (f" [0-9]{{{rest}}}" if rest else "")
