"""Facts about a chat as a list of turns, on real llama.cpp with a random model of a few kilobytes."""

import pytest

from llava_cli import LoadOptions, Sampling, load
from llava_cli.errors import ContextTooSmall, UsageError
from tests.processes import SCENE
from tests.questions import picture

GREEDY = Sampling(temperature=0, max_tokens=8)


def opened(pair, **options):
    """Open the tiny model without a cache on disk."""
    settings = LoadOptions(**{"context": 512, "threads": 1, **options})
    return load(model_path=pair[0], projector_path=pair[1], options=settings, sampling=GREEDY, cache=False)


@pytest.fixture(scope="module")
def model(tiny_pair):
    """Open the tiny model once: no fact here changes it."""
    with opened(tiny_pair) as model:
        yield model


@pytest.fixture
def chat(model):
    """Ask two questions about a picture."""
    chat = model.chat()
    _ = chat.send("What color?", picture=SCENE).text
    _ = chat.send("How many shapes?").text
    return chat


def questions(chat):
    """Return the texts of the questions."""
    return [turn["content"][-1]["text"] for turn in chat.messages if turn["role"] == "user"]


def test_undo_takes_a_question_back_with_its_pictures(chat):
    assert ("How many shapes?", []) == chat.undo()
    text, pictures = chat.undo()
    assert ("What color?", ["scene.png"], []) == (text, [p.name.rpartition("/")[2] for p in pictures], chat.messages)


def test_after_undo_the_cache_is_of_use(chat):
    chat.undo()
    reply = chat.send("Is there a circle?")
    assert reply.text
    assert (0, True) == (reply.usage.pictures_encoded, reply.usage.reused_cells > 16)


def test_a_chat_that_was_taken_back_and_asked_again_answers_the_same(chat):
    before = chat.messages
    question, _ = chat.undo()
    _ = chat.send(question).text
    assert before == chat.messages


def test_retry_puts_another_answer_in_the_place_of_the_last(chat):
    before = chat.messages
    reply = chat.retry(temperature=2.0)
    assert reply.text
    assert chat.messages == [*before[:-1], {"role": "assistant", "content": reply.text}]


def test_retry_draws_with_another_seed(model):
    chat = model.chat()
    first = chat.send("What color?", picture=SCENE, temperature=2.0, seed=7)
    assert first.text
    assert chat.retry(temperature=2.0).seed != 7


def test_an_answer_goes_on_where_it_was_cut(model):
    whole = model.chat().send("What color?", picture=SCENE, max_tokens=16).text
    chat = model.chat()
    begun = chat.send("What color?", picture=SCENE, max_tokens=8)
    assert begun.text
    more = chat.go_on(max_tokens=8)
    assert more.text
    assert (whole, 2) == (chat.messages[-1]["content"], len(chat.messages))
    assert begun.text + more.text == whole


def test_going_on_reads_next_to_nothing(chat):
    reply = chat.go_on()
    assert reply.text
    assert reply.usage.new_cells < reply.usage.reused_cells / 4


@pytest.mark.parametrize("operation", ["undo", "retry", "go_on"])
def test_an_empty_chat_has_nothing_to_work_on(model, operation):
    with pytest.raises(UsageError):
        getattr(model.chat(), operation)()


def test_a_reply_stopped_before_its_first_word_changes_nothing(chat, model):
    before = chat.messages
    reply = chat.retry()
    reply.close()
    assert before == chat.messages


def test_a_dropped_picture_stays_in_messages_that_were_taken_before(chat):
    before = chat.messages
    parts = [len(message["content"]) for message in before]
    chat.drop(0)
    assert parts == [len(message["content"]) for message in before]


def test_a_dropped_picture_leaves_the_words(chat):
    assert chat.drop(0).name.endswith("scene.png")
    assert (["What color?", "How many shapes?"], []) == (questions(chat), chat.pictures)


def test_another_system_prompt_counts_from_the_next_question(chat):
    chat.system = "Answer briefly."
    reply = chat.send("Is there a circle?")
    assert reply.text
    assert {"role": "system", "content": "Answer briefly."} == chat.messages[0]


def test_cells_are_those_of_the_finished_turns(chat):
    used = chat.cells
    reply = chat.send("Is there a circle?")
    assert reply.text
    assert used < reply.usage.prompt_cells


def test_a_chat_goes_on_after_the_turns_of_an_earlier_one(chat, model):
    again = model.chat(messages=chat.messages)
    assert chat.send("Is there a circle?").text == again.send("Is there a circle?").text


# When the window is full.


@pytest.fixture(scope="module")
def small(tiny_pair):
    """Open it with a window of 256 cells, 16 of them for each picture."""
    with opened(tiny_pair, context=256) as model:
        yield model


def talk(model, turns, **options):
    """Ask about a picture once, then many questions more; return the chat and its replies."""
    chat = model.chat(system="")
    replies = [chat.send("How many shapes?", picture=picture(1), **options)]
    _ = replies[0].text
    for number in range(turns):
        replies.append(chat.send(f"Is there a circle number {number}?", **options))
        _ = replies[-1].text
    return chat, replies


def test_the_oldest_turns_go_and_the_picture_stays(small):
    chat, replies = talk(small, 20)
    assert chat.dropped > 0
    assert ["noise 1.png"] == [one.name for one in chat.pictures]
    assert "How many shapes?" not in questions(chat)
    assert "Is there a circle number 19?" == questions(chat)[-1]
    assert all(reply.usage.prompt_cells + 8 <= 256 for reply in replies)


def test_the_picture_is_not_read_again(small):
    _, replies = talk(small, 20)
    assert 0 == sum(reply.usage.pictures_encoded for reply in replies[1:])
    assert all(reply.usage.reused_cells >= 16 for reply in replies[1:])


def test_room_is_made_once_in_a_while_and_not_for_every_question(small):
    _, replies = talk(small, 20)
    read_again = [reply for reply in replies[1:] if reply.usage.new_cells > 64]
    assert 0 < len(read_again) <= 5


def test_a_question_that_does_not_fit_at_all_leaves_the_chat_as_it_was(small):
    chat, _ = talk(small, 3)
    before = chat.messages
    with pytest.raises(ContextTooSmall):
        chat.send("circle " * 300)
    assert (before, 0) == (chat.messages, chat.dropped)
