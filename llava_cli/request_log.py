"""Writes down in the log what programs have asked the server, the turns of a chat one after the other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llava_cli.history import History
from llava_cli.turns import Turn, turn_of

if TYPE_CHECKING:
    from llava_cli.chat_request import Question
    from llava_cli.model import Model
    from llava_cli.reply import Reply

_CHATS = 1000
"""How many chats are remembered that may go on."""


class RequestLog:
    """Knows which turn a request goes on from: programs send all that was said before, again each time."""

    def __init__(self, history: History, model: Model) -> None:
        self._history, self._model = history, model
        self._ends: OrderedDict[tuple[object, ...], Turn] = OrderedDict()
        """The last turn of each chat, by all that was said up to its end."""

    def record(self, reply: Reply, question: Question) -> None:
        """Write down a reply that has ended."""
        asked = max(i for i, message in enumerate(question.messages) if message["role"] == "user")
        before = self._ends.get(_said(question.messages[:asked]))
        shown = question.messages[asked:] if before else question.messages
        pictures = [part["picture"].open() for message in shown for part in _parts(message) if "picture" in part]
        turn = turn_of(reply, self._model, question.text, pictures, system=question.system)
        place = {"chat": before.chat, "after": before.id} if before else {}
        recorded = self._history.record(turn, **place)
        if recorded is not None:
            answer = {"role": "assistant", "content": reply.so_far}
            self._ends[_said([*question.messages[: asked + 1], answer])] = recorded
            while len(self._ends) > _CHATS:
                self._ends.popitem(last=False)


def _said(messages: Iterable[Mapping[str, Any]]) -> tuple[object, ...]:
    return tuple(
        (message["role"], *(part["picture"].sha256 if "picture" in part else part["text"] for part in _parts(message)))
        for message in messages
    )


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"text": content}] if isinstance(content, str) else content
