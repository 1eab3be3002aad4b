"""Listens at an address and speaks HTTP there, until it is told to end.

Only the server imports this room: uvicorn comes with it.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import logging
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from llava_cli.errors import UsageError
from llava_cli.guard import App, Limits
from llava_cli.refusals import error_body
from llava_cli.sanitiser import sanitise

_CONNECTIONS = 400
_IDLE_SECONDS = 30
_LAST_SECONDS = 2
"""How long answers may take to go out once the server is told to end."""


def bind(host: str, port: int) -> socket.socket:
    """Take the port, so that nobody else can; connections are refused until somebody listens."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # `localhost` is two addresses; most programs try the older one.
        family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        taken = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(host, "not an address of this computer", hint="127.0.0.1 is itself, 0.0.0.0 all") from error
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        why, hint = {
            errno.EADDRINUSE: ("another program listens there already", f"--port {port + 1}, or end that program"),
            errno.EACCES: ("only the administrator may listen there", "--port 8080, or any above 1023"),
            errno.EADDRNOTAVAIL: ("not an address of this computer", "127.0.0.1 is itself, 0.0.0.0 all"),
        }.get(error.errno or 0, (os.strerror(error.errno or errno.EIO).lower(), "give another --host or --port"))
        raise UsageError(f"{host}:{port}", why, hint=hint) from error
    return taken


def is_loopback(taken: socket.socket) -> bool:
    """Tell whether only this computer can reach it."""
    return ipaddress.ip_address(taken.getsockname()[0].partition("%")[0]).is_loopback


def own_names() -> list[str]:
    """Return the names other computers in the network know this one by."""
    name = socket.gethostname()
    return [name, f"{name}.local"]


def address_of(taken: socket.socket) -> str:
    """Return where it is reached: `http://127.0.0.1:8080`."""
    host, port = taken.getsockname()[:2]
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(
    app: App,
    taken: socket.socket,
    *,
    on_start: Callable[[], None],
    on_stop: Callable[[], None],
    limits: Limits | None = None,
    has_lifespan: bool = False,
) -> None:
    """Answer with `app` until Ctrl-C or SIGTERM.

    `on_start` is called once clients are heard; `on_stop` ends the answers that are under way. An app that
    `has_lifespan` is told of the beginning and the end.
    """
    limits = limits or Limits()
    # What these have to say is said by us, or is a traceback.
    tracebacks = logging.StreamHandler()
    tracebacks.setLevel(logging.WARNING)
    tracebacks.setFormatter(_Harmless())
    for name in ("uvicorn", "asyncio"):
        logging.getLogger(name).setLevel(logging.DEBUG if os.environ.get("LLAVA_DEBUG") else logging.CRITICAL)
        logging.getLogger(name).handlers = [tracebacks]
    config = uvicorn.Config(
        app,
        http=type("_Protocol", (_Protocol,), {"head_seconds": limits.head_seconds}),
        ws="none",
        lifespan="on" if has_lifespan else "off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_LAST_SECONDS,
        h11_max_incomplete_event_size=limits.head,
    )
    server = _Server(config, on_start, on_stop)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, server.handle_exit)  # a terminal that is closed is an order, too
    server.run(sockets=[taken])


class _Harmless(logging.Formatter):
    """Writes what clients and libraries say without what a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return sanitise(super().format(record))


class _Server(uvicorn.Server):
    """Ends what the engine does before it waits for it, and takes a signal for an order, not for an accident."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None], on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start, self._on_stop = on_start, on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say it when, and not before, clients are heard."""
        await super().startup(sockets)
        self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note that it is time to end; the second time, do not wait for clients."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop answers first: their clients are told, and can be waited for."""
        await asyncio.to_thread(self._on_stop)
        await super().shutdown(sockets)


class _Protocol(H11Protocol):
    """HTTP/1.1 from clients that may be slow or hostile: a head must come in time, and nonsense is answered."""

    head_seconds = Limits.head_seconds

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self.head_seconds, self._end_slow_head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        # The next head may begin at leisure (the keep-alive timeout), and then has the same time.
        self._deadline.cancel()
        self._deadline = self.loop.call_later(self.timeout_keep_alive + self.head_seconds, self._end_slow_head)
        super().on_response_complete()

    def _end_slow_head(self) -> None:
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in the shape of all other errors, if an answer can still be given."""
        body = json.dumps(error_body(400, msg.lower().rstrip("."))).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        try:
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            self.transport.abort()
        else:
            self.transport.close()
