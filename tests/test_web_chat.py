"""Facts about what the buttons of `llava web` do, without a browser, on real llama.cpp with a random model."""

import shutil
import threading
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from llava_cli import LoadOptions, Sampling, load
from llava_cli.errors import ModelMissing, UnreadablePicture, UsageError
from llava_cli.history import History
from llava_cli.pictures import SentPicture, open_picture
from llava_cli.web_answer import harmless
from llava_cli.web_chat import Models, Visitors, Wishes
from tests.hostile import HOSTILE
from tests.processes import SCENE
from tests.questions import OTHER, QUESTION, picture

GENEROUS = 60
ENDLESS = 1500
"""Tokens that nobody waits for."""


def wishes(model="one", system=None, temperature=0, max_tokens=6):
    return Wishes(model, system, temperature, max_tokens)


def slow(**others):
    """Wish for an answer that lasts until it is stopped."""
    return wishes(max_tokens=ENDLESS, temperature=2, **others)


@pytest.fixture(scope="module")
def models(tiny_pair, tmp_path_factory):
    """Open the tiny model under one of two names."""
    copies = {"one": tiny_pair, "two": [shutil.copy(file, tmp_path_factory.mktemp("two")) for file in tiny_pair]}

    def open_model(name, on_stage):
        files = {"model_path": copies[name][0], "projector_path": copies[name][1], "prompt_layout": "llava_v1"}
        options = LoadOptions(context=2048, threads=1)
        return load(**files, options=options, sampling=Sampling(seed=1), on_stage=on_stage, cache=False)

    with Models(open_model, "one", ["one", "two"], lambda *_: None) as opened:
        yield opened


@pytest.fixture
def visitors(models, tmp_path):
    return Visitors(models, History(tmp_path / "log.db"), Sampling(seed=1))


@pytest.fixture
def visitor(visitors):
    """Let somebody open the page, and show it a picture."""
    visitor = visitors.of("Anna")
    visitor.show(picture(1))
    return visitor


def last(views):
    """Return what the page shows in the end."""
    return list(views)[-1]


def said(view):
    """Return what was asked and how many answers there are."""
    asked = [turn["content"] for turn in view.messages if turn["role"] == "user"]
    assert len(view.messages) == 2 * len(asked)
    return asked


class Background(threading.Thread):
    """Follows an answer as Gradio does; `until_status` waits for what its page shows."""

    def __init__(self, views):
        super().__init__()
        self._views, self.shown, self._changed = views, [], threading.Condition()
        self.start()

    def run(self):
        for view in self._views:
            with self._changed:
                self.shown.append(view)
                self._changed.notify_all()

    def until_status(self, begins):
        with self._changed:
            assert self._changed.wait_for(lambda: self.shown and self.shown[-1].status.startswith(begins), GENEROUS)

    def until_words(self):
        with self._changed:
            assert self._changed.wait_for(lambda: self.shown and len(self.shown[-1].messages) % 2 == 0, GENEROUS)

    @property
    def last(self):
        self.join(GENEROUS)
        return self.shown[-1]


def test_an_answer_comes_piece_by_piece_and_the_page_is_busy_until_its_end(visitor):
    views = list(visitor.ask(QUESTION, wishes()))
    assert views[-1].error is None
    assert [True, False] == [views[0].is_busy, views[-1].is_busy]
    assert "" == views[0].draft
    assert {"role": "user", "content": QUESTION} == views[-1].messages[0]
    assert "first word after" in views[-1].status


def test_a_page_that_is_slow_to_look_sees_the_whole_answer(visitor, models):
    views = visitor.ask(QUESTION, wishes())
    assert next(views).is_busy
    list(models.engine.events(lambda _: ()))  # by now the answer has ended
    assert ([QUESTION], False) == (said(last(views)), visitor.view().is_busy)


def test_a_follow_up_question_encodes_nothing(visitor):
    last(visitor.ask(QUESTION, wishes()))
    view = last(visitor.ask(OTHER, wishes()))
    assert [QUESTION, OTHER] == said(view)
    assert " · the picture was not read again · the answer was cut at its longest length" in view.status


def test_a_question_without_a_picture_is_not_answered_and_not_lost(visitors):
    view = last(visitors.of("Anna").ask(QUESTION, wishes()))
    assert isinstance(view.error, UnreadablePicture)
    assert ([], QUESTION) == (view.messages, view.draft)


def test_a_question_after_the_picture_was_taken_away_is_not_answered(visitor):
    last(visitor.ask(QUESTION, wishes()))
    visitor.picture = None
    assert isinstance(last(visitor.ask(OTHER, wishes())).error, UnreadablePicture)


def test_an_empty_question_is_the_one_the_line_suggests(visitor):
    assert ["Describe this picture."] == said(last(visitor.ask("  ", wishes())))


def test_another_picture_begins_another_chat_and_the_same_one_does_not(visitor):
    last(visitor.ask(QUESTION, wishes()))
    visitor.show(picture(1))
    assert [QUESTION] == said(visitor.view())
    visitor.show(picture(2))
    assert [] == said(visitor.view())


def test_visitors_have_chats_of_their_own(visitors, visitor):
    other = visitors.of("Ben")
    other.show(picture(2))
    last(visitor.ask(QUESTION, wishes()))
    last(other.ask(OTHER, wishes()))
    assert ([QUESTION], [OTHER]) == (said(visitor.view()), said(other.view()))
    assert visitors.of("Ben") is other


def test_who_comes_second_sees_that_he_waits_and_is_answered_then(visitors, visitor):
    first = Background(visitor.ask(QUESTION, slow()))
    first.until_words()
    other = visitors.of("Ben")
    other.show(picture(2))
    second = Background(other.ask(OTHER, wishes()))
    second.until_status("waiting: 1 question comes first")
    visitor.stop()
    assert ([QUESTION], [OTHER]) == (said(first.last), said(second.last))


def test_a_stopped_answer_keeps_its_words(visitor):
    writing = Background(visitor.ask(QUESTION, slow()))
    writing.until_words()
    visitor.stop()
    assert [QUESTION] == said(writing.last)
    assert writing.last.status.endswith("stopped")
    assert (None, None) == (writing.last.error, writing.last.draft)


def test_who_leaves_the_queue_has_the_question_back(visitors, visitor):
    first = Background(visitor.ask(QUESTION, slow()))
    first.until_words()
    other = visitors.of("Ben")
    other.show(picture(2))
    second = Background(other.ask(OTHER, wishes()))
    second.until_status("waiting")
    other.stop()
    assert ([], OTHER) == (second.last.messages, second.last.draft)
    assert "stopped before the answer began" == second.last.status
    visitors.leave("Anna")
    assert not first.last.is_busy


def test_a_page_that_is_left_stops_its_answer(visitors, visitor):
    writing = visitor.ask(QUESTION, slow())
    for view in writing:
        if len(view.messages) == 2:
            break
    writing.close()
    other = visitors.of("Ben")
    other.show(picture(2))
    assert [OTHER] == said(last(other.ask(OTHER, wishes())))


def test_a_second_question_while_one_is_answered_waits_for_its_user(visitor):
    writing = Background(visitor.ask(QUESTION, slow()))
    writing.until_words()
    view = last(visitor.ask(OTHER, wishes()))
    assert isinstance(view.error, UsageError)
    assert OTHER == view.draft
    assert isinstance(visitor.undo().error, UsageError)
    visitor.stop()
    assert [QUESTION] == said(writing.last)


def test_retry_puts_another_answer_in_the_place_of_the_last(visitor):
    last(visitor.ask(QUESTION, wishes()))
    first = last(visitor.ask(OTHER, wishes(temperature=2)))
    view = last(visitor.retry(wishes(temperature=2)))
    assert [QUESTION, OTHER] == said(view)
    assert first.messages[:3] == view.messages[:3]
    assert first.messages[3] != view.messages[3]


def test_undo_gives_the_question_back_and_the_picture_with_it(visitor):
    last(visitor.ask(QUESTION, wishes()))
    view = visitor.undo()
    assert ([], QUESTION) == (said(view), view.draft)
    assert [OTHER] == said(last(visitor.ask(OTHER, wishes())))
    assert 1 == len(visitor.chat.pictures)


def test_an_empty_chat_has_nothing_to_undo_or_to_answer_again(visitor):
    assert isinstance(visitor.undo().error, UsageError)
    assert isinstance(last(visitor.retry(wishes())).error, UsageError)


def test_clear_stops_what_is_written_and_keeps_the_picture(visitor):
    writing = Background(visitor.ask(QUESTION, slow()))
    writing.until_words()
    assert ([], False) == (visitor.clear().messages, visitor.view().is_busy)
    writing.join(GENEROUS)
    assert [OTHER] == said(last(visitor.ask(OTHER, wishes())))


def test_the_system_prompt_counts_from_the_next_question_on(visitor):
    last(visitor.ask(QUESTION, wishes(system="Be brief.")))
    assert "Be brief." == visitor.chat.messages[0]["content"]
    last(visitor.ask(OTHER, wishes()))
    assert "user" == visitor.chat.messages[0]["role"]


def test_another_model_goes_on_with_the_chat_and_others_get_theirs(models, visitors, visitor):
    last(visitor.ask(QUESTION, wishes()))
    view = last(visitor.ask(OTHER, wishes("two")))
    assert ([QUESTION, OTHER], None) == (said(view), view.error)
    assert models.is_open("two")
    other = visitors.of("Ben")
    other.show(picture(2))
    assert [QUESTION] == said(last(other.ask(QUESTION, wishes("one"))))
    assert models.is_open("one")


def test_what_is_worth_saying_of_a_model_is_kept_when_another_is_opened(tiny_pair, tmp_path):
    notes = {"one": ("old", "repaired"), "two": ("repaired", "new")}

    def open_model(name, on_stage):
        if name == "three":
            raise ModelMissing(name, "it is gone")
        files = {"model_path": tiny_pair[0], "projector_path": tiny_pair[1], "prompt_layout": "llava_v1"}
        model = load(**files, options=LoadOptions(context=2048, threads=1), on_stage=on_stage, cache=False)
        model._notes = notes[name]
        return model

    with Models(open_model, "one", ["two", "three"], lambda *_: None) as models:
        assert ("old", "repaired") == models.notes
        visitor = Visitors(models, History(tmp_path / "log.db"), Sampling(seed=1)).of("Anna")
        visitor.show(picture(1))
        last(visitor.ask(QUESTION, wishes("two")))
        assert isinstance(last(visitor.ask(QUESTION, wishes("three"))).error, ModelMissing)
    assert ("old", "repaired", "new") == models.notes


def test_a_model_that_is_not_offered_is_refused_and_the_next_question_answered(visitor):
    view = last(visitor.ask(QUESTION, wishes("../secret")))
    assert isinstance(view.error, ModelMissing)
    assert QUESTION == view.draft
    assert [QUESTION] == said(last(visitor.ask(QUESTION, wishes())))


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"max_tokens": 0}, {"max_tokens": None}, {"temperature": "x"}])
def test_settings_no_slider_gives_are_refused(visitor, wrong):
    assert isinstance(last(visitor.ask(QUESTION, wishes(**wrong))).error, UsageError)


def test_a_conversation_can_be_kept_once_there_is_one(visitor):
    assert "" == visitor.transcript("md", "one")
    last(visitor.ask(QUESTION, wishes()))
    assert "*Picture: noise 1.png*" in visitor.transcript("md", "one")
    assert '"sha256"' in visitor.transcript("json", "one")


def test_turns_are_in_the_log_and_taken_back_there(visitor, visitors, tmp_path):
    last(visitor.ask(QUESTION, wishes()))
    last(visitor.ask(OTHER, wishes()))
    visitor.undo()
    history = History(tmp_path / "log.db")
    chat = history.last_chat()
    assert [QUESTION] == [turn.question for turn in history.turns(chat.id)]
    assert 2 == len(history.find())


def test_what_the_model_sees_are_its_squares(visitor):
    (square,) = visitor.seen(picture(1))
    assert (56, 56) == (square.width, square.height)


def test_looking_ahead_leaves_the_next_question_the_picture(visitor):
    visitor.look_ahead("one")
    view = last(visitor.ask(QUESTION, wishes()))
    assert [QUESTION] == said(view)


def test_a_picture_of_which_the_file_is_kept_is_asked_about_and_written_down_like_its_pixels(models, tmp_path):
    data, how = Path(SCENE).read_bytes()[:3000], {"allow_truncated": True}
    pixels = open_picture(data, **how)
    kept = SentPicture(pixels.sha256, pixels.name, pixels.width, pixels.height, file=data, how=how)
    written = []
    for name, shown in (("pixels", pixels), ("file", kept)):
        history = History(tmp_path / f"{name}.db")
        visitor = Visitors(models, history, Sampling(seed=1)).of("Anna")
        visitor.show(shown)
        visitor.look_ahead("one")
        last(visitor.ask(QUESTION, wishes()))
        (turn,) = history.turns(history.last_chat().id)
        written.append((turn.answer, turn.pictures, history.thumbnail(pixels.sha256)))
    assert written[0] == written[1]
    assert written[0][2]


def kinds(markdown):
    """Return what a page would make of it: the types of all its tokens."""
    return {token.type for block in MarkdownIt().parse(markdown) for token in [block, *(block.children or [])]}


def test_no_answer_becomes_a_tag_a_picture_or_an_address_behind_words():
    dangerous = {"html_block", "html_inline", "image", "link_open"}
    assert [] == [text for text in HOSTILE if kinds(harmless(text)) & dangerous]
    assert 30 < len([text for text in HOSTILE if kinds(text) & dangerous])


@pytest.mark.parametrize("text", ["2 < 3 & 4 > 1", "see [1](a)", "`<b>` is code", "```\n<b> [x](y)\n```", "**bold**"])
def test_every_sign_of_an_answer_is_shown_as_it_was_written(text):
    shown = "".join(
        token.content for block in MarkdownIt().parse(harmless(text)) for token in (block.children or [block])
    )
    assert text.strip("`*\n").replace("`", "").replace("**", "") == shown.strip("\n")
