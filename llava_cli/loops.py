"""Tells an answer that has begun to repeat itself and would do so until its longest length."""

from __future__ import annotations

from collections.abc import Sequence

_LOOKED_AT = 128
"""Tokens at the end of an answer that must be one run, again and again: what is said four times is no loop yet."""
_LONGEST_RUN = 32


def is_loop(tokens: Sequence[int]) -> bool:
    """Tell whether the last tokens of an answer are the same few over and over."""
    end = list(tokens[-_LOOKED_AT:])
    return len(end) == _LOOKED_AT and any(end[run:] == end[:-run] for run in range(1, _LONGEST_RUN + 1))
