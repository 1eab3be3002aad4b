"""Facts about many who want something of one model: they take turns, in fair order, and none disturbs another."""

import threading

import pytest

from llava_cli import LoadOptions, Sampling, load
from llava_cli.engine import Began, End, Engine, Piece, Stage
from llava_cli.errors import Busy, EngineFailed, Stopped
from tests.questions import OTHER, QUESTION, picture

GENEROUS = 60


@pytest.fixture(scope="module")
def model(tiny_pair):
    options = LoadOptions(context=512, threads=1)
    files = {"model_path": tiny_pair[0], "projector_path": tiny_pair[1], "prompt_layout": "llava_v1"}
    with load(**files, options=options, sampling=Sampling(temperature=0, max_tokens=8), cache=False) as opened:
        yield opened


@pytest.fixture
def engine(model):
    with Engine(model, places=8) as running:
        yield running


class Heard:
    """What was heard of one job."""

    def __init__(self, on_event=None):
        self.events = []
        self.ended = threading.Event()
        self.on_event = on_event

    def __call__(self, event):
        self.events.append(event)
        if self.on_event is not None:
            self.on_event(event)
        if isinstance(event, End):
            self.ended.set()

    @property
    def error(self):
        assert self.ended.wait(GENEROUS)
        return self.events[-1].error

    @property
    def text(self):
        assert self.error is None
        return "".join(event.value for event in self.events if isinstance(event, Piece))


def ask(seed, question=QUESTION, **sampling):
    return lambda model: model.ask(picture(seed), question, **sampling)


def endless(model):
    """Answer until it is stopped, which it never is by itself: the tiny model's end token is one of 300."""
    return model.ask(picture(1), QUESTION, max_tokens=400, temperature=1, seed=3)


class Gate:
    """Work that holds the engine until the gate is opened."""

    def __init__(self):
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self, _model):
        self.begun.set()
        assert self.open.wait(GENEROUS)
        yield "through"


@pytest.fixture
def gate(engine):
    """Hold the engine with a job of its own, so that others have to wait."""
    gate = Gate()
    engine.submit(gate, Heard(), client="gate")
    assert gate.begun.wait(GENEROUS)
    yield gate
    gate.open.set()


def test_a_job_is_heard_from_its_turn_to_its_end(engine):
    heard = Heard()
    engine.submit(ask(1), heard)
    assert heard.text
    kinds = [type(event) for event in heard.events]
    assert kinds[0] is Began
    assert kinds[-1] is End
    assert ["reading", "writing"] == [event.name for event in heard.events if isinstance(event, Stage)][-2:]


def test_each_job_gets_the_answer_it_would_get_alone(engine, model):
    alone = {(seed, words): model.ask(picture(seed), words).text for seed in (1, 2) for words in (QUESTION, OTHER)}
    heard = {key: Heard() for key in alone}
    for (seed, words), listener in heard.items():
        engine.submit(ask(seed, words), listener)
    assert alone == {key: listener.text for key, listener in heard.items()}


def test_clients_come_in_rotation_however_many_jobs_one_has(engine, gate):
    order = []
    jobs = [*[("busy", f"busy {i}") for i in range(4)], ("late", "late 0"), ("later", "later 0"), ("late", "late 1")]
    heard = [Heard() for _ in jobs]
    waiting = [
        engine.submit(lambda _model, name=name: iter([order.append(name)]), listener, client=client)
        for (client, name), listener in zip(jobs, heard, strict=True)
    ]
    assert [1, 4, 6, 7, 2, 3, 5] == [job.ahead for job in waiting]
    gate.open.set()
    assert [None] * 7 == [listener.error for listener in heard]
    assert ["busy 0", "late 0", "later 0", "busy 1", "late 1", "busy 2", "busy 3"] == order


def test_a_full_queue_is_said_at_once_with_the_time_to_come_again(engine, gate):
    for number in range(8):
        engine.submit(gate, Heard(), client=str(number))
    with pytest.raises(Busy, match="8 requests wait for it already") as caught:
        engine.submit(gate, Heard(), client="new")
    assert 1 <= caught.value.seconds <= 60


def test_one_client_leaves_a_quarter_of_the_places_to_others(engine, gate):
    for _ in range(6):
        engine.submit(gate, Heard(), client="busy")
    with pytest.raises(Busy, match="6 of them yours"):
        engine.submit(gate, Heard(), client="busy")
    assert 2 == engine.submit(gate, Heard(), client="new").ahead  # the running one, and the first of six


def test_a_job_that_is_stopped_in_the_queue_leaves_it(engine, gate):
    heard = Heard()
    job = engine.submit(ask(1), heard)
    job.stop()
    assert isinstance(heard.error, Stopped)
    assert 0 == engine.waiting
    assert [End] == [type(event) for event in heard.events]


def test_a_running_answer_is_stopped_and_the_next_one_is_whole(engine, model, gate):
    first, next_one = Heard(lambda event: job.stop() if isinstance(event, Piece) else None), Heard()
    job = engine.submit(endless, first)
    engine.submit(ask(2, OTHER), next_one)
    gate.open.set()
    assert first.error is None
    assert 1 <= sum(isinstance(event, Piece) for event in first.events) <= 2
    assert next_one.text == model.ask(picture(2), OTHER).text


@pytest.mark.parametrize("moment", [Began, Stage])
def test_a_job_that_is_stopped_as_its_turn_comes_writes_nothing(engine, gate, moment):
    heard = Heard(lambda event: job.stop() if isinstance(event, moment) else None)
    job = engine.submit(endless, heard)
    gate.open.set()
    assert isinstance(heard.error, Stopped)
    assert [] == [event for event in heard.events if isinstance(event, Piece)]


def test_a_job_that_is_stopped_before_it_asks_the_model_writes_nothing(engine, gate):
    """A new question forgets that an older one was stopped; it must not forget that it was stopped itself."""

    def work(model):
        job.stop()
        return endless(model)

    heard = Heard()
    job = engine.submit(work, heard)
    gate.open.set()
    assert isinstance(heard.error, Stopped)


def test_stopping_a_job_that_has_ended_disturbs_nobody(engine, model):
    ended, heard = Heard(), Heard(lambda _event: job.stop())
    job = engine.submit(ask(2), ended)
    assert ended.text
    engine.submit(ask(1, max_tokens=40), heard)
    assert heard.text == model.ask(picture(1), QUESTION, max_tokens=40).text


def test_an_error_ends_its_own_job_only(engine):
    bad, good = Heard(), Heard()
    engine.submit(lambda _model: 1 // 0, bad)
    engine.submit(ask(1), good)
    assert isinstance(bad.error, ZeroDivisionError)
    assert good.text


def test_events_can_be_read_where_they_are_wanted(engine, model):
    events = list(engine.events(ask(1)))
    assert model.ask(picture(1), QUESTION).text == "".join(e.value for e in events if isinstance(e, Piece))
    with pytest.raises(ZeroDivisionError):
        list(engine.events(lambda _model: 1 // 0))


def test_who_stops_reading_events_stops_the_answer(engine):
    events = engine.events(endless)
    assert next(event for event in events if isinstance(event, Piece))
    events.close()
    assert list(engine.events(lambda _model: iter("x")))[1:] == [Piece("x")]


def test_closing_stops_what_runs_and_what_waits(model):
    engine = Engine(model)
    writing = threading.Event()
    running, waiting = Heard(lambda event: writing.set() if isinstance(event, Piece) else None), Heard()
    engine.submit(endless, running)
    engine.submit(ask(1), waiting)
    assert writing.wait(GENEROUS)
    engine.close()
    assert running.error is None
    assert isinstance(waiting.error, Stopped)
    with pytest.raises(Stopped):
        engine.submit(ask(1), Heard())


def test_being_busy_is_a_failure_of_the_engine():
    assert issubclass(Busy, EngineFailed)
