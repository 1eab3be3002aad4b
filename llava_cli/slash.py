"""Tells a question from a slash command and from a picture that was dragged into the terminal."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from llava_cli.errors import UsageError
from llava_cli.fetching import is_address
from llava_cli.sniffing import SUFFIXES


@dataclass(frozen=True)
class Command:
    """One slash command, as `/help` shows it."""

    name: str
    arguments: str
    summary: str
    detail: str = ""


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "image",
            "FILE…",
            "show a picture with the next question",
            "Also an http(s) address, or clip for the clipboard. Dragging a file here does the same as naming it.",
        ),
        Command("images", "", "list the pictures of this chat"),
        Command("drop", "N", "take picture N out of the chat", "The numbers are those of /images."),
        Command("show", "[--input] [N]", "show a picture here", "With --input exactly as the model sees it."),
        Command("new", "", "begin a new chat"),
        Command("undo", "", "take the last question and its answer back"),
        Command("retry", "[TEMPERATURE]", "answer the last question again, with another seed"),
        Command("edit", "[QUESTION]", "change the last question and ask it again"),
        Command("continue", "", "go on with an answer that was cut"),
        Command("copy", "", "put the last answer on the clipboard"),
        Command("system", "[TEXT]", "show or change the system prompt", "`/system default` is the model's own."),
        Command("set", "[NAME VALUE]", "show or change how answers are drawn", "`/set seed none` draws freely again."),
        Command("model", "[NAME]", "show the models, or go on with another one"),
        Command("save", "NAME", "give this chat a name", "`llava chat --chat NAME` comes back to it."),
        Command("load", "NAME", "go on with a chat of /chats", "A name, or the number that /chats shows."),
        Command("chats", "", "list the chats of the log"),
        Command("export", "md|json [FILE]", "write this chat down"),
        Command("stats", "", "show what the last answer took"),
        Command("context", "", "show what fills the context window"),
        Command("help", "[COMMAND]", "show this, or more about one command"),
        Command("quit", "", "leave; so does Ctrl-D"),
    )
}

_ALIASES = {"exit": "quit", "bye": "quit", "q": "quit", "?": "help"}


@dataclass(frozen=True)
class Line:
    """What a user has entered, understood: pictures to be shown, and a command or a question."""

    text: str = ""
    """The question; empty if there is none."""
    command: str = ""
    argument: str = ""
    pictures: tuple[str, ...] = ()


def read_line(entered: str) -> Line:
    """Understand what was entered; raise `UsageError` for a slash command that does not exist.

    Nothing that begins with a slash is ever a question, unless with two.
    """
    text = entered.strip()
    if text.startswith('"""'):
        return Line(text=text.removeprefix('"""').removesuffix('"""').strip("\n"))
    if text.startswith("//"):
        return Line(text=text[1:])
    word, _, argument = text.partition(" ")
    name = _ALIASES.get(word[1:], word[1:])
    if text.startswith("/") and name in COMMANDS:
        return Line(command=name, argument=argument.strip())
    pictures, text = _dragged(text)
    if text.startswith("/"):
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"did you mean /{close[0]}? " if close else ""
        hint = f"{meant}/help lists the commands; // at the beginning sends a slash"
        raise UsageError(word, "there is no such command", hint=hint)
    return Line(text=text, pictures=pictures)


def is_open_block(text: str) -> bool:
    """Tell whether three quotes have begun a question of several lines and none have ended it."""
    begun = text.lstrip()
    return begun.startswith('"""') and not begun[3:].rstrip().endswith('"""')


def paths_in(argument: str) -> list[str]:
    """Return the paths in the argument of a command: several words, or one name with spaces in it."""
    words = [_path(word) for word in _WORD.findall(argument)]
    whole = str(Path(argument).expanduser())
    return words if (not _is_file(whole) and any(map(_is_file, words))) or len(words) == 1 else [whole]


# As terminals write the files that are dropped on them: in quotes, or with backslashes.
_WORD = re.compile(r"""'[^']*'|"[^"]*"|(?:\\.|[^\s\\'"])+""")


def _dragged(text: str) -> tuple[tuple[str, ...], str]:
    """Split the paths of pictures off both ends of what was entered."""
    if "/" not in text or "\n" in text:
        return (), text
    if _is_file(text) and text.startswith(("/", "~")):
        return (str(Path(text).expanduser()),), ""
    words = list(_WORD.finditer(text))
    start = 0
    while start < len(words) and _is_picture(words[start][0]):
        start += 1
    end = len(words)
    while end > start and _is_picture(words[end - 1][0]):
        end -= 1
    found = tuple(_path(word[0]) for word in (*words[:start], *words[end:]))
    if not found:
        return (), text
    rest = text[words[start].start() : words[end - 1].end()] if start < end else ""
    return found, rest


def _path(word: str) -> str:
    path = word[1:-1] if word[0] in "'\"" else re.sub(r"\\(.)", r"\1", word)
    if is_address(path):
        return path
    if path.startswith("file://"):
        return unquote(urlsplit(path).path)
    return str(Path(path).expanduser()) if path else path


def _is_picture(word: str) -> bool:
    """Tell whether a word is the path of a picture; one without a slash is a word of the question."""
    path = _path(word)
    if word.startswith("file://") or (path.startswith("/") and word[0] in "'\"" and _is_file(path)):
        return True
    return "/" in word and Path(path).suffix.lower() in SUFFIXES and _is_file(path)


def _is_file(path: str) -> bool:
    try:
        return Path(path).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return False
