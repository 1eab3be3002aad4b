"""A web server on loopback that serves one picture in many wrong ways."""

from __future__ import annotations

import gzip
import itertools
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.processes import SCENE

PICTURE = Path(SCENE).read_bytes()


class Server(ThreadingHTTPServer):
    """`asked` lists the paths that were asked for; what is slow ends when `stopping` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Site)
        self.asked: list[str] = []
        self.stopping = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Site(BaseHTTPRequestHandler):
    """`/ok.png` is right; every other path has the fault of its name."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        self.server.asked.append(self.path)
        {
            "ok.png": lambda: self.answer(PICTURE),
            "html": lambda: self.answer(b"<!doctype html><title>Log in</title>"),
            "empty": lambda: self.answer(b""),
            "there": lambda: self.redirect("/ok.png"),
            "then/slow": lambda: self.redirect("/slow"),
            "loop": lambda: self.redirect("/loop"),
            "home": lambda: self.redirect(f"http://127.0.0.1:{self.server.server_port}/ok.png"),
            "metadata": lambda: self.redirect("http://169.254.169.254/latest"),
            "file": lambda: self.redirect("file:///etc/passwd"),
            "endless": self.endless,
            "bomb": lambda: self.answer(gzip.compress(bytes(50_000_000)), encoding="gzip"),
            "trickle": lambda: self.trickle(self.headers_then),
            "slow": lambda: self.trickle(lambda: None),
            "cut": lambda: self.answer(PICTURE[:500], length=len(PICTURE)),
            "busy": lambda: self.answer(b"", status=503),
        }.get(path, lambda: self.answer(b"no", status=404))()

    def answer(self, body: bytes, *, status: int = 200, length: int | None = None, encoding: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def redirect(self, where: str) -> None:
        self.send_response(302)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        while True:
            self.wfile.write(bytes(100_000))

    def headers_then(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PICTURE)))
        self.end_headers()

    def trickle(self, begin) -> None:
        begin()
        self.close_connection = True
        for byte in itertools.cycle(b"HTTP/1.1 200 OK\r\n"):
            self.wfile.write(bytes([byte]))
            if self.server.stopping.wait(0.05):
                return

    def handle(self) -> None:
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            return  # clients leave: that is what is tested

    def log_message(self, *_arguments) -> None:
        return


@contextmanager
def website():
    """Serve `Site` and give the server."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
