"""Facts about how a line is understood."""

import pytest

from llava_cli.errors import UsageError
from llava_cli.slash import COMMANDS, Line, is_open_block, paths_in, read_line


@pytest.fixture
def cat(tmp_path):
    """Write something that is called a picture."""
    path = tmp_path / "my cat.png"
    path.write_bytes(b"picture")
    return path


def test_what_begins_without_a_slash_is_a_question():
    assert Line(text="What is this?") == read_line("  What is this? ")


def test_two_slashes_send_one():
    assert Line(text="/etc is a folder") == read_line("//etc is a folder")


def test_a_command_is_told_from_its_argument():
    assert Line(command="set", argument="seed 7") == read_line("/set  seed 7 ")


def test_the_path_in_a_command_is_left_to_it(cat):
    assert Line(command="image", argument=f"'{cat}'") == read_line(f"/image '{cat}'")


@pytest.mark.parametrize(("meant", "entered"), [("/image", "/imag cat.png"), ("/quit", "/qiut"), ("/retry", "/retri")])
def test_an_unknown_command_is_answered_with_what_was_meant(meant, entered):
    with pytest.raises(UsageError) as caught:
        read_line(entered)
    assert f"did you mean {meant}?" in caught.value.hint


@pytest.mark.parametrize("entered", ["/nonsense", "/", "/etc/no such file", "/ image"])
def test_an_unknown_command_is_never_a_question(entered):
    with pytest.raises(UsageError, match="no such command"):
        read_line(entered)


@pytest.mark.parametrize("form", ["'{}'", '"{}"', "{}", "file://{quoted}", "{escaped}", " {escaped} "])
def test_a_file_that_is_dragged_in_becomes_a_picture(cat, form):
    entered = form.format(cat, quoted=str(cat).replace(" ", "%20"), escaped=str(cat).replace(" ", "\\ "))
    assert Line(pictures=(str(cat),)) == read_line(entered)


def test_what_stands_beside_a_dragged_file_is_the_question(cat):
    assert Line(text="what's in it?", pictures=(str(cat),)) == read_line(f"'{cat}' what's in it?")
    assert Line(text="what is in", pictures=(str(cat),)) == read_line(f"what is in '{cat}'")


@pytest.mark.parametrize("entered", ["yes/no: is it a.png?", "/tmp.png", "what is 1/2?", "a/b.png c/d.png"])
def test_a_path_that_leads_nowhere_is_no_picture(entered, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        assert () == read_line(entered).pictures
    except UsageError:
        assert entered.startswith("/")


def test_three_quotes_hold_several_lines():
    assert Line(text="one\n/two\n\nthree") == read_line('"""one\n/two\n\nthree"""')


@pytest.mark.parametrize(
    ("is_open", "text"), [(True, '"""a'), (True, '"""'), (False, '"""a\n"""'), (False, "a"), (False, 'a """')]
)
def test_three_quotes_stay_open_until_the_next_three(is_open, text):
    assert is_open == is_open_block(text)


def test_the_argument_of_a_command_is_one_name_with_spaces_or_several_paths(cat):
    assert [str(cat)] == paths_in(str(cat))
    assert [str(cat), "b.png"] == paths_in(f"'{cat}' b.png")
    assert ["no such cat.png"] == paths_in("no such cat.png")


def test_every_command_has_a_line_of_help():
    assert all(command.summary and not command.summary.endswith(".") for command in COMMANDS.values())
