"""Writes a chat down for people (Markdown) or programs (JSON)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def as_markdown(messages: Sequence[Mapping[str, Any]], model: str) -> str:
    """Return the chat as a Markdown document."""
    blocks = [f"# Chat with {model}"]
    for message in messages:
        blocks.append(f"## {str(message['role']).capitalize()}")
        for part in _parts(message):
            if part["type"] == "picture":
                blocks.append(f"*Picture: {_escaped(part['picture'].name)}*")
            else:
                blocks.append(part["text"])
    return "\n\n".join(blocks) + "\n"


def as_json(messages: Sequence[Mapping[str, Any]], model: str) -> str:
    """Return the chat as OpenAI-shaped messages; a picture is told by its name and the hash of its pixels."""
    written = [{"role": message["role"], "content": [_plain(part) for part in _parts(message)]} for message in messages]
    return json.dumps({"model": model, "messages": written}, indent=2, ensure_ascii=False) + "\n"


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _plain(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] != "picture":
        return dict(part)
    picture = part["picture"]
    facts = {"name": picture.name, "width": picture.width, "height": picture.height, "sha256": picture.sha256}
    return {"type": "picture", "picture": facts}


def _escaped(name: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>" else letter for letter in name)
