"""Speaks OpenAI's shapes: messages in, chunks and completions out."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from llava_cli.errors import UsageError
from llava_cli.odds import TokenOdds
from llava_cli.pictures import Picture, RememberedPicture, open_data_url
from llava_cli.prompts import Message


class Ending(Protocol):
    """What there is to say of an answer once it has ended."""

    finish_reason: str
    answer_tokens: int
    reused: int
    new: int
    """Cells of the prompt; with `reused`, all of them."""
    odds: list[TokenOdds] | None


def read_messages(messages: Sequence[Any]) -> list[Message]:
    """Turn OpenAI-shaped messages into ours; a content part `{"type": "picture", "picture": Picture}` is ours, too,
    and so is a `RememberedPicture` in its place.

    `image_url` must be a `data:` URL: an engine that opens files and addresses for whoever sends it messages
    is a hole in the machine. Its `detail` is `low` or `high`; `auto` leaves that to the model.
    """
    read = []
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if role not in ("system", "user", "assistant"):
            raise UsageError("messages", f"unknown role {role!r}")
        texts: list[str] = []
        pictures: list[Picture | RememberedPicture] = []
        parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "text":
                texts.append(part["text"])
            elif part["type"] == "picture":
                pictures.append(part["picture"])
            elif part["type"] == "image_url":
                url = part["image_url"]
                url = {"url": url} if isinstance(url, str) else url
                detail = url.get("detail", "auto")
                pictures.append(open_data_url(url["url"], detail=None if detail == "auto" else detail))
            else:
                raise UsageError("messages", f"unknown content type {part['type']!r}")
        if pictures and role != "user":
            raise UsageError("messages", f"a picture in a {role} message")
        read.append(Message(role, "\n".join(texts), tuple(pictures)))
    return read


_HARMLESS = {"tfs_z": 1.0, "mirostat_mode": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1}
"""Arguments `create_chat_completion` always passes, with the values that mean "off"."""


def refuse_unsupported(others: dict[str, Any]) -> None:
    """Raise `UsageError` for an option that would otherwise do nothing without a word."""
    for name, value in others.items():
        if value and value != _HARMLESS.get(name) and name not in ("mirostat_tau", "mirostat_eta"):
            raise UsageError(name, "this chat handler cannot do that")


def _envelope(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4()}", "object": kind, "created": int(time.time()), "model": model}


def chunks(pieces: Iterator[str], ending: Ending, model: str, *, with_usage: bool = False) -> Iterator[dict[str, Any]]:
    """Yield an answer as stream chunks: the role, each piece, the reason it ended, and the numbers if wanted."""
    envelope = _envelope("chat.completion.chunk", model)
    envelope |= {"usage": None} if with_usage else {}
    told = 0

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        nonlocal told
        odds = (ending.odds or [])[told:] or None
        told += len(odds or ())
        choice = {"index": 0, "delta": delta, "logprobs": _logprobs(odds), "finish_reason": finish_reason}
        return {**envelope, "choices": [choice]}

    yield chunk({"role": "assistant"})
    for piece in pieces:
        yield chunk({"content": piece})
    yield chunk({}, _reason(ending))
    if with_usage:
        yield {**envelope, "choices": [], "usage": usage(ending)}


def completion(pieces: Iterator[str], ending: Ending, model: str) -> dict[str, Any]:
    """Wait for the answer and return it as one object."""
    answer = {"role": "assistant", "content": "".join(pieces)}
    choice = {"index": 0, "message": answer, "logprobs": _logprobs(ending.odds), "finish_reason": _reason(ending)}
    return {**_envelope("chat.completion", model), "choices": [choice], "usage": usage(ending)}


def usage(ending: Ending) -> dict[str, Any]:
    """Return the numbers of an answer; a picture's cells count as tokens."""
    prompt = ending.reused + ending.new
    return {
        "prompt_tokens": prompt,
        "completion_tokens": ending.answer_tokens,
        "total_tokens": prompt + ending.answer_tokens,
        "prompt_tokens_details": {"cached_tokens": ending.reused},
    }


def _logprobs(odds: Sequence[TokenOdds] | None) -> dict[str, Any] | None:
    if odds is None:
        return None

    def one(data: bytes, logprob: float) -> dict[str, Any]:
        return {"token": data.decode("utf-8", "replace"), "bytes": list(data), "logprob": logprob}

    content = [{**one(o.data, o.logprob), "top_logprobs": [one(*best) for best in o.top]} for o in odds]
    return {"content": content, "refusal": None}


def _reason(ending: Ending) -> str:
    return "length" if ending.finish_reason in ("length", "context", "loop") else "stop"
