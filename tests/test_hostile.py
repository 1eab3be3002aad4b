"""Facts about what reaches a terminal when answers, file names and metadata want something from it."""

import io
import re
import unicodedata

import pytest
from rich.console import Console

from llava_cli.errors import LlavaError
from llava_cli.gguf_file import read_header, write_copy
from llava_cli.markdown_stream import MarkdownStream
from llava_cli.pictures import shown
from llava_cli.render import Output, sanitise
from tests.hostile import HOSTILE
from tests.processes import llava

HIDDEN = re.compile("[\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f\ud800-\udfff]")
RICH = re.compile(r"\x1b\[[0-9;]*m|\r\x1b\[[0-9]+A\x1b\[J")
"""What our own drawing sends: colours, and back to the beginning of the lines that are drawn anew."""


def is_obeyed(letter):
    """Tell whether a terminal would do something else than show this."""
    return (unicodedata.category(letter) == "Cc" and letter not in "\n\t") or HIDDEN.match(letter) is not None


def letters(text):
    """Return the letters and digits of a text that are not obeyed, in order."""
    return [letter for letter in text if letter.isalnum() and not is_obeyed(letter)]


def answered(text, *, size=3, width=40):
    """Return what a terminal gets of an answer that comes in small pieces."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, height=30, color_system="truecolor")
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    MarkdownStream(console, on_first=lambda: None).show(sanitise(piece) for piece in pieces)
    return file.getvalue()


def test_there_are_enough_of_them():
    assert len(HOSTILE) >= 300
    assert len(set(HOSTILE)) == len(HOSTILE)


def test_only_what_is_obeyed_is_dropped():
    kept = ["".join(letter for letter in text if not is_obeyed(letter)) for text in HOSTILE]
    assert kept == [sanitise(text) for text in HOSTILE]


def test_an_answer_on_a_terminal_holds_no_control_byte_but_our_own():
    survivors = {text for text in HOSTILE if any(is_obeyed(letter) for letter in RICH.sub("", answered(text)))}
    assert survivors == set()


def test_an_answer_on_a_terminal_loses_no_letter():
    """Of what was drawn again and again, the last drawing is what stays."""
    lost = []
    for text in HOSTILE:
        stays = re.split(r"\r\x1b\[[0-9]+A\x1b\[J", answered(text))[-1]
        found = iter(letters(RICH.sub("", stays)))
        if not all(letter in found for letter in letters(text)):
            lost.append(text)
    assert lost == []


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
