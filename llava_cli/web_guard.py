"""Stands before the page of `llava web`: what names it answers to, what sites may ask, with what password, for what."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from llava_cli.guard import App, Limits, Receive, Rules, Scope, Send

_API = "/gradio_api/"
_UPLOAD = f"{_API}upload"
_PAGES = {"/", "/config", "/theme.css", "/favicon.ico", _UPLOAD, f"{_API}upload_progress", f"{_API}cancel",
          f"{_API}queue/join", f"{_API}queue/data", f"{_API}startup-events", f"{_API}reset"}  # fmt: skip
_FOLDERS = ("/assets/", "/static/", "/svelte/", f"{_API}heartbeat/")
_FILES = f"{_API}file="
"""All of Gradio's addresses that the page uses. The others run programs, fetch from elsewhere, or tell about it."""

_LONGEST_FORM = 1_000
_LONGEST_ORDER = 1_000_000
"""Bytes; an upload may have as many as a picture, which Gradio sees to."""
_WAIT = 1.0
"""Seconds between two tries of a password, whoever makes them."""
_COOKIE = "llava"

# The page is its own: nothing in it, and nothing a model writes, makes a browser ask another host.
_HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "same-origin",  # with none at all a browser hides where its form comes from, also from us
    "x-content-type-options": "nosniff",
}

_LOGIN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>llava</title>
<style>body {{ font: 1.1rem system-ui, sans-serif; display: grid; place-content: center; min-height: 90vh }}
form {{ display: grid; gap: .8rem; width: min(20rem, 85vw) }} input, button {{ font: inherit; padding: .5rem }}
</style></head><body><form method="post" action="/login">
<label for="password">The password of this llava</label>
<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>
<button>Open</button><p role="alert">{why}</p></form></body></html>"""


class _SlowBody(Exception):
    """A body did not come in time."""


class PageGuard:
    """The page, for those who may have it: an ASGI application around another one.

    `rules` tell the names it answers to, `uploads` is the one folder of which it shows files. Of the `limits` only the
    time for a body counts here.
    """

    def __init__(self, app: App, rules: Rules, uploads: Path, password: str = "", limits: Limits | None = None) -> None:
        self._app, self._rules, self._password = app, rules, password
        self._seconds = (limits or Limits()).body_seconds
        self._uploads = uploads.resolve()
        self._session = secrets.token_urlsafe(32)
        """What a browser shows instead of the password, until this process ends."""
        self._one_try = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            try:
                await self._answer(scope, receive, send)
            except _SlowBody:
                why = f"the body did not come within {self._seconds:g} seconds"
                await _say(send, 408, why, connection="close")
        else:
            await send({"type": "websocket.close"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path, is_post = scope["path"], scope["method"] not in ("GET", "HEAD")
        host = headers.get("host", "")
        if not self._rules.has_name(host):
            await _say(send, 403, "llava does not answer to this name")
        elif not _is_own(headers, host, is_post=is_post):
            await _say(send, 403, "this request comes from another site")
        elif self._password and path == "/login" and is_post:
            await self._log_in(receive, send)
        elif self._password and not self._is_logged_in(headers):
            if path == "/":
                await _say(send, 401, _LOGIN.format(why=""), kind="text/html")
            else:
                await _say(send, 401, "llava wants a password first")
        elif not self._is_used(path):
            await _say(send, 404, "there is nothing here")
        elif is_post and path != _UPLOAD:
            await self._order(scope, receive, send)
        else:
            await self._app(scope, receive, self._passed_on(send))

    async def _order(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what the page asks for, unless it names a file that was not uploaded: Gradio would open any."""
        body = await self._body(receive, _LONGEST_ORDER)
        try:
            are_uploaded = all(map(self._is_uploaded, _paths_in(json.loads(body))))
        except (ValueError, RecursionError):
            are_uploaded = False
        if len(body) > _LONGEST_ORDER or not are_uploaded:
            await _say(send, 403, "the page does not ask for this")
            return
        parts = [body]

        async def replay() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": parts.pop(), "more_body": False} if parts else await receive()

        await self._app(scope, replay, self._passed_on(send))

    async def _body(self, receive: Receive, longest: int) -> bytes:
        """Return a whole body, or more of it than the `longest` that is allowed."""
        body, more = b"", True
        try:
            async with asyncio.timeout(self._seconds):
                while more and len(body) <= longest:
                    message = await receive()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError:
            raise _SlowBody from None
        return body

    def _is_used(self, path: str) -> bool:
        if path.startswith(_FILES):
            return self._is_uploaded(path.removeprefix(_FILES))
        return path in _PAGES or path.startswith(_FOLDERS)

    def _is_uploaded(self, path: object) -> bool:
        try:
            return isinstance(path, str) and Path(path).resolve().is_relative_to(self._uploads)
        except (ValueError, RuntimeError):  # a NUL, or links that lead back to themselves
            return False

    def _passed_on(self, send: Send) -> Send:
        fields = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]

        async def pass_on(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *fields]}
            await send(message)

        return pass_on

    # The password.

    def _is_logged_in(self, headers: Mapping[str, str]) -> bool:
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        return _COOKIE in cookies and _equal(cookies[_COOKIE].value, self._session)

    async def _log_in(self, receive: Receive, send: Send) -> None:
        form = parse_qs((await self._body(receive, _LONGEST_FORM)).decode("utf-8", "replace"))
        async with self._one_try:
            is_right = _equal(form.get("password", [""])[0], self._password)
            if not is_right:
                await asyncio.sleep(_WAIT)
        if is_right:
            cookie = f"{_COOKIE}={self._session}; Path=/; HttpOnly; SameSite=Strict"
            await _say(send, 303, "", **{"location": "/", "set-cookie": cookie})
        else:
            await _say(send, 401, _LOGIN.format(why="That is not it."), kind="text/html")


def _is_own(headers: Mapping[str, str], host: str, *, is_post: bool) -> bool:
    """Tell whether a request comes from the page itself, or from nobody's page."""
    if "origin" in headers:
        return headers["origin"] in (f"http://{host}", f"https://{host}")
    # A link to the page from elsewhere is fine, an order from elsewhere is not.
    return not is_post or headers.get("sec-fetch-site", "none") in ("same-origin", "none")


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _paths_in(value: Any) -> Iterator[object]:
    """Yield every path of a file in an order, wherever in it."""
    if isinstance(value, dict):
        if "path" in value:
            yield value["path"]
        value = value.values()
    if not isinstance(value, str) and isinstance(value, Iterable):
        for one in value:
            yield from _paths_in(one)


async def _say(send: Send, status: int, text: str, kind: str = "text/plain", **headers: str) -> None:
    body = text.encode()
    own = {"content-type": f"{kind}; charset=utf-8", "content-length": str(len(body)), "cache-control": "no-store"}
    fields = [(name.encode(), value.encode()) for name, value in {**_HEADERS, **own, **headers}.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
