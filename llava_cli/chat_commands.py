"""Plays slash commands on a `Session`, and says on the terminal what they did."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path

from llava_cli import preview, transcript
from llava_cli.amounts import ago, counted
from llava_cli.errors import LlavaError, UsageError
from llava_cli.pictures import Picture, RememberedPicture
from llava_cli.render import Output
from llava_cli.reply import Reply
from llava_cli.sanitiser import sanitise
from llava_cli.session import Session
from llava_cli.settings import Sampling, changed
from llava_cli.slash import COMMANDS, paths_in

Answer = Callable[[Callable[[], Reply]], None]
"""Begins a reply and shows it."""


class ChatCommands:
    """The commands of `slash.COMMANDS`, one method each."""

    def __init__(self, session: Session, output: Output, answer: Answer, *, preview_as: str) -> None:
        self._session = session
        self._output = output
        self._answer = answer
        self._preview_as = preview_as
        self.prefill = ""
        """What the next line to enter begins with."""
        self.edits = False
        """Whether that is to take the place of the last question."""
        """What stands in the next prompt, to be changed and sent."""
        self.table: dict[str, Callable[[str], None]] = {
            "image": self._image, "images": self._images, "drop": self._drop, "show": self._show, "new": self._new,
            "undo": self._undo, "retry": self._retry, "edit": self._edit, "continue": self._continue,
            "copy": self._copy, "system": self._system, "set": self._set, "model": self._model, "save": self._save,
            "load": self._load, "chats": self._chats, "export": self._export, "stats": self._stats,
            "context": self._context, "help": self._help, "quit": self._quit,
        }  # fmt: skip

    def choices(self) -> dict[str, Callable[[], Iterable[str]]]:
        """Return what can follow each command, for completion."""

        def numbers() -> list[str]:
            return [str(n + 1) for n in range(len(self._session.pictures))]

        return {
            "drop": numbers,
            "show": lambda: ["--input", *numbers()],
            "system": lambda: ["default"],
            "set": lambda: [field.name for field in fields(Sampling)],
            "model": lambda: [name for name, _ in self._session.place.names()],
            "load": lambda: [chat.name or str(chat.id) for chat in self._session.journal.history.chats()],
            "export": lambda: ["md", "json"],
            "help": lambda: COMMANDS,
        }

    def stage(self, source: str | Picture) -> None:
        """Take a picture for the next question, and show it."""
        picture = self._session.stage(source)
        for note in picture.notes:
            self._output.note(f"{picture.name}: {note}")
        self._draw(picture)
        if not self._output.quiet:
            self._output.say(f"{_described(picture)} goes with the next question")

    # Pictures.

    def _image(self, argument: str) -> None:
        if not argument:
            raise UsageError("/image", "it needs a file", hint="/image photo.jpg")
        for source in ["clip:"] if argument == "clip" else paths_in(argument):
            self.stage(source)

    def _images(self, _argument: str) -> None:
        shown = len(self._session.chat.pictures)
        lines = [
            f"{number}  {_described(picture)}{'' if number <= shown else ', for the next question'}"
            for number, picture in enumerate(self._session.pictures, 1)
        ]
        self._output.say("\n".join(lines) or "no pictures in this chat; /image FILE shows one")

    def _drop(self, argument: str) -> None:
        if not argument:
            raise UsageError("/drop", "it needs a number", hint="/images shows the numbers")
        self._output.say(f"{self._session.drop(argument).name} is out of this chat")

    def _show(self, argument: str) -> None:
        words = argument.split()
        as_input = "--input" in words
        number = " ".join(word for word in words if word != "--input")
        picture = self._session.picture(number)
        for shown in self._session.model.seen(picture) if as_input else [picture]:
            if not self._draw(shown, rows=preview.ROWS * 2, wanted=True):
                raise UsageError("/show", "it needs a terminal with colours", hint="leave --plain and NO_COLOR out")
            self._output.say(_described(shown))

    def _draw(self, picture: Picture | RememberedPicture, *, rows: int = preview.ROWS, wanted: bool = False) -> bool:
        if not self._output.has_colours or (self._preview_as == "off" and not wanted):
            return False
        how = "auto" if self._preview_as == "off" else self._preview_as
        shown = picture if isinstance(picture, Picture) else picture.open()
        self._output.picture(preview.draw(shown, how, rows=rows))
        return True

    # Turns.

    def _new(self, _argument: str) -> None:
        self._session.begin_anew()
        self._output.say("a new chat, without pictures")

    def _undo(self, _argument: str) -> None:
        text = self._session.undo()
        waiting = len(self._session.staged)
        pictures = f"; {waiting} of its pictures wait for the next question" if waiting else ""
        self._output.say(f"taken back: {_shortened(text)}{pictures}")

    def _retry(self, argument: str) -> None:
        temperature = changed(Sampling(), "temperature", argument).temperature if argument else None
        if not (self._session.sampling.temperature if temperature is None else temperature):
            self._output.note("the temperature is 0, so the answer will be the same; /retry 0.8 draws another one")
        self._answer(lambda: self._session.retry(temperature))

    def _edit(self, argument: str) -> None:
        if argument:
            self._session.undo()
            self._answer(lambda: self._session.ask(argument))
            return
        if not self._output.rich:
            raise UsageError("/edit", "here it needs the question", hint="/edit What is it made of?")
        self.prefill, self.edits = self._session.chat.last_turn[0], True
        self._output.say("Enter asks this in place of the last question; Ctrl-C leaves everything as it is")

    def _continue(self, _argument: str) -> None:
        self._answer(self._session.go_on)

    def _copy(self, _argument: str) -> None:
        answers = [turn["content"] for turn in self._session.chat.messages if turn["role"] == "assistant"]
        if not answers:
            raise UsageError("/copy", "there is no answer yet", hint="ask a question first")
        if not self._output.rich:
            why = "it needs a terminal, without --plain"
            raise UsageError("/copy", why, hint="/export md FILE writes a file")
        self._output.copy(answers[-1])
        self._output.say("the last answer is on the clipboard, if your terminal allows it (OSC 52)")

    # Settings.

    def _system(self, argument: str) -> None:
        chat = self._session.chat
        if not argument:
            self._output.say(chat.system if chat.system is not None else "the model's own system prompt")
            return
        chat.system = None if argument == "default" else argument
        self._output.say("from the next question on; the chat is read again with it")

    def _set(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        if value:
            self._session.sampling = changed(self._session.sampling, name, value.strip())
        elif name:
            raise UsageError("/set", "it needs a name and a value", hint=f"/set {name} VALUE")
        values = vars(self._session.sampling)
        shown = {name: values[name]} if value else values
        self._output.say("\n".join(f"{key} {'none' if one is None else one}" for key, one in shown.items()))

    def _model(self, argument: str) -> None:
        if not argument:
            # A quant of it is the same model.
            current = (self._session.model_name, self._session.model_name.split(":")[0])
            lines = [
                f"{'*' if name in current else ' '} {name}  {about}" for name, about in self._session.place.names()
            ]
            self._output.say("\n".join(lines))
            return
        # Before the open one is closed.
        self._session.place.require(argument)
        self._session.use(argument)
        self._output.say(f"the chat goes on with {argument}, which is being opened")

    # The chat as a whole.

    def _save(self, argument: str) -> None:
        if not argument:
            raise UsageError("/save", "it needs a name", hint="/save holiday")
        self._session.journal.call(argument)
        self._output.say(f"this chat is called {argument}: llava chat --chat {shlex.quote(argument)}")

    def _load(self, argument: str) -> None:
        if not argument:
            raise UsageError("/load", "it needs a name or a number", hint="/chats lists them")
        self._session.resume(self._session.journal.find(argument))
        self.say_where_it_stands()

    def say_where_it_stands(self) -> None:
        """Say how a chat goes on that was there before."""
        turns = [turn for turn in self._session.chat.messages if turn["role"] == "user"]
        if turns:
            question = self._session.chat.last_turn[0]
            self._output.say(
                f"going on after {counted(len(turns), 'turn')}; the last question was: {_shortened(question)}"
            )

    def _chats(self, _argument: str) -> None:
        now = time.time()
        lines = [
            f"{_shortened(chat.name or str(chat.id))}  {_shortened(chat.question)}"
            f"  {counted(chat.length, 'turn')}, {ago(now - chat.used)}"
            for chat in self._session.journal.history.chats()
        ]
        self._output.say("\n".join(lines) or "no chats in the log yet")

    def _export(self, argument: str) -> None:
        form, _, name = argument.partition(" ")
        forms = {"md": transcript.as_markdown, "json": transcript.as_json}
        if form not in forms:
            raise UsageError("/export", "it is md or json", hint="/export md chat.md")
        text = sanitise(forms[form](self._session.chat.messages, self._session.model_name))
        if not name.strip():
            self._output.write(text)
            return
        path = Path(name.strip()).expanduser()
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            why = "it exists already" if isinstance(error, FileExistsError) else str(error.strerror).lower()
            raise LlavaError(name.strip(), why, hint="give another name") from error
        self._output.say(f"written to {path}")

    def _stats(self, _argument: str) -> None:
        if self._session.last is None:
            raise UsageError("/stats", "there is no answer yet", hint="ask a question first")
        self._output.stats(self._session.last.usage, self._session.last.seed)

    def _context(self, _argument: str) -> None:
        session = self._session
        used, window, pictures = session.chat.cells, session.context, len(session.chat.pictures)
        turns = sum(turn["role"] == "user" for turn in session.chat.messages)
        of = f"of {window} tokens in use ({100 * used / window:.0f}%)" if window else (
            "tokens in use, and how many there can be the server does not say"
        )  # fmt: skip
        lines = [
            f"{used} {of}: turns {turns}, pictures {pictures}",
            *([f"{session.chat.dropped} older turns were dropped"] if session.chat.dropped else []),
        ]
        self._output.say("\n".join(lines))

    def _help(self, argument: str) -> None:
        name = argument.lstrip("/")
        if name and name not in COMMANDS:
            raise UsageError(f"/help {name}", "there is no such command", hint="/help lists them")
        shown = [COMMANDS[name]] if name else COMMANDS.values()
        width = max(len(f"/{one.name} {one.arguments}") for one in shown)
        lines = [f"{f'/{one.name} {one.arguments}':{width}}  {one.summary}" for one in shown]
        lines += _KEYS if not name else [COMMANDS[name].detail] if COMMANDS[name].detail else []
        self._output.say("\n".join(lines))

    def _quit(self, _argument: str) -> None:
        raise EOFError


_KEYS = [
    "",
    'Alt-Enter begins a new line; """ begins and ends a question of several lines.',
    "Tab completes, ↑ and Ctrl-R find earlier lines, Ctrl-X Ctrl-E opens $EDITOR.",
    "Ctrl-C stops an answer and keeps what was written.",
]


def _described(picture: Picture | RememberedPicture) -> str:
    return f"{picture.name} ({picture.width} × {picture.height})"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
