"""Facts about answers that repeat themselves."""

import random

import pytest

from llava_cli.loops import is_loop
from tests.questions import QUESTION, opened, picture

RUN = [5, 7, 7, 9]


@pytest.mark.parametrize("run", [[3], RUN, list(range(32))], ids=len)
def test_the_same_run_of_tokens_for_long_is_a_loop(run):
    assert is_loop([1, 2, 3, *run * (128 // len(run))])


@pytest.mark.parametrize(
    "tokens",
    [RUN * 31, [*RUN * 20, 8, *RUN * 20], list(range(33)) * 10, random.Random(1).choices(range(50), k=400), []],
    ids=["too short", "broken once", "too long a run", "no run", "nothing"],
)
def test_other_answers_are_none(tokens):
    assert not is_loop(tokens)


def test_an_answer_that_repeats_itself_is_ended_unless_that_is_switched_off(tiny_pair):
    with opened(tiny_pair) as model:
        replies = []
        for guard in (True, False):
            # What was said once is preferred from then on.
            how = {"max_tokens": 300, "repeat_penalty": 0.1, "loop_guard": guard}
            reply = model.ask(picture(1), QUESTION, **how)
            replies.append((reply.text, reply.finish_reason, reply.usage.answer_tokens))
    (ended, why, tokens), (endless, length, most) = replies
    assert ("loop", "length", 300) == (why, length, most)
    assert endless.startswith(ended)
    assert 128 <= tokens < most
