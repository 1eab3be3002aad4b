"""A hub of our own on the loopback: it speaks what huggingface_hub needs, and fails as networks and servers do.

>>> with Hub({"model.gguf": b"..."}) as hub:
...     hub.bodies = [cut(1000), reset(5000)]   # the first two answers with bytes break off, the third is whole
...     hub.heads = [status(503)]               # the first question about a file fails
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote

REPO = "me/tiny"
COMMIT = "c0ffee" * 6 + "c0de"


class Exchange(BaseHTTPRequestHandler):
    """One request to the hub or its CDN."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        try:
            self.hub.answer(self)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def reply(self, code: int, headers: Mapping[str, object], body: bytes = b"") -> None:
        """Send a whole answer."""
        self.send_response(code)
        for name, value in ({"Content-Length": len(body)} | dict(headers)).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.send(body)

    def send(self, body: bytes) -> None:
        """Send bytes as fast as the hub is meant to be."""
        for start in range(0, len(body), self.hub.chunk):
            self.wfile.write(body[start : start + self.hub.chunk])
            if self.hub.pause:
                time.sleep(self.hub.pause)

    def begin(self, body: bytes, start: int) -> None:
        """Send the head of an answer that holds `body` from `start` on."""
        self.send_response(206 if start or "Range" in self.headers else 200)
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


Fault = Callable[[Exchange, bytes, int], None]
"""Answers an exchange in its own way, where `body` from `start` on is wanted."""


class Hub:
    """The files of one repository, and how the next answers go wrong."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.commit = COMMIT
        self.heads: list[Fault] = []
        """What becomes of the next HEAD requests for a file; after that all is well."""
        self.bodies: list[Fault] = []
        """What becomes of the next answers with bytes."""
        self.etag: Callable[[bytes], str] = lambda body: hashlib.sha256(body).hexdigest()
        self.through_cdn = True
        self.chunk, self.pause = 65_536, 0.0
        self.log: list[tuple[str, str, int]] = []
        """Method, path and first byte of every request."""
        self.headers: list[dict[str, str]] = []
        self.closing = threading.Event()
        self._servers = [self._server(), self._server()]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def cdn(self) -> str:
        """Another origin, as that of the real hub is."""
        return f"http://localhost:{self._servers[1].server_port}"

    def __enter__(self) -> Hub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def starts(self, method: str = "GET") -> list[int]:
        """Return the first byte of every request for bytes."""
        return [start for how, path, start in self.log if how == method and path.startswith("/cdn/")]

    def answer(self, exchange: Exchange) -> None:
        """Answer one request."""
        wanted = re.match(r"bytes=(\d+)-", exchange.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        path = unquote(exchange.path.partition("?")[0])
        self.log.append((exchange.command, path, start))
        self.headers.append(dict(exchange.headers))
        if path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in self.files]
            listing = {"id": REPO, "siblings": siblings, "sha": self.commit}
            exchange.reply(200, {"Content-Type": "application/json"}, json.dumps(listing).encode())
            return
        name = (
            path.removeprefix("/cdn/") if path.startswith("/cdn/") else path.partition("/resolve/")[2].partition("/")[2]
        )
        if f"/{REPO}/resolve/" not in path and not path.startswith("/cdn/"):
            exchange.reply(404, {"X-Error-Code": "RepoNotFound"})
        elif name not in self.files:
            exchange.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.commit})
        elif exchange.command == "HEAD":
            self._next(self.heads, self._describe)(exchange, self.files[name], start)
        elif path.startswith("/cdn/") or not self.through_cdn:
            self._next(self.bodies, whole)(exchange, self.files[name], start)
        else:
            self._describe(exchange, self.files[name], start)

    def _describe(self, exchange: Exchange, body: bytes, _start: int) -> None:
        facts = {
            "X-Repo-Commit": self.commit,
            "X-Linked-Size": len(body),
            "X-Linked-ETag": f'"{self.etag(body)}"',
            "Accept-Ranges": "bytes",
        }
        if not self.through_cdn:
            exchange.reply(200, facts | {"Content-Length": len(body)})
            return
        name = unquote(exchange.path).rpartition(f"/{self.commit}/")[2] if self.commit in exchange.path else (
            unquote(exchange.path).partition("/resolve/")[2].partition("/")[2]
        )  # fmt: skip
        exchange.reply(302, facts | {"Location": f"{self.cdn}/cdn/{name}?signature=secret"})

    def _next(self, faults: list[Fault], otherwise: Fault) -> Fault:
        return faults.pop(0) if faults else otherwise

    def _server(self) -> ThreadingHTTPServer:
        handler = type("Handler", (Exchange,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        return server


def whole(exchange: Exchange, body: bytes, start: int) -> None:
    """Send what was asked for."""
    if start >= len(body):
        exchange.reply(416, {"Content-Range": f"bytes */{len(body)}"})
        return
    exchange.begin(body, start)
    exchange.send(body[start:])


def cut(count: int) -> Fault:
    """End the connection in good order after `count` bytes."""

    def fault(exchange: Exchange, body: bytes, start: int) -> None:
        exchange.begin(body, start)
        exchange.send(body[start : start + count])
        exchange.close_connection = True

    return fault


def reset(count: int) -> Fault:
    """Reset the connection after `count` bytes."""

    def fault(exchange: Exchange, body: bytes, start: int) -> None:
        cut(count)(exchange, body, start)
        exchange.wfile.flush()
        time.sleep(0.05)
        exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        exchange.connection.close()
        raise ConnectionResetError

    return fault


def stall(count: int) -> Fault:
    """Send `count` bytes, and then nothing."""

    def fault(exchange: Exchange, body: bytes, start: int) -> None:
        cut(count)(exchange, body, start)
        exchange.hub.closing.wait(20)

    return fault


def trickle(exchange: Exchange, body: bytes, start: int) -> None:
    """Send a byte now and then."""
    exchange.begin(body, start)
    for byte in body[start:]:
        exchange.wfile.write(bytes([byte]))
        if exchange.hub.closing.wait(0.02):
            return


def without_ranges(exchange: Exchange, body: bytes, _start: int) -> None:
    """Send all of it, whatever was asked for."""
    exchange.reply(200, {}, body)


def cut_without_ranges(count: int) -> Fault:
    """Send the first `count` bytes of it, whatever was asked for."""

    def fault(exchange: Exchange, body: bytes, _start: int) -> None:
        exchange.send_response(200)
        exchange.send_header("Content-Length", str(len(body)))
        exchange.end_headers()
        exchange.send(body[:count])
        exchange.close_connection = True

    return fault


def of_other_bytes(change: Callable[[bytes], bytes]) -> Fault:
    """Send other bytes than those that were announced."""
    return lambda exchange, body, start: whole(exchange, change(body), start)


def unbounded(exchange: Exchange, body: bytes, _start: int) -> None:
    """Send without saying how much, and too much."""
    exchange.send_response(200)
    exchange.send_header("Connection", "close")
    exchange.end_headers()
    exchange.send(body + b"more")
    exchange.close_connection = True


def status(code: int, headers: Mapping[str, object] | None = None, body: bytes = b"") -> Fault:
    """Answer with a status and headers."""
    return lambda exchange, _body, _start: exchange.reply(code, headers or {}, body)


def login_page(exchange: Exchange, _body: bytes, _start: int) -> None:
    """Answer as the network of a hotel does."""
    exchange.reply(200, {"Content-Type": "text/html; charset=utf-8"}, b"<!doctype html><title>Welcome</title>")


def in_circles(exchange: Exchange, _body: bytes, _start: int) -> None:
    """Send the asker where he came from."""
    exchange.hub.bodies.insert(0, in_circles)
    exchange.hub.heads.insert(0, in_circles)
    exchange.reply(302, {"Location": exchange.path})
