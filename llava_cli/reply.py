"""An answer being written, and what it took."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llava_cli.settings import Sampling


@dataclass
class Reading:
    """What is known of an answer while it is written: what reading took, and how it ends. 0: nothing is known."""

    reused: int = 0
    """Cells that were in the cache already, or came back from disk."""
    new: int = 0
    """Cells evaluated."""
    picture_cells: int = 0
    """Those of both that are of pictures."""
    pictures_encoded: int = 0
    look_seconds: float = 0.0
    read_seconds: float = 0.0
    finish_reason: str = ""
    """Why the answer ended: `stop`, `length` (max_tokens), `context` (window full) or `stopped` (by the user);
    or what another server calls its reason, and `failed` if that gave up."""
    answer_tokens: int = 0


Begin = Callable[[int], tuple[Iterator[str], Reading]]
"""Begins an answer with a seed: a generator of its pieces, and what becomes known of it meanwhile."""


@dataclass(frozen=True)
class Usage:
    """What one reply took. Cells are tokens and picture tokens together; times are seconds."""

    prompt_cells: int
    picture_cells: int
    """Those of them that are of pictures."""
    reused_cells: int
    new_cells: int
    pictures_encoded: int
    answer_tokens: int
    look_seconds: float
    read_seconds: float
    first_token_seconds: float
    """From the question to the first piece of the answer."""
    write_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Return the speed of writing; the first token comes out of reading and does not count."""
        return (self.answer_tokens - 1) / self.write_seconds if self.write_seconds > 0 else 0.0


class Reply:
    """An answer being written: iterate for its pieces, or take `text`, which waits for the end."""

    def __init__(self, begin: Begin, sampling: Sampling, on_end: Callable[[str], None]) -> None:
        self.seed = random.randrange(2**32 - 1) if sampling.seed is None else sampling.seed
        """The seed this answer is written with."""
        self.sampling = sampling
        self.asked_at = time.time()
        """When it was asked for, seconds since the epoch."""
        self._asked = time.monotonic()
        self._first = 0.0
        self._last = 0.0
        self._text = ""
        self._on_end: Callable[[str], None] | None = on_end
        self._pieces, self._reading = begin(self.seed)

    def __iter__(self) -> Iterator[str]:
        """Yield the answer piece by piece, as it is written."""
        for piece in self._pieces:
            self._last = time.monotonic()
            if piece:
                self._first = self._first or self._last
                self._text += piece
                yield piece
        self.close()

    def __str__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        """Return the whole answer, waiting for it if need be."""
        for _ in self:
            continue
        return self._text

    @property
    def so_far(self) -> str:
        """Return what has been written up to now."""
        return self._text

    @property
    def finish_reason(self) -> str:
        """Return why it ended: `stop`, `length`, `context` or `stopped`; empty while it is being written."""
        return self._reading.finish_reason if self._on_end is None else ""

    @property
    def is_worth_keeping(self) -> bool:
        """Tell whether it says anything: one that was stopped before its first word does not."""
        return bool(self._text) or self.finish_reason == "stop"

    @property
    def usage(self) -> Usage:
        """Return the numbers so far; final once the reply has ended."""
        reading, first = self._reading, self._first or self._last
        return Usage(
            prompt_cells=reading.reused + reading.new,
            picture_cells=reading.picture_cells,
            reused_cells=reading.reused,
            new_cells=reading.new,
            pictures_encoded=reading.pictures_encoded,
            answer_tokens=reading.answer_tokens,
            look_seconds=reading.look_seconds,
            read_seconds=reading.read_seconds,
            first_token_seconds=max(0.0, first - self._asked),
            write_seconds=max(0.0, self._last - first),
        )

    def close(self) -> None:
        """End the answer where it is; what was written stays in the chat."""
        if self._on_end is None:
            return
        self._pieces.close()  # type: ignore[attr-defined] # a generator
        remember, self._on_end = self._on_end, None
        remember(self._text)
