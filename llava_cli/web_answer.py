"""One answer as a page of `llava web` shows it: what it waits for, what is written, and what it took."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_cli.chat import text_of
from llava_cli.engine import Began, End, Event, Job, Piece, Stage
from llava_cli.errors import LlavaError, Stopped
from llava_cli.render import stage_words
from llava_cli.reply import CUT_SHORT, Reply
from llava_cli.sanitiser import sanitise
from llava_cli.stage_line import elapsed

_WAY_OUT = {"length": ", which the settings can raise", "loop": "; retry draws another"}


@dataclass(frozen=True)
class View:
    """What a page shows of its chat."""

    messages: list[dict[str, str]]
    """Each with `role` and `content`, Markdown that hides nothing."""
    status: str = ""
    error: LlavaError | None = None
    draft: str | None = None
    """What is to stand in the line for the next question; None leaves it as it is."""
    is_busy: bool = False
    """Whether an answer is waited for or written."""


class Answer:
    """One answer, from the queue to its end. It hears of itself in the thread of the engine."""

    def __init__(self, question: str, before: list[dict[str, Any]], draft: str | None = None) -> None:
        self.question = question
        self.draft = draft
        """What was typed, to be given back if there is no answer."""
        self.job: Job | None = None
        self.reply: Reply | None = None
        self.error: LlavaError | None = None
        self.has_ended = False
        self._before = before
        self._written = ""
        self._stage: Stage | None = None
        self._since = time.monotonic()
        self._has_begun = False
        self._news = threading.Event()

    def hear(self, event: Event) -> None:
        match event:
            case Began():
                self._has_begun = True
            case Stage():
                self._stage, self._since = event, time.monotonic()
            case Piece():
                self._written += event.value
            case End():
                if not isinstance(event.error, Stopped):
                    self.error = _as_error(event.error)
                self.has_ended = True
        self._news.set()

    def wait(self, seconds: float) -> None:
        """Return when there is news, or after some seconds."""
        self._news.wait(seconds)
        self._news.clear()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Return the turns as they are while it is being written."""
        asked = {"role": "user", "content": self.question}
        written = [{"role": "assistant", "content": self._written}] if self._written else []
        return [*self._before, asked, *written]

    @property
    def has_failed(self) -> bool:
        """Tell whether it has ended without a word."""
        return self.has_ended and (self.reply is None or not self.reply.is_worth_keeping)

    def status(self) -> str:
        """Say what it waits for; in the end, what it took."""
        if self.has_failed:
            return "" if self.error else "stopped before the answer began"
        if self.has_ended and self.reply is not None:
            return _in_numbers(self.reply)
        ahead = self.job.ahead if self.job is not None and not self._has_begun else 0
        if ahead:
            return f"waiting: {ahead} {'question comes' if ahead == 1 else 'questions come'} first"
        if self._stage is None or self._stage.name == "writing":
            return "writing…" if self._stage else "beginning…"
        taken = elapsed(time.monotonic() - self._since, self._stage.amount.seconds)
        return f"{stage_words(self._stage.name, self._stage.amount)}… {taken}"


def shown(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the turns as a page shows them, without system sentence and pictures."""
    return [{"role": turn["role"], "content": harmless(text_of(turn))} for turn in messages if turn["role"] != "system"]


_FENCED = r"^ {0,3}(?P<fence>```+|~~~+)[^\n]*\n.*?(?:^ {0,3}(?P=fence)[`~]*[ \t]*$|\Z)"
_QUOTED = r"(?P<quote>`+)(?!`).+?(?<!`)(?P=quote)(?!`)"
_CODE = re.compile(f"{_FENCED}|{_QUOTED}", re.MULTILINE | re.DOTALL)


def harmless(text: str) -> str:
    """Return Markdown that shows every tag as it is written, no picture, and no address behind other words."""
    parts, at = [], 0
    for code in _CODE.finditer(text):
        parts += [_harmless_prose(text[at : code.start()]), code[0]]
        at = code.end()
    return sanitise("".join([*parts, _harmless_prose(text[at:])]))


def _harmless_prose(text: str) -> str:
    # Written as entities, these are letters and no markup; `](`, `][` and `]:` are what makes links and pictures.
    return re.sub(r"[<&]|\](?=[(\[:])", lambda sign: _ENTITIES[sign[0]], text)


_ENTITIES = {"<": "&lt;", "&": "&amp;", "]": "&#93;"}


def _in_numbers(reply: Reply) -> str:
    usage = reply.usage
    said = [f"first word after {usage.first_token_seconds:.1f} s"]
    if usage.tokens_per_second:
        said.append(f"{usage.tokens_per_second:.1f} tokens/s")
    if usage.picture_cells and not usage.pictures_encoded and usage.reused_cells > usage.picture_cells:
        said.append("the picture was not read again")
    if reply.finish_reason in CUT_SHORT:
        said.append(CUT_SHORT[reply.finish_reason] + _WAY_OUT.get(reply.finish_reason, ""))
    return " · ".join(said)


def _as_error(error: BaseException | None) -> LlavaError | None:
    if error is None or isinstance(error, LlavaError):
        return error
    return LlavaError("unexpected", f"{type(error).__name__}: {error}", hint="please report it")
