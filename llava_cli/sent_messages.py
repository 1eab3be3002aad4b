"""Writes a question as another server reads it: messages, the pixels of pictures, and how to draw the answer."""

from __future__ import annotations

import base64
import io
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from llava_cli.pictures import Picture, RememberedPicture
from llava_cli.settings import Detail, Sampling

_EXACT = 2_000_000
"""Pixels up to which a picture goes as a PNG: exactly as it is here. Larger ones would take tens of megabytes."""
_QUALITY = 95
_KEPT = 8
"""Pictures that are kept as they were sent: a server hears all of a chat again with every question."""


class MessageWriter:
    """Writes the messages of a chat; `detail` is how closely a model looks at pictures that do not say."""

    def __init__(self, detail: Detail | None) -> None:
        self._detail = detail
        self._sent: OrderedDict[tuple[str, Detail | None], dict[str, Any]] = OrderedDict()

    def write(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Write messages as the server reads them: the pixels of pictures, and nothing else that their files hold."""
        written = []
        for message in messages:
            parts = message["content"]
            if not isinstance(parts, str):
                parts = [self._picture(part["picture"]) if part["type"] == "picture" else part for part in parts]
                # Servers for words alone know no parts.
                parts = parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts
            written.append({"role": message["role"], "content": parts})
        return written

    def _picture(self, picture: Picture | RememberedPicture) -> dict[str, Any]:
        detail = picture.detail or self._detail
        key = picture.sha256, detail
        if key not in self._sent:
            url = data_url(picture if isinstance(picture, Picture) else picture.open())
            self._sent[key] = {"type": "image_url", "image_url": {"url": url, **({"detail": detail} if detail else {})}}
            while len(self._sent) > _KEPT:
                self._sent.popitem(last=False)
        return self._sent[key]


def data_url(picture: Picture) -> str:
    """Return the pixels of a picture as a `data:` URL: a PNG, or a JPEG of high quality if there are many."""
    image, file = picture.image(), io.BytesIO()
    if picture.width * picture.height <= _EXACT:
        image.save(file, kind := "PNG")
    else:
        image.save(file, kind := "JPEG", quality=_QUALITY, subsampling=0)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def sampled(sampling: Sampling, seed: int) -> dict[str, Any]:
    """Write how to draw the answer; what is not OpenAI's goes along only if it was asked for."""
    usual, extra = Sampling(), {}
    for name in ("top_k", "min_p", "repeat_penalty"):
        if getattr(sampling, name) != getattr(usual, name):
            extra[name] = getattr(sampling, name)
    if "repeat_penalty" in extra:
        extra["repetition_penalty"] = extra["repeat_penalty"]  # vLLM's word for it
    return {
        "temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens, "seed": seed,
        "stream": True, "stream_options": {"include_usage": True}, **extra,
    }  # fmt: skip
