"""Turns about pictures, as a list that can be taken back, asked again, gone on with and shortened.

The KV cache follows the list by itself: whatever is changed here, only what is new is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from llava_cli.errors import UsageError
from llava_cli.pictures import Picture, RememberedPicture, open_picture
from llava_cli.reply import Decision, Reply
from llava_cli.schemas import AnswerSchema, as_schema
from llava_cli.settings import LoadOptions, Sampling

PictureSource = str | os.PathLike[str] | bytes | Picture | RememberedPicture
"""A path, the bytes of a picture file, a `Picture`, or one that an earlier process has seen."""


class Answering(Protocol):
    """What a chat needs of a model."""

    sampling: Sampling

    @property
    def context(self) -> int: ...

    def count(self, messages: Sequence[Mapping[str, Any]]) -> int: ...

    def reply(
        self,
        messages: Sequence[Mapping[str, Any]],
        sampling: Sampling,
        on_end: Callable[[str], None],
        schema: AnswerSchema | None = None,
    ) -> Reply: ...


class Opened(Answering, Protocol):
    """What a session needs of a model that is open, here or on another server."""

    @property
    def options(self) -> LoadOptions | None:
        """Return how it was opened; None if that is another server's affair."""
        ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def chat(self, *, system: str | None = None, messages: Sequence[Mapping[str, Any]] = ()) -> Chat: ...

    def choose(
        self,
        picture: PictureSource | Sequence[PictureSource] | None,
        question: str,
        choices: Sequence[str],
        *,
        system: str | None = None,
        after: Sequence[Mapping[str, Any]] = (),
    ) -> Decision: ...

    def prepare(self, picture: PictureSource) -> None: ...

    def rewind(self) -> None: ...

    def seen(self, picture: PictureSource) -> list[Picture]: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...

    def facts(self) -> dict[str, Any]: ...


class Chat:
    """Turns about pictures. Only what is new is read; a picture is read once."""

    def __init__(self, model: Answering, system: str | None, messages: Sequence[Mapping[str, Any]] = ()) -> None:
        self._model = model
        self.system = system
        """The system sentence; None is the layout's own. Another one counts from the next question on."""
        self.dropped = 0
        """Turns that had to go because the window was full."""
        self._turns = [dict(message) for message in messages]
        self._reply: Reply | None = None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Return the finished turns, OpenAI-shaped, the system message first if there is one."""
        return [*self._opening(), *self._turns]

    @property
    def pictures(self) -> list[Picture | RememberedPicture]:
        """Return the pictures of the finished turns, the oldest first."""
        return [part["picture"] for turn in self._turns for part in _pictures_of(turn)]

    @property
    def cells(self) -> int:
        """Return how many cells of the window the finished turns take."""
        return self._model.count(self.messages) if self._turns else 0

    def send(
        self,
        text: str,
        *,
        picture: PictureSource | Sequence[PictureSource] | None = None,
        schema: AnswerSchema | Mapping[str, Any] | str | None = None,
        **sampling: Any,
    ) -> Reply:
        """Say `text`, with new pictures if any, and return the reply; an unfinished earlier one ends here.

        With a `schema`, the model writes JSON that satisfies it; `Reply.parsed` is that as Python objects.
        When the window is full, the oldest turns are dropped (`dropped`); their pictures stay.
        """
        if not text.strip():
            raise UsageError("question", "it is empty")
        self._end_reply()
        return self._answer([*self._turns, question_of(text, picture)], sampling, as_schema(schema))

    def retry(self, **sampling: Any) -> Reply:
        """Answer the last question again, with another seed; the new answer takes the place of the old one."""
        self._end_reply()
        self._require_turn("there is no question to ask again")
        return self._answer(self._turns[:-1], {"seed": None, **sampling})

    def go_on(self, **sampling: Any) -> Reply:
        """Go on with the last answer where it ended; the reply's text is what comes behind it."""
        self._end_reply()
        self._require_turn("there is no answer to go on with")
        return self._answer(self._turns, sampling)

    @property
    def last_turn(self) -> tuple[str, str]:
        """Return the last question and its answer."""
        self._require_turn("there is none yet")
        return text_of(self._turns[-2]), self._turns[-1]["content"]

    def undo(self) -> tuple[str, list[Picture | RememberedPicture]]:
        """Take the last question and its answer back; return its text and its pictures."""
        self._end_reply()
        self._require_turn("there is nothing to take back")
        question = self._turns[-2]
        self._turns = self._turns[:-2]
        return text_of(question), [part["picture"] for part in _pictures_of(question)]

    def drop(self, number: int) -> Picture | RememberedPicture:
        """Take picture `number`, from 0, out of the turn it was shown in; what was said stays."""
        self._end_reply()
        at = [(turn, part) for turn in self._turns for part in _pictures_of(turn)]
        turn, dropped = at[number]
        # A new turn: `messages` has given the old one away.
        without = {**turn, "content": [part for part in turn["content"] if part is not dropped]}
        self._turns = [without if one is turn else one for one in self._turns]
        picture: Picture | RememberedPicture = dropped["picture"]
        return picture

    def _answer(
        self, turns: Sequence[dict[str, Any]], sampling: Mapping[str, Any], schema: AnswerSchema | None = None
    ) -> Reply:
        chosen = replace(self._model.sampling, **sampling)
        asked, dropped = self._fitted(turns, chosen.max_tokens)
        begun = asked.pop()["content"] if asked[-1]["role"] == "assistant" else ""

        def remember(answer: str) -> None:
            if reply.is_worth_keeping:
                self._turns = [*asked, {"role": "assistant", "content": begun + answer}]
                self.dropped += dropped

        opened = [{"role": "assistant", "content": begun}] if begun else []
        self._reply = reply = self._model.reply([*self._opening(), *asked, *opened], chosen, remember, schema)
        return reply

    def _fitted(self, turns: Sequence[dict[str, Any]], max_tokens: int) -> tuple[list[dict[str, Any]], int]:
        """Return `turns` without the oldest, if all of them leave too little room for an answer, and how many went.

        Then a quarter of the window becomes free: reading what is left of the turns takes its time, and must not
        come back with every question. The pictures move on to the next question, so they need not be read again.
        """
        window, kept, dropped = self._model.context, list(turns), 0
        room = window - min(max_tokens, window // 4)
        # A window of which nobody knows the size is the server's affair.
        if window and len(kept) > 2 and self._model.count([*self._opening(), *kept]) > room:
            while len(kept) > 2 and self._model.count([*self._opening(), *kept]) > room - window // 4:
                oldest, _, following, *rest = kept
                content = [*_pictures_of(oldest), *_parts(following)]
                kept = [{**following, "content": content}, *rest]
                dropped += 1
        return kept, dropped

    def _opening(self) -> list[dict[str, Any]]:
        return [] if self.system is None else [{"role": "system", "content": self.system}]

    def _require_turn(self, why: str) -> None:
        if not self._turns:
            raise UsageError("chat", why, hint="ask a question first")

    def _end_reply(self) -> None:
        if self._reply is not None:
            self._reply.close()
            self._reply = None


def question_of(text: str, picture: PictureSource | Sequence[PictureSource] | None) -> dict[str, Any]:
    """Return a question with its pictures as a message."""
    return {"role": "user", "content": [*_picture_parts(picture), {"type": "text", "text": text}]}


def _picture_parts(source: PictureSource | Sequence[PictureSource] | None) -> list[dict[str, Any]]:
    if source is None:
        return []
    several = [source] if isinstance(source, str | os.PathLike | bytes | Picture | RememberedPicture) else source
    return [{"type": "picture", "picture": opened(one)} for one in several]


def opened(source: PictureSource) -> Picture | RememberedPicture:
    """Open a picture, unless it is one already, or one that is known without its pixels."""
    return source if isinstance(source, RememberedPicture) else open_picture(source)


def _parts(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = turn["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _pictures_of(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [part for part in _parts(turn) if part["type"] == "picture"]


def text_of(turn: Mapping[str, Any]) -> str:
    """Return what was said in a turn, without its pictures."""
    return "\n".join(part["text"] for part in _parts(turn) if part["type"] == "text")
