"""Stands before the server: lets nobody in who may not, nothing that is too large or too slow, and no error out raw.

What a browser can be made to send to a server on this computer is the danger: a page of another site (`Origin`), or a
name of another site that suddenly means this computer (`Host`, DNS rebinding).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llava_cli.refusals import Refused

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """What a request may cost before anybody looks at it. Times are seconds."""

    body: int = 50_000_000
    """Bytes; a photo of 10 MB takes 13 MB as a data URL."""
    held: int = 256_000_000
    """Bytes of the bodies of all requests together, those that wait included."""
    body_seconds: float = 60
    head_seconds: float = 10
    head: int = 32_768
    values: int = 100_000
    """Values of JSON: more than fit into any context window, and few enough not to fill the memory."""


@dataclass(frozen=True)
class Rules:
    """Who may come in."""

    hosts: frozenset[str] = frozenset()
    """Names of this computer, beside `localhost` and addresses in digits, which no other site can take."""
    origins: frozenset[str] = frozenset()
    """Sites whose pages may ask, such as `https://example.org`; `*` is all of them."""
    key: str | None = None

    def has_name(self, host: str) -> bool:
        """Tell whether this `Host` is one of ours."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return name == "localhost" or name.endswith(".localhost") or name in self.hosts or _is_number(name)

    def has_origin(self, origin: str) -> bool:
        return "*" in self.origins or origin.lower() in self.origins

    def has_key(self, authorization: str) -> bool:
        """Tell whether this `Authorization` carries the key, in a time that does not tell how much of it is right."""
        if self.key is None:
            return True
        kind, _, key = authorization.partition(" ")
        given, right = (hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in (key.strip(), self.key))
        return hmac.compare_digest(given, right) and kind.lower() == "bearer"


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Left(Exception):
    """The client is gone; nobody hears an answer."""


class Guard:
    """An ASGI application around another: requests come in checked and whole, and every answer is one."""

    def __init__(self, app: App, rules: Rules, report: Callable[[str], None], limits: Limits | None = None) -> None:
        self._app, self._rules, self._report = app, rules, report
        self._limits = limits or Limits()
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and write one line about it that holds nothing of what was asked."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _Visit(scope, send)
        try:
            await self._let_in(scope, receive, visit)
        except Refused as refusal:
            await visit.refuse(refusal)
        except _Left:
            visit.status = "left"
        except Exception as error:
            if os.environ.get("LLAVA_DEBUG"):
                raise
            self._report(f"unexpected: {type(error).__name__} (LLAVA_DEBUG=1 shows where; please report it)")
            await visit.refuse(Refused(500, "the server has made a mistake"))
        finally:
            self._held -= visit.held
            self._report(visit.line())

    async def _let_in(self, scope: Scope, receive: Receive, visit: _Visit) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self._check_names(headers)
        if scope["path"] != "/health" and not self._rules.has_key(headers.get("authorization", "")):
            why = "the API key is wrong" if "authorization" in headers else "an API key is needed"
            raise Refused(401, why, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        body = await self._whole_body(headers, receive, visit)
        if sum(map(body.count, b"[{,")) > self._limits.values:
            raise Refused(413, f"more than {self._limits.values:,} values", code="too_many_values")
        parts = [body]
        del body  # the application may let go of it while it still answers

        async def replay() -> MutableMapping[str, Any]:
            if parts:
                return {"type": "http.request", "body": parts.pop(), "more_body": False}
            while (message := await receive())["type"] != "http.disconnect":
                continue
            return message

        await self._app(scope, replay, visit.send)

    def _check_names(self, headers: Mapping[str, str]) -> None:
        if not self._rules.has_name(headers.get("host", "")):
            why = "this server does not go by that name (llava serve --allow-host NAME)"
            raise Refused(403, why, code="host_not_allowed")
        origin = headers.get("origin")
        # Pictures and scripts are fetched without an `Origin`, but not without this.
        is_foreign = origin is not None or headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if is_foreign and not self._rules.has_origin(origin or ""):
            why = "pages of this site may not use the server (llava serve --cors ORIGIN)"
            raise Refused(403, why, code="origin_not_allowed")

    async def _whole_body(self, headers: Mapping[str, str], receive: Receive, visit: _Visit) -> bytes:
        body = bytearray()
        is_too_large = int(headers.get("content-length", 0)) > self._limits.body
        read = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Left
                    part, more = message.get("body", b""), message.get("more_body", False)
                    read += len(part)
                    is_too_large = is_too_large or read > self._limits.body
                    if is_too_large:
                        # Most clients hear no answer before they have sent all; there is an end to that, too.
                        body.clear()
                        if read > 4 * self._limits.body:
                            break
                        continue
                    body += part
                    visit.held += len(part)
                    self._held += len(part)
                    if self._held > self._limits.held:
                        why = "the bodies of all requests together are too large now"
                        raise Refused(429, why, code="busy", headers={"retry-after": "2", "connection": "close"})
        except TimeoutError:
            why = f"the body did not come within {self._limits.body_seconds:g} seconds"
            raise Refused(408, why, code="slow_body", headers={"connection": "close"}) from None
        if is_too_large:
            why = f"the body is larger than {self._limits.body / 1e6:.0f} MB"
            raise Refused(413, why, code="body_too_large", headers={"connection": "close"})
        return bytes(body)


class _Visit:
    """One request, from its head to the last byte of its answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._start = time.monotonic()
        self.status: int | str = "-"
        self.held = 0
        """Bytes of its body that are in memory."""
        self.id = uuid.uuid4().hex
        self.facts: list[str] = []
        """What the application has to say about it in the access log."""
        scope.setdefault("state", {})["facts"] = self.facts

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Pass a message on to the client, with a number by which to speak of the request."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", []), (b"x-request-id", self.id.encode())]
        await self._send(message)

    async def refuse(self, refusal: Refused) -> None:
        """Answer with an error; raise it if an answer has begun, so that the connection is closed."""
        if self.status != "-":
            raise refusal
        body = json.dumps(refusal.body).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body})

    def line(self) -> str:
        """Return the line of the access log."""
        path = self._scope["raw_path"].decode("ascii", "replace")
        path = path if len(path) <= 100 else f"{path[:99]}…"
        client = (self._scope.get("client") or ("-",))[0]
        asked = f"{client} {self._scope['method']} {path} {self.status} {time.monotonic() - self._start:.2f} s"
        return " · ".join([f"{time.strftime('%H:%M:%S')} {asked}", *self.facts])
