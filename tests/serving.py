"""Runs `llava serve` as a process of its own, and asks it as other programs do."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import queue
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any, NamedTuple

import openai
from PIL import Image, ImageDraw

from tests.processes import LLAVA

GENEROUS = 60
"""Seconds for what takes one; the machine may be busy."""


class Answer(NamedTuple):
    status: int
    body: dict[str, Any]

    @property
    def error(self) -> dict[str, Any]:
        return self.body["error"]  # type: ignore[no-any-return]


class Server:
    """A server on a free port; `lines` is what it writes to stderr, line by line."""

    def __init__(self, home: Path, *options: object, **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LLAVA_", "XDG_", "HF_"))}
        self._process = subprocess.Popen(
            [*LLAVA, "serve", "--port", "0", *map(str, options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**clean, "HOME": str(home), "LLAVA_THREADS": "1", **environment},
        )
        self.home = home
        self.lines: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.url = re.search(r"http://\S+(?=/v1)", self.wait_for("answers at"))[0]  # type: ignore[index]
        self.port = int(self.url.rpartition(":")[2])

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._new.put(line.decode().rstrip("\n"))
        self._new.put(None)

    def wait_for(self, words: str) -> str:
        """Return the next line on stderr that holds `words`."""
        while (line := self._new.get(timeout=GENEROUS)) is not None:
            self.lines.append(line)
            if words in line:
                return line
        raise AssertionError(f"it has ended, and never said {words!r}: {self.lines}")

    def forget_lines(self) -> None:
        """Let `wait_for` find only what is written from now on."""
        while not self._new.empty():
            self.lines.append(str(self._new.get()))

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it, and return its exit code; nothing may have come to stdout, and no traceback to stderr."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        out, _ = self._process.communicate(timeout=GENEROUS) if self._process.stdout else (b"", b"")
        while (line := self._new.get(timeout=GENEROUS)) is not None:
            self.lines.append(line)
        self._new.put(None)
        assert out == b""
        assert [] == [line for line in self.lines if "Traceback" in line or "unexpected" in line], self.lines
        return self._process.returncode

    def client(self, **options: Any) -> openai.OpenAI:
        """Return OpenAI's own client, told where to go."""
        return openai.OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, **options})

    def post(self, body: bytes, *, kind: str = "application/json") -> Answer:
        """Send these bytes as a question."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=GENEROUS)
        try:
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": kind})
            answer = connection.getresponse()
            return Answer(answer.status, json.loads(answer.read()))
        finally:
            connection.close()

    def raw(self, data: bytes) -> socket.socket:
        """Connect, and send these bytes."""
        connection = socket.socket()
        connection.settimeout(GENEROUS)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(data)
        return connection


def data_url(picture: bytes | Path) -> str:
    data = picture if isinstance(picture, bytes) else picture.read_bytes()
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def shown(url: str, **more: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def question(text: str, *urls: str) -> dict[str, Any]:
    """Return a question about pictures as a message."""
    return {"role": "user", "content": [{"type": "text", "text": text}, *map(shown, urls)]}


def circle(colour: tuple[int, int, int], number: int) -> bytes:
    """Draw a circle at a place that only this number has."""
    image = Image.new("RGB", (224, 224), (206, 206, 206))
    x, y = 50 + 9 * (number % 8), 50 + 9 * (number // 8)
    ImageDraw.Draw(image).ellipse((x, y, x + 66, y + 66), fill=colour)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def received(connection: socket.socket) -> bytes:
    """Return all that comes until the other side closes."""
    data = b""
    while part := connection.recv(65536):
        data += part
    return data
