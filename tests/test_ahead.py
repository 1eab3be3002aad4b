"""Facts about looking at a picture before it is asked about, on real llama.cpp with a tiny model."""

import threading
import time

import pytest

from llava_cli.ahead import Ahead
from llava_cli.errors import EngineFailed, Stopped
from llava_cli.vision import Tower, View
from tests.questions import QUESTION, ask, opened, picture, took


@pytest.fixture
def model(tiny_pair):
    """Open the tiny model without what is on disk."""
    with opened(tiny_pair, cache=False) as model:
        yield model


@pytest.fixture
def encoded(monkeypatch):
    """Record in which thread each picture is encoded."""
    threads = []
    encode = Tower.encode

    def recorded(tower, *shown):
        threads.append(threading.current_thread())
        return encode(tower, *shown)

    monkeypatch.setattr(Tower, "encode", recorded)
    return threads


@pytest.fixture
def slow(monkeypatch):
    """Hold every picture up at the door of the tower until the event is set, or somebody stops it."""
    go_on = threading.Event()
    encode = Tower.encode

    def held_up(tower, *shown):
        while not go_on.is_set() and not tower._stopped.is_set():
            go_on.wait(0.01)
        return encode(tower, *shown)

    monkeypatch.setattr(Tower, "encode", held_up)
    yield go_on
    go_on.set()


def here(threads):
    """Tell of each encoding whether the question itself did it."""
    return [thread is threading.main_thread() for thread in threads]


def test_a_prepared_picture_is_not_encoded_by_the_question(model, encoded, tiny_pair):
    model.prepare(picture(1))
    reply = model.ask(picture(1), QUESTION)
    assert ask(tiny_pair, cache=False).text == reply.text
    assert [False, True] == here(encoded)  # ahead, and then the comparison
    assert 1 == reply.usage.pictures_encoded


def test_preparing_twice_encodes_once(model, encoded, slow):
    model.prepare(picture(1))
    model.prepare(picture(1))
    slow.set()
    assert model.ask(picture(1), QUESTION).text
    model.prepare(picture(1))
    assert [False] == here(encoded)


def test_a_question_waits_for_what_is_left_to_see(model, encoded, slow):
    model.prepare(picture(1))
    threading.Timer(0.2, slow.set).start()
    assert model.ask(picture(1), QUESTION).text
    assert [False] == here(encoded)


def test_a_question_about_something_else_does_not_wait(model, slow, tiny_pair):
    model.prepare(picture(1))
    answer = model.ask(None, QUESTION).text
    slow.set()
    with opened(tiny_pair, cache=False) as fresh:
        assert fresh.ask(None, QUESTION).text == answer
    assert ask(tiny_pair, cache=False).text == model.ask(picture(1), QUESTION).text


def test_another_picture_takes_the_place_of_the_first(model, slow, encoded, tiny_pair):
    model.prepare(picture(1))
    model.prepare(picture(2))
    slow.set()
    answers = [model.ask(picture(seed), QUESTION).text for seed in (2, 1)]
    assert [ask(tiny_pair, about=picture(seed), cache=False).text for seed in (2, 1)] == answers


def test_two_towers_are_never_open_at_once(model, slow, monkeypatch):
    opened_now, most = [], []
    enter, leave = Tower.__enter__, Tower.__exit__

    def entered(tower):
        opened_now.append(tower)
        most.append(len(opened_now))
        return enter(tower)

    def left(tower, *how):
        time.sleep(0.1)
        leave(tower, *how)
        opened_now.remove(tower)

    monkeypatch.setattr(Tower, "__enter__", entered)
    monkeypatch.setattr(Tower, "__exit__", left)
    model.prepare(picture(1))
    while not opened_now:
        time.sleep(0.001)
    threading.Timer(0.2, slow.set).start()
    assert model.ask(picture(2), QUESTION).text
    assert [1, 1] == most


def test_stop_ends_it_and_the_question_looks_itself(model, slow, encoded, tiny_pair):
    model.prepare(picture(1))
    model.stop()
    slow.set()
    assert ask(tiny_pair, cache=False).text == model.ask(picture(1), QUESTION).text


def test_stop_ends_a_question_that_waits(model, slow, tiny_pair):
    model.prepare(picture(1))
    threading.Timer(0.2, model.stop).start()
    with pytest.raises(Stopped):
        model.ask(picture(1), QUESTION)
    slow.set()
    assert ask(tiny_pair, cache=False).text == model.ask(picture(1), QUESTION).text


def test_what_goes_wrong_shows_when_the_picture_is_asked_about(model, monkeypatch):
    def broken(_tower, *_shown):
        raise EngineFailed("noise", "it could not be encoded")

    monkeypatch.setattr(Tower, "encode", broken)
    model.prepare(picture(1))
    assert model.ask(None, QUESTION).text
    with pytest.raises(EngineFailed, match="could not be encoded"):
        model.ask(picture(1), QUESTION)


def test_closing_a_model_ends_it(tiny_pair, slow):
    with opened(tiny_pair, cache=False) as model:
        model.prepare(picture(1))
    assert "llava looks ahead" not in {thread.name for thread in threading.enumerate()}


def test_what_was_prepared_goes_to_disk_like_any_other(tiny_pair, encoded):
    with opened(tiny_pair) as model:
        model.prepare(picture(1))
        assert model.ask(picture(1), QUESTION).text
    with opened(tiny_pair) as model:
        model.prepare(picture(1))
        assert (0, 0) == took(model.ask(picture(1), QUESTION, system="Other."))
    assert [False] == here(encoded)


def test_nothing_is_taken_that_was_not_begun():
    assert None is Ahead().take(View("ab", "high", 16), threading.Event())
