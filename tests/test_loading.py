"""Facts about loading a model, and about Ctrl-C wherever it comes."""

import ctypes
import os
import random
import signal
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from llama_cpp import llama_cpp as c

from llava_cli import LoadOptions, load, loading, stopping
from llava_cli.errors import Stopped
from llava_cli.handler import LlavaChatHandler
from llava_cli.vision import Tower
from tests.processes import SCENE
from tests.questions import GREEDY, QUESTION, ask, opened, picture


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def at_the_tower(monkeypatch):
    """Press Ctrl-C when the tower is about to see its first node."""
    see = Tower._on_node
    pressed = []

    def pressing(tower, *node):
        if not pressed:
            pressed.append(True)
            ctrl_c()
        return see(tower, *node)

    monkeypatch.setattr(Tower, "_on_node", pressing)
    return pressed


def test_ctrl_c_while_loading_is_a_keyboard_interrupt_and_loading_again_works(tiny_pair, monkeypatch):
    read = loading.read_ahead

    def interrupted(path, stopped):
        ctrl_c()
        read(path, stopped)

    monkeypatch.setattr(loading, "read_ahead", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(tiny_pair)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert ask(tiny_pair, cache=False).text


def test_ctrl_c_inside_llama_cpp_ends_the_loading(tiny_pair, monkeypatch):
    """Its first log line comes while it reads the header."""
    import llama_cpp

    made = llama_cpp.Llama
    monkeypatch.setattr(llama_cpp, "Llama", lambda **options: (ctrl_c(), made(**options))[1])
    with pytest.raises(KeyboardInterrupt):
        opened(tiny_pair)


def test_models_that_are_loaded_at_once_are_each_opened_by_their_own_options(tiny_pair, monkeypatch):
    @contextmanager
    def slow():
        time.sleep(random.random() / 10)
        yield

    standard = c.llama_model_default_params
    monkeypatch.setattr(loading, "zero_pages_given_back", slow)
    threads = [threading.Thread(target=lambda: opened(tiny_pair).close()) for _ in range(3)]
    for _ in [thread.start() for thread in threads]:
        continue
    for thread in threads:
        thread.join()
    assert standard is c.llama_model_default_params


def test_a_stop_from_another_thread_ends_the_loading(tiny_pair, monkeypatch):
    monkeypatch.setattr(loading, "read_ahead", lambda _path, stopped: stopped.set())
    caught = []

    def work():
        try:
            opened(tiny_pair)
        except Stopped as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [130] == [error.exit_code for error in caught]


def test_ctrl_c_while_looking_leaves_the_next_answer_as_it_is(tiny_pair, at_the_tower):
    with opened(tiny_pair, cache=False) as model:
        before = signal.signal(signal.SIGINT, lambda *_: model.stop())
        try:
            with pytest.raises(Stopped):
                model.ask(picture(1), QUESTION)
        finally:
            signal.signal(signal.SIGINT, before)
        again = model.ask(picture(1), QUESTION).text
    assert at_the_tower
    assert ask(tiny_pair, cache=False).text == again


def test_ctrl_c_while_reading_leaves_the_next_answer_as_it_is(tiny_pair, monkeypatch):
    abort = LlavaChatHandler._should_abort
    pressed = []

    def pressing(handler, data):
        if not pressed:
            pressed.append(True)
            handler.stop()
        return abort(handler, data)

    monkeypatch.setattr(LlavaChatHandler, "_should_abort", pressing)
    with opened(tiny_pair, cache=False) as model:
        with pytest.raises(Stopped):
            model.ask(picture(1), QUESTION)
        again = model.ask(picture(1), QUESTION).text
    assert pressed
    assert ask(tiny_pair, cache=False).text == again


def test_ctrl_c_while_writing_leaves_the_next_answer_as_it_is(tiny_pair):
    with opened(tiny_pair, cache=False) as model:
        for _ in model.ask(picture(1), QUESTION, max_tokens=200):
            model.stop()
        again = model.ask(picture(1), QUESTION).text
    assert ask(tiny_pair, cache=False).text == again


def test_after_a_stop_a_picture_can_be_embedded(tiny_pair):
    with opened(tiny_pair, cache=False) as model:
        model.stop()
        assert len(model.embed(picture(1)))


def test_two_signals_that_are_one_do_not_cut_off_what_the_first_began(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stops = []
    with stopping.ctrl_c_stops(SimpleNamespace(stop=lambda: stops.append(1)), writes=False):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            now[0] += 0.1
        now[0] += 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stops


def test_a_tower_that_is_told_to_stop_is_not_opened(tiny_pair):
    with opened(tiny_pair, cache=False) as model:
        stopped = threading.Event()
        stopped.set()
        with pytest.raises(Stopped):
            Tower(tiny_pair[1], model._llama, stopped)


def test_what_is_not_in_memory_is_read_before_llama_cpp_maps_it(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 * loading._CHUNK))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        cold = list(loading._missing(file.fileno(), path.stat().st_size))
    loading.read_ahead(path, threading.Event())
    with path.open("rb") as file:
        assert [] == list(loading._missing(file.fileno(), path.stat().st_size))
    assert set(cold) <= {0, loading._CHUNK, 2 * loading._CHUNK}


def test_reading_ahead_ends_when_it_is_told_to(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    stopped, asked = threading.Event(), []

    def missing(*_):
        for start in (0, 10, 20):
            asked.append(start)
            stopped.set()
            yield start

    monkeypatch.setattr(loading, "_missing", missing)
    loading.read_ahead(path, stopped)
    assert [0] == asked


@pytest.mark.parametrize("options", [{"kv": "f16"}, {"flash_attention": False}, {"ubatch": 32}, {"repack": True}])
def test_every_choice_can_be_made_by_hand(tiny_pair, options):
    from llama_cpp import llama_cpp as c

    files = {"model_path": tiny_pair[0], "projector_path": tiny_pair[1]}
    with load(**files, options=LoadOptions(context=1024, threads=1, **options), sampling=GREEDY, cache=False) as model:
        assert options.items() <= vars(model.options).items()
        params = model._llama.context_params
        off = c.LLAMA_FLASH_ATTN_TYPE_DISABLED
        assert (params.type_k, params.type_v) == (c.GGML_TYPE_F16, c.GGML_TYPE_F16)
        assert (params.flash_attn_type == off) == (options.get("flash_attention") is False)
        assert params.n_ubatch == options.get("ubatch", 640)
        assert model._llama.model_params.use_extra_bufts == options.get("repack", model.options.repack)
        assert not ctypes.cast(model._llama.model_params.progress_callback, ctypes.c_void_p).value
        assert model.ask(SCENE, "What color?").text
