"""Asks one thing after another, writes down what comes of it, and goes on where an earlier run ended."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llava_cli.errors import ContextTooSmall, DownloadFailed, LlavaError, Stopped, UnreadablePicture
from llava_cli.pictures import Picture
from llava_cli.recipe import Recipe
from llava_cli.results import Line, Record
from llava_cli.stopping import ctrl_c_stops
from llava_cli.tasks import Task

if TYPE_CHECKING:
    from llava_cli.model import Model
    from llava_cli.reply import Reply

OF_ONE_TASK = (UnreadablePicture, DownloadFailed, ContextTooSmall)
"""What goes wrong with one task and leaves the next ones alone. Anything else ends a run."""


@dataclass
class Tally:
    """What has become of the tasks of a run so far."""

    total: int
    answered: int = 0
    held: int = 0
    """Answers that were there already."""
    failed: int = 0
    stopped: bool = False
    """Whether the user has stopped it."""

    @property
    def done(self) -> int:
        return self.answered + self.held + self.failed


class Listener(Protocol):
    """Hears how a run goes."""

    def begins(self, task: Task) -> None: ...

    def ended(self, tally: Tally) -> None: ...

    def failed(self, error: LlavaError) -> None: ...


class Run:
    """One walk over many tasks with one model, which is opened when the first of them needs it."""

    def __init__(
        self,
        open_model: Callable[[], AbstractContextManager[Model]],
        open_picture: Callable[[str], Picture],
        recipe: Recipe,
        record: Record,
        listener: Listener,
        on_answer: Callable[[Task, str], None] = lambda _task, _answer: None,
    ) -> None:
        """Prepare it; `on_answer` hears each new answer before it is recorded."""
        self._open_model, self._open_picture = open_model, open_picture
        self._recipe, self._record, self._listener, self._on_answer = recipe, record, listener, on_answer
        self._model: Model | None = None
        self._stopped = threading.Event()
        self._resources: ExitStack

    def stop(self) -> None:
        """End the run now, from a signal handler: the answer that is being written is given up."""
        self._stopped.set()
        if self._model is not None:
            self._model.stop()

    def play(self, tasks: Sequence[Task], *, limit: int | None = None, fail_fast: bool = False) -> Tally:
        """Let every task have its turn; at most `limit` of them are asked, and `fail_fast` ends with a failure."""
        tally = Tally(len(tasks))
        with ExitStack() as self._resources:
            for number, task, look in self._looked_ahead(tasks):
                if self._stopped.is_set():
                    tally.stopped = True
                    return tally
                if tally.answered == limit:
                    return tally
                self._listener.begins(task)
                try:
                    self._turn(number, task, look, tally)
                except Stopped:
                    tally.stopped = True
                if tally.stopped or (fail_fast and tally.failed):
                    return tally
                self._listener.ended(tally)
            self._record.tidy()
        return tally

    def _turn(self, number: int, task: Task, look: _Look, tally: Tally) -> None:
        recipe, facts = self._recipe, self._facts()
        failure_key = recipe.key("", task.question)
        try:
            picture = look.picture(self._stopped)
            key = recipe.key(picture.sha256, task.question)
            if self._record.holds(number, task, key, failure_key):
                tally.held += 1
                return
            facts["picture"] = {"sha256": picture.sha256, "width": picture.width, "height": picture.height}
            reply, seconds = self._answer(task.question, picture, recipe.seed(key))
        except OF_ONE_TASK as error:
            tally.failed += 1
            self._listener.failed(error)
            told = {"code": error.exit_code, "what": error.what, "why": error.why}
            self._record.write(number, Line(task, failure_key, facts, error=told), failure_key)
            return
        facts["parameters"] = {**recipe.parameters, "seed": reply.seed}
        facts["finish_reason"] = reply.finish_reason
        facts["usage"] = {
            "prompt_tokens": reply.usage.prompt_cells,
            "picture_tokens": reply.usage.picture_cells,
            "answer_tokens": reply.usage.answer_tokens,
        }
        facts["seconds"] = round(seconds, 3)
        self._on_answer(task, reply.text)
        self._record.write(number, Line(task, key, facts, reply.text), failure_key)
        tally.answered += 1

    def _facts(self) -> dict[str, Any]:
        recipe = self._recipe
        return {
            "picture": None,
            "model": recipe.model,
            "system": recipe.system,
            "parameters": recipe.parameters,
        }

    def _answer(self, question: str, picture: Picture, seed: int) -> tuple[Reply, float]:
        """Return the whole reply, and the seconds it took; raise `Stopped` if it did not come to its end."""
        if self._model is None:
            self._model = self._resources.enter_context(self._open_model())
            self._resources.enter_context(ctrl_c_stops(self))
        start = time.monotonic()
        # Several questions about a picture share what was read of it, and are answered as if each had come alone.
        self._model.rewind()
        reply = self._model.chat(system=self._recipe.system).send(question, picture=picture, seed=seed)
        for _ in reply:
            continue
        if reply.finish_reason == "stopped":
            raise Stopped("run", "stopped while answering")
        return reply, time.monotonic() - start

    def _looked_ahead(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Task, _Look]]:
        """Yield each task, its number and its picture, while the next picture is being opened.

        Opening is the part of a picture that needs one processor core only, and perhaps a network: beside an answer
        it costs next to nothing. Running the vision tower ahead, too, was slower: it takes both cores from the answer.
        """
        groups = [list(group) for _, group in itertools.groupby(enumerate(tasks), key=lambda pair: pair[1].source)]
        ahead = [_Look(groups[0][0][1], self._open_picture)] if groups else []
        for this, following in itertools.zip_longest(groups, groups[1:]):
            look = ahead.pop()
            if following is not None:
                ahead.append(_Look(following[0][1], self._open_picture))
            for number, task in this:
                yield number, task, look


class _Look(threading.Thread):
    """A picture on its way into memory. What goes wrong shows when it is asked for."""

    def __init__(self, task: Task, open_picture: Callable[[str], Picture]) -> None:
        # Nobody waits for a picture that is not wanted any more.
        super().__init__(name="llava opens a picture", daemon=True)
        self._task, self._open = task, open_picture
        self._picture: Picture | None = None
        self._error: Exception | None = task.error
        if self._error is None:
            self.start()

    def run(self) -> None:
        try:
            picture = self._open(self._task.source)
            _ = picture.sha256  # it takes as long as decoding
            self._picture = picture
        except Exception as error:  # noqa: BLE001 - it is raised again, where somebody waits
            self._error = error

    def picture(self, stopped: threading.Event) -> Picture:
        """Wait for the picture and return it, or raise what went wrong, or `Stopped`."""
        while self.is_alive():
            if stopped.is_set():
                raise Stopped("run", "stopped while opening a picture")
            self.join(0.1)
        if self._error is not None:
            raise self._error
        assert self._picture is not None
        return self._picture
