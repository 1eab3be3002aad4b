"""Keeps the log in step with a chat: turns are written down, and taken back there, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llava_cli.errors import UsageError
from llava_cli.history import History
from llava_cli.pictures import Picture, RememberedPicture
from llava_cli.turns import PastChat, Turn, turn_asked, turn_of

if TYPE_CHECKING:
    from llava_cli.chat import Opened
    from llava_cli.reply import Reply
    from llava_cli.settings import Sampling


class Journal:
    """Where a chat stands in the log."""

    def __init__(self, history: History, name: str = "") -> None:
        self.history = history
        self._name = name
        """What the chat is to be called, once there is a turn of it."""
        self._chat: int | None = None
        self._turns: list[Turn | None] = []
        """Those of the chat, as far as they are in the log."""

    def announce(
        self, model: Opened, sampling: Sampling, question: str, pictures: Sequence[Picture | RememberedPicture],
        system: str | None,
    ) -> None:  # fmt: skip
        """Say what is about to be answered, in case that ends this process."""
        turn = turn_asked(model, sampling, question, pictures, system=system)
        self.history.announce(turn, chat=self._chat, after=self._last)

    def write(
        self,
        reply: Reply,
        model: Opened,
        question: str,
        pictures: Sequence[Picture | RememberedPicture],
        system: str | None,
    ) -> None:
        """Write down a turn that follows the last one."""
        self._record(turn_of(reply, model, question, pictures, system=system))

    def write_instead(self, reply: Reply, model: Opened, question: str, answer: str, system: str | None) -> None:
        """Write down a turn that takes the place of the last one, which stays in the log."""
        before = self._turns.pop() if self._turns else None
        turn = turn_of(reply, model, question, before.pictures if before else (), system=system)
        self._record(replace(turn, answer=answer))

    def take_back(self) -> None:
        """Let the chat stand at the turn before the last one."""
        taken = self._turns.pop() if self._turns else None
        if taken is not None and self._chat is not None:
            self.history.rewind(self._chat, self._last)

    def begin_anew(self) -> None:
        """Let the next turn be the first one of a new chat."""
        self._chat, self._turns, self._name = None, [], ""

    def resume(self, past: PastChat) -> list[Turn]:
        """Go on with a chat of the log, and return its turns."""
        turns = self.history.turns(past.id)
        self._chat, self._turns, self._name = past.id, list(turns), ""
        return turns

    def call(self, name: str) -> None:
        """Give the chat a name; raise `UsageError` if it is not in the log."""
        if self._chat is None:
            why = "nothing of this chat is in the log yet" if self.history.is_on else "the log is off"
            hint = "ask a question first" if self.history.is_on else "llava log on"
            raise UsageError(name, why, hint=hint)
        self.history.name_chat(self._chat, name)

    def find(self, name: str) -> PastChat:
        """Return the chat of that name or number; raise `UsageError` if there is none."""
        chats = self.history.chats()
        found = [chat for chat in chats if name in (chat.name, str(chat.id))]
        if not found:
            raise UsageError(name, "there is no such chat in the log", hint="/chats lists them")
        # A name may look like a number.
        return max(found, key=lambda chat: chat.name == name)

    @property
    def _last(self) -> int | None:
        return next((turn.id for turn in reversed(self._turns) if turn is not None), None)

    def _record(self, turn: Turn) -> None:
        recorded = self.history.record(turn, chat=self._chat, after=self._last) if self.history.is_on else None
        self._turns.append(recorded)
        if recorded is not None:
            self._chat = recorded.chat
            if self._name:
                self.history.name_chat(recorded.chat, self._name)
                self._name = ""
