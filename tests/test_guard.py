"""Facts about who gets into the server, and how large and slow a request may be."""

import asyncio
import json
import subprocess
import sys

import pytest

from llava_cli.guard import Guard, Limits, Rules
from tests.serving import GENEROUS, Server, question, received

LIMITS = Limits(body=1000, held=1500, body_seconds=0.2, values=50)


async def application(scope, receive, send):
    """Answer with the size of the body, or make a mistake."""
    body = (await receive())["body"]
    if body == b"mistake":
        raise RuntimeError("a secret")
    if body == b"wait":
        assert (await receive())["type"] == "http.disconnect"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(body)).encode()})


class Call:
    """One request to a guard: its answer, and the line about it."""

    def __init__(self, *parts, guard=None, path="/v1/chat/completions", end="eof", **headers):
        self.sent, self.lines = [], []
        self.guard = guard or Guard(application, Rules(), self.lines.append, LIMITS)
        headers = {"host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
        self.scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "client": ("10.0.0.1", 5),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip
        messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        if end == "eof":
            messages.append({"type": "http.request", "body": b"", "more_body": False})
        self.messages = [*messages, *([] if end == "silence" else [{"type": "http.disconnect"}])]

    async def receive(self):
        if not self.messages:
            await asyncio.sleep(GENEROUS)
        return self.messages.pop(0)

    async def send(self, message):
        self.sent.append(message)

    async def run(self):
        await self.guard(self.scope, self.receive, self.send)
        return self

    @property
    def status(self):
        return self.sent[0]["status"] if self.sent else None

    @property
    def error(self):
        return json.loads(self.sent[1]["body"])["error"]


def call(*parts, **options):
    return asyncio.run(Call(*parts, **options).run())


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "a.localhost:1",
        "127.0.0.1",
        "192.168.1.9:80",
        "[::1]:8080",
        "pi.local",
        "pi.local.",
    ],
)
def test_names_of_this_computer_are_let_in(host):
    assert Rules(hosts=frozenset({"pi.local"})).has_name(host)


@pytest.mark.parametrize(
    "host", ["", "evil.example", "localhost.evil.example", "pi.local.evil.example:80", "[", "1.2.3"]
)
def test_names_that_anybody_can_give_to_this_computer_are_not(host):
    assert not Rules(hosts=frozenset({"pi.local"})).has_name(host)
    assert (403, "host_not_allowed") == ((refused := call(host=host)).status, refused.error["code"])


def test_pages_of_other_sites_are_not_let_in():
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec_fetch_site": "cross-site"}):
        assert 403 == call(**headers).status
    assert 200 == call(sec_fetch_site="none").status
    rules = Rules(origins=frozenset({"https://good.example"}))
    assert rules.has_origin("https://good.example")
    assert not rules.has_origin("https://good.example.evil")


def test_the_key_opens_and_nothing_like_it():
    rules = Rules(key="sésame")
    assert rules.has_key("Bearer sésame")
    assert rules.has_key("bearer  sésame ")
    for wrong in ("", "Bearer", "Bearer ", "Bearer sésam", "Basic sésame", "sésame"):
        assert not rules.has_key(wrong)
    assert Rules().has_key("")


def test_a_body_may_come_in_parts():
    assert b"9" == call(b"four", b"-", b"four").sent[1]["body"]


def test_a_body_that_is_too_large_is_refused_once_it_has_come():
    for parts, headers in (([b"x" * 600] * 2, {}), ([b"x"], {"content_length": "1001"}), ([b"x" * 600] * 9, {})):
        refused = call(*parts, **headers)
        assert (413, "body_too_large") == (refused.status, refused.error["code"])


def test_a_body_that_does_not_come_is_waited_for_only_so_long():
    refused = call(b"x", end="silence")
    assert (408, "slow_body") == (refused.status, refused.error["code"])


def test_a_body_of_more_values_than_anybody_needs_is_refused():
    assert 413 == call(b"[" * 51).status


def test_bodies_of_all_requests_together_have_a_limit():
    lines = []
    guard = Guard(application, Rules(), lines.append, LIMITS)

    async def many():
        first = Call(b"x" * 900, guard=guard, end="silence")
        task = asyncio.create_task(first.run())
        await asyncio.sleep(0)
        second = await Call(b"x" * 900, guard=guard).run()
        await task
        return second, await Call(b"x" * 900, guard=guard).run()

    second, third = asyncio.run(many())
    assert (429, "busy") == (second.status, second.error["code"])
    assert 200 == third.status


def test_a_client_that_leaves_with_half_a_body_hears_nothing():
    left = call(b"half", end="left")
    assert [] == left.sent
    assert "POST /v1/chat/completions left" in left.lines[0]


def test_a_mistake_of_ours_is_an_error_in_shape_and_tells_no_secret():
    failed = call(b"mistake")
    assert 500 == failed.status
    assert "secret" not in json.dumps([str(failed.sent), failed.lines])


def test_an_answer_has_a_number_by_which_to_speak_of_it():
    assert any(name == b"x-request-id" for name, _ in call(b"x").sent[0]["headers"])


def test_the_access_log_cannot_be_made_to_lie():
    path = "/" + "%0A1.2.3.4 GET / 200" * 20
    line = call(b"", path=path).lines[0]
    assert "\n" not in line
    assert len(line) < 200


# On the network.


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    options = ["-m", "shapes", "--host", "0.0.0.0", "--allow-host", "pi.local", "--cors", "https://good.example"]
    with Server(tmp_path_factory.mktemp("home"), *options) as running:
        yield running


def head_of(server, *lines, method="GET", path="/v1/models"):
    """Return the head of the answer to a request of these header lines."""
    text = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "Connection: close", "", ""])
    connection = server.raw(text.encode())
    try:
        return received(connection).partition(b"\r\n\r\n")[0].decode().lower()
    finally:
        connection.close()


def test_beyond_this_computer_a_key_is_needed_and_shown_once(server):
    key = next(line for line in server.lines if "API key" in line).rpartition(" ")[2]
    assert len(key) >= 32
    host = "Host: pi.local:80"
    assert head_of(server, host).startswith("http/1.1 401")
    assert head_of(server, host, "Authorization: Bearer x").startswith("http/1.1 401")
    assert head_of(server, host, f"Authorization: Bearer {key}").startswith("http/1.1 200")
    assert head_of(server, "Host: evil.example", f"Authorization: Bearer {key}").startswith("http/1.1 403")
    assert head_of(server, host, path="/health").startswith("http/1.1 200")
    address = f"http://127.0.0.1:{server.port}/v1"
    with server.client(api_key=key).with_options(base_url=address) as client:
        answer = client.chat.completions.create(model="shapes", messages=[question("Who are you?")])
        assert answer.choices[0].message.content


def test_pages_of_a_site_that_was_named_may_ask(server):
    asks = ("Host: pi.local", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization")
    good = head_of(server, *asks, "Origin: https://good.example", method="OPTIONS")
    assert "access-control-allow-origin: https://good.example" in good
    assert "access-control-allow-origin" not in head_of(server, *asks, "Origin: https://evil.example", method="OPTIONS")
    refused = head_of(server, "Host: pi.local", "Origin: https://good.example")
    assert refused.startswith("http/1.1 401")
    assert "access-control-allow-origin: https://good.example" in refused


# Heads.


@pytest.fixture(scope="module")
def plain_server():
    """Serve a page that says nothing, with little patience."""
    code = (
        "from llava_cli.listening import bind, serve\n"
        "from llava_cli.guard import Limits\n"
        "async def page(scope, receive, send):\n"
        "    await send({'type': 'http.response.start', 'status': 204, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': b''})\n"
        "taken = bind('127.0.0.1', 0)\n"
        "said = lambda: print(taken.getsockname()[1], flush=True)\n"
        "serve(page, taken, on_start=said, on_stop=lambda: None, limits=Limits(head_seconds=0.3, head=4096))\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:
        running = Server.__new__(Server)
        running.port = int(process.stdout.readline())
        yield running
        process.terminate()
        assert ("", "") == process.communicate(timeout=GENEROUS)
        assert 0 == process.returncode


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (b"HTTP/1.1 204", b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        (b"", b""),
        (b"", b"GET / HTTP/1.1\r\nHost: local"),
        (b"HTTP/1.1 400", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        (b"HTTP/1.1 400", b"GET / HTTP/1.1\r\n\r\n"),
        (b"HTTP/1.1 400", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        (b"HTTP/1.1 400", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9000),
        (b"HTTP/1.1 400", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"),
        (b"HTTP/1.1 400", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ],
)
def test_a_head_must_be_http_and_come_in_time(plain_server, status, data):
    connection = plain_server.raw(data)
    answer = received(connection)
    connection.close()
    assert answer[: len(status) or 1] == status
    if status.endswith(b"400"):
        assert "invalid_request_error" == json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"]
