"""What the log knows of a question and its answer, and what a model needs to go on from there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llava_cli.pictures import Picture, RememberedPicture

if TYPE_CHECKING:
    from llava_cli.chat import Opened
    from llava_cli.reply import Decision, Reply
    from llava_cli.settings import Detail, Sampling


@dataclass(frozen=True)
class Turn:
    """One question and its answer, and all it takes to ask it again."""

    time: float
    """When it was asked, seconds since the epoch."""
    question: str
    answer: str
    finish_reason: str
    system: str | None
    model: str
    own_files: bool
    """Whether the model was a pair of files the user named, and no name of the registry."""
    model_path: str
    """The model file; of another server's model, the address it was asked at."""
    projector_path: str
    model_bytes: int
    projector_bytes: int
    program: str
    """Which llava on which llama-cpp-python."""
    layout: str
    seed: int
    parameters: Mapping[str, Any]
    """The fields of `LoadOptions` and `Sampling` it was answered with, by name, or `endpoint` and `api_key_env`;
    `schema` or `choices`, if any."""
    usage: Mapping[str, float]
    """The fields of `Usage`."""
    pictures: tuple[RememberedPicture, ...] = ()
    """The pictures that were new in this turn."""
    thumbnails: Mapping[str, bytes] | None = None
    """JPEGs by the hash of the picture, to be recorded; a turn that was read from the log has none."""
    id: int = 0
    chat: int = 0
    before: int | None = None
    """The turn it followed."""

    def load_arguments(self) -> dict[str, Any]:
        """Return the arguments of `load` that open the same model."""
        if not self.own_files:
            return {"name": self.model}
        return {
            "model_path": self.model_path, "projector_path": self.projector_path, "prompt_layout": self.layout,
        }  # fmt: skip

    def place(self) -> dict[str, Any]:
        """Return the settings that say where the model was: at which server, or here."""
        return {key: str(self.parameters.get(key, "")) for key in ("endpoint", "api_key_env")}


@dataclass(frozen=True)
class PastChat:
    """A chat in the log."""

    id: int
    name: str | None
    question: str
    """The first that was asked in it."""
    length: int
    """How many turns were recorded in it."""
    used: float
    """When the newest of them was asked."""


def turn_asked(
    model: Opened,
    sampling: Sampling,
    question: str,
    pictures: Sequence[Picture | RememberedPicture] = (),
    *,
    system: str | None = None,
) -> Turn:
    """Write down a question before it is answered, as what it is if the engine crashes over it."""
    facts = model.facts()
    return Turn(
        **{**facts, "parameters": {**facts["parameters"], **vars(sampling)}},
        time=time.time(),
        question=question,
        answer="",
        finish_reason="crashed",
        system=system,
        seed=sampling.seed or 0,
        usage={},
        pictures=tuple(_as_seen(one, facts["parameters"].get("detail")) for one in pictures),
    )


def turn_of(
    reply: Reply | Decision,
    model: Opened,
    question: str,
    pictures: Sequence[Picture | RememberedPicture] = (),
    *,
    system: str | None = None,
) -> Turn:
    """Write down a reply that has ended; `pictures` are those that were sent with this question."""
    from llava_cli.reply import Decision

    return replace(
        turn_asked(model, model.sampling, question, pictures, system=system),
        time=reply.asked_at,
        answer=reply.text if isinstance(reply, Decision) else reply.so_far,
        finish_reason=reply.finish_reason,
        parameters={**model.facts()["parameters"], **reply.parameters},
        seed=reply.seed,
        usage=vars(reply.usage),
        thumbnails={one.sha256: one.thumbnail() for one in pictures if isinstance(one, Picture)},
    )


def messages_of(turns: Iterable[Turn], pictures: Iterable[Picture] = ()) -> list[dict[str, Any]]:
    """Return `turns` as `Model.chat` takes them; `pictures`, opened again, stand in for the remembered ones."""
    known = {picture.sha256: picture for picture in pictures}
    messages: list[dict[str, Any]] = []
    for turn in turns:
        shown = [
            {"type": "picture", "picture": replace(known.get(one.sha256, one), detail=one.detail)}
            for one in turn.pictures
        ]
        messages.append({"role": "user", "content": [*shown, {"type": "text", "text": turn.question}]})
        messages.append({"role": "assistant", "content": turn.answer})
    return messages


def _as_seen(picture: Picture | RememberedPicture, detail: Detail | None) -> RememberedPicture:
    remembered = picture.remembered() if isinstance(picture, Picture) else picture
    return replace(remembered, detail=picture.detail or detail)
