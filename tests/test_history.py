"""Facts about the log: what is kept of a turn, and how chats hang together."""

import io
import os
import stat
from dataclasses import replace

import pytest
from PIL import Image

from llava_cli.errors import UsageError
from llava_cli.history import History, messages_of
from llava_cli.pictures import open_picture
from tests.processes import SCENE
from tests.questions import picture
from tests.turns import a_turn


@pytest.fixture
def history(tmp_path):
    return History(tmp_path / "data" / "log.db")


def questions(turns):
    return [turn.question for turn in turns]


# What is kept.


def test_a_turn_comes_back_as_it_was(history):
    written = a_turn("What is this?", pictures=[picture(1), picture(2)])
    kept = history.record(written)
    assert replace(written, thumbnails=None, id=1, chat=1) == kept == history.turn(1) == history.turn()


def test_text_that_is_no_text_is_kept_as_far_as_it_can_be(history):
    history.record(a_turn("a\udc80b\0c", answer="\x1b[31m\ud800"))
    assert ("a?b\0c", "\x1b[31m?") == (history.turn().question, history.turn().answer)


def test_a_path_that_is_no_text_is_kept_exactly(history, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    open_picture(SCENE).image().save(path)
    history.record(a_turn(pictures=[open_picture(path)]))
    assert open_picture(SCENE).rgb == history.turn().pictures[0].open().rgb


def test_a_thumbnail_is_a_small_jpeg(history):
    noise = picture(1, size=(900, 700))
    history.record(a_turn(pictures=[noise]))
    thumbnail = history.thumbnail(noise.sha256)
    assert (160, 124) == Image.open(io.BytesIO(thumbnail)).size
    assert len(thumbnail) <= 10_000


def test_there_is_nothing_before_the_first_turn(history):
    assert ([], None, []) == (history.turns(1), history.last_chat(), history.chats())
    with pytest.raises(UsageError, match="nothing was asked yet"):
        history.turn()
    assert not history.path.exists()


# Chats.


def test_turns_follow_each_other_in_their_chat(history):
    first = history.record(a_turn("1"))
    other = history.record(a_turn("other"))
    second = history.record(a_turn("2"), chat=first.chat, after=first.id)
    history.record(a_turn("3"), chat=first.chat, after=second.id)
    assert ["1", "2", "3"] == questions(history.turns(first.chat))
    assert ["other"] == questions(history.turns(other.chat))
    assert ["1", "2"] == questions(history.turns_before(history.turns(first.chat)[-1]))


def test_a_turn_said_again_takes_the_place_of_the_first_try(history):
    first = history.record(a_turn("1"))
    history.record(a_turn("2"), chat=first.chat, after=first.id)
    history.record(a_turn("2 again"), chat=first.chat, after=first.id)
    assert ["1", "2 again"] == questions(history.turns(first.chat))


def test_a_chat_can_stand_at_an_earlier_turn(history):
    first = history.record(a_turn("1"))
    second = history.record(a_turn("2"), chat=first.chat, after=first.id)
    history.rewind(first.chat, first.id)
    assert ["1"] == questions(history.turns(first.chat))
    assert second == history.turn(second.id)
    history.rewind(first.chat, None)
    assert [] == history.turns(first.chat)


def test_the_chat_used_last_is_the_last_chat(history):
    first = history.record(a_turn("1"))
    history.record(a_turn("other"))
    history.record(a_turn("2"), chat=first.chat, after=first.id)
    assert (first.chat, "1", 2) == (history.last_chat().id, history.last_chat().question, history.last_chat().length)
    assert ["1", "other"] == [chat.question for chat in history.chats()]


def test_a_chat_of_which_all_was_taken_back_is_not_the_last_chat(history):
    first, second = history.record(a_turn("1")), history.record(a_turn("2"))
    history.rewind(second.chat, None)
    assert (first.chat, 2) == (history.last_chat().id, len(history.chats()))


def test_a_name_leads_to_the_chat_that_got_it_last(history):
    first, second = history.record(a_turn()), history.record(a_turn())
    history.name_chat(first.chat, "cats")
    assert first.chat == history.named("cats").id
    history.name_chat(second.chat, "cats")
    assert (second.chat, None) == (history.named("cats").id, history.chats()[1].name)
    assert history.named("dogs") is None


def test_messages_are_those_the_model_was_sent(history):
    first = history.record(a_turn("1", answer="one", pictures=[picture(1)]))
    history.record(a_turn("2", answer="two"), chat=first.chat, after=first.id)
    remembered, again = picture(1).remembered(), picture(1)
    for expected, opened in ((remembered, []), (again, [again])):
        assert [
            {"role": "user", "content": [{"type": "picture", "picture": expected}, {"type": "text", "text": "1"}]},
            {"role": "assistant", "content": "one"},
            {"role": "user", "content": [{"type": "text", "text": "2"}]},
            {"role": "assistant", "content": "two"},
        ] == messages_of(history.turns(first.chat), opened)


def test_a_turn_follows_only_turns_of_its_own_chat(history):
    first, other = history.record(a_turn("1")), history.record(a_turn("other"))
    assert history.record(a_turn("2"), chat=other.chat, after=first.id).before is None


# Removing.


def test_a_removed_turn_leaves_a_chat_that_hangs_together(history):
    first = history.record(a_turn("1", pictures=[picture(1)]))
    second = history.record(a_turn("2"), chat=first.chat, after=first.id)
    third = history.record(a_turn("3"), chat=first.chat, after=second.id)
    assert 2 == history.remove([second.id, third.id, 99])
    assert ["1"] == questions(history.turns(first.chat))
    assert 4 == history.record(a_turn("4"), chat=first.chat, after=third.id).id


def test_nothing_of_a_removed_turn_stays_on_disk(history):
    history.record(a_turn("secretword", answer="whisper", pictures=[picture(1)]))
    kept = history.record(a_turn("another"))
    assert [1] == [turn.id for turn in history.find(words="secretword")]
    assert 1 == history.remove([1])
    data = b"".join(path.read_bytes() for path in history.path.parent.iterdir())
    assert not [word for word in (b"secretword", b"whisper", b"noise 1.png") if word in data]
    assert (None, [kept.chat]) == (history.thumbnail(picture(1).sha256), [chat.id for chat in history.chats()])


def test_removing_gives_room_back(history):
    history.record(a_turn("1"))
    before = history.path.stat().st_size
    history.record(a_turn("2", answer="word " * 100_000))
    assert history.path.stat().st_size > 2 * before
    history.remove([2])
    assert before == history.path.stat().st_size


def test_all_of_it_can_be_removed(history):
    history.record(a_turn("1"))
    history.record(a_turn("2"))
    assert (2, 0, []) == (history.remove(), history.remove(), history.chats())


def test_a_chat_that_was_removed_while_it_went_on_goes_on(history):
    first = history.record(a_turn("1"))
    history.remove()
    history.record(a_turn("2"), chat=first.chat, after=first.id)
    assert ["2"] == questions(history.turns(first.chat))


# Privacy.


def test_only_the_owner_can_read_it_under_any_umask(history):
    before = os.umask(0)
    try:
        history.record(a_turn())
        modes = {}
        history._file.read(
            lambda _: modes.update({p.name: stat.S_IMODE(p.stat().st_mode) for p in history.path.parent.iterdir()}),
            None,
        )
    finally:
        os.umask(before)
    assert {"log.db": 0o600, "log.db-shm": 0o600, "log.db-wal": 0o600} == modes
    assert 0o700 == stat.S_IMODE(history.path.parent.stat().st_mode)


def test_a_log_that_others_could_read_is_made_private_again(history):
    history.record(a_turn())
    history.path.chmod(0o644)
    history.record(a_turn())
    assert 0o600 == stat.S_IMODE(history.path.stat().st_mode)
