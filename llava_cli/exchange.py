"""Sends one question to a server and hears what comes back, in a thread: nothing on the way can hold up Ctrl-C."""

from __future__ import annotations

import json
import queue
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava_cli.connection import Fault, Wire, fault_of
from llava_cli.endpoint import Endpoint, gave_up, not_a_server, refusal, unreachable, words_of
from llava_cli.errors import LlavaError

if TYPE_CHECKING:
    import httpx2


@dataclass(frozen=True)
class Patience:
    """How long to wait for what, in seconds, and how much to take."""

    connect: float = 10
    first: float = 600
    """For the first word or comment: a server without a graphics card reads a picture for minutes."""
    silence: float = 120
    """Between two of them, once there was a word."""
    tries: int = 4
    """While the server asks for a pause or still loads its model."""
    longest_pause: float = 30
    max_bytes: int = 20_000_000
    """Of a whole answer, and of any line of it."""


PATIENCE = Patience()
_ALIVE: dict[str, Any] = {}
"""What is heard of a comment in a stream: the server says nothing yet, but that it is there."""


@dataclass(frozen=True)
class Pause:
    """The server wants to be left alone for so many seconds."""

    seconds: float


class Exchange:
    """One request and what comes back: JSON objects, one after the other."""

    def __init__(
        self, client: httpx2.Client, endpoint: Endpoint, path: str, body: Mapping[str, Any] | None, patience: Patience
    ) -> None:
        self._client, self._endpoint, self._patience = client, endpoint, patience
        self._path, self._body = path, body
        self.was_stopped = False
        self.is_done = False
        """Whether the server said that this was all."""
        self._has_begun = False
        self._wire = Wire()
        # Its `put` is the one that a signal handler may call.
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="llava asks a server", daemon=True).start()

    def objects(self) -> Iterator[dict[str, Any] | Pause]:
        """Yield what comes, as it comes, until its end or `stop`; raise `LlavaError` for each way it can fail."""
        try:
            while True:
                wait = self._patience.silence if self._has_begun else self._patience.first
                try:
                    heard = self._heard.get(timeout=wait)
                except queue.Empty:
                    raise self._failure(Fault.SILENCE) from None
                if heard is None or self.was_stopped:
                    return
                if isinstance(heard, Exception):
                    raise heard
                if heard is not _ALIVE:
                    yield heard
        finally:
            self._wire.cut()

    def stop(self) -> None:
        """End it now and close the connection; safe in a signal handler and in any thread."""
        self.was_stopped = True
        self._heard.put(None)
        self._wire.cut()

    # In the thread.

    def _run(self) -> None:
        import httpx2

        try:
            for heard in self._receive():
                self._heard.put(heard)
            self._heard.put(None)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            self._heard.put(self._failure(fault_of(error)))
        except Exception as error:  # noqa: BLE001 - it is raised again, where somebody waits for it
            self._heard.put(error)

    def _receive(self) -> Iterator[dict[str, Any] | Pause]:
        for number in range(1, self._patience.tries + 1):
            with self._client.stream(
                "GET" if self._body is None else "POST",
                f"{self._endpoint.url}{self._path}",
                json=self._body,
                extensions={"trace": self._wire.watch},
            ) as response:
                if response.status_code == 200:
                    yield from self._said(response)
                    return
                if self._body is None and response.status_code in (404, 405, 501):
                    return  # not every server can list its models
                pause = _pause(response.headers.get("Retry-After", ""), number)
                wants_pause = response.status_code in (429, 503) and pause <= self._patience.longest_pause
                if not wants_pause or number == self._patience.tries:
                    model = str((self._body or {}).get("model", ""))
                    raise refusal(self._endpoint, model, response.status_code, self._whole(response, 65_536), pause)
            yield Pause(pause)
            if self._wire.is_cut.wait(pause):
                return

    def _said(self, response: httpx2.Response) -> Iterator[dict[str, Any]]:
        """Yield the objects of a body: the events of a stream, or all of it if the server does not stream."""
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            said = self._object(self._whole(response, self._patience.max_bytes))
            if said.get("error"):
                raise self._said_error(said)
            self.is_done = True
            yield said
            return
        if kind == "text/html":
            raise not_a_server(self._endpoint)
        for line in self._lines(response):
            name, colon, value = line.partition(b":")
            if name not in (b"data", b"error") or not colon:
                if line.startswith(b":"):
                    yield _ALIVE
                # What else there is says nothing about the answer.
                elif not self._has_begun and line and not line.startswith((b"event", b"id", b"retry")):
                    raise not_a_server(self._endpoint)
                continue
            if value.strip() == b"[DONE]":
                self.is_done = True
                return
            said = self._object(value)
            if name == b"error" or said.get("error"):
                raise self._said_error(said)
            self._has_begun = True
            yield said

    def _lines(self, response: httpx2.Response) -> Iterator[bytes]:
        begun, taken = b"", 0
        for chunk in response.iter_bytes():
            taken += len(chunk)
            if taken > self._patience.max_bytes:
                raise gave_up(f"{self._endpoint.host} sent more than an answer can be")
            *lines, begun = re.split(rb"\r\n|\n|\r", begun + chunk)
            yield from lines
        if begun:
            yield begun

    def _whole(self, response: httpx2.Response, most: int) -> bytes:
        body = b""
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > most:
                break
        return body[:most]

    def _object(self, text: bytes) -> dict[str, Any]:
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            if self._has_begun:
                raise gave_up(f"{self._endpoint.host} wrote what is no JSON")
            raise not_a_server(self._endpoint)
        return said

    def _said_error(self, said: dict[str, Any]) -> LlavaError:
        return gave_up(f"{self._endpoint.host} gave up", words_of(self._endpoint, said))

    def _failure(self, fault: Fault) -> LlavaError:
        why = fault.sentence(self._endpoint.host)
        return gave_up(why) if self._has_begun else unreachable(why, _HINTS[fault])


_HINTS = {
    Fault.CERTIFICATE: "is the address right, and the clock of this computer?",
    Fault.PROXY: "is HTTPS_PROXY right?",
    Fault.NAME: "is the address right, and is this computer online?",
    Fault.CONNECT: "does the server run, and is the port right?",
    Fault.SILENCE: "does the server still work? A large picture takes it longer than a small one",
    Fault.BROKEN: "look at what the server itself says",
}


def _pause(wanted: str, number: int) -> float:
    """Return the seconds until the next try: those that the server wants, or growing ones."""
    return float(wanted) if re.fullmatch(r"\d{1,9}", wanted.strip()) else float(2 ** (number - 1))
