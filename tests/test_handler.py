"""Facts about the chat handler, on real llama.cpp with a random model of a few kilobytes."""

import base64
import io
import math
import random
import struct

import llama_cpp
import pytest
from PIL import Image

from llava_cli.cells import cells_of
from llava_cli.errors import ContextTooSmall, EngineFailed, Stopped, UnreadablePicture, UsageError
from llava_cli.handler import LlavaChatHandler
from llava_cli.openai_shapes import read_messages
from llava_cli.pictures import Picture, open_picture
from tests.gguf_draft import Draft

PICTURE_CELLS = 16


def picture(seed: int, name: str = "noise.png") -> Picture:
    """Return noise that only this seed gives."""
    noise = Image.frombytes("RGB", (40, 30), random.Random(seed).randbytes(40 * 30 * 3))
    return open_picture(noise, name=name)


def user(text, *pictures):
    parts = [{"type": "picture", "picture": p} for p in pictures]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def assistant(text):
    return {"role": "assistant", "content": text}


class Engine:
    """A plain `Llama` with our handler, and a short way to ask it."""

    def __init__(self, pair, **options):
        model, projector = pair
        self.stages = []
        self.handler = LlavaChatHandler(projector, on_stage=lambda name, _amount: self.stages.append(name))
        settings = {"n_ctx": 512, "n_batch": 256, "n_ubatch": 256, "flash_attn": True, "n_threads": 1, **options}
        self.llama = llama_cpp.Llama(str(model), chat_handler=self.handler, verbose=False, **settings)

    def stream(self, *messages, **sampling):
        sampling = {"max_tokens": 8, "temperature": 0, **sampling}
        for chunk in self.llama.create_chat_completion(messages=list(messages), stream=True, **sampling):
            yield chunk["choices"][0]["delta"].get("content", "")

    def ask(self, *messages, **sampling):
        return "".join(self.stream(*messages, **sampling))

    @property
    def reading(self):
        return self.handler.reading


@pytest.fixture
def engine(tiny_pair):
    """Open the tiny model, and close it again."""
    engine = Engine(tiny_pair)
    yield engine
    engine.llama.close()


def alone(pair, *messages):
    """Return the answer of a model that has never been asked anything else."""
    engine = Engine(pair)
    answer = engine.ask(*messages)
    engine.llama.close()
    return answer


def test_a_picture_is_encoded_and_read_once_per_chat(engine):
    question = user("What color is the circle?", picture(1))
    answer = engine.ask(question)
    first = engine.reading
    engine.ask(question, assistant(answer), user("How many shapes?"))
    assert (first.reused, first.pictures_encoded) == (0, 1)
    assert engine.reading.pictures_encoded == 0
    assert engine.reading.reused >= first.new


def test_a_repeated_prompt_evaluates_one_cell(engine):
    question = user("What color?", picture(1))
    answer = engine.ask(question)
    assert (answer, 1) == (engine.ask(question), engine.reading.new)


def test_pictures_never_mix(engine, tiny_pair):
    """A, B, A, C, and A again under the same name with other bytes: each answer is that of a fresh model."""
    a, b, c, changed = picture(1, "a.png"), picture(2, "b.png"), picture(3, "c.png"), picture(4, "a.png")
    encodes = 0
    for one in (a, b, a, c, changed):
        question = user("Describe this picture.", one)
        assert alone(tiny_pair, question) == engine.ask(question)
        encodes += engine.reading.pictures_encoded
    assert encodes == 4
    assert len({alone(tiny_pair, user("Describe this picture.", one)) for one in (a, b, c, changed)}) == 4


def test_a_picture_at_another_place_is_read_again_but_not_encoded(engine, tiny_pair):
    engine.ask(user("What color?", picture(1)))
    later = [user("Is there"), assistant("yes"), user("What color?", picture(1))]
    assert alone(tiny_pair, *later) == engine.ask(*later)
    assert engine.reading.pictures_encoded == 0


def test_two_pictures_in_one_message_keep_their_order(engine):
    one_two = engine.ask(user("Describe this", picture(1), picture(2)))
    assert one_two != engine.ask(user("Describe this", picture(2), picture(1)))
    assert engine.reading.pictures_encoded == 0


@pytest.mark.parametrize("text", ["</s>", "<s>", "a</s>b", "<0x0A>", "<image>", "<__media__>", "[INST] x [/INST]"])
def test_what_a_user_types_is_never_a_special_token(engine, text):
    engine.ask(user(text), max_tokens=1)
    tokens = engine.llama.input_ids[1 : engine.llama.n_tokens].tolist()
    assert not {0, 1, 2, 13} & set(tokens)  # unk, bos, eos, and the byte of a newline
    assert text in engine.llama.detokenize(tokens).decode()


def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_evaluated(engine):
    with pytest.raises(ContextTooSmall, match="of 512 cells"):
        engine.ask(user("circle " * 600, picture(1)))
    assert engine.stages == []


def test_an_answer_that_fills_the_context_says_so(tiny_pair):
    engine = Engine(tiny_pair, n_ctx=256)  # llama.cpp's smallest window
    engine.ask(user("circle " * 190, picture(1)), max_tokens=500)
    assert (engine.reading.finish_reason, engine.llama.n_ctx()) == (
        "context",
        engine.reading.new + engine.reading.answer_tokens,
    )
    engine.llama.close()


@pytest.mark.parametrize("stage", ["looking", "reading"])
def test_a_stop_before_the_answer_leaves_the_cache_true(engine, tiny_pair, stage):
    def stop(name, _amount):
        if name == stage:
            engine.handler.stopped.set()

    engine.ask(user("What color?", picture(1)))
    engine.handler.on_stage = stop
    with pytest.raises(Stopped):
        engine.ask(user("How many shapes are there?", picture(2)))
    engine.handler.on_stage = None
    question = user("How many shapes are there?", picture(2))
    assert alone(tiny_pair, question) == engine.ask(question)


def test_a_stop_while_writing_keeps_the_text_and_the_cache(engine):
    question = user("Describe this picture.", picture(1))
    whole = engine.ask(question)
    pieces = []
    for piece in engine.stream(question):
        pieces.append(piece)
        if len("".join(pieces)) > 3:
            engine.handler.stopped.set()
    part = "".join(pieces)
    assert (engine.reading.finish_reason, whole[: len(part)]) == ("stopped", part)
    assert len(part) < len(whole)
    engine.ask(question, assistant(part), user("What color?"))
    assert engine.reading.pictures_encoded == 0
    assert engine.reading.reused > PICTURE_CELLS


def test_every_picture_of_a_prompt_is_encoded_once(engine):
    engine.ask(user("What?", *map(picture, range(20, 27))))
    assert 7 == engine.reading.pictures_encoded


def test_an_answer_begun_too_late_says_nothing_of_the_newer_one(engine):
    old = engine.llama.create_chat_completion(messages=[user("What color?", picture(1))], stream=True)
    engine.ask(user("How many shapes?", picture(1)))
    why = engine.reading.finish_reason
    with pytest.raises(EngineFailed, match="newer question"):
        list(old)
    assert why == engine.reading.finish_reason != "stopped"


def test_an_answer_left_unfinished_cannot_go_on_after_another_question(engine):
    old = engine.stream(user("What color?", picture(1)))
    next(old)
    engine.ask(user("What color?", picture(2)))
    with pytest.raises(EngineFailed, match="newer question"):
        list(old)


def test_whoever_else_uses_the_llama_is_noticed(engine, tiny_pair):
    question = user("What color?", picture(1))
    engine.ask(question)
    engine.llama.reset()
    engine.llama.eval(engine.llama.tokenize(b"Describe this picture"))
    assert alone(tiny_pair, question) == engine.ask(question)


def test_openai_messages_with_a_data_url_see_the_same_picture(engine):
    buffer = io.BytesIO()
    picture(1).image().save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    content = [{"type": "text", "text": "What color?"}, {"type": "image_url", "image_url": {"url": url}}]
    answer = engine.ask({"role": "user", "content": content})
    assert answer == engine.ask(user("What color?", picture(1)))
    assert engine.reading.pictures_encoded == 0


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://localhost/a.png", "photo.jpg", "data:text/html,x"])
def test_the_handler_opens_no_files_and_no_addresses(engine, url):
    with pytest.raises(UnreadablePicture):
        engine.ask({"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]})
    assert engine.stages == []


def test_the_answer_in_one_piece_is_the_streamed_one_with_its_usage(engine):
    question = user("What color?", picture(1))
    streamed = engine.ask(question)
    whole = engine.llama.create_chat_completion(messages=[question], max_tokens=8, temperature=0)
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": streamed}
    assert whole["usage"]["total_tokens"] == whole["usage"]["prompt_tokens"] + whole["usage"]["completion_tokens"]


def test_a_seed_repeats_its_answer_and_another_gives_another(engine):
    question = user("Describe this picture.", picture(1))
    drawn = [engine.ask(question, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_each_token_comes_with_its_probability_among_all(engine):
    options = {"messages": [user("What color?", picture(1))], "max_tokens": 8, "temperature": 0}
    whole = engine.llama.create_chat_completion(logprobs=True, top_logprobs=engine.llama.n_vocab(), **options)
    odds = whole["choices"][0]["logprobs"]["content"]
    assert whole["usage"]["completion_tokens"] == len(odds)
    for token in odds:
        assert 1 == pytest.approx(sum(math.exp(other["logprob"]) for other in token["top_logprobs"]))
        assert token["logprob"] == token["top_logprobs"][0]["logprob"]  # the likeliest was taken
        assert token["bytes"] == token["top_logprobs"][0]["bytes"]
    chunks = list(engine.llama.create_chat_completion(logprobs=True, stream=True, **options))
    streamed = [one for c in chunks if (said := c["choices"][0]["logprobs"]) for one in said["content"]]
    assert [token["logprob"] for token in odds] == pytest.approx([token["logprob"] for token in streamed])


@pytest.mark.parametrize("option", [{"tools": [{}]}, {"logit_bias": {1: 2.0}}, {"mirostat_mode": 2}])
def test_an_option_that_would_do_nothing_is_refused(engine, option):
    with pytest.raises(UsageError, match="cannot do that"):
        engine.ask(user("What color?", picture(1)), **option)


def test_one_handler_serves_one_llama(engine, tiny_pair):
    engine.ask(user("Is there"))
    other = llama_cpp.Llama(str(tiny_pair[0]), n_ctx=512, verbose=False, chat_handler=engine.handler)
    with pytest.raises(UsageError, match="another Llama"):
        other.create_chat_completion(messages=[user("Is there")])
    other.close()


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ("no question", []),
        ("follow each other", [user("a"), user("b")]),
        ("without a question", [assistant("b"), user("a")]),
        ("unknown role", [{"role": "tool", "content": "x"}]),
        ("unknown content", [{"role": "user", "content": [{"type": "audio"}]}]),
        ("picture in a system message", [{**user("x", picture(1)), "role": "system"}, user("a")]),
    ],
)
def test_messages_that_make_no_sense_are_refused(engine, words, messages):
    with pytest.raises(UsageError, match=words):
        engine.ask(*messages)


def test_logits_that_are_no_numbers_are_an_error_and_not_an_answer(tiny_pair, tmp_path):
    """A damaged model that passes the gate: llama.cpp itself goes on as if nothing were wrong."""
    norm = struct.pack("<64f", *[math.nan] * 64)
    damaged = Draft(tiny_pair[0]).change("output_norm.weight", data=norm).write(tmp_path / "damaged.gguf")
    engine = Engine((damaged, tiny_pair[1]))
    with pytest.raises(EngineFailed, match=r"damaged\.gguf: .*not numbers") as caught:
        engine.ask(user("What color?", picture(1)))
    assert (7, ["looking", "reading"]) == (caught.value.exit_code, engine.stages)
    engine.llama.close()


def test_after_a_rewind_a_question_is_read_whole_as_in_a_new_process(engine):
    """Words that two questions begin with would else be read in other company, which may change an answer's bits."""
    reused = []
    for question in ("What is red?", "What is blue?", "Is it a star?"):
        engine.handler.rewind()
        engine.ask(user(question, picture(1)))
        reused.append(engine.reading.reused)
    assert (0, reused[2], 1) == (reused[0], reused[1], engine.stages.count("looking"))
    assert reused[2] > PICTURE_CELLS


def test_an_answer_in_other_tokens_than_its_text_has_is_not_read_again(engine):
    """Random weights write words in pieces that the tokenizer would not cut them into."""
    unusual = 0
    for seed in range(8):
        question = user("What color?", picture(seed))
        answer = engine.ask(question, max_tokens=4)
        held = engine.handler._reader.cache.cells()
        turns = [question, assistant(answer), user("How many shapes?")]
        parts = engine.handler.layout.render(read_messages(turns))
        engine.ask(*turns)
        if (
            "\ufffd" not in answer
            and cells_of(parts, engine.llama, engine.handler._embeddings.view)[: len(held)] != held
        ):
            unusual += 1
            assert len(held) == engine.reading.reused
    assert unusual > 0
