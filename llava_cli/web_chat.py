"""What the buttons of `llava web` do: a `Visitor` for each page that is open, with a chat of its own on one engine."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from llava_cli import transcript
from llava_cli.chat import Chat
from llava_cli.engine import Engine
from llava_cli.errors import LlavaError, ModelMissing, UnreadablePicture, UsageError
from llava_cli.history import History
from llava_cli.journal import Journal
from llava_cli.pictures import Picture, RememberedPicture
from llava_cli.settings import DEFAULT_QUESTION, Sampling, changed
from llava_cli.web_answer import Answer, View, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llava_cli.handler import StageListener
    from llava_cli.model import Model
    from llava_cli.reply import Reply

_MOST_VISITORS = 100
"""Pages that are remembered: a browser that vanishes does not say so."""
_TICK = 0.5
"""Seconds after which a page shows anew how long something takes."""


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
        self._said: tuple[str, ...] = ()
        """The notes of those that were open before."""

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()
        self.engine.model.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is worth saying about the models that are or were open, the oldest first; closing may add."""
        return tuple(dict.fromkeys((*self._said, *self.engine.model.notes)))

    def is_open(self, name: str) -> bool:
        """Tell whether the model called `name` is the open one."""
        return name == self._current

    def opened(self, name: str) -> Model:
        """Return the model called `name`, in place of the open one if that is another; only work in its turn may."""
        if name not in self.names:
            raise ModelMissing(name, "it cannot be chosen here", hint=f"there are {', '.join(self.names)}")
        if not self.is_open(name):
            self._current = None
            before = self.engine.model
            try:
                self.engine.change(lambda on_stage: self._open(name, on_stage))
            finally:
                self._said = tuple(dict.fromkeys((*self._said, *before.notes)))  # closing may have added to them
            self._current = name
        return self.engine.model


class Visitor:
    """One page: its picture, its chat, and the answer that is being written for it."""

    def __init__(self, models: Models, history: History, sampling: Sampling, client: str) -> None:
        self.sampling = sampling
        self.picture: Picture | RememberedPicture | None = None
        """What is asked about. A page may stay open for days: its pixels are kept only if others share them."""
        self._models = models
        self._history = history
        self._client = client
        self._model = models.engine.model
        self._answer: Answer | None = None
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

    def show(self, picture: Picture | RememberedPicture) -> None:
        """Let the questions be about `picture` from now on; another one than before begins another chat."""
        self.picture = picture
        if any(one.sha256 != picture.sha256 for one in self.chat.pictures):
            self.clear()

    def look_ahead(self, name: str) -> None:
        """Let the model begin to look at the picture while its question is still typed, if that model is open."""
        picture = self.picture

        def work(model: Model) -> tuple[()]:
            if picture is not None and self._models.is_open(name):
                model.prepare(_with_pixels(picture))
            return ()

        # It is a favour: that there is no place for it is no news.
        with suppress(LlavaError):
            self._models.engine.submit(work, lambda _: None, client=self._client)

    def seen(self, picture: Picture) -> list[Picture]:
        """Return the squares the open model makes of a picture."""
        return self._models.engine.model.seen(picture)

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
            journal.write(reply, self._model, asked, list(map(_with_pixels, new)), chat.system)

        begin = partial(chat.send, asked, picture=new)
        yield from self._answered(Answer(asked, chat.messages, draft=question), begin, keep, wishes)

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

        yield from self._answered(Answer(asked, chat.messages[:-2]), chat.retry, keep, wishes)

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
        answer: Answer,
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


def _with_pixels(picture: Picture | RememberedPicture) -> Picture:
    return picture if isinstance(picture, Picture) else picture.open()


def no_picture() -> UnreadablePicture:
    """Return what is said to a question about nothing."""
    return UnreadablePicture("picture", "there is none yet", hint="choose one, paste one or take one, then ask again")
