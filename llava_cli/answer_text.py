"""Turns the bytes of tokens into text: whole characters, stop strings cut, blank ends dropped."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence


class PieceDecoder:
    """Decode an answer piece by piece; nothing is yielded that a later piece could still take back.

    Held back: bytes of an unfinished character, text that may be the beginning of a stop string, and white space,
    which is dropped at both ends of an answer. One that `is_begun` already joins what was written before.
    """

    def __init__(self, stop: Sequence[str], *, is_begun: bool = False) -> None:
        self._stop = [s for s in stop if s]
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._begun = is_begun
        self.stopped = False
        """A stop string has been written; nothing more comes."""

    def feed(self, data: bytes) -> Iterator[str]:
        """Take the bytes of one token and yield what is certain now."""
        yield from self._release(self._held + self._utf8.decode(data))

    def finish(self) -> Iterator[str]:
        """Yield what was held back, once the answer has ended."""
        text = (self._held + self._utf8.decode(b"", final=True)).rstrip()
        self._held = ""
        if text and not self.stopped:
            yield text if self._begun else text.lstrip()

    def _release(self, text: str) -> Iterator[str]:
        if self.stopped:
            return
        # Of two, the one that was complete first: so it does not matter where tokens split them.
        _, cut = min(((at + len(s), at) for s in self._stop if (at := text.find(s)) >= 0), default=(0, -1))
        if cut >= 0:
            self.stopped = True
            safe = text[:cut].rstrip()
            self._held = ""
        else:
            safe = text[: len(text) - self._unsure(text)].rstrip()
            self._held = text[len(safe) :]
        if not self._begun:
            safe = safe.lstrip()
        if safe:
            self._begun = True
            yield safe

    def _unsure(self, text: str) -> int:
        """Return the length of the longest end of `text` that begins a stop string."""
        return max(
            (n for s in self._stop for n in range(1, min(len(s), len(text)) + 1) if text.endswith(s[:n])),
            default=0,
        )
