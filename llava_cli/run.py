"""Asks one thing after another, writes down what comes of it, and goes on where an earlier run ended."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llava_cli import last_words
from llava_cli.errors import AnswerUnfit, ContextTooSmall, DownloadFailed, LlavaError, Stopped, UnreadablePicture
from llava_cli.folders import is_elsewhere, opened_file
from llava_cli.pictures import LIMITS, Picture, shown
from llava_cli.recipe import Recipe
from llava_cli.result_lines import Line
from llava_cli.results import Record
from llava_cli.schemas import AnswerSchema
from llava_cli.stopping import Reader, ctrl_c_stops
from llava_cli.tasks import Task

if TYPE_CHECKING:
    from llava_cli.chat import Opened
    from llava_cli.reply import Decision, Reply

_LASTING = ("prompt_cells", "picture_cells", "answer_tokens")
"""What an answer took that is the same in every run."""

OF_ONE_TASK = (UnreadablePicture, DownloadFailed, ContextTooSmall, AnswerUnfit)
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
    """One walk over many tasks with one model, which is opened when the first of them needs it.

    Answers are written one at a time. Four in one batch are written 1.5 times as fast (on two cores), but reading a
    picture takes two thirds of the time: a caption of 60 tokens would come a tenth sooner, for 1 GB more of memory, and
    with last bits that depend on its neighbours, so that it could differ from the answer to the same question alone.
    """

    def __init__(
        self,
        open_model: Callable[[], AbstractContextManager[Opened]],
        open_picture: Callable[[str], Picture],
        recipe: Recipe,
        record: Record,
        listener: Listener,
        *,
        by_file: bool = True,
        to_stdout: bool = False,
    ) -> None:
        """Prepare it; `by_file` is whether `open_picture` makes the same picture of the same file in every run.

        `to_stdout` is whether that is where the answers go, so that there is no use in more when its reader has left.
        """
        self._open_model, self._open_picture = open_model, open_picture
        self._recipe, self._record, self._listener = recipe, record, listener
        self._schema = None if recipe.schema is None else AnswerSchema(recipe.schema)
        self._by_file, self._to_stdout = by_file, to_stdout
        self._reader: Reader | None = None
        self._model: Opened | None = None
        self._stopped = threading.Event()
        self._resources: ExitStack

    def stop(self) -> None:
        """End the run now, from a signal handler: the answer that is being written is given up."""
        self._stopped.set()
        if self._model is not None:
            self._model.stop()

    def play(self, tasks: Sequence[Task], *, limit: int | None = None, fail_fast: bool = False) -> Tally:
        """Let every task have its turn; at most `limit` of them are asked, and `fail_fast` ends with a failure."""
        left = [(number, task) for number, task in enumerate(tasks) if not self._record.is_done(task)]
        tally = Tally(len(tasks), held=len(tasks) - len(left))
        with ExitStack() as self._resources:
            for number, task, look in self._looked_ahead(left):
                if self._stopped.is_set():
                    return self._ended_early(tally)
                if tally.answered == limit:
                    return tally
                self._listener.begins(task)
                last_words.say("task", shown(task.source))
                try:
                    self._turn(number, task, look, tally)
                except Stopped:
                    return self._ended_early(tally)
                if fail_fast and tally.failed:
                    return tally
                self._listener.ended(tally)
            self._record.tidy()
        return tally

    def _ended_early(self, tally: Tally) -> Tally:
        """Say in `tally` that the user has stopped the run; raise `ReaderGone` if it was their reader who left."""
        if self._reader is not None:
            self._reader.require()
        tally.stopped = True
        return tally

    def _turn(self, number: int, task: Task, look: _Look, tally: Tally) -> None:
        recipe, facts = self._recipe, self._facts()
        failure_key = recipe.key("", task.question)
        try:
            key = recipe.key(look.sha256(self._stopped), task.question)
            if self._record.holds(number, task, key, failure_key):
                tally.held += 1
                return
            picture = look.picture()
            facts["picture"] = {
                "sha256": picture.sha256, "width": picture.width, "height": picture.height, "file": look.file,
                **({"notes": list(picture.notes)} if picture.notes else {}),
            }  # fmt: skip
            reply = self._answer(task.question, picture, recipe.seed(key))
            shape = _shape(reply)
        except OF_ONE_TASK as error:
            tally.failed += 1
            self._listener.failed(error)
            told = {"exit_code": error.exit_code, "what": error.what, "why": error.why}
            self._record.write(number, Line(task, failure_key, facts, error=told), failure_key)
            return
        usage = {name: value for name, value in vars(reply.usage).items() if name in _LASTING}
        seconds = {name: round(getattr(reply.usage, f"{name}_seconds"), 3) for name in ("first_token", "write")}
        parameters = {**recipe.parameters, "seed": reply.seed}
        facts |= {
            "parameters": parameters, "finish_reason": reply.finish_reason, "usage": usage, "seconds": seconds,
        }  # fmt: skip
        self._record.write(number, Line(task, key, facts, reply.text, shape), failure_key)
        tally.answered += 1

    def _facts(self) -> dict[str, Any]:
        recipe = self._recipe
        return {
            "picture": None,
            "model": recipe.model,
            "system": recipe.system,
            "parameters": recipe.parameters,
            **({} if recipe.schema is None else {"schema": recipe.schema}),
        }

    def _answer(self, question: str, picture: Picture, seed: int) -> Reply | Decision:
        """Return the whole answer; raise `Stopped` if it did not come to its end."""
        if self._model is None:
            self._model = self._resources.enter_context(self._open_model())
            self._reader = self._resources.enter_context(ctrl_c_stops(self, writes=self._to_stdout))
        model, recipe = self._model, self._recipe
        # Several questions about a picture share what was read of it, and are answered as if each had come alone.
        model.rewind()
        # Whoever stopped it while no answer was under way has stopped this one: it would begin anew.
        if self._stopped.is_set():
            raise Stopped("run", "stopped before the next answer")
        if recipe.choices is not None:
            return model.choose(picture, question, recipe.choices, system=recipe.system)
        reply = model.chat(system=recipe.system).send(question, picture=picture, schema=self._schema, seed=seed)
        for _ in reply:
            continue
        if reply.finish_reason == "stopped":
            raise Stopped("run", "stopped while answering")
        return reply

    def _looked_ahead(self, tasks: Sequence[tuple[int, Task]]) -> Iterator[tuple[int, Task, _Look]]:
        """Yield each task, its number and its picture, while the next picture is being opened.

        Opening needs one processor core at most, or a network: beside an answer it costs next to nothing. Running the
        vision tower ahead, too, made a hundred pictures a sixth slower: it takes the cores from the answer.
        """
        groups = [list(group) for _, group in itertools.groupby(tasks, key=lambda pair: pair[1].source)]
        ahead = [self._look(groups[0])] if groups else []
        for this, following in itertools.zip_longest(groups, groups[1:]):
            look = ahead.pop()
            if following is not None:
                ahead.append(self._look(following))
            for number, task in this:
                yield number, task, look

    def _look(self, group: Sequence[tuple[int, Task]]) -> _Look:
        return _Look(group[0][1], self._open_picture, self._record.pictures if self._by_file else None)


def _shape(reply: Reply | Decision) -> Any:
    """Return what an answer has beside its text; raise `AnswerUnfit` if it does not satisfy its schema."""
    from llava_cli.reply import Decision

    if isinstance(reply, Decision):
        return [asdict(choice) for choice in reply.choices]
    return None if reply.schema is None else reply.parsed


class _Look(threading.Thread):
    """A picture on its way into memory. What goes wrong shows when it is asked for."""

    def __init__(self, task: Task, open_picture: Callable[[str], Picture], known: Mapping[str, str] | None) -> None:
        # Nobody waits for a picture that is not wanted any more.
        super().__init__(name="llava opens a picture", daemon=True)
        self._task, self._open, self._known = task, open_picture, known
        self._picture: Picture | None = None
        self._sha256 = ""
        self._error: Exception | None = task.error
        self.file = ""
        """The sha256 of the file it comes from, if it comes from one."""
        if self._error is None:
            self.start()

    def run(self) -> None:
        try:
            if self._known is not None:
                # A file whose bytes are known needs no decoding, which takes fifty times as long.
                self.file = _file_sha256(self._task.source)
                self._sha256 = self._known.get(self.file, "")
            self._sha256 = self._sha256 or self.picture().sha256
        except Exception as error:  # noqa: BLE001 - it is raised again, where somebody waits
            self._error = error

    def sha256(self, stopped: threading.Event) -> str:
        """Wait for it and return what names the picture; raise what went wrong, or `Stopped`."""
        while self.is_alive():
            if stopped.is_set():
                raise Stopped("run", "stopped while opening a picture")
            self.join(0.1)
        if self._error is not None:
            raise self._error
        return self._sha256

    def picture(self) -> Picture:
        """Return the picture, opened now if its name was enough so far."""
        if self._picture is None:
            self._picture = self._open(self._task.source)
        return self._picture


def _file_sha256(source: str) -> str:
    if is_elsewhere(source):
        return ""
    with opened_file(source) as file:
        if file is None or os.fstat(file.fileno()).st_size > LIMITS.max_bytes:
            return ""
        return hashlib.file_digest(file, "sha256").hexdigest()
