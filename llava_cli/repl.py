"""Reads lines and slash commands and plays them on a `Session`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava_cli.chat_commands import ChatCommands
from llava_cli.errors import GENERAL_HINT, LlavaError, Stopped
from llava_cli.line_editor import LineEditor, Lines, PlainLines
from llava_cli.pictures import Picture
from llava_cli.render import Output
from llava_cli.reply import CUT_SHORT, Reply
from llava_cli.sanitiser import sanitise
from llava_cli.session import Session
from llava_cli.settings import ChatOptions, data_dir
from llava_cli.slash import read_line
from llava_cli.stopping import ctrl_c_stops

if TYPE_CHECKING:
    from llava_cli.chat import Opened


class Repl:
    """One chat at the terminal, or, without one, a script of lines that ends at its first error."""

    def __init__(self, session: Session, output: Output, options: ChatOptions, *, is_terminal: bool) -> None:
        self._session = session
        self._output = output
        self._is_terminal = is_terminal
        self._commands = ChatCommands(session, output, self._answer, preview_as=options.preview)
        self._lines: Lines
        if is_terminal and output.rich:
            self._lines = LineEditor(
                history=data_dir() / "chat_lines",
                keys=options.keys,
                message=lambda: self._message,
                status=lambda: self._status,
                choices=self._commands.choices(),
            )
        else:
            self._lines = PlainLines(output, lambda: self._message)
        self._message = self._status = ""
        self._said: set[str] = set()
        self._model_before = session.model_name
        session.on_change = self._hear_of_the_model

    def run(self, pictures: Sequence[Picture]) -> None:
        """Show `pictures`, then play what is entered until its end."""
        if self._is_terminal and not self._output.quiet:
            self._output.say(
                f"{self._session.model_name}: /image FILE shows it a picture, /help says more, Ctrl-D leaves"
            )
        if self._session.chat.messages:
            self._commands.say_where_it_stands()
        for picture in pictures:
            self._commands.stage(picture)
        while True:
            self._describe()
            prefill, self._commands.prefill = self._commands.prefill, ""
            edits, self._commands.edits = self._commands.edits, False
            try:
                entered = "" if self._session.has_failed else self._lines.read(prefill)
                if self._session.has_failed:
                    self._session.model  # noqa: B018 - it raises why
                self._play(entered, edits=edits)
            except EOFError:
                if not self._session.has_failed:
                    return
            except KeyboardInterrupt:
                if not self._is_terminal:
                    raise
                self._output.say("Ctrl-D or /quit leaves")
            except LlavaError as error:
                if not self._is_terminal:
                    raise
                if error.hint == GENERAL_HINT:
                    error.hint = "/help lists the commands"
                self._output.error(error)
                self._give_up_the_model(error)

    def _play(self, entered: str, *, edits: bool) -> None:
        """Do what a line says; one that `edits` takes the place of the last question, if it is one."""
        line = read_line(entered)
        if edits and line.text and not line.command:
            self._session.undo()
        for path in line.pictures:
            self._commands.stage(path)
        if line.command:
            self._commands.table[line.command](line.argument)
        elif line.text:
            if not self._session.pictures:
                self._say_once("there is no picture in this chat: the answer knows nothing but words")
            self._answer(lambda: self._session.ask(line.text), question=entered)

    def _answer(self, begin: Callable[[], Reply], *, question: str = "") -> None:
        """Begin a reply and show it; Ctrl-C stops it and keeps what was written."""
        dropped = self._session.chat.dropped
        try:
            with ctrl_c_stops(self._model()):
                reply = begin()
                try:
                    self._output.answer(reply)
                finally:
                    self._session.keep(reply)
        except (Stopped, KeyboardInterrupt):
            self._output.end_stage()
            if not self._is_terminal:
                raise
            self._output.note("stopped before the answer began")
            self._commands.prefill = question
            return
        if reply.finish_reason == "stopped" and not self._is_terminal:
            raise KeyboardInterrupt
        self.say_notes()
        if self._session.chat.dropped > dropped:
            self._say_once("the context window is full: the oldest turns are dropped from now on, pictures stay")
        if reply.finish_reason in CUT_SHORT:
            self._output.note(CUT_SHORT[reply.finish_reason] + _WAY_OUT.get(reply.finish_reason, ""))

    def _model(self) -> Opened:
        if self._session.is_loading:
            self._output.stage("loading", 0)
        try:
            model = self._session.model
        finally:
            self._output.end_stage()
        self._model_before = self._session.model_name
        self.say_notes()
        return model

    def say_notes(self) -> None:
        """Say what is new of what is worth saying about the model and the log."""
        for note in self._session.notes:
            self._say_once(note)

    def _give_up_the_model(self, error: LlavaError) -> None:
        """Go back to the model before, if one could not be opened; without any there is no chat."""
        if not self._session.has_failed:
            return
        if self._model_before == self._session.model_name:
            raise error
        self._session.use(self._model_before)
        self._output.say(f"the chat goes on with {self._model_before}")

    def _say_once(self, note: str) -> None:
        if note not in self._said:
            self._said.add(note)
            self._output.note(note)

    def _hear_of_the_model(self) -> None:
        """Show that the model is here, or end the waiting for a line; called by the thread that opened it."""
        if self._session.has_failed:
            self._lines.interrupt()
        else:
            self._describe()
            self._lines.refresh()

    def _describe(self) -> None:
        """Write prompt and status: picture and share of the window in use; model, speed, tokens reused."""
        pictures, share = self._session.pictures, self._session.share_in_use
        name = sanitise(_short_name(pictures[-1].name)) if pictures else ""
        model = sanitise(self._session.model_name)
        self._message = " ".join(filter(None, [name, f"{share:.0%}" if share else "", "› "]))
        parts = [model + (" · loading…" if self._session.is_loading else "")]
        if self._session.last is not None:
            usage = self._session.last.usage
            parts += [f"{usage.tokens_per_second:.1f} tokens/s"] if usage.tokens_per_second else []
            parts += [f"{usage.reused_cells} of {usage.prompt_cells} tokens reused"]
        self._status = " · ".join(parts)


_WAY_OUT = {
    "length": "; /continue goes on, /set max_tokens allows more",
    "context": "; /continue makes room and goes on",
    "loop": "; /retry draws another",
    "stopped": "; /continue goes on",
}


def _short_name(path: str) -> str:
    name = Path(path).name or path
    return name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}"
