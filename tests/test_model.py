"""Facts about the Python API, on real llama.cpp with a random model of a few kilobytes."""

import threading

import numpy as np
import pytest

from llava_cli import LoadOptions, Sampling, load
from llava_cli.errors import ModelUnusable, Stopped, UnreadablePicture, UsageError
from llava_cli.gguf_file import read_header, write_copy
from tests.processes import SCENE

GREEDY = Sampling(temperature=0, max_tokens=8)
SMALL = LoadOptions(context=512, threads=1)


@pytest.fixture
def model(tiny_pair):
    """Open the tiny model through the front door."""
    with load(model_path=tiny_pair[0], projector_path=tiny_pair[1], options=SMALL, sampling=GREEDY) as model:
        yield model


def test_an_answer_streams_and_is_the_same_in_one_piece(model):
    pieces = list(model.ask(SCENE, "What color?"))
    assert len(pieces) > 1
    assert "".join(pieces) == model.ask(SCENE, "What color?").text == str(model.ask(SCENE, "What color?"))


def test_a_reply_keeps_its_numbers(model):
    first = model.ask(SCENE, "What color?")
    assert first.finish_reason == ""
    assert first.text == first.so_far
    again = model.ask(SCENE, "What color?")
    assert (again.text, again.finish_reason) == (first.text, "length")
    usage = again.usage
    assert (usage.new_cells, usage.pictures_encoded, usage.answer_tokens) == (1, 0, 8)
    assert usage.prompt_cells == first.usage.prompt_cells == usage.reused_cells + 1
    assert usage.first_token_seconds > 0 < usage.tokens_per_second


def test_the_numbers_of_a_reply_stay_its_own(model):
    first = model.ask(SCENE, "What color?")
    _ = first.text
    usage = first.usage
    _ = model.ask(None, "Is there").text
    assert usage == first.usage


def test_a_chat_reads_the_picture_once(model):
    chat = model.chat()
    answers = [chat.send("What color?", picture=SCENE).text, chat.send("How many shapes?").text]
    assert [m["role"] for m in chat.messages] == ["user", "assistant", "user", "assistant"]
    assert [m["content"] for m in chat.messages[1::2]] == answers
    reply = chat.send("Is there a circle?")
    assert reply.text
    assert (reply.usage.pictures_encoded, reply.usage.reused_cells > 16) == (0, True)


def test_a_reply_left_behind_ends_where_it_was(model):
    chat = model.chat()
    left = chat.send("Describe this picture.", picture=SCENE)
    piece = next(iter(left))
    assert chat.send("What color?").text
    assert chat.messages[1] == {"role": "assistant", "content": piece}


def test_a_question_that_fails_leaves_no_turn_behind(model):
    chat = model.chat()
    with pytest.raises(UnreadablePicture):
        chat.send("What color?", picture="missing.png")
    with pytest.raises(UsageError, match="it is empty"):
        chat.send(" ")
    assert chat.messages == []


def test_another_thread_can_stop_an_answer(model):
    chat = model.chat()
    reply = chat.send("Describe this picture.", picture=SCENE, max_tokens=400, temperature=2.0)
    for number, _ in enumerate(reply):
        if number == 3:
            thread = threading.Thread(target=model.stop)
            thread.start()
            thread.join()
    assert (reply.finish_reason, chat.messages[1]["content"]) == ("stopped", reply.so_far)


def test_stages_are_heard_in_order(tiny_pair):
    heard = []
    files = {"model_path": tiny_pair[0], "projector_path": tiny_pair[1]}
    with load(**files, options=SMALL, sampling=GREEDY, on_stage=lambda name, _amount: heard.append(name)) as model:
        _ = model.ask(SCENE, "What color?").text
        _ = model.ask(SCENE, "How many?").text
    assert heard == ["loading", "looking", "reading", "writing", "reading", "writing", "keeping"]


def test_a_stop_while_looking_is_an_exception_and_the_next_question_works(tiny_pair):
    opened = []

    def stop(name, _amount):
        if name == "looking" and len(opened) == 1:
            opened.append(name)
            opened[0].stop()

    with load(
        model_path=tiny_pair[0], projector_path=tiny_pair[1], options=SMALL, sampling=GREEDY, on_stage=stop
    ) as model:
        opened.append(model)
        with pytest.raises(Stopped):
            model.ask(SCENE, "What color?")
        assert model.ask(SCENE, "What color?").text


def test_embeddings_are_float32_one_row_per_picture_token(model):
    features = model.embed(SCENE)
    assert (features.dtype, features.shape) == (np.float32, (16, 64))
    assert np.array_equal(features, model.embed(SCENE))


def test_changing_what_embed_returned_changes_no_answer(model):
    before = model.ask(SCENE, "What color?").text
    model.embed(SCENE)[:] = 0
    _ = model.ask(None, "Is there").text
    assert before == model.ask(SCENE, "What color?").text


def test_a_misspelt_option_is_an_error(model):
    with pytest.raises(TypeError, match="temprature"):
        model.ask(SCENE, "What color?", temprature=0)


def test_a_seed_of_its_own_repeats_a_reply(model):
    drawn = model.ask(SCENE, temperature=2.0)
    assert drawn.text == model.ask(SCENE, temperature=2.0, seed=drawn.seed).text


def test_half_a_pair_is_a_usage_error(tiny_pair):
    with pytest.raises(UsageError, match="needs its projector"):
        load(model_path=tiny_pair[0])


def test_a_file_llama_cpp_refuses_is_an_error_in_words(tiny_pair, tmp_path):
    """It passes the gate, which cannot know every key of every architecture."""
    broken = tmp_path / "broken.gguf"
    write_copy(read_header(tiny_pair[0]), broken, add={"general.architecture": ("str", "gemma2")})
    with pytest.raises(ModelUnusable, match=r"broken\.gguf"):
        load(model_path=broken, projector_path=tiny_pair[1], options=SMALL)
