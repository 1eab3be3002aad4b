"""Facts about pictures known only by their hash: chats go on without the file while what was read of it is kept."""

import pytest

from llava_cli.errors import UnreadablePicture
from llava_cli.history import History, messages_of, turn_of
from llava_cli.pictures import open_picture
from tests.questions import OPENING, OTHER, QUESTION, kept, opened, picture, took


@pytest.fixture
def file(tmp_path):
    """Write picture 1 to a file, and return its path."""
    path = tmp_path / "noise.png"
    picture(1).image().save(path)
    return path


@pytest.fixture
def chat(tiny_pair, file):
    """Ask the first question of a chat, in a process of its own as it were; return the number of the chat."""
    with opened(tiny_pair) as model:
        seen = open_picture(file)
        reply = model.ask(seen, QUESTION)
        assert reply.text
        return History().record(turn_of(reply, model, QUESTION, [seen])).chat


def go_on(pair, chat, *, cache=True, pictures=()):
    with opened(pair, cache=cache) as model:
        reply = model.chat(messages=messages_of(History().turns(chat), pictures)).send(OTHER)
        assert reply.text
    return reply


def unbroken(pair):
    with opened(pair, cache=False) as model:
        chat = model.chat()
        _ = chat.send(QUESTION, picture=picture(1)).text
        return chat.send(OTHER).text


def test_a_chat_goes_on_without_the_file(tiny_pair, chat, file):
    file.unlink()
    reply = go_on(tiny_pair, chat)
    assert (unbroken(tiny_pair), (47, 0)) == (reply.text, took(reply))


def test_a_chat_goes_on_from_embeddings_alone(tiny_pair, chat, file):
    file.unlink()
    for prefix in kept("*.prefix"):
        prefix.unlink()
    reply = go_on(tiny_pair, chat)
    assert (unbroken(tiny_pair), (OPENING, 0)) == (reply.text, took(reply))


def test_a_chat_goes_on_from_the_file_alone(tiny_pair, chat):
    reply = go_on(tiny_pair, chat, cache=False)
    assert (unbroken(tiny_pair), (0, 1)) == (reply.text, took(reply))


def test_a_picture_that_is_gone_in_every_way_is_an_error(tiny_pair, chat, file):
    file.unlink()
    with pytest.raises(UnreadablePicture, match=r"noise\.png: the picture is no longer known .*no such file") as raised:
        go_on(tiny_pair, chat, cache=False)
    assert (3, "give the file again") == (raised.value.exit_code, raised.value.hint)


def test_a_file_that_holds_another_picture_now_is_not_taken_for_it(tiny_pair, chat, file):
    picture(2).image().save(file)
    with pytest.raises(UnreadablePicture, match="is another picture now"):
        go_on(tiny_pair, chat, cache=False)


def test_a_picture_that_came_from_no_file_is_known_by_what_is_kept_alone():
    with pytest.raises(UnreadablePicture, match="came from no file"):
        picture(1).remembered().open()


def test_the_file_given_again_stands_in(tiny_pair, chat, file):
    file.unlink()
    assert unbroken(tiny_pair) == go_on(tiny_pair, chat, cache=False, pictures=[picture(1)]).text


def test_the_same_pixels_are_opened_again(file):
    again = open_picture(file).remembered().open()
    assert (picture(1).sha256, str(file), 0) == (again.sha256, again.path, again.frame)


def test_a_picture_is_looked_at_again_as_closely_as_then(tiny_pair, file):
    with opened(tiny_pair, detail="low") as model:
        reply = model.ask(file, QUESTION)
        assert reply.text
        turn = turn_of(reply, model, QUESTION, [open_picture(file), open_picture(file, detail="high")])
    assert ["low", "high"] == [one.detail for one in turn.pictures]
    for pictures in ([], [open_picture(file)]):
        shown = messages_of([turn], pictures)[0]["content"]
        assert ["low", "high"] == [part["picture"].detail for part in shown[:2]]


def test_messages_of_a_chat_begin_another(tiny_pair):
    with opened(tiny_pair) as model:
        first = model.chat(system="Be brief.")
        _ = first.send(QUESTION, picture=picture(1)).text
        again = model.chat(messages=first.messages)
        assert first.send(OTHER).text == again.send(OTHER).text
        assert first.messages == again.messages
