"""An answer being written, and what it took."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from llava_cli import last_words
from llava_cli.choices import Choice
from llava_cli.errors import AnswerUnfit, Stopped
from llava_cli.odds import TokenOdds
from llava_cli.schemas import AnswerSchema
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
    """Why the answer ended: `stop`, `length` (max_tokens), `context` (window full), `loop` (it repeated itself) or
    `stopped` (by the user); or what another server calls its reason, and `failed` if that gave up."""
    answer_tokens: int = 0
    odds: list[TokenOdds] | None = None
    """How probable each token of the answer was, if that is wanted."""


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


CUT_SHORT = {
    "length": "the answer was cut at its longest length",
    "context": "the context window is full, so the answer stops here",
    "loop": "the answer began to repeat itself, so it was ended",
    "stopped": "stopped",
    "content_filter": "a filter of the server cut the answer",
}
"""What has happened to an answer that ended for this reason; a command adds its way out."""


class Reply:
    """An answer being written: iterate for its pieces, or take `text`, which waits for the end."""

    def __init__(
        self, begin: Begin, sampling: Sampling, on_end: Callable[[str], None], schema: AnswerSchema | None = None
    ) -> None:
        self.seed = random.randrange(2**32 - 1) if sampling.seed is None else sampling.seed
        """The seed this answer is written with."""
        self.sampling = sampling
        self.schema = schema
        """What the model was held to while it wrote."""
        self.asked_at = time.time()
        """When it was asked for, seconds since the epoch."""
        self._asked = time.monotonic()
        self._first = 0.0
        self._last = 0.0
        self._text = ""
        last_words.say("answer", "")
        self._on_end: Callable[[str], None] | None = on_end
        self._pieces, self._reading = begin(self.seed)

    def __iter__(self) -> Iterator[str]:
        """Yield the answer piece by piece, as it is written."""
        for piece in self._pieces:
            self._last = time.monotonic()
            if piece:
                self._first = self._first or self._last
                self._text += piece
                last_words.say("answer", self._text)
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
    def parameters(self) -> dict[str, Any]:
        """Return all that shaped this answer and not others of the same model: what it takes to ask again."""
        held = {} if self.schema is None else {"schema": self.schema.schema}
        return {**vars(self.sampling), "seed": self.seed, **held}

    @property
    def parsed(self) -> Any:
        """Return what the answer says as Python objects, waiting for it; raise `AnswerUnfit` if it is cut or not valid.

        Without a schema it is what it is: text.
        """
        text = self.text
        if self.schema is None:
            return text
        if self.finish_reason == "stopped":
            raise Stopped("answer", "it was stopped before it satisfied the schema")
        if self.finish_reason != "stop":
            why = _CUT.get(self.finish_reason, f"it ended before it satisfied the schema ({self.finish_reason})")
            raise AnswerUnfit("answer", why, hint=_MORE.get(self.finish_reason, ""))
        return self.schema.check(text)

    @property
    def so_far(self) -> str:
        """Return what has been written up to now."""
        return self._text

    @property
    def finish_reason(self) -> str:
        """Return why it ended: `stop`, `length`, `context`, `loop` or `stopped`; empty while it is being written."""
        return self._reading.finish_reason if self._on_end is None else ""

    @property
    def is_worth_keeping(self) -> bool:
        """Tell whether it says anything: one that was stopped before its first word does not."""
        return bool(self._text) or self.finish_reason == "stop"

    @property
    def reading(self) -> Reading:
        """Return what the handler counts meanwhile."""
        return self._reading

    @property
    def usage(self) -> Usage:
        """Return the numbers so far; final once the reply has ended."""
        first = self._first or self._last
        return usage_of(self._reading, max(0.0, first - self._asked), max(0.0, self._last - first))

    def close(self) -> None:
        """End the answer where it is; what was written stays in the chat."""
        if self._on_end is None:
            return
        self._pieces.close()  # type: ignore[attr-defined] # a generator
        remember, self._on_end = self._on_end, None
        remember(self._text)


@dataclass(frozen=True)
class Decision:
    """An answer that was chosen, not written: every choice with its probability, and what it took."""

    choices: tuple[Choice, ...]
    """In the order in which they were given."""
    usage: Usage
    asked_at: float
    """When it was asked for, seconds since the epoch."""
    finish_reason: str = "stop"
    seed: int = 0
    """Nothing is drawn."""

    @property
    def parameters(self) -> dict[str, Any]:
        """Return what it takes to ask again."""
        return {"choices": [choice.text for choice in self.choices]}

    @property
    def best(self) -> Choice:
        """Return the most probable choice, of equals the first."""
        return max(self.choices, key=lambda choice: choice.probability)

    @property
    def text(self) -> str:
        """Return the text of the best choice."""
        return self.best.text


def usage_of(reading: Reading, first_token_seconds: float, write_seconds: float) -> Usage:
    """Put together what reading the prompt took and what came after."""
    return Usage(
        prompt_cells=reading.reused + reading.new,
        picture_cells=reading.picture_cells,
        reused_cells=reading.reused,
        new_cells=reading.new,
        pictures_encoded=reading.pictures_encoded,
        answer_tokens=reading.answer_tokens,
        look_seconds=reading.look_seconds,
        read_seconds=reading.read_seconds,
        first_token_seconds=first_token_seconds,
        write_seconds=write_seconds,
    )


_CUT = {
    "length": "it was cut at its longest length, before it satisfied the schema",
    "context": "the context was full before it satisfied the schema",
    "loop": "it began to repeat itself before it satisfied the schema",
}
_MORE = {"length": "-n allows more tokens", "context": "--context makes it larger"}
