"""Facts about a server with much to do: who leaves, who is slow, who must wait, and how it all ends."""

import io
import json
import re
import signal
import threading
import time
import urllib.request
from pathlib import Path

import openai
import pytest
from PIL import Image

from tests.processes import SCENE, files_of
from tests.serving import GENEROUS, Server, data_url, question, received

ENDLESS = {"type": "array", "minItems": 100, "items": {"type": "string", "minLength": 2000}}
LONG = {
    "model": "tiny", "temperature": 0, "max_tokens": 5000,
    "response_format": {"type": "json_schema", "json_schema": {"name": "endless", "schema": ENDLESS}},
}  # fmt: skip
"""The tiny model would end its answers soon; a schema keeps it from that."""
SHORT = {"model": "tiny", "temperature": 0, "max_tokens": 200}
ASKED = question("What color is the circle?", data_url(Path(SCENE)))


def start(pair, home, *options):
    return Server(home, *files_of(pair), "--context", "8192", "--alias", "tiny", "--no-cache", *options)


@pytest.fixture(scope="module")
def server(tiny_pair, tmp_path_factory):
    with start(tiny_pair, tmp_path_factory.mktemp("home"), "--queue", "4") as running:
        yield running


@pytest.fixture
def client(server):
    with server.client(timeout=GENEROUS) as opened:
        yield opened


def wait_until(server, **wanted):
    """Wait for the server to have just so much to do."""
    end = time.monotonic() + GENEROUS
    while time.monotonic() < end:
        with urllib.request.urlopen(f"{server.url}/health", timeout=GENEROUS) as answer:
            health = json.load(answer)
        if wanted.items() <= health.items():
            return
        time.sleep(0.02)
    raise AssertionError(f"{health}, never {wanted}")


def begin(server, **options):
    """Send a request and leave it to itself."""
    body = json.dumps({"messages": [ASKED], **options}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return server.raw(f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode() + body)


@pytest.fixture
def holder(server):
    """Keep the engine busy with one long answer."""
    wait_until(server, running=0, waiting=0)
    connection = begin(server, stream=True, user="holder", **LONG)
    wait_until(server, running=1)
    yield connection
    connection.close()
    wait_until(server, running=0, waiting=0)


@pytest.fixture(scope="module")
def slow_to_open():
    """Draw a picture of as many pixels as are allowed, in few bytes."""
    file = io.BytesIO()
    Image.new("RGB", (6200, 6200)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def tokens_of(line):
    return int(re.search(r"(\d+) tokens", line)[1])


def test_who_leaves_a_stream_stops_the_answer(server, client):
    with client.chat.completions.create(messages=[ASKED], stream=True, **LONG) as stream:
        assert next(chunk for chunk in stream if chunk.choices[0].delta.content)
    wait_until(server, running=0)
    assert tokens_of(server.wait_for("tokens · the client has left")) < 4000


def test_who_leaves_while_the_whole_answer_is_written_stops_it(server):
    begun = begin(server, **LONG)
    wait_until(server, running=1)
    begun.close()
    wait_until(server, running=0)
    line = server.wait_for("tokens · the client has left")
    assert " 499 " in line
    assert tokens_of(line) < 4000


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_the_queue_is_not_answered_at_all(server, holder, stream):
    waiting = begin(server, stream=stream, **LONG)
    wait_until(server, running=1, waiting=1)
    waiting.close()
    wait_until(server, running=1, waiting=0)
    assert server.wait_for("1 picture · the client has left")


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_while_the_picture_is_opened_is_not_answered_either(server, holder, slow_to_open, stream):
    server.forget_lines()
    leaving = begin(server, stream=stream, **LONG, messages=[question("?", data_url(slow_to_open))])
    time.sleep(0.2)  # so that most of it has come; the end is the same if it has not
    leaving.close()
    server.wait_for("POST /v1/chat/completions")
    wait_until(server, running=1, waiting=0)


def test_who_reads_slowly_keeps_nobody_waiting(server, client):
    # Megabytes, which no buffer of the system takes while nobody reads.
    much = {**LONG, "max_tokens": 500, "logprobs": True, "top_logprobs": 20}
    slow = begin(server, stream=True, **much)
    wait_until(server, running=1)
    assert client.chat.completions.create(messages=[ASKED], **SHORT).choices[0].message.content
    assert b"data: [DONE]" in received(slow)[-100:]
    slow.close()


def test_a_full_queue_says_when_to_come_again(server, client, holder):
    waiting = [begin(server, user="busy", **SHORT) for _ in range(3)]
    wait_until(server, waiting=3)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(messages=[ASKED], user="busy", extra_headers={"User-Agent": ""}, **SHORT)
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
    waiting.append(begin(server, user="other", **SHORT))
    wait_until(server, waiting=4)
    with pytest.raises(openai.RateLimitError, match="4 requests wait for it already"):
        client.chat.completions.create(messages=[ASKED], user="third", **SHORT)
    for connection in waiting:
        connection.close()


def test_who_asks_once_does_not_wait_for_all_of_another(server, client, holder):
    order = []

    def ask(user):
        client.chat.completions.create(messages=[ASKED], user=user, **SHORT)
        order.append(user)

    threads = []
    for number, user in enumerate(["busy", "busy", "busy", "once"]):
        threads.append(threading.Thread(target=ask, args=(user,)))
        threads[-1].start()
        wait_until(server, waiting=number + 1)
    holder.close()
    for thread in threads:
        thread.join()
    assert order.index("once") < 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_ends_in_order_in_the_middle_of_an_answer(tiny_pair, tmp_path, number):
    server = start(tiny_pair, tmp_path)
    writing, waiting = begin(server, stream=True, **LONG), begin(server, **LONG)
    wait_until(server, running=1, waiting=1)
    assert 0 == server.stop(number)
    for connection in (writing, waiting):
        assert b"shutting down" in received(connection)
        connection.close()
