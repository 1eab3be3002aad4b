"""Serves the page of `llava web` until Ctrl-C, and opens the browser on it."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator
from typing import Any

from llava_cli.errors import UsageError


@contextlib.contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """Take a port, so that nobody waits for a model only to hear that it is taken; raise `UsageError` if it is."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.create_server(address[:2], family=family)
    except socket.gaierror as error:
        raise UsageError(f"--host {host}", "there is no such address", hint="--host 0.0.0.0 --password") from error
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UsageError(f"{host}:{port}", f"cannot listen there ({why})", hint="--port 0 takes a free one") from error
    with sock:
        yield sock


def address_of(sock: socket.socket) -> str:
    """Return the address of the page for a browser."""
    host, port = sock.getsockname()[:2]
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/"


def serve(app: Any, sock: socket.socket, *, on_start: Callable[[], None], on_stop: Callable[[], None]) -> None:
    """Answer what comes until Ctrl-C, SIGTERM or the end of the terminal; `on_stop` is called at the first of them."""
    import uvicorn

    class Server(uvicorn.Server):  # type: ignore[misc] # uvicorn is not there when types are checked
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            on_start()

        def handle_exit(self, sig: int, frame: Any) -> None:
            on_stop()
            super().handle_exit(sig, frame)

    # Pages keep a connection open for as long as they are shown, so there is no waiting for them.
    config = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, proxy_headers=False, ws="none",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    Server(config).run(sockets=[sock])


def open_browser(address: str) -> None:
    """Open the page in a browser with a window, if there is one; one in this terminal would take it away."""

    def work() -> None:
        with contextlib.suppress(webbrowser.Error):
            found = webbrowser.get()
            if isinstance(found, webbrowser.BackgroundBrowser) or not isinstance(found, webbrowser.GenericBrowser):
                found.open(address)

    threading.Thread(target=work, name="llava opens the browser", daemon=True).start()
