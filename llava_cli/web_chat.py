"""What the buttons of `llava web` do: a `Visitor` for each page that is open, with a chat of its own on one engine."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from llava_cli import transcript
from llava_cli.chat import Chat, text_of
from llava_cli.engine import Began, End, Engine, Event, Job, Piece, Stage
from llava_cli.errors import LlavaError, ModelMissing, Stopped, UnreadablePicture, UsageError
from llava_cli.history import History
from llava_cli.journal import Journal
from llava_cli.pictures import Picture
from llava_cli.render import stage_words
from llava_cli.sanitiser import sanitise
from llava_cli.settings import DEFAULT_QUESTION, Sampling, changed
from llava_cli.stage_line import elapsed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llava_cli.handler import StageListener
    from llava_cli.model import Model
    from llava_cli.reply import Reply

_MOST_VISITORS = 100
"""Pages that are remembered: a browser that vanishes does not say so."""
_TICK = 0.5
"""Seconds after which a page shows anew how long something takes."""

_CUT_SHORT = {
    "length": "the answer was cut at its longest length, which the settings can raise",
    "context": "the context is full, so the answer stops here",
    "stopped": "stopped",
}


@dataclass(frozen=True)
class Wishes:
    """What stands in the settings of a page."""

    model: str
    system: str | None
    temperature: float
    max_tokens: int

    def sampling(self) -> dict[str, Any]:
        """Return them as fields of `Sampling`; raise `UsageError` for what a browser cannot have sent."""
        checked = Sampling()
        for key in ("temperature", "max_tokens"):
            checked = changed(checked, key, str(getattr(self, key)))
        return {"temperature": checked.temperature, "max_tokens": checked.max_tokens}


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


class Models:
    """The models a visitor can choose, one of which is open. Use it with `with`."""

    def __init__(
        self,
        open_model: Callable[[str, StageListener], Model],
        first: str,
        others: Sequence[str],
        on_stage: StageListener,
    ) -> None:
        self.names = tuple(dict.fromkeys([first, *others]))
        self._open = open_model
        self._current: str | None = first
        self.engine = Engine(open_model(first, on_stage))

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()
        self.engine.model.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is worth saying about the open model; closing may add to it."""
        return self.engine.model.notes

    def is_open(self, name: str) -> bool:
        """Tell whether the model called `name` is the open one."""
        return name == self._current

    def opened(self, name: str) -> Model:
        """Return the model called `name`, in place of the open one if that is another; only work in its turn may."""
        if name not in self.names:
            raise ModelMissing(name, "it cannot be chosen here", hint=f"there are {', '.join(self.names)}")
        if not self.is_open(name):
            self._current = None
            self.engine.change(lambda on_stage: self._open(name, on_stage))
            self._current = name
        return self.engine.model


class Visitor:
    """One page: its picture, its chat, and the answer that is being written for it."""

    def __init__(self, models: Models, history: History, sampling: Sampling, client: str) -> None:
        self.sampling = sampling
        self.picture: Picture | None = None
        """What is asked about."""
        self._models = models
        self._history = history
        self._client = client
        self._model = models.engine.model
        self._answer: _Answer | None = None
        self._begin_anew()

    # What the chat needs of a model, whichever has the turn.

    @property
    def context(self) -> int:
        return self._model.context

    def count(self, messages: Sequence[Mapping[str, Any]]) -> int:
        return self._model.count(messages)

    def reply(self, *asked: Any, **more: Any) -> Reply:
        return self._model.reply(*asked, **more)

    # The picture.

    def show(self, picture: Picture) -> None:
        """Let the questions be about `picture` from now on; another one than before begins another chat."""
        self.picture = picture
        if any(one.sha256 != picture.sha256 for one in self.chat.pictures):
            self.clear()

    def look_ahead(self, name: str) -> None:
        """Let the model begin to look at the picture while its question is still typed, if that model is open."""
        picture = self.picture

        def work(model: Model) -> tuple[()]:
            if picture is not None and self._models.is_open(name):
                model.prepare(picture)
            return ()

        # It is a favour: that there is no place for it is no news.
        with suppress(LlavaError):
            self._models.engine.submit(work, lambda _: None, client=self._client)

    def seen(self) -> list[Picture]:
        """Return the squares the open model makes of the picture."""
        return [] if self.picture is None else self._models.engine.model.seen(self.picture)

    # The chat.

    def ask(self, question: str, wishes: Wishes) -> Iterator[View]:
        """Ask about the picture, and yield what the page shows until the answer is there."""
        if self.picture is None:
            yield self.view(error=no_picture(), draft=question)
            return
        asked = question.strip() or DEFAULT_QUESTION
        chat, journal = self.chat, self._journal
        new = [] if chat.pictures else [self.picture]

        def keep(reply: Reply) -> None:
            journal.write(reply, self._model, asked, new, chat.system)

        begin = partial(chat.send, asked, picture=new)
        yield from self._answered(_Answer(asked, chat.messages, draft=question), begin, keep, wishes)

    def retry(self, wishes: Wishes) -> Iterator[View]:
        """Answer the last question again, and yield what the page shows meanwhile."""
        chat, journal = self.chat, self._journal
        try:
            asked, _ = chat.last_turn
        except UsageError as error:
            yield self.view(error=error)
            return

        def keep(reply: Reply) -> None:
            journal.write_instead(reply, self._model, *chat.last_turn, chat.system)

        yield from self._answered(_Answer(asked, chat.messages[:-2]), chat.retry, keep, wishes)

    def undo(self) -> View:
        """Take the last question and its answer back; the question can be changed and sent again."""
        try:
            self._require_rest()
            question, _ = self.chat.undo()
            self._journal.take_back()
        except LlavaError as error:
            return self.view(error=error)
        self._answer = None
        return self.view(draft=question)

    def clear(self) -> View:
        """Begin a new chat; the picture stays. An answer under way is stopped and belongs to the old one."""
        self.stop()
        self._answer = None
        self._begin_anew()
        return self.view()

    def stop(self) -> None:
        """Stop the answer that is waited for or written; what was written stays."""
        if self._answer is not None and self._answer.job is not None:
            self._answer.job.stop()

    def view(self, *, error: LlavaError | None = None, draft: str | None = None) -> View:
        """Return what the page shows now."""
        answer = self._answer
        if answer is not None and not answer.has_ended:
            return View(shown(answer.messages), answer.status(), error, draft, is_busy=True)
        status = "" if answer is None else answer.status()
        return View(shown(self.chat.messages), status, error, draft)

    def transcript(self, kind: str, model: str) -> str:
        """Write the chat down as `md` or `json`; empty if there is nothing to write."""
        write = {"md": transcript.as_markdown, "json": transcript.as_json}[kind]
        return write(self.chat.messages, model) if self.chat.pictures else ""

    def _begin_anew(self) -> None:
        # New objects, not emptied ones: an answer that is just ending still writes into the old.
        self.chat = Chat(self, None)
        self._journal = Journal(self._history)

    def _require_rest(self) -> None:
        if self._answer is not None and not self._answer.has_ended:
            raise UsageError("chat", "an answer is being written", hint="wait for its end, or stop it")

    def _answered(
        self,
        answer: _Answer,
        begin: Callable[..., Reply],
        keep: Callable[[Reply], None],
        wishes: Wishes,
    ) -> Iterator[View]:
        """Let an answer be written in its turn, and yield what the page shows until it has ended."""
        chat = self.chat

        def work(_model: Model) -> Iterator[str]:
            self._model = self._models.opened(wishes.model)
            chat.system = wishes.system
            answer.reply = reply = begin(**sampling)
            try:
                yield from reply
            finally:
                reply.close()
                if reply.is_worth_keeping:
                    keep(reply)

        try:
            self._require_rest()
            sampling = wishes.sampling()
            answer.job = self._models.engine.submit(work, answer.hear, client=self._client)
        except LlavaError as error:
            yield self.view(error=error, draft=answer.draft)
            return
        self._answer = answer
        yield self.view(draft="")
        try:
            has_ended = False
            while not has_ended:
                answer.wait(_TICK)
                # Asked before the view is made, so that the last one shows all there is.
                has_ended = answer.has_ended
                if self._answer is not answer:
                    return  # the chat has been cleared
                yield self.view(error=answer.error, draft=answer.draft if answer.has_failed else None)
        finally:
            # Whoever has left waits for nothing.
            answer.job.stop()


class _Answer:
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


class Visitors:
    """Every page that is open, by the name its browser session has."""

    def __init__(self, models: Models, history: History, sampling: Sampling) -> None:
        self.models = models
        self._history, self._sampling = history, sampling
        self._known: OrderedDict[str, Visitor] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, name: str) -> Visitor:
        """Return the visitor of a browser session, a new one if it is not known."""
        with self._lock:
            visitor = self._known.pop(name, None) or Visitor(self.models, self._history, self._sampling, name)
            self._known[name] = visitor
            if len(self._known) > _MOST_VISITORS:
                self._known.popitem(last=False)[1].stop()
        return visitor

    def leave(self, name: str) -> None:
        """Forget a page that was closed, and stop what it waits for."""
        with self._lock:
            visitor = self._known.pop(name, None)
        if visitor is not None:
            visitor.stop()


def no_picture() -> UnreadablePicture:
    """Return what is said to a question about nothing."""
    return UnreadablePicture("picture", "there is none yet", hint="choose one, paste one or take one, then ask again")


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
    if reply.finish_reason in _CUT_SHORT:
        said.append(_CUT_SHORT[reply.finish_reason])
    return " · ".join(said)


def _as_error(error: BaseException | None) -> LlavaError | None:
    if error is None or isinstance(error, LlavaError):
        return error
    return LlavaError("unexpected", f"{type(error).__name__}: {error}", hint="please report it")
