"""Facts about `llava chat` without a terminal: a script of lines."""

import pytest
from PIL import Image

from tests.processes import SCENE, llava

SHAPES = ("chat", "-m", "shapes", "-t", "0")


def script(*lines, arguments=SHAPES):
    """Play lines as they come through a pipe."""
    return llava(*arguments, stdin="\n".join(lines).encode())


def test_the_answers_are_all_there_is_on_stdout():
    done = script("What color is the circle?", "", "How many shapes are there?", arguments=(*SHAPES, SCENE, "-q"))
    assert (0, "red\n3\n", "") == (done.returncode, done.stdout, done.stderr)


def test_a_question_of_several_lines_stands_between_quotes():
    done = script('"""What color is', 'the circle?"""', "/context", arguments=(*SHAPES, SCENE))
    assert ("red\n", True) == (done.stdout, "turns 1," in done.stderr)


@pytest.mark.parametrize(("code", "line"), [(3, "/image missing.png"), (2, "/nonsense"), (2, "/undo"), (2, "/drop 1")])
def test_a_script_ends_at_its_first_error(code, line):
    done = script(line, "What color is the circle?")
    assert (code, "") == (done.returncode, done.stdout)
    assert "hint:" in done.stderr


def test_how_large_a_picture_may_be_is_for_the_user_to_say(tmp_path):
    Image.new("L", (1100, 1000)).save(tmp_path / "large.png")
    for allowed, code in (("1", 3), ("2", 0)):
        how = (*SHAPES, "--max-megapixels", allowed)
        assert code == script(f"/image {tmp_path}/large.png", arguments=how).returncode
        assert code == script(arguments=(*how, f"{tmp_path}/large.png")).returncode


def test_a_chat_without_a_picture_says_so_once():
    done = script("What color is the circle?", "How many shapes are there?")
    assert 1 == done.stderr.count("there is no picture in this chat")


def test_a_named_chat_is_gone_on_with_by_its_name():
    first = script("What color is the circle?", arguments=(*SHAPES, "--chat", "my scene", SCENE))
    again = script("How many shapes are there?", "/context", arguments=("chat", "-t", "0", "--chat", "my scene"))
    assert ("red\n", "3\n") == (first.stdout, again.stdout)
    said = "there is no chat called my scene yet, so a new one begins"
    assert (True, False) == (said in first.stderr, said in again.stderr)
    assert 2 == script(arguments=("chat", "--chat", " ")).returncode
    assert "turns 2, pictures 1" in again.stderr


def test_what_was_retried_and_taken_back_is_so_tomorrow():
    lines = ("What color is the circle?", "/retry", "How many shapes are there?", "/undo")
    script(*lines, arguments=(*SHAPES, SCENE))
    assert "going on" not in script("/context", arguments=("chat", "-c")).stdout
    again = script("/export md", arguments=("chat", "-c"))
    assert 1 == again.stdout.count("## User")
    assert "How many" not in again.stdout


def test_without_the_log_there_is_nothing_to_go_on_with():
    script("What color is the circle?", arguments=(*SHAPES, SCENE, "--no-log"))
    done = script(arguments=("chat", "-c"))
    assert (2, True) == (done.returncode, "there is no chat in the log yet" in done.stderr)


def test_a_chat_without_the_log_cannot_be_saved():
    done = script("What color is the circle?", "/save it", arguments=(*SHAPES, SCENE, "--no-log"))
    assert (2, True) == (done.returncode, "the log is off" in done.stderr)


def test_a_command_that_needs_a_terminal_says_so():
    done = script("What color is the circle?", "/copy", arguments=(*SHAPES, SCENE))
    assert (2, True) == (done.returncode, "it needs a terminal" in done.stderr)


def test_no_terminal_shows_no_preview_and_no_greeting():
    done = script("/images", arguments=(*SHAPES, SCENE))
    assert "▀" not in done.stdout + done.stderr
    assert "/help" not in done.stderr
