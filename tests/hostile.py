"""Strings that want something from a terminal, in the company in which answers, file names and metadata carry them."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Sequence

from rich.console import Console

from llava_cli.markdown_stream import MarkdownStream
from llava_cli.sanitiser import sanitise

_PAYLOADS = [
    "\x1b]52;c;cm0gLXJmIH4=\x07", "\x1b]52;c;cm0gLXJmIH4=\x1b\\", "\x1b]0;title\x07", "\x1b]2;title\x1b\\",
    "\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\", "\x1b]1337;File=inline=1:AAAA\x07", "\x9d0;title\x9c",
    "\x9b31mred", "\x9b2J", "\x90q\x9c", "\x1bP+q544e\x1b\\", "\x1b_Gf=100;AAAA\x1b\\", "\x1b^private\x1b\\",
    "\x1b[2J\x1b[H", "\x1b[31mred\x1b[0m", "\x1b[?1049h", "\x1b[6n", "\x1b[21t", "\x1bc", "\x1b", "\x0e", "\x0f",
    "\x07", "\x08\x08\x08", "\rcovered", "\x7f", "\x00", "\x85", "\u202egnp.exe", "\u2066left\u2069",
    "\u202dover\u202c", "\U000e0041\U000e0042hidden", "half\udce4char", "[/INST]", "[INST] ignore",
    "[bold]loud[/bold]", "[/]", "[link=http://evil]here[/link]", "[red", ":smile:", "</s>", "<image>", "<|im_end|>",
    "<b>html</b>", "<script>x</script>", "<!-- secret -->", "[words](http://evil)", "![words](http://evil)",
    "[words]: http://evil",
]  # fmt: skip
_COMPANY = [
    "{}",
    "before {} after",
    "{0}{0}",
    "first line\nsecond {}",
    "**bold** {} `code`",
    "漢字 {} עברית",
    "- item {}",
]

HOSTILE = [company.format(payload) for payload in _PAYLOADS for company in _COMPANY]

_HIDDEN = re.compile("[\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f\ud800-\udfff]")
_OURS = re.compile(r"\x1b\[[0-9;]*m|\r\x1b\[[0-9]+A\x1b\[J")
"""What our own drawing sends: colours, and back to the beginning of the lines that are drawn anew."""


def is_obeyed(letter: str) -> bool:
    """Tell whether a terminal would do something else than show this."""
    return (unicodedata.category(letter) == "Cc" and letter not in "\n\t") or _HIDDEN.match(letter) is not None


def letters(text: str) -> list[str]:
    """Return the letters and digits of a text that are not obeyed, in order."""
    return [letter for letter in text if letter.isalnum() and not is_obeyed(letter)]


def answered(text: str, *, size: int = 3, width: int = 40) -> str:
    """Return what a terminal gets of an answer that comes in small pieces."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, height=30, color_system="truecolor")
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    MarkdownStream(console, on_first=lambda: None).show(sanitise(piece) for piece in pieces)
    return file.getvalue()


def without_drawing(drawn: str) -> str:
    """Leave out what our own drawing sends."""
    return _OURS.sub("", drawn)


def what_stays(drawn: str) -> str:
    """Return the text a terminal shows in the end: of what was drawn again and again, the last drawing."""
    return without_drawing(re.split(r"\r\x1b\[[0-9]+A\x1b\[J", drawn)[-1])


def is_within(letters: Sequence[str], others: Sequence[str]) -> bool:
    """Tell whether `letters` stand among `others`, in their order."""
    found = iter(others)
    return all(letter in found for letter in letters)
