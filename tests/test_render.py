"""Facts about what may reach a terminal."""

import unicodedata

import pytest

from llava_cli.markdown_stream import split_blocks
from llava_cli.sanitiser import sanitise


@pytest.mark.parametrize(
    ("safe", "text"),
    [
        ("]52;c;cm0gLXJm", "\x1b]52;c;cm0gLXJm\x07"),
        ("[31mred[0m", "\x1b[31mred\x1b[0m"),
        ("31mred", "\x9b31mred"),
        ("exe.gpj", "\u202eexe.gpj"),
        ("ab", "a\x00\x08\x7f\rb"),
        ("hidden", "hid\U000e0041den"),
        ("name", "na\udce4me"),
    ],
)
def test_what_a_terminal_would_obey_is_dropped(safe, text):
    assert sanitise(text) == safe


@pytest.mark.parametrize("text", ["[/INST] [bold]x[/b]", "naïve 漢字 عربى 👩‍🚀", "tab\tand\nline", "﷽ — „quotes“"])
def test_what_is_text_is_kept(text):
    assert sanitise(text) == text


def test_no_control_character_survives_at_all():
    survivors = [chr(n) for n in range(0x110000) if unicodedata.category(chr(n)) == "Cc" and sanitise(chr(n))]
    assert survivors == ["\t", "\n"]


@pytest.mark.parametrize(
    ("finished", "growing", "text"),
    [
        ("", "one line", "one line"),
        ("one\n\n", "two", "one\n\ntwo"),
        ("one\n\ntwo\n\n", "", "one\n\ntwo\n\n"),
        ("", "```\na\n\nb", "```\na\n\nb"),
        ("```\na\n\nb\n```\n\n", "c", "```\na\n\nb\n```\n\nc"),
        ("", "one\n", "one\n"),
    ],
)
def test_markdown_is_finished_at_a_blank_line_outside_a_code_fence(finished, growing, text):
    assert split_blocks(text) == (finished, growing)
