"""Runs one model in a thread of its own; many may want something of it at once, and they take turns.

>>> with load("shapes") as model, Engine(model) as engine:
...     for event in engine.events(lambda model: model.ask("cat.jpg", "What is this?"), client="Anna"):
...         if isinstance(event, Piece):
...             print(event.value, end="")
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava_cli.errors import Busy, Stopped

if TYPE_CHECKING:
    from llava_cli.handler import StageListener
    from llava_cli.model import Model
    from llava_cli.rates import Amount

PLACES = 64
"""How many jobs may wait, unless somebody says otherwise."""

Work = Callable[["Model"], Iterable[Any]]
"""What is done in a turn; it runs in the engine's thread, and each thing it yields becomes a `Piece`.

A `Reply` ends by itself when its job is stopped; other work that takes long should look at what it is given.
"""


@dataclass(frozen=True)
class Began:
    """The turn has come."""


@dataclass(frozen=True)
class Stage:
    """What begins: `looking`, `reading`, `writing` or `keeping`, with the cells to read and the seconds it takes."""

    name: str
    amount: Amount


@dataclass(frozen=True)
class Piece:
    """Something the work has yielded, such as a piece of an answer."""

    value: Any


@dataclass(frozen=True)
class End:
    """The last that is heard: all is done, or an error has ended it. `Stopped` if it was stopped in the queue."""

    error: BaseException | None = None


Event = Began | Stage | Piece | End
Listener = Callable[[Event], None]
"""Hears of a job, mostly in the engine's thread: it must not wait, and must not fail."""


class Job:
    """One thing that was asked of an engine, from the queue to its end."""

    def __init__(self, engine: Engine, work: Work, client: str, hear: Listener) -> None:
        self.client = client
        self.work, self.hear = work, hear
        self.is_stopped = False
        self._engine = engine

    @property
    def ahead(self) -> int:
        """Return how many jobs come before this one, the running one included; 0 once it runs or has ended."""
        return self._engine.ahead_of(self)

    def stop(self) -> None:
        """Take it out of the queue, or stop what it does; its `End` follows. From any thread, and more than once."""
        self._engine.stop(self)


class Engine:
    """One model, used by many in turn.

    Clients come in rotation, each with its oldest job: whoever asks once waits for one job of each of the others,
    however many they have. Of the `places` in the queue one client can have three quarters at most.
    """

    def __init__(self, model: Model, *, places: int = PLACES) -> None:
        self.model = model
        self.places = places
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        """The jobs of each client that waits; whose turn is next comes first."""
        self._running: Job | None = None
        self._is_closed = False
        self._changed = threading.Condition()
        self._seconds = 1.0
        """How long a job takes, lately."""
        model.hear(self._on_stage)
        self._thread = threading.Thread(target=self._run, name="llava engine")
        self._thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, work: Work, hear: Listener, *, client: str = "") -> Job:
        """Let `work` wait for its turn; raise `Busy` if there is no place left for this client."""
        job = Job(self, work, client, hear)
        with self._changed:
            if self._is_closed:
                raise Stopped("model", "it is being closed")
            mine = len(self._waiting.get(client, ()))
            if self._count() >= self.places or mine >= max(1, self.places * 3 // 4):
                why = f"{self._count()} requests wait for it already" + (f", {mine} of them yours" if mine else "")
                raise Busy("model", why, seconds=self._wait())
            self._waiting.setdefault(client, deque()).append(job)
            self._changed.notify_all()
        return job

    def events(self, work: Work, *, client: str = "") -> Iterator[Event]:
        """Yield what is heard of `work`, its `End` left out; raise its error. Closing this iterator stops it."""
        heard: queue.SimpleQueue[Event] = queue.SimpleQueue()
        job = self.submit(work, heard.put, client=client)
        try:
            while not isinstance(event := heard.get(), End):
                yield event
            if event.error is not None:
                raise event.error
        finally:
            job.stop()

    def change(self, open_model: Callable[[StageListener], Model]) -> Model:
        """Close the model and open another one in its place; for work, in its turn.

        If that fails, the closed one stays, and must be changed before it is asked.
        """
        self.model.close()
        self.model = open_model(self._on_stage)
        return self.model

    @property
    def waiting(self) -> int:
        """Return how many jobs wait for their turn."""
        with self._changed:
            return self._count()

    @property
    def is_running(self) -> bool:
        """Tell whether a job has its turn."""
        return self._running is not None

    def ahead_of(self, job: Job) -> int:
        """Return how many jobs come before this one, the running one included."""
        with self._changed:
            rounds = self._waiting.get(job.client, ())
            if job not in rounds:
                return 0
            mine = list(rounds).index(job)
            order = list(self._waiting)
            place = order.index(job.client)
            before = sum(
                min(len(jobs), mine + (order.index(client) < place))
                for client, jobs in self._waiting.items()
                if client != job.client
            )
            return before + mine + (self._running is not None)

    def stop(self, job: Job) -> None:
        """Stop one job, wherever it is, and no other."""
        with self._changed:
            job.is_stopped = True
            if job is self._running:
                self.model.stop()
                return
            jobs = self._waiting.get(job.client, deque())
            if job not in jobs:
                return  # it has ended
            jobs.remove(job)
            if not jobs:
                del self._waiting[job.client]
        job.hear(End(Stopped("model", "stopped before its turn came")))

    def close(self) -> None:
        """Stop all jobs, take no more, and return when the model is at rest; it stays open."""
        with self._changed:
            self._is_closed = True
            left = [job for jobs in self._waiting.values() for job in jobs]
            running = self._running
            self._changed.notify_all()
        for job in (*left, *([running] if running else ())):
            self.stop(job)
        self._thread.join()

    def _count(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _wait(self) -> int:
        """Estimate after how many seconds there will be a place again."""
        return min(60, math.ceil(self._seconds))

    def _run(self) -> None:
        while (job := self._next()) is not None:
            start = time.monotonic()
            error = self._do(job)
            with self._changed:
                self._running = None
            self._seconds += (time.monotonic() - start - self._seconds) / 4
            job.hear(End(error))

    def _next(self) -> Job | None:
        with self._changed:
            while not self._waiting:
                if self._is_closed:
                    return None
                self._changed.wait()
            client, jobs = self._waiting.popitem(last=False)
            self._running = jobs.popleft()
            if jobs:
                self._waiting[client] = jobs  # behind all the others
            return self._running

    def _do(self, job: Job) -> BaseException | None:
        try:
            job.hear(Began())
            if job.is_stopped:
                return Stopped("model", "stopped as its turn came")
            for value in job.work(self.model):
                job.hear(Piece(value))
        except BaseException as error:  # noqa: BLE001 - whoever listens is told, and the next one has its turn
            return error
        return None

    def _on_stage(self, name: str, amount: Amount) -> None:
        job = self._running
        if job is None:
            return
        job.hear(Stage(name, amount))
        # A new question forgets that an older one was stopped, and this one may have been stopped just before.
        if job.is_stopped:
            self.model.stop()
