"""Knows an OpenAI-compatible server by its address and key, and says in sentences why it refuses."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from llava_cli.errors import ContextTooSmall, EngineFailed, LlavaError, ModelMissing, ServerFailed, UsageError
from llava_cli.fetching import is_address

_LONGEST_WORDS = 300
"""Characters of what a server says that are shown."""


@dataclass(frozen=True)
class Endpoint:
    """Where questions go, and with which key."""

    url: str
    """Without a slash at its end; `/chat/completions` follows."""
    key: str = field(default="", repr=False)
    key_name: str = ""
    """The variable of the environment that the key came from."""

    @property
    def host(self) -> str:
        """Name the server, and its port if it is written down."""
        return urlsplit(self.url).netloc

    @property
    def is_here(self) -> bool:
        """Tell whether the server is on this computer, so that nothing leaves it."""
        name = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost" or name.endswith(".localhost")

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what its user should know before anything is sent."""
        if self.is_here or self.url.startswith("https:"):
            return ()
        what = "the key, the pictures and the words go" if self.key else "the pictures and the words go"
        return (f"{what} to {self.host} over plain http, readable on the way",)

    def headers(self) -> dict[str, str]:
        """Return the headers of a request."""
        from llava_cli import __version__

        said = {"User-Agent": f"llava/{__version__}", "Accept-Encoding": "identity"}
        return {**said, "Authorization": f"Bearer {self.key}"} if self.key else said


def find_endpoint(address: str, key_name: str = "") -> Endpoint:
    """Return the server at `address`, with or without `/v1`; the key is in the variable `key_name`, if there is one.

    Raise `UsageError` for an address that is none, and for a key that is not there.
    """
    try:
        parts = urlsplit(address.strip())
        possible = is_address(address.strip()) and bool(parts.hostname) and parts.port != 0
    except ValueError:
        possible = False
    if not possible:
        raise UsageError("endpoint", "it is not an http(s) address", hint="--endpoint http://localhost:8080")
    if "@" in parts.netloc or parts.query or parts.fragment:
        # It would end up in the log, and in what other users of this computer see of running programs.
        why = "its address may hold no password, no ? and no #"
        raise UsageError("endpoint", why, hint=f"--api-key-env NAME: {_KEY}")
    path = re.sub(r"/+(chat/completions)?/*$", "", parts.path) or "/v1"
    return Endpoint(f"{parts.scheme.lower()}://{parts.netloc}{path}", _key(key_name), key_name)


def _key(name: str) -> str:
    """Return the key; no message ever shows it, and no wrong `name`, which may be the key itself."""
    if not name:
        return ""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        why = "that is not the name of a variable"
        raise UsageError("api key", why, hint="export OPENAI_API_KEY=…; then --api-key-env OPENAI_API_KEY")
    key = os.environ.get(name, "").strip()
    if not key:
        raise UsageError(
            "api key", "there is no variable of that name, or it is empty", hint="export THAT_NAME=the key"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError("api key", "the variable holds something that cannot be a key", hint="is it the right one?")
    return key


def refusal(endpoint: Endpoint, model: str, status: int, body: bytes, pause: float | None = None) -> LlavaError:
    """Return what to raise for an answer that is none."""
    host, said = endpoint.host, words_of(endpoint, body)
    because = f" ({status}): {said}" if said else f" ({status})"
    if status == 404 and "model" in said.lower():
        return ModelMissing(model, f"{host} does not have it (404)", hint="is the name right?")
    if status in (400, 413, 422) and _is_about_context(body, said):
        return ContextTooSmall(_SERVER, f"the question does not fit into its context{because}", hint=_CONTEXT)
    if status == 401 and endpoint.key:
        hint = f"is {endpoint.key_name} the right variable?"
        return unreachable(f"{host} does not accept this key (401)", hint=hint)
    if status == 401:
        return unreachable(f"{host} wants a key (401)", hint=f"--api-key-env NAME: {_KEY}")
    if status == 403:
        hint = "may this key do so? or is a proxy in the way?"
        return unreachable(f"{host} refuses this{because}", hint=hint)
    if status == 404:
        return unreachable(f"nothing answers questions at {endpoint.url} (404)")
    if status == 429:
        wanted = f" of {pause:.0f} seconds" if pause else ""
        return unreachable(f"{host} wants a pause{wanted}{because}", hint="try again later")
    if status >= 500:
        return unreachable(f"{host} is out of order{because}", hint=_THERE)
    if status < 400:
        return unreachable(f"{host} sends elsewhere ({status}), where no key should go")
    hint = "does its model take pictures, and all options?"
    return EngineFailed(_SERVER, f"{host} cannot answer this{because}", hint=hint)


_SERVER = "server"
_ADDRESS = "is the address right? It usually ends in /v1, as in http://localhost:8080/v1"
_CONTEXT = "fewer pictures or words, or a larger context there"
_KEY = "the variable of the environment that holds it"
_THERE = "the server itself knows more: look at what it says"


def unreachable(why: str, hint: str = _ADDRESS) -> ServerFailed:
    """Return the failure of a server that did not begin to answer."""
    return ServerFailed(_SERVER, why, hint=hint)


def not_a_server(endpoint: Endpoint) -> ServerFailed:
    """Return the failure of a server that answers, but not as an OpenAI-compatible one does."""
    return unreachable(f"{endpoint.host} answers, but not as an OpenAI-compatible server does")


def gave_up(why: str, words: str = "") -> EngineFailed:
    """Return the failure of a server that had begun to answer; `words` are its own."""
    because = f": {words}" if words else ""
    return EngineFailed(_SERVER, f"{why} in the middle of the answer{because}", hint=_THERE)


def words_of(endpoint: Endpoint, body: bytes | dict[str, Any]) -> str:
    """Return what a server says of its failure, shortened, and without the key if it repeats it."""
    try:
        said: Any = json.loads(body) if isinstance(body, bytes) else body
    except (ValueError, RecursionError):
        return ""
    for name in ("error", "message", "detail"):
        while isinstance(said, dict) and name in said:
            said = said[name]
    if not isinstance(said, str):
        return ""
    said = " ".join(said.split())
    said = said.replace(endpoint.key, "…") if endpoint.key else said
    return said if len(said) <= _LONGEST_WORDS else f"{said[:_LONGEST_WORDS]}…"


def _is_about_context(body: bytes, said: str) -> bool:
    known = (b"context_length_exceeded", b"exceed_context_size_error")
    return any(one in body for one in known) or "context" in said.lower()
