"""Facts about answers by choice: what the probabilities are, how true, and that weighing them leaves nothing behind."""

import math

import pytest

from llava_cli import LoadOptions, load
from llava_cli.choices import compared, read_choices
from llava_cli.errors import ContextTooSmall, EngineFailed, Stopped, UsageError
from llava_cli.odds import logits_of
from tests.processes import SCENE
from tests.questions import opened


@pytest.fixture(scope="module")
def model(tiny_pair):
    """Open a model that knows nothing, and so gives every choice a chance."""
    with opened(tiny_pair, cache=False) as model:
        yield model


@pytest.fixture(scope="module")
def shapes():
    with load("shapes", options=LoadOptions(context=1024, threads=1), cache=False) as model:
        yield model


def probabilities(decision):
    return [choice.probability for choice in decision.choices]


def test_the_probabilities_of_the_choices_add_up_to_one(model):
    decision = model.choose(SCENE, "What color?", ["red", "green", "blue and large"])
    assert (["red", "green", "blue and large"], 1) == (
        [choice.text for choice in decision.choices], pytest.approx(sum(probabilities(decision)))
    )  # fmt: skip
    assert max(probabilities(decision)) == decision.best.probability
    assert decision.text == decision.best.text


def test_a_choice_is_all_its_tokens_and_the_end_of_the_answer(model):
    """What the log probability should be is computed one token at a time, each on a prompt of its own."""
    (choice, _) = model.choose(SCENE, "What color?", ["red", "blue"]).choices
    llama, handler = model._llama, model._handler
    reply = model.ask(SCENE, "What color?", max_tokens=1)
    assert reply.text is not None
    prompt = handler._reader.cache.cells()[: reply.usage.prompt_cells]
    tokens = [*llama.tokenize(b"red", add_bos=False), llama.token_eos()]
    total = 0.0
    for at, token in enumerate(tokens):
        handler._reader.cache.sync([*prompt, *tokens[:at]], handler._embeddings._rows.__getitem__)
        logits = logits_of(llama).astype(float)
        total += logits[token] - math.log(sum(math.exp(value) for value in logits))
    assert (len(tokens), pytest.approx(total, abs=1e-3)) == (choice.tokens, choice.log_probability)


def test_choices_of_equal_length_keep_their_odds_and_longer_ones_lose_nothing_for_that():
    even = compared(["a", "b"], [(math.log(0.3), 2), (math.log(0.1), 2)])
    assert [pytest.approx(0.75), pytest.approx(0.25)] == [choice.probability for choice in even]
    # Each token as probable as that of the other: neither is preferred.
    uneven = compared(["a", "b c d"], [(-0.2, 2), (-0.4, 4)])
    assert [0.5, 0.5] == [choice.probability for choice in uneven]


def test_the_order_of_the_choices_does_not_matter(model):
    forth = model.choose(SCENE, "What color?", ["red", "green", "blue"])
    back = model.choose(SCENE, "What color?", ["blue", "green", "red"])
    assert probabilities(forth) == [pytest.approx(p, abs=1e-6) for p in reversed(probabilities(back))]


def test_nothing_is_left_of_weighing(model):
    before = model.ask(SCENE, "What color?").text
    prompt = model._handler._reader.cache.cells()
    decision = model.choose(SCENE, "What color?", ["red", "a large green square", "blue"])
    held = model._handler._reader.cache.cells()
    assert (held, len(held)) == (prompt[: len(held)], decision.usage.prompt_cells)
    assert before == model.ask(SCENE, "What color?").text
    assert probabilities(decision) == [
        pytest.approx(p, abs=1e-6)
        for p in probabilities(model.choose(SCENE, "What color?", ["red", "a large green square", "blue"]))
    ]


def test_a_choice_is_weighed_the_same_whatever_was_written_before(model):
    from llava_cli.openai_shapes import read_messages

    question = {"role": "user", "content": "What color?"}
    before = model.choose(None, "What color?", ["red", "blue"])
    parts = model._handler.layout.render(read_messages([question]))
    letters = [3 + byte for byte in b" red"]  # as `tiny_vocabulary` lays it out
    model._handler._written.add(parts, letters, model._llama)
    after = model.choose(None, "What color?", ["red", "blue"])
    assert [2, 2] == [choice.tokens for choice in after.choices]
    assert probabilities(before) == [pytest.approx(p, abs=1e-6) for p in probabilities(after)]


def test_the_picture_is_read_once_for_questions_with_choices_and_without(tiny_pair):
    with opened(tiny_pair, cache=False) as model:
        first = model.choose(SCENE, "What color?", ["red", "blue"]).usage
        second = model.choose(SCENE, "How many?", ["1", "2"]).usage
        reply = model.ask(SCENE, "What color?")
        assert reply.text is not None
    assert (1, 0, 0) == (first.pictures_encoded, second.pictures_encoded, reply.usage.pictures_encoded)
    assert second.reused_cells > 16


def test_what_was_read_for_choices_is_kept_on_disk(tiny_pair):
    """A later process asks about the same picture: nothing of it is read again."""

    def usage():
        with opened(tiny_pair) as model:
            return model.choose(SCENE, "What color?", ["red", "blue"]).usage

    first, later = usage(), usage()
    assert (1, 0) == (first.pictures_encoded, later.pictures_encoded)
    assert later.reused_cells > 16 > first.reused_cells == 0


def test_a_question_with_choices_may_follow_turns(model):
    chat = model.chat()
    _ = chat.send("What color?", picture=SCENE).text
    decision = model.choose(None, "Are you sure?", ["yes", "no"], after=chat.messages)
    assert decision.usage.reused_cells > 16
    assert decision.usage.picture_cells == 16


@pytest.mark.parametrize("layout", ["llava_v1", "mistral_instruct"])
def test_white_space_in_front_of_an_answer_is_the_layouts_matter(tiny_pair, layout):
    """With a space or without: it is the answer that is weighed, as it would stand in the chat."""
    settings = LoadOptions(context=512, threads=1)
    with load(
        model_path=tiny_pair[0], projector_path=tiny_pair[1], prompt_layout=layout, options=settings, cache=False
    ) as model:
        assert 2 == model.choose(SCENE, "What color?", ["red", "blue"]).best.tokens


def test_a_prompt_without_room_for_the_choices_is_refused(model):
    with pytest.raises(ContextTooSmall):
        model.choose(SCENE, "What color?", ["red", "blue " * 500])


def test_a_choice_may_be_longer_than_a_batch(tiny_pair):
    with opened(tiny_pair, cache=False, ubatch=64) as model:
        assert model._llama.n_batch < 200
        decision = model.choose(SCENE, "What color?", ["blue " * 200, "red"])
    with opened(tiny_pair, cache=False) as model:
        whole = model.choose(SCENE, "What color?", ["blue " * 200, "red"])
    assert decision.choices[0].tokens == whole.choices[0].tokens > 200
    assert decision.choices[0].log_probability == pytest.approx(whole.choices[0].log_probability, rel=1e-3)


def test_a_stop_while_weighing_leaves_the_cache_true(model, monkeypatch):
    cache = model._handler._reader.cache

    def stopped(tokens):
        model.stop()
        return original(tokens)

    original = cache.logits_behind
    monkeypatch.setattr(cache, "logits_behind", stopped)
    with pytest.raises(Stopped):
        model.choose(SCENE, "What color?", ["red", "blue"])
    monkeypatch.undo()
    assert len(cache.cells()) == model._llama.n_tokens
    assert model.ask(SCENE, "What color?").text == model.ask(SCENE, "What color?").text


def test_an_answer_under_way_ends_when_choices_are_weighed(model):
    reply = model.ask(SCENE, "What color?", temperature=2.0, max_tokens=40)
    next(iter(reply))
    model.choose(SCENE, "What color?", ["red", "blue"])
    with pytest.raises(EngineFailed, match="newer question"):
        _ = reply.text


READ = {
    "yes,no": ("yes", "no"),
    " left , right,": None,
    '"red, green", blue': ("red, green", "blue"),
    "yes": None,
    "yes,yes": None,
    ",": None,
    "": None,
    "a b,c": ("a b", "c"),
}


@pytest.mark.parametrize(("text", "choices"), READ.items())
def test_choices_stand_between_commas(text, choices):
    if choices is None:
        with pytest.raises(UsageError):
            read_choices(text)
    else:
        assert choices == read_choices(text)


def test_on_shapes_the_best_choice_is_the_greedy_answer(shapes):
    """The short form of `python -m training.choices`, which asks 500 questions."""
    from training.choices import measure

    found = measure(shapes, count=40)
    assert len(found) == 40
    assert sum(one.chosen == one.greedy for one in found) >= 39
    assert sum(one.probability for one in found) / 40 == pytest.approx(sum(one.is_right for one in found) / 40, abs=0.1)
