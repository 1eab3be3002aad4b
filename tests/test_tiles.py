"""Facts about asking a LLaVA-1.6: how many cells a picture takes, quick looks, and what is kept of both."""

import base64
import io
import random

import numpy as np
import pytest
from PIL import Image

from llava_cli import LlavaChatHandler, LoadOptions, Sampling, picture_embeddings
from llava_cli.errors import ContextTooSmall, EngineFailed, UsageError
from llava_cli.gguf_file import repaired_projector
from llava_cli.pictures import open_picture
from llava_cli.prompts import Message
from llava_cli.tiles import Tiling
from llava_cli.vision import TowerFacts
from tests.gguf_draft import Draft
from tests.processes import SCENE, files_of, llava
from tests.questions import ANSWER, OPENING, OTHER, QUESTION, ask, kept, opened, took
from tests.test_handler import Engine, alone, assistant, user
from tests.test_reference_anyres import LLAVA
from tests.tiny_model import write_tiny_pair

PINPOINTS = (56, 112, 112, 56, 112, 112)
SQUARE = 16
"""Cells of one square, which is the overview."""
WIDE, TALL = SQUARE + 4 * (8 + 1), SQUARE + 8 * (4 + 1)
"""Cells of a picture that fills two tiles, side by side or one above the other."""


@pytest.fixture(scope="session")
def tiled_pair(tmp_path_factory):
    """Write a random LLaVA-1.6 of a few kilobytes, once: (model, projector)."""
    return write_tiny_pair(tmp_path_factory.mktemp("tiled"), pinpoints=PINPOINTS)


@pytest.fixture
def engine(tiled_pair):
    """Open the tiny model, and close it again."""
    engine = Engine(tiled_pair)
    yield engine
    engine.llama.close()


def noise(seed, size=(112, 56), detail=None):
    pixels = random.Random(seed).randbytes(size[0] * size[1] * 3)
    return open_picture(Image.frombytes("RGB", size, pixels), name=f"noise {seed}.png", detail=detail)


# Counting.


@pytest.mark.parametrize(("size", "cells"), [((112, 56), WIDE), ((56, 112), TALL), ((112, 112), 16 + 8 * 9)])
def test_pictures_of_other_shapes_take_other_numbers_of_cells(engine, size, cells):
    counted, quick = (
        engine.handler.count(engine.llama, [Message("user", QUESTION, (noise(1, size, detail),))])
        for detail in ("high", "low")
    )
    assert cells - SQUARE == counted - quick
    assert cells == len(engine.handler.embed(engine.llama, noise(1, size)))


def test_the_cells_of_pictures_are_among_the_numbers_of_a_reply(tiled_pair):
    usage = ask(tiled_pair, about=noise(1)).usage
    assert WIDE == usage.picture_cells < usage.prompt_cells


def test_stats_show_them(tiled_pair):
    looks = [llava("ask", SCENE, QUESTION, *ANSWER, *look, *files_of(tiled_pair)) for look in ([], ["--detail", "low"])]
    assert " · 70 picture tokens · prompt 0 reused + " in looks[0].stderr
    assert f" · {SQUARE} picture tokens · prompt {OPENING} reused + " in looks[1].stderr


def test_a_picture_that_does_not_fit_is_refused_before_anybody_looks_at_it(tiled_pair):
    engine = Engine(tiled_pair, n_ctx=256)
    many = [noise(seed, (112, 112)) for seed in range(3)]
    with pytest.raises(ContextTooSmall) as caught:
        engine.ask(user(QUESTION, *many))
    assert [] == engine.stages
    assert "of 256 cells (264 of them pictures)" in caught.value.why
    assert caught.value.hint.startswith("a larger window: --context 1024, or a quick look that leaves ")
    assert caught.value.hint.endswith(" cells: --detail low")
    engine.llama.close()


def test_a_quick_look_is_not_proposed_where_it_does_not_help(tiled_pair):
    engine = Engine(tiled_pair, n_ctx=256)
    for message in (user("circle " * 300, noise(1)), user("circle " * 300, noise(1, detail="low"))):
        with pytest.raises(ContextTooSmall) as caught:
            engine.ask(message)
        assert "a larger window: --context 1024" == caught.value.hint
    engine.llama.close()


def test_a_window_larger_than_the_model_was_trained_with_is_not_proposed(engine):
    with pytest.raises(ContextTooSmall) as caught:
        engine.ask(user("circle " * 1600))
    assert "ask with less text or fewer pictures: this model knows 2048 at most" == caught.value.hint


@pytest.mark.parametrize(
    ("tiling", "options", "window"),
    [
        (None, LoadOptions(), 2048),
        (None, LoadOptions(detail="low"), 2048),
        (Tiling(LLAVA, 336, 24, b""), LoadOptions(), 4096),
        (Tiling(LLAVA, 336, 24, b""), LoadOptions(detail="low"), 2048),
        (Tiling(LLAVA, 336, 24, b""), LoadOptions(context=3072), 3072),
        (None, LoadOptions(context=300), 512),
    ],
)
def test_a_window_has_room_for_the_largest_picture_and_for_words(tiling, options, window):
    assert window == TowerFacts(336, 576, 1024, None, tiling).window(options, 4096)


def test_a_model_is_opened_with_the_window_its_pictures_need(tmp_path):
    pair = write_tiny_pair(tmp_path, pinpoints=(448, 448))
    with opened(pair, context=0) as closely, opened(pair, context=0, detail="low") as quickly:
        assert (3072, 2048) == (closely._llama.n_ctx(), quickly._llama.n_ctx())


def test_an_answer_may_fill_a_window_of_any_size(tiny_pair):
    """llama.cpp makes 512 cells of 300."""
    reply = ask(tiny_pair, "circle " * 220, context=300, sampling=Sampling(temperature=0, max_tokens=500))
    assert ("context", 512) == (reply.finish_reason, reply.usage.prompt_cells + reply.usage.answer_tokens)


# Shapes.


def test_of_sizes_that_keep_as_much_the_least_wasteful_is_taken():
    """A small picture is kept whole by all of them; what comes first counts only among equals."""
    both = ((672, 672), (336, 672))
    assert [576 + 24 * 25] * 2 == [Tiling(sizes, 336, 24, b"").token_count((300, 300)) for sizes in (both, both[::-1])]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (1, 336), (3, 2000), (336, 335)])
def test_a_picture_of_any_shape_has_as_many_embeddings_as_were_counted(size):
    tiling = Tiling(LLAVA, 336, 24, bytes(8))
    tiles = list(tiling.cut(noise(1, size)))
    assert {336 * 336 * 3} == {len(tile) for tile in tiles}
    square = np.zeros((576, 2), dtype=np.float32)
    joined = tiling.join(size, square, [square] * len(tiles))
    assert (tiling.token_count(size), 2) == joined.shape
    assert 576 <= len(joined) <= tiling.most_tokens


# Quick looks.


def test_what_is_seen_closely_and_quickly_never_mixes(engine, tiled_pair):
    """Each answer is that of a fresh model, and each look is taken once."""
    encoded = 0
    for detail in ("high", "low", "high", "low"):
        question = user("Describe this picture.", noise(1, detail=detail))
        assert alone(tiled_pair, question) == engine.ask(question)
        encoded += engine.reading.pictures_encoded
    assert 2 == encoded


def test_both_looks_may_stand_in_one_message(engine):
    closely, quickly = noise(1), noise(1, detail="low")
    assert engine.ask(user("Describe this", closely, quickly))
    assert (WIDE + SQUARE, 2) == (engine.reading.picture_cells, engine.reading.pictures_encoded)


def test_a_picture_that_does_not_say_is_looked_at_as_the_model_was_opened(tiled_pair):
    for detail, cells in (("low", SQUARE), ("high", WIDE)):
        assert cells == ask(tiled_pair, about=noise(1), cache=False, detail=detail).usage.picture_cells


def test_a_picture_that_says_is_looked_at_as_it_says(tiled_pair):
    for detail, cells in (("low", SQUARE), ("high", WIDE)):
        about = noise(1, detail=detail)
        other = "high" if detail == "low" else "low"
        assert cells == ask(tiled_pair, about=about, cache=False, detail=other).usage.picture_cells


@pytest.mark.parametrize(("detail", "cells"), [("low", SQUARE), ("high", WIDE), ("auto", WIDE)])
def test_openai_messages_say_it_as_openai_does(engine, detail, cells):
    buffer = io.BytesIO()
    noise(1).image().save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    engine.ask({"role": "user", "content": [{"type": "image_url", "image_url": {"url": url, "detail": detail}}]})
    assert cells == engine.reading.picture_cells


def test_another_word_for_it_is_a_mistake_of_the_user(tiled_pair):
    for wrong in (
        lambda: LoadOptions(detail="medium"),
        lambda: noise(1, detail="medium"),
        lambda: LlavaChatHandler(tiled_pair[1], detail="medium"),
    ):
        with pytest.raises(UsageError, match="must be low or high, not 'medium'"):
            wrong()
    done = llava("ask", SCENE, QUESTION, "--detail", "medium", *files_of(tiled_pair))
    assert (2, "") == (done.returncode, done.stdout)


def test_a_model_that_sees_one_square_has_one_look(tiny_pair):
    """So a setting for slow machines spoils nothing that was kept."""
    expected = ask(tiny_pair, about=noise(1))
    quick = ask(tiny_pair, about=noise(1, detail="low"), detail="low")
    assert (expected.text, 0) == (quick.text, quick.usage.pictures_encoded)
    assert SQUARE == quick.usage.picture_cells < quick.usage.reused_cells


# Chats, and what is kept.


def test_two_pictures_of_different_size_in_one_chat(engine, tiled_pair):
    first = user(QUESTION, noise(1, (112, 56)))
    answer = engine.ask(first)
    both = [first, assistant(answer), user(OTHER, noise(2, (56, 112)))]
    second = engine.ask(*both)
    assert (WIDE + TALL, 1) == (engine.reading.picture_cells, engine.reading.pictures_encoded)
    assert engine.reading.reused > WIDE
    engine.ask(*both, assistant(second), user("Is there"))
    assert engine.reading.pictures_encoded == 0
    assert engine.reading.reused > WIDE + TALL
    assert second == alone(tiled_pair, *both)


@pytest.mark.parametrize("detail", ["low", "high"])
def test_a_known_picture_comes_back_from_disk(tiled_pair, monkeypatch, detail):
    expected = ask(tiled_pair, about=noise(1), detail=detail, cache=False)
    ask(tiled_pair, about=noise(1), detail=detail)
    monkeypatch.setattr(picture_embeddings, "Tower", None)
    reply = ask(tiled_pair, about=noise(1), detail=detail)
    assert expected.text == reply.text
    assert reply.usage.picture_cells < reply.usage.reused_cells
    other_system = ask(tiled_pair, about=noise(1), detail=detail, system="Be brief.")
    assert (0, 0) == took(other_system)


def test_one_look_on_disk_is_no_other(tiled_pair):
    for number, detail in enumerate(("low", "high"), 1):
        expected = ask(tiled_pair, about=noise(1), detail=detail, cache=False)
        reply = ask(tiled_pair, about=noise(1), detail=detail)
        assert (expected.text, (OPENING * (number > 1), 1)) == (reply.text, took(reply))
        assert (number, number) == (len(kept("*.prefix")), len(kept("*.embeddings")))


def test_a_picture_in_several_batches_is_restored_as_it_was(tiled_pair):
    large = noise(1, (112, 112))
    answers = [ask(tiled_pair, about=large, ubatch=32, cache=cache) for cache in (False, True, True)]
    assert 1 == len({answer.text for answer in answers})
    assert [False, False, True] == [answer.usage.reused_cells > 88 for answer in answers]


def test_a_newline_that_is_no_number_is_an_error_as_soon_as_it_would_be_seen(tiled_pair, tmp_path):
    bad = Draft(tiled_pair[1]).change("model.image_newline", data=np.full(64, np.nan, np.float32).tobytes())
    engine = Engine((tiled_pair[0], bad.write(tmp_path / "mmproj.gguf")))
    assert SQUARE == len(engine.handler.embed(engine.llama, noise(1, detail="low")))
    with pytest.raises(EngineFailed, match="not numbers"):
        engine.handler.embed(engine.llama, noise(1))
    engine.llama.close()


def test_a_repaired_copy_is_cut_like_the_original(tiled_pair, tmp_path):
    copy = repaired_projector(tiled_pair[1], tmp_path).path
    assert copy != tiled_pair[1]
    assert TowerFacts.read(tiled_pair[1]) == TowerFacts.read(copy)
    assert repaired_projector(copy, tmp_path).path == copy
