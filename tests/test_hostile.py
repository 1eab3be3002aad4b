"""Facts about what reaches a terminal when answers, file names and metadata want something from it."""

import pytest

from llava_cli.errors import LlavaError
from llava_cli.gguf_file import read_header, write_copy
from llava_cli.pictures import shown
from llava_cli.render import Output
from llava_cli.sanitiser import sanitise
from tests.hostile import HOSTILE, answered, is_obeyed, is_within, letters, what_stays, without_drawing
from tests.processes import llava


def test_there_are_enough_of_them():
    assert len(HOSTILE) >= 300
    assert len(set(HOSTILE)) == len(HOSTILE)


def test_only_what_is_obeyed_is_dropped():
    kept = ["".join(letter for letter in text if not is_obeyed(letter)) for text in HOSTILE]
    assert kept == [sanitise(text) for text in HOSTILE]


def test_an_answer_on_a_terminal_holds_no_control_byte_but_our_own():
    survivors = {text for text in HOSTILE if any(map(is_obeyed, without_drawing(answered(text))))}
    assert survivors == set()


def test_an_answer_on_a_terminal_loses_no_letter():
    assert [text for text in HOSTILE if not is_within(letters(text), letters(what_stays(answered(text))))] == []


def test_a_file_name_is_shown_in_letters_that_print():
    assert [name for name in map(shown, HOSTILE) if not name.isprintable()] == []


def test_an_error_is_two_lines_whatever_is_in_it(capsys):
    for text in HOSTILE:
        Output().error(LlavaError(text, text, hint=text))
    lines = capsys.readouterr().err.split("\n")
    assert len(lines) == 2 * len(HOSTILE) + 1
    assert not any(is_obeyed(letter) for line in lines for letter in line)


@pytest.mark.parametrize("text", HOSTILE[::60])
def test_metadata_of_a_model_file_is_shown_harmless(tiny_pair, tmp_path, text):
    model = tmp_path / "model.gguf"
    write_copy(
        read_header(tiny_pair[0]),
        model,
        add={"general.architecture": ("str", text.encode("utf-8", "replace").decode())},
    )
    done = llava("chat", "--model-path", model, "--projector-path", tiny_pair[1], stdin=b"What?\n")
    assert (4, False) == (done.returncode, any(is_obeyed(letter) for letter in done.stdout + done.stderr))
