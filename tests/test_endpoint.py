"""Facts about models of other servers, on a loopback server that fails in many ways."""

import base64
import io
import json
import signal
import socket
import subprocess
import sys

import pytest
from PIL import Image

from llava_cli.endpoint import find_endpoint
from llava_cli.errors import LlavaError, UsageError
from llava_cli.exchange import Patience
from llava_cli.pictures import open_picture
from llava_cli.remote_model import connect
from llava_cli.sent_messages import data_url
from llava_cli.settings import Sampling
from tests.openai_server import openai_server
from tests.processes import LLAVA, SCENE, llava

QUICK = Patience(first=2, silence=0.5, max_bytes=1_000_000)


@pytest.fixture(scope="module")
def server():
    with openai_server() as server:
        yield server


def answered(server, name, question="What color?", **options):
    """Ask a model of the server, and return the reply with its text."""
    with connect(server.url, name, patience=QUICK, **options) as model:
        reply = model.chat().send(question, picture=SCENE)
        return reply, reply.text


def asked(server):
    """Return the body of the last question."""
    return [body for _, _, body in server.asked if body][-1]


# What is sent.


def test_a_question_goes_as_openai_writes_it(server):
    sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=7, seed=3)
    answered(server, "good", sampling=sampling)
    body = asked(server)
    expected = {"model": "good", "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 3, "stream": True}
    assert expected == {key: body[key] for key in expected}
    picture, text = body["messages"][0]["content"]
    assert {"type": "text", "text": "What color?"} == text
    url = picture["image_url"]["url"]
    assert "data:image/png;base64," == url[:22]
    assert open_picture(SCENE).sha256 == open_picture(base64.b64decode(url[22:])).sha256


def test_a_picture_goes_upright_and_without_what_else_its_file_holds(tmp_path):
    image = Image.new("RGB", (40, 20), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    image.save(tmp_path / "a.jpg", exif=exif)
    sent = Image.open(io.BytesIO(base64.b64decode(data_url(open_picture(tmp_path / "a.jpg")).partition(",")[2])))
    assert ((20, 40), {}, "PNG") == (sent.size, dict(sent.getexif()), sent.format)


def test_a_large_picture_goes_as_a_jpeg():
    sent = data_url(open_picture(Image.effect_noise((1500, 1400), 50).convert("RGB")))
    assert ("data:image/jpeg", True) == (sent.partition(";")[0], len(sent) < 6_000_000)


def test_a_chat_sends_all_of_its_turns(server):
    with connect(server.url, "good", patience=QUICK) as model:
        chat = model.chat(system="Be brief.")
        _ = chat.send("What color?", picture=SCENE).text
        _ = chat.send("And the size?").text
        _ = chat.go_on().text
    body = asked(server)
    roles = [message["role"] for message in body["messages"]]
    assert ["system", "user", "assistant", "user", "assistant"] == roles
    assert ("And the size?", True) == (body["messages"][3]["content"], body["continue_final_message"])


def test_what_only_some_servers_know_goes_along_only_if_it_is_asked_for(server):
    answered(server, "good")
    assert not {"top_k", "min_p", "repeat_penalty"} & asked(server).keys()
    answered(server, "good", sampling=Sampling(top_k=5, repeat_penalty=1.1))
    assert (5, 1.1, 1.1) == tuple(asked(server)[key] for key in ("top_k", "repeat_penalty", "repetition_penalty"))


def test_a_schema_goes_along_and_the_answer_is_checked_here(server):
    with connect(server.url, "good", patience=QUICK) as model:
        reply = model.chat().send("What color?", picture=SCENE, schema="color")
        with pytest.raises(LlavaError, match="not JSON") as unfit:
            _ = reply.parsed
    assert (8, "json_schema") == (unfit.value.exit_code, asked(server)["response_format"]["type"])


# What comes back.


@pytest.mark.parametrize("name", ["good", "whole", "no done", "loading", "uncounted"])
def test_an_answer_is_what_the_server_writes(server, name):
    reply, text = answered(server, name)
    assert ("The circle is red.", "stop") == (text, reply.finish_reason)


def test_what_the_server_counts_is_told(server):
    usage = answered(server, "good")[0].usage
    assert (580, 20, 5) == (usage.reused_cells, usage.new_cells, usage.answer_tokens)


@pytest.mark.parametrize(("reason", "name"), [("length", "cut short"), ("content_filter", "filtered")])
def test_an_answer_that_was_cut_says_why(server, reason, name):
    assert reason == answered(server, name)[0].finish_reason


REFUSALS = {
    "locked": (5, "wants a key (401)"),
    "forbidden": (5, "refuses this (403): not for you"),
    "unknown": (4, "does not have it (404)"),
    "busy": (5, "wants a pause (429): slow down"),
    "broken": (5, "is out of order (500): GPU fell off"),
    "elsewhere": (5, "sends elsewhere (307)"),
    "small": (7, "does not fit into its context (400)"),
    "blind": (7, "cannot answer this (400): image input is not supported"),
    "page": (5, "not as an OpenAI-compatible server does"),
    "garbage": (5, "not as an OpenAI-compatible server does"),
    "silent": (5, "fell silent"),
}
FAILURES = {
    "cut": "hung up in the middle of the answer",
    "stall": "fell silent in the middle of the answer",
    "error": "gave up in the middle of the answer: CUDA",
    "nonsense": "wrote what is no JSON in the middle of the answer",
    "long line": "sent more than an answer can be",
    "endless": "sent more than an answer can be",
}


@pytest.mark.parametrize(("name", "code", "why"), [(name, *rest) for name, rest in REFUSALS.items()], ids=REFUSALS)
def test_a_server_that_refuses_is_told_in_a_sentence(server, name, code, why):
    with pytest.raises(LlavaError) as refusal:
        answered(server, name)
    assert (code, True, True) == (refusal.value.exit_code, why in refusal.value.why, bool(refusal.value.hint))


@pytest.mark.parametrize(("name", "why"), FAILURES.items(), ids=FAILURES)
def test_a_server_that_fails_in_the_middle_keeps_what_it_wrote(server, name, why):
    with connect(server.url, name, patience=QUICK) as model:
        chat = model.chat()
        reply = chat.send("What color?", picture=SCENE)
        with pytest.raises(LlavaError) as failure:
            _ = reply.text
        reply.close()
    assert (7, True) == (failure.value.exit_code, why in failure.value.why)
    assert (reply.so_far, "failed") == (chat.messages[-1]["content"], reply.finish_reason)


def test_a_host_that_is_not_there_is_said():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(LlavaError, match=r"no connection to 127\.0\.0\.1") as refusal:
        connect(f"http://127.0.0.1:{port}")
    assert refusal.value.exit_code == 5


def test_a_picture_that_the_server_seems_not_to_see_is_doubted(server):
    with connect(server.url, "does not see", patience=QUICK) as model:
        _ = model.chat().send("What color?", picture=SCENE).text
        assert ["does its model see pictures at all?"] == [note.partition("tokens: ")[2] for note in model.notes]


def test_without_a_name_it_is_the_only_model():
    with openai_server("alone") as server:
        assert "alone" == connect(server.url).name
    with openai_server("one", "two") as server, pytest.raises(LlavaError, match="it has 2 models") as refusal:
        connect(server.url)
    assert (4, "-m NAME takes one: one, two") == (refusal.value.exit_code, refusal.value.hint)


def test_stopping_keeps_the_text_and_closes_the_connection(server):
    server.left.clear()
    with connect(server.url, "stall", patience=Patience()) as model:
        reply = model.chat().send("What color?", picture=SCENE)
        for _ in reply:
            if reply.so_far == "The circle ":
                model.stop()
        assert ("The circle ", "stopped") == (reply.so_far, reply.finish_reason)
        assert server.left.wait(30)


def test_a_server_that_says_it_is_there_is_waited_for(server):
    with connect(server.url, "queued", patience=Patience(first=1, silence=1)) as model:
        assert "The circle is red." == model.chat().send("What color?", picture=SCENE).text


# Addresses and keys.


@pytest.mark.parametrize("typed", ["http://h:1", "http://h:1/", "HTTP://h:1/v1/", "http://h:1/v1/chat/completions"])
def test_an_address_may_be_given_in_several_ways(typed):
    assert "http://h:1/v1" == find_endpoint(typed).url


@pytest.mark.parametrize(
    "typed", ["h:1", "ftp://h", "http://", "http://[::1", "http://me:secret@h", "http://h/?key=secret", "http://h:x"]
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_without_repeating_it(typed):
    with pytest.raises(UsageError) as refusal:
        find_endpoint(typed)
    assert "secret" not in f"{refusal.value}{refusal.value.hint}"


def test_a_key_comes_from_the_environment_and_is_never_shown(server, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", "sk-secret")
    with pytest.raises(LlavaError) as refusal:
        answered(server, "locked", api_key_env="SERVER_KEY")
    headers = {name.lower(): value for name, value in server.asked[-1][1].items()}
    assert "Bearer sk-secret" == headers["authorization"]
    assert "does not accept this key (401)" in refusal.value.why
    shown = f"{refusal.value}{refusal.value.hint}{find_endpoint(server.url, 'SERVER_KEY')!r}"
    assert "sk-secret" not in shown


@pytest.mark.parametrize("name", ["sk-secret", "NOT_SET", "TWO_WORDS"])
def test_a_key_that_is_not_there_is_a_usage_error_that_repeats_nothing(monkeypatch, name):
    monkeypatch.setenv("TWO_WORDS", "sk secret")
    with pytest.raises(UsageError) as refusal:
        find_endpoint("http://localhost", name)
    assert name not in f"{refusal.value}{refusal.value.hint}"


@pytest.mark.parametrize(
    ("said", "address"),
    [(0, "http://localhost:1"), (0, "http://127.0.0.2"), (0, "http://[::1]:8"), (0, "https://h"), (1, "http://h")],
)
def test_plain_http_to_another_computer_is_said(said, address):
    assert said == len(find_endpoint(address).notes)


# At the command line.


def test_ask_answers_and_goes_on_at_the_same_server_without_an_engine(server):
    first = llava("ask", SCENE, "What color?", "--endpoint", server.url, "-m", "good", "--stats")
    assert (0, "The circle is red.\n") == (first.returncode, first.stdout)
    assert "5 tokens · " in first.stderr
    assert "prompt 580 reused + 20 new" in first.stderr
    again = llava("ask", "-c", "And the size?")
    assert (0, "The circle is red.\n", 3) == (again.returncode, again.stdout, len(asked(server)["messages"]))
    assert 0 == llava("log", "replay").returncode
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('loaded:', sorted({'llama_cpp', 'gguf', 'numpy'} & set(sys.modules))))\n"
        f"sys.argv = ['llava', 'ask', {SCENE!r}, 'What?', '--endpoint', {server.url!r}, '-m', 'good']\n"
        "from llava_cli.cli import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    answer, *loaded = done.stdout.splitlines()
    assert ("The circle is red.", {"loaded: []"}) == (answer, set(loaded))


def test_a_chat_has_the_models_of_the_server(server):
    lines = "What color?\n/context\n/model\n/model other\nAnd the size?\n/model nope\n"
    done = llava("chat", SCENE, "--endpoint", server.url, "-m", "good", stdin=lines.encode())
    assert (4, "The circle is red.\n" * 2) == (done.returncode, done.stdout)
    assert "605 tokens in use, and how many there can be the server does not say" in done.stderr
    assert "* good  at" in done.stderr
    assert ("other", 3) == (asked(server)["model"], len(asked(server)["messages"]))


def test_the_envelope_and_the_log_know_the_server_but_no_key(server, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", "sk-secret")
    options = ("--endpoint", server.url, "--api-key-env", "SERVER_KEY", "-m", "good")
    done = llava("ask", SCENE, "What color?", *options, "--json")
    shown = json.loads(done.stdout)
    assert ("good", f"{server.url}/v1") == (shown["model"]["name"], shown["parameters"]["endpoint"])
    log = llava("log", "show", "--json")
    assert "SERVER_KEY" in log.stdout
    assert "sk-secret" not in done.stdout + done.stderr + log.stdout


@pytest.mark.parametrize(
    "options",
    [("--kv", "q8_0"), ("--no-cache",), ("--context", "512"), ("--model-path", "a.gguf"), ("--choices", "yes,no")],
    ids=lambda options: options[0],
)
def test_an_option_that_a_server_cannot_obey_is_refused(server, options):
    done = llava("ask", SCENE, "What color?", "--endpoint", server.url, "-m", "good", *options)
    assert (2, "", True) == (done.returncode, done.stdout, options[0] in done.stderr)


def test_ctrl_c_stops_the_server_and_keeps_the_text(server):
    server.left.clear()
    command = [*LLAVA, "ask", SCENE, "What?", "--endpoint", server.url, "-m", "stall", "-q"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        begun = process.stdout.read(11)
        process.send_signal(signal.SIGINT)
        rest, complaints = process.communicate(timeout=30)
    assert (130, b"The circle ", b"\n", b"") == (process.returncode, begun, rest, complaints)
    assert server.left.wait(30)


def test_a_reader_that_leaves_stops_a_server_that_says_nothing(server):
    server.left.clear()
    server.writing.clear()
    command = [*LLAVA, "ask", SCENE, "What?", "--endpoint", server.url, "-m", "silent", "-q"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert server.writing.wait(30)
        process.stdout.close()
        complaints = process.stderr.read()
    assert (141, b"") == (process.returncode, complaints)
    assert server.left.wait(30)


def test_a_run_asks_the_server_and_is_gone_on_with(server, tmp_path):
    options = ("--endpoint", server.url, "-m", "good", "-o", tmp_path / "out.jsonl")
    done = llava("run", SCENE, "What color?", *options)
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert (0, "The circle is red.") == (done.returncode, line["answer"])
    count = len(server.asked)
    again = llava("run", SCENE, "What color?", *options)
    assert (0, count, True) == (again.returncode, len(server.asked), "1 were there already" in again.stderr)


@pytest.mark.slow
def test_our_own_server_gives_the_answers_of_the_model_here(tmp_path):
    from tests.serving import Server

    asked = (SCENE, "What color is the circle?", "-t", "0")
    with Server(tmp_path, "-m", "shapes") as ours:
        assert (
            llava("ask", *asked, "-m", "shapes").stdout
            == llava("ask", *asked, "--endpoint", ours.url).stdout
            == "red\n"
        )
        assert "3\n" == llava("ask", "-c", "How many shapes are there?").stdout
