"""Turns messages into the parts the model was trained on: text, special tokens, pictures.

The layouts are those of the authors' `llava/conversation.py` (LLaVA) and xtuner's `PROMPT_TEMPLATE`
(llama3, phi3). A message is only ever text or pictures here: what a user types can never become a special token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from llava_cli.errors import UsageError
from llava_cli.pictures import Picture, RememberedPicture

VICUNA_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)


@dataclass(frozen=True)
class Message:
    """One turn's half: who speaks, the text, and the pictures shown before it."""

    role: Literal["system", "user", "assistant"]
    text: str
    pictures: tuple[Picture | RememberedPicture, ...] = ()
    is_open: bool = False
    """An answer that is to go on where it ends."""


@dataclass(frozen=True)
class Special:
    """One token that the vocabulary knows by this name, such as `</s>`."""

    token: str


class Bare(str):
    """Plain text in front of which the family's tokenizer puts no space of its own."""

    __slots__ = ()


Part = str | Special | Picture | RememberedPicture
"""A piece of a prompt. A `str` is plain text, tokenised without looking for special tokens."""

Spaces = Literal["first", "always", "stripped", "never"]
"""Where a family's published tokenizer puts SentencePiece's dummy space; GGUF files and llama.cpp do not know it.

`first`: in front of a prompt and after a picture, but not after a special token (vicuna, `legacy: false`).
`always`: after a special token, too (Mistral-7B-Instruct-v0.2, `legacy: true`).
`stripped`: the same, and white space behind a special token is dropped (Phi-3, `rstrip: true`).
`never`: nowhere (Yi, and byte-level BPE anyway).
"""


@dataclass(frozen=True)
class Layout:
    """How a family of models wants its chats written down."""

    name: str
    stop: tuple[str, ...]
    default_system: str
    spaces: Spaces
    _write: Callable[[str, list[tuple[Message, Message | None]]], Iterator[Part]]

    def render(self, messages: Sequence[Message]) -> list[Part]:
        """Write `messages` as parts, ready for the next answer, or for more of the answer they end with.

        Neighbouring text is one part.
        Text is joined because SentencePiece must see it whole: `USER: ` and `What` apart give other tokens.
        A system message takes the place of the default sentence.
        """
        system, turns = _turns(messages)
        joined: list[Part] = []
        for part in self._write(self.default_system if system is None else system, turns):
            if isinstance(part, str) and joined and isinstance(joined[-1], str):
                joined[-1] += part
            elif part != "":
                joined.append(part)
        return list(self._spaced(joined))

    def _spaced(self, parts: Sequence[Part]) -> Iterator[Part]:
        """Treat the spaces at the beginning of each text as this family's tokenizer does."""
        previous: Part | None = None
        for part in parts:
            text = part
            if isinstance(text, str):
                after_special = isinstance(previous, Special)
                if self.spaces == "stripped" and after_special:
                    text = text.lstrip()
                elif self.spaces == "never" or (self.spaces == "first" and after_special):
                    text = Bare(text)
            if text != "":
                yield text
            previous = part


def _turns(messages: Sequence[Message]) -> tuple[str | None, list[tuple[Message, Message | None]]]:
    system: str | None = None
    turns: list[tuple[Message, Message | None]] = []
    for message in messages:
        if message.role == "system":
            # Several system messages stay: none of what a user asked for is lost.
            system = message.text if system is None else f"{system}\n{message.text}"
        elif message.role == "user":
            if turns and turns[-1][1] is None:
                raise UsageError("messages", "two user messages follow each other without an answer")
            turns.append((message, None))
        elif turns and turns[-1][1] is None:
            turns[-1] = (turns[-1][0], message)
        else:
            raise UsageError("messages", "an answer stands without a question before it")
    if not turns:
        raise UsageError("messages", "there is no question among them")
    question, begun = turns[-1]
    if begun is not None:
        turns[-1] = question, replace(begun, is_open=True) if begun.text else None
    return system, turns


def _shown(message: Message) -> Iterator[Part]:
    """Write a user's message: every picture on a line of its own, then the text."""
    for picture in message.pictures:
        yield picture
        yield "\n"
    yield message.text


_SPECIAL = re.compile(r"(</s>|<\|[a-z_]+\|>)")


def _scaffold(text: str) -> Iterator[Part]:
    """Split a layout's own text into plain text and its special tokens."""
    for piece in _SPECIAL.split(text):
        if piece:
            yield Special(piece) if _SPECIAL.fullmatch(piece) else piece


def _llava_v1(system: str, turns: list[tuple[Message, Message | None]]) -> Iterator[Part]:
    # An empty system prompt leaves no space in front: the prompt starts with "USER: ".
    yield f"{system} " if system else ""
    for user, answer in turns:
        yield "USER: "
        yield from _shown(user)
        yield " ASSISTANT:"
        if answer is not None:
            yield f" {answer.text}"
            if not answer.is_open:
                yield Special("</s>")


def _mistral_instruct(system: str, turns: list[tuple[Message, Message | None]]) -> Iterator[Part]:
    for number, (user, answer) in enumerate(turns):
        yield "[INST] "
        if number == 0 and system:
            yield f"<<SYS>>\n{system}\n<</SYS>>\n\n"
        yield from _shown(user)
        yield " [/INST]"
        if answer is not None:
            yield f" {answer.text}"
            if not answer.is_open:
                yield " "
                yield Special("</s>")


def _marked(system: str, user: str, answer: str, end: str, between: str) -> Callable[..., Iterator[Part]]:
    """Make a writer for layouts whose turns stand between markers; `system` is written only if there is one."""

    def write(text: str, turns: list[tuple[Message, Message | None]]) -> Iterator[Part]:
        if text:
            before, after = system.split("{}")
            yield from _scaffold(before)
            yield text
            yield from _scaffold(after)
        for message, reply in turns:
            yield from _scaffold(user)
            yield from _shown(message)
            yield from _scaffold(answer)
            if reply is not None:
                yield reply.text
                if not reply.is_open:
                    yield from _scaffold(end + between)

    return write


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("llava_v1", ("</s>",), VICUNA_SYSTEM, "first", _llava_v1),
        Layout("mistral_instruct", ("</s>",), "", "always", _mistral_instruct),
        Layout(
            "chatml_direct",
            ("<|im_end|>",),
            "Answer the questions.",
            "never",
            _marked(
                "<|im_start|>system\n{}<|im_end|>",
                "<|im_start|>user\n",
                "<|im_end|><|im_start|>assistant\n",
                "<|im_end|>",
                "",
            ),
        ),
        Layout(
            "llama3",
            ("<|eot_id|>",),
            "",
            "never",
            _marked(
                "<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
                "<|start_header_id|>user<|end_header_id|>\n\n",
                "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
                "<|eot_id|>",
                "",
            ),
        ),
        Layout(
            "phi3",
            ("<|end|>", "<|endoftext|>"),
            "",
            "stripped",
            _marked("<|system|>\n{}<|end|>\n", "<|user|>\n", "<|end|>\n<|assistant|>\n", "<|end|>", "\n"),
        ),
    )
}

LAYOUT_NAMES = tuple(LAYOUTS)


def find_layout(name: str) -> Layout:
    """Return the layout called `name`; raise `UsageError` naming those that exist."""
    try:
        return LAYOUTS[name]
    except KeyError:
        raise UsageError(
            "prompt layout", f"unknown layout {name!r}", hint=f"known layouts: {', '.join(LAYOUT_NAMES)}"
        ) from None
