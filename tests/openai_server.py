"""An OpenAI-compatible server on loopback: each of its models has the fault that is its name."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = ("The ", "circle ", "is ", "red.")
NAMES = ("good", "other")


class OpenAiServer(ThreadingHTTPServer):
    """`asked` lists (path, headers, body) of what came; `left` is set when a client has closed its connection."""

    daemon_threads = True

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(("127.0.0.1", 0), Api)
        self.names = names
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.writing, self.left, self.stopping = threading.Event(), threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_arguments) -> None:
        return  # clients leave: that is what is tested


class Api(BaseHTTPRequestHandler):
    """Answers in OpenAI's shapes, or fails in the way that the name of the model says."""

    server: OpenAiServer

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers), {}))
        if self.path == "/v1/models":
            self.answer({"object": "list", "data": [{"id": name} for name in self.server.names]})
        else:
            self.answer({"error": {"message": "File Not Found", "code": 404}}, status=404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        if self.path != "/v1/chat/completions":
            self.answer({"detail": "Not Found"}, status=404)
            return
        name = body["model"]
        refused = {
            "locked": (401, "Incorrect API key provided: sk-secret."),
            "forbidden": (403, "not for you"),
            "unknown": (404, "The model `unknown` does not exist."),
            "busy": (429, "slow down"),
            "broken": (500, "GPU fell off"),
            "elsewhere": (307, ""),
            "small": (400, "the request exceeds the available context size"),
            "blind": (400, "image input is not supported"),
        }
        if name == "loading" and sum(asked[2].get("model") == name for asked in self.server.asked) < 3:
            self.answer({"error": {"message": "Loading model"}}, status=503)
        elif name in refused:
            status, words = refused[name]
            self.answer({"error": {"message": words}}, status=status)
        elif name == "whole":
            self.answer({"choices": [{"message": {"content": "".join(WORDS)}, "finish_reason": "stop"}]})
        elif name == "page":
            self.begin("text/html")
            self.wfile.write(b"<!doctype html><title>Log in</title>")
        elif name == "silent":
            self.wait_until_left()
        else:
            self.stream(name)

    def stream(self, name: str) -> None:
        self.begin("text/event-stream")
        if name == "garbage":
            self.wfile.write(b"\x00\xff\x17 nothing that anybody knows\n")
            return
        if name == "endless":
            self.say("x" * 1000, times=3000)
            return
        self.comment(name)
        self.say("")
        self.comment(name)
        for word in WORDS[:2]:
            self.say(word)
        self.server.writing.set()
        if name == "cut":
            return
        if name == "stall":
            self.wait_until_left()
            return
        if name == "error":
            self.wfile.write(b'data: {"error": {"message": "CUDA \\u001b[31mout of memory", "code": 500}}\n\n')
            return
        if name == "nonsense":
            self.wfile.write(b"data: {half\n\n")
            return
        if name == "long line":
            self.wfile.write(b"data: " + b"x" * 3_000_000)
            return
        for word in WORDS[2:]:
            self.say(word)
        reason = {"cut short": "length", "filtered": "content_filter"}.get(name, "stop")
        self.send({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if name != "uncounted":
            count = 20 if name == "does not see" else 600
            details = {"prompt_tokens_details": {"cached_tokens": 580 if count == 600 else 0}}
            self.send({"choices": [], "usage": {"prompt_tokens": count, "completion_tokens": 5, **details}})
        if name != "no done":
            self.wfile.write(b"data: [DONE]\n\n")

    def comment(self, name: str) -> None:
        """Keep the connection alive; the "queued" model has others to answer first."""
        for _ in range(15 if name == "queued" else 1):
            self.wfile.write(b": a comment keeps the connection alive\r\n\r\n")
            self.server.stopping.wait(0.1 if name == "queued" else 0)

    def say(self, text: str, *, times: int = 1) -> None:
        for _ in range(times):
            self.send({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})

    def send(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def answer(self, body: dict[str, Any], *, status: int = 200) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Retry-After", "0")
        if status == 307:
            self.send_header("Location", "http://127.0.0.1:1/v1/chat/completions")
        self.end_headers()
        self.wfile.write(text)

    def wait_until_left(self) -> None:
        self.server.writing.set()
        self.connection.settimeout(0.1)
        while not self.server.stopping.is_set():
            try:
                if not self.connection.recv(1):
                    self.server.left.set()
                    return
            except TimeoutError:
                continue
            except OSError:
                self.server.left.set()
                return

    def log_message(self, *_arguments) -> None:
        return


@contextmanager
def openai_server(*names: str):
    """Serve models with faults and give the server."""
    server = OpenAiServer(names or NAMES)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
