"""Facts about what goes wrong with the log: it never costs an answer, and never more than the unfinished turn."""

import random
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import pytest

from llava_cli import log_file, log_search
from llava_cli.errors import LogUnusable
from llava_cli.history import History
from tests.processes import ROOT
from tests.questions import picture
from tests.turns import a_turn

WRITER = """
import sys
from llava_cli.history import History
from tests.questions import picture
from tests.turns import a_turn
history, shown, after = History(), picture(1), {}
for number in range(int(sys.argv[1])):
    kept = history.record(a_turn(f"{sys.argv[2]} {number}", answer="word " * 2000, pictures=[shown]), **after)
    assert not history.notes, history.notes
    after = {"chat": kept.chat, "after": kept.id}
    print(number, flush=True)
"""


@pytest.fixture
def history():
    return History()


def writer(count, name):
    """Start a process that records `count` turns and prints the number of each that is kept."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(count), name], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def aside(history):
    return sorted(history.path.parent.glob("*.bad-*"))


# Killed, and several at once.


def kill_at_random_moments(history, count):
    """Kill a writer again and again; after each time, look what is there."""
    drawn = random.Random(count)
    for attempt in range(count):
        with writer(10_000, f"run {attempt}") as process:
            first = process.stdout.readline()
            time.sleep(drawn.random() * 0.3)
            process.send_signal(signal.SIGKILL)
            told = [int(line) for line in (first + process.stdout.read()).split()]
        kept = [turn.question for turn in reversed(history.find()) if turn.question.startswith(f"run {attempt} ")]
        assert [f"run {attempt} {number}" for number in range(len(kept))] == kept
        assert len(kept) - len(told) in (0, 1)
    with closing(sqlite3.connect(history.path)) as database:
        assert [("ok",)] == database.execute("PRAGMA integrity_check").fetchall()
    assert ([], []) == (history.notes, aside(history))


def test_a_killed_writer_loses_the_unfinished_turn_at_most(history):
    kill_at_random_moments(history, 5)


@pytest.mark.slow
def test_fifty_killed_writers_lose_the_unfinished_turn_at_most(history):
    kill_at_random_moments(history, 50)


def test_two_processes_at_once_are_both_kept_each_in_its_chat(history):
    both = [writer(20, name) for name in ("a", "b")]
    assert [0, 0] == [process.wait(timeout=120) for process in both]
    for process in both:
        process.stdout.close()
    chats = {chat.question[0]: [turn.question for turn in history.turns(chat.id)] for chat in history.chats()}
    assert {name: [f"{name} {number}" for number in range(20)] for name in ("a", "b")} == chats


def test_several_that_begin_the_log_at_once_make_one(history):
    several = [writer(1, str(number)) for number in range(4)]
    assert [0] * 4 == [process.wait(timeout=120) for process in several]
    for process in several:
        process.stdout.close()
    assert 4 == len(history.find())


# Damaged.

DAMAGES = {
    "no database": lambda data: b"this is no database " * 500,
    "header": lambda data: b"SQLite format 4\0" + data[16:],
    "all pages": lambda data: data[:100] + bytes(len(data) - 100),
    "cut": lambda data: data[: len(data) // 2],
    "a name in its schema": lambda data: data.replace(b"turns_of_chat", b"turns_of_\x80hat", 1),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_log_is_set_aside_and_a_new_one_begins(history, damage):
    for number in range(20):
        history.record(a_turn(str(number), answer="word " * 1000, pictures=[picture(number)]))
    damaged = damage(history.path.read_bytes())
    history.path.write_bytes(damaged)
    assert history.record(a_turn("after")).id
    assert ["after"] == [turn.question for turn in history.find()]
    (bad,) = aside(history)
    assert damaged == bad.read_bytes()
    assert re.fullmatch(r"log\.db\.bad-\d{8}-\d{6}", bad.name)
    assert [f"the log was damaged; it is kept as {bad}, and a new one begins"] == history.notes


def test_whoever_reads_a_damaged_log_sets_it_aside_too(history):
    history.path.parent.mkdir(parents=True)
    history.path.write_bytes(b"this is no database " * 500)
    assert ([], 1) == (history.find(), len(aside(history)))


def test_a_log_that_another_process_has_replaced_already_stays(history):
    history.record(a_turn())
    history._file._set_aside()
    assert ([], []) == (aside(history), history.notes)


@pytest.mark.parametrize(
    "change",
    [
        "turns SET question = NULL", "turns SET parameters = '{'", "turns SET parameters = '[]'",
        "turns SET parameters = NULL", "turns SET usage = '{\"look_seconds\": \"x\"}'", "turns SET usage = '3'",
        "turns SET time = 'x'", "turns SET time = 1e300", "turns SET time = -1", "turns SET seed = x'00'",
        "turn_pictures SET path = 3", "turn_pictures SET path = NULL", "turn_pictures SET detail = 'x'",
        "pictures SET width = 'wide'",
    ],
)  # fmt: skip
def test_a_turn_of_which_a_part_is_damaged_can_be_removed(history, change):
    history.record(a_turn("before"))
    history.record(a_turn("damaged", pictures=[picture(1)]))
    with closing(sqlite3.connect(history.path, isolation_level=None)) as database:
        database.executescript(
            "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')"
        )
    where = {"turns": "id = 2", "turn_pictures": "turn = 2", "pictures": "TRUE"}[change.split()[0]]
    with closing(sqlite3.connect(history.path, isolation_level=None)) as database:
        assert database.execute(f"UPDATE {change} WHERE {where}").rowcount == 1
    for read in (history.find, history.turn, lambda: history.turns(2)):
        with pytest.raises(LogUnusable) as caught:
            read()
        assert ("turn 2 is damaged", "llava log rm 2") == (caught.value.why, caught.value.hint)
    history.remove([2])
    assert ["before"] == [turn.question for turn in history.find()]


def test_a_chat_of_which_a_part_is_damaged_can_be_removed(history):
    history.record(a_turn("before"))
    history.record(a_turn("damaged"))
    with closing(sqlite3.connect(history.path, isolation_level=None)) as database:
        database.execute("UPDATE turns SET time = 'x' WHERE id = 2")
    with pytest.raises(LogUnusable) as caught:
        history.chats()
    assert ("chat 2 is damaged", "llava log rm 2") == (caught.value.why, caught.value.hint)
    history.remove([2])
    assert [1] == [chat.id for chat in history.chats()]


def test_an_empty_file_is_a_new_log(history):
    history.path.parent.mkdir(parents=True)
    history.path.touch()
    history.record(a_turn())
    assert (1, []) == (len(history.find()), history.notes)


def test_a_damaged_index_costs_neither_the_log_nor_privacy(history):
    history.record(a_turn("a red circle"))
    history.record(a_turn("another", answer="zebra"))
    assert 1 == len(history.find(words="red"))
    with closing(sqlite3.connect(history.path)) as database, database:
        database.execute("UPDATE turns_text_data SET block = x'00112233445566778899' WHERE id > 1")
    assert (1, []) == (len(history.find(words="red")), history.notes)
    assert (1, []) == (history.remove([1]), history.notes)
    assert b"circle" not in b"".join(path.read_bytes() for path in history.path.parent.iterdir())


# What cannot be written.


@contextmanager
def room(size):
    """Let no file grow beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_loses_that_turn_and_nothing_else(history):
    history.record(a_turn("before"))
    with room(history.path.stat().st_size):
        assert history.record(a_turn("too long", answer="word " * 100_000)) is None
    (note,) = history.notes
    assert note.startswith("this is not in the log: ")
    history.record(a_turn("after"))
    assert ["after", "before"] == [turn.question for turn in history.find()]


def test_a_log_that_somebody_else_keeps_locked_is_a_note(history, monkeypatch):
    monkeypatch.setattr(log_file, "_PATIENCE", 0.05)
    history.record(a_turn("before"))
    with closing(sqlite3.connect(history.path, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        assert [None, None] == [history.record(a_turn("meanwhile")) for _ in range(2)]
    assert [f"this is not in the log: {history.path}: database is locked"] == history.notes


def test_a_read_only_directory_is_a_note(history):
    history.path.parent.mkdir(parents=True)
    history.path.parent.chmod(0o500)
    assert history.record(a_turn()) is None
    assert [f"this is not in the log: {history.path.parent}: it is read-only"] == history.notes
    history.path.parent.chmod(0o700)


def test_a_directory_of_others_is_a_note(history):
    history.path.parent.mkdir(parents=True)
    history.path.parent.chmod(0o777)
    assert history.record(a_turn()) is None
    assert "others can write to it" in history.notes[0]


def test_a_log_of_a_newer_program_is_left_alone(history):
    history.record(a_turn())
    with closing(sqlite3.connect(history.path)) as database:
        database.execute("PRAGMA user_version = 99")
    before = history.path.read_bytes()
    assert history.record(a_turn()) is None
    assert "a newer llava wrote it" in history.notes[0]
    with pytest.raises(LogUnusable, match="a newer llava wrote it"):
        history.find()
    assert (before, []) == (history.path.read_bytes(), aside(history))


def test_each_version_of_the_schema_grows_into_the_newest(history, monkeypatch):
    history.record(a_turn("old"))
    added = ("ALTER TABLE turns ADD COLUMN mood TEXT", "UPDATE turns SET mood = 'fine'")
    monkeypatch.setattr(log_file, "_MIGRATIONS", (*log_file._MIGRATIONS, added))
    moods = history._file.write(lambda database: database.execute("SELECT question, mood FROM turns").fetchall())
    assert [("old", "fine")] == [tuple(row) for row in moods]


def test_a_migration_that_fails_changes_nothing(history, monkeypatch):
    history.record(a_turn("old"))
    known = log_file._MIGRATIONS
    monkeypatch.setattr(log_file, "_MIGRATIONS", (*known, ("ALTER TABLE turns ADD COLUMN mood TEXT", "NONSENSE")))
    assert history.record(a_turn("new")) is None
    monkeypatch.setattr(log_file, "_MIGRATIONS", known)
    assert ["old"] == [turn.question for turn in history.find()]


# Searching.


@pytest.fixture(params=[True, False], ids=["with FTS5", "without"])
def scenes(request, history, monkeypatch):
    """Fill a log with three turns, in a SQLite that has full text search or has not."""
    if not request.param:
        monkeypatch.setattr(log_search, "has_fts5", lambda _database: False)
    history.record(a_turn("What color?", answer="A red circle, 100% sure.", pictures=[picture(1)]))
    history.record(a_turn("Is there a NEAR(star)?", answer='"no" OR yes'))
    history.record(a_turn("写真には何がありますか", answer="猫がいます"))
    return history


@pytest.mark.parametrize(
    ("words", "found"),
    {
        "red": [1], "RED circ": [1], "circle color": [1], "red star": [], "100%": [1],
        "noise 1.png": [1], 'NEAR(star) "no" OR': [2], "yes OR red": [], '"': [2], "AND": [],
        "question:star": [], 'x"OR"red': [], "猫": [3], "何が": [3], "\x00red": [1], "   ": [1, 2, 3],
    }.items(),
)  # fmt: skip
def test_words_are_only_ever_words(scenes, words, found):
    assert found == sorted(turn.id for turn in scenes.find(words=words))


@pytest.mark.parametrize(
    "words", ["*", "-", "a*", "^a", "{a b}:c", "a + b", "\udc80", "'", ")", "(", "''", '"""', "%", "_"]
)
def test_no_words_are_an_error(scenes, words):
    assert len(scenes.find(words=words)) <= 3


def test_what_was_recorded_after_a_search_is_found_too(scenes):
    assert [] == scenes.find(words="zebra")
    scenes.record(a_turn("a zebra"))
    assert ["a zebra"] == [turn.question for turn in scenes.find(words="zebra")]
    assert 1 == scenes.remove([4])
    assert [] == scenes.find(words="zebra")


def test_a_picture_is_found_by_its_pixels_with_all_that_followed(history):
    first = history.record(a_turn("1", pictures=[picture(1)]))
    second = history.record(a_turn("2"), chat=first.chat, after=first.id)
    history.record(a_turn("other", pictures=[picture(2)]))
    history.record(a_turn("3"), chat=first.chat, after=second.id)
    assert ["3", "2", "1"] == [turn.question for turn in history.find(picture=picture(1).sha256)]
    assert ["2"] == [turn.question for turn in history.find(picture=picture(1).sha256, words="2")]
    assert ["3", "other"] == [turn.question for turn in history.find(limit=2)]


# Switched off.


def test_a_log_that_is_off_keeps_what_it_has_and_gets_no_more(history):
    history.record(a_turn("before"))
    assert (None, []) == (History(recording=False).record(a_turn("meanwhile")), history.notes)
    assert ["before"] == [turn.question for turn in History(recording=False).find()]


def test_a_turn_stopped_before_its_first_word_is_none(history):
    assert history.record(a_turn(answer="", finish_reason="stopped")) is None
    assert history.record(a_turn(answer="", finish_reason="stop"))
    assert history.record(a_turn(answer="I", finish_reason="stopped"))
