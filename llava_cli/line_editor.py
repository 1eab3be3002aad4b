"""Reads what a user types: with all comfort in a terminal, or line by line from anywhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llava_cli.private_files import make_directory
from llava_cli.render import Output
from llava_cli.sanitiser import sanitise
from llava_cli.slash import COMMANDS, is_open_block
from llava_cli.sniffing import SUFFIXES

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completion
    from prompt_toolkit.document import Document


class Lines(Protocol):
    """Where lines come from."""

    def read(self, default: str = "") -> str:
        """Return what was entered; raise `EOFError` at the end, `KeyboardInterrupt` for Ctrl-C."""
        ...

    def refresh(self) -> None:
        """Show again what stands around the line, if anything does; from any thread."""
        ...

    def interrupt(self) -> None:
        """Let `read` raise `EOFError` now, if it can; from any thread."""
        ...


class PlainLines:
    """Lines from a pipe, or from a terminal that wants no more than lines."""

    def __init__(self, output: Output, message: Callable[[], str]) -> None:
        self._output = output
        self._message = message

    def read(self, default: str = "") -> str:
        """Return a line, or all lines between three quotes."""
        text = self._line(self._message())
        while is_open_block(text):
            text += self._line("… ")
        return text.rstrip("\n")

    def refresh(self) -> None:
        """Show nothing: a line that has been written stays as it is."""

    def interrupt(self) -> None:
        """Do nothing: who reads a line waits for its end."""

    def _line(self, prompt: str) -> str:
        if sys.stdin is None:
            raise EOFError
        if sys.stdin.isatty():
            self._output.end_stage()
            self._output.write(prompt.replace("›", ">"))
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line


class LineEditor:
    """A line of the terminal with history, completion, suggestions, and a status below it."""

    def __init__(
        self,
        *,
        history: Path,
        keys: str,
        message: Callable[[], str],
        status: Callable[[], str],
        choices: Mapping[str, Callable[[], Iterable[str]]],
    ) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
        from prompt_toolkit.enums import EditingMode
        from prompt_toolkit.filters import Condition
        from prompt_toolkit.styles import Style

        self._is_interrupted = False
        self._session: PromptSession[str] = PromptSession(
            message=lambda: [("class:prompt", message())],
            bottom_toolbar=lambda: [("", status())],
            prompt_continuation="… ",
            multiline=Condition(lambda: is_open_block(self._session.default_buffer.text)),
            history=_private_history(history),
            enable_history_search=True,
            auto_suggest=AutoSuggestFromHistory(),
            completer=_completer(choices),
            complete_in_thread=True,
            enable_open_in_editor=True,
            enable_suspend=True,
            editing_mode=EditingMode.VI if keys == "vi" else EditingMode.EMACS,
            key_bindings=_keys(),
            style=Style([("bottom-toolbar", "noreverse fg:ansibrightblack"), ("prompt", "bold")]),
            tempfile_suffix=".md",
        )

    def read(self, default: str = "") -> str:
        """Return what was entered; `default` stands there to be changed."""
        return self._session.prompt(default=default, pre_run=self._leave_if_interrupted)

    def refresh(self) -> None:
        """Draw prompt and status anew; from any thread."""
        self._session.app.invalidate()

    def interrupt(self) -> None:
        """Let `read` raise `EOFError` now; from any thread."""
        self._is_interrupted = True
        app = self._session.app
        if app.is_running and app.loop is not None:
            app.loop.call_soon_threadsafe(self._leave_if_interrupted)

    def _leave_if_interrupted(self) -> None:
        app = self._session.app
        if self._is_interrupted and not app.is_done:
            self._is_interrupted = False
            app.exit(exception=EOFError)


def _keys() -> Any:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _new_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _private_history(path: Path) -> Any:
    """Keep what was typed in a file that nobody else can read; only in memory if that cannot be."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    try:
        make_directory(path.parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
    except OSError:
        return InMemoryHistory()

    class Private(FileHistory):
        def store_string(self, string: str) -> None:
            # A full disk must not end the chat.
            try:
                super().store_string(string)
            except OSError:
                return

    return Private(path)


def _completer(choices: Mapping[str, Callable[[], Iterable[str]]]) -> Any:
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    pictures = PathCompleter(
        expanduser=True, file_filter=lambda name: Path(name).is_dir() or Path(name).suffix.lower() in SUFFIXES
    )

    def paths(text: str, event: CompleteEvent) -> Iterator[Completion]:
        for found in pictures.get_completions(Document(text), event):
            # A name that a terminal would obey must be given in another way.
            if sanitise(found.display_text) == found.display_text:
                end = "/" if found.display_text.endswith("/") else ""
                yield Completion(found.text + end, found.start_position, display=found.display)

    class Slashes(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            text = document.text_before_cursor
            command, space, argument = text.partition(" ")
            if text.startswith("/") and not space and not command[1:].count("/"):
                for name in COMMANDS:
                    if name.startswith(command[1:]):
                        yield Completion(name, start_position=1 - len(command), display_meta=COMMANDS[name].summary)
            elif command == "/image":
                yield from paths(argument, complete_event)
            elif command[1:] in choices and text.startswith("/"):
                word = argument.rpartition(" ")[2]
                for choice in choices[command[1:]]():
                    if choice.startswith(word):
                        yield Completion(choice, start_position=-len(word))
            elif "/" in (word := text.rpartition(" ")[2]):
                yield from paths(word, complete_event)

    return Slashes()
