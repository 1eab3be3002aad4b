"""Facts about `llava serve` as OpenAI's own client meets it, with the bundled model."""

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import openai
import pytest

from tests.processes import ROOT, SCENE, llava
from tests.serving import Server, circle, data_url, question, shown
from tests.test_readme import blocks
from tests.web import website
from training.scenes import COLORS

PICTURE = data_url(Path(SCENE))
CIRCLE = question("What color is the circle?", PICTURE)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("home"), "-m", "shapes", "--alias", "gpt-4o") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with server.client() as opened:
        yield opened


def ask(client, *messages, **options):
    """Return the choice of an answer written with the likeliest tokens."""
    options = {"model": "shapes", "temperature": 0, **options}
    return client.chat.completions.create(messages=list(messages), **options).choices[0]


def stream(client, *messages, **options):
    options = {"model": "shapes", "temperature": 0, **options}
    return list(client.chat.completions.create(messages=list(messages), stream=True, **options))


def refusal(client, *messages, **options):
    """Return the error of a request that is refused."""
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, *messages, **options)
    return caught.value


# Answers.


def test_a_question_about_a_picture_is_answered(client):
    choice = ask(client, CIRCLE)
    assert ("red", "stop", "assistant") == (choice.message.content, choice.finish_reason, choice.message.role)


def test_a_stream_brings_the_same_words_and_the_numbers_if_wanted(client):
    words = question("Describe this picture.", PICTURE)
    whole = ask(client, words).message.content
    *pieces, numbers = stream(client, words, stream_options={"include_usage": True})
    assert whole == "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert 5 < len(pieces)
    assert "stop" == pieces[-1].choices[0].finish_reason
    assert [] == numbers.choices
    assert numbers.usage.prompt_tokens + numbers.usage.completion_tokens == numbers.usage.total_tokens


def test_what_was_read_of_a_picture_is_used_again(client):
    picture = data_url(circle(COLORS["blue"], 63))
    first, second = (
        client.chat.completions.create(model="shapes", messages=[question(words, picture)]).usage
        for words in ("What color is the circle?", "How many shapes are there?")
    )
    assert 100 > first.prompt_tokens_details.cached_tokens
    assert 100 < second.prompt_tokens_details.cached_tokens < second.prompt_tokens


def test_a_chat_goes_on(client):
    said = [CIRCLE, ask(client, CIRCLE).message.model_dump(), question("How many shapes are there?")]
    assert "3" == ask(client, *said).message.content


def test_a_picture_and_its_question_may_come_one_after_the_other(client):
    picture, words = {"role": "user", "content": [shown(PICTURE)]}, question("What color is the circle?")
    assert "red" == ask(client, picture, words).message.content


def test_several_pictures_in_one_question_are_all_read(client):
    other = data_url(circle(COLORS["blue"], 1))
    answer = client.chat.completions.create(model="shapes", messages=[question("What is this?", PICTURE, other)])
    assert 200 < answer.usage.prompt_tokens


def test_a_seed_gives_the_same_words_again(client):
    # So that chance has its say although the model is sure of itself.
    options = {"temperature": 2, "max_tokens": 24, "presence_penalty": 2, "frequency_penalty": 2}
    words = question("Describe this picture.", PICTURE)
    answers = [ask(client, words, seed=seed, **options).message.content for seed in (-7, -7, 1, 2, 3, 4, 5)]
    assert answers[0] == answers[1]
    assert 1 < len(set(answers))


def test_a_stop_string_and_a_longest_length_end_an_answer(client):
    words = question("Describe this picture.", PICTURE)
    assert ("A large", "stop") == ended(ask(client, words, stop=[" red"]))
    assert ("A large", "length") == ended(ask(client, words, max_tokens=2))
    assert ("A large", "length") == ended(ask(client, words, max_completion_tokens=2))


def ended(choice):
    return choice.message.content, choice.finish_reason


def test_each_token_comes_with_how_probable_it_was(client):
    odds = ask(client, CIRCLE, logprobs=True, top_logprobs=3).logprobs.content
    assert [" red"] == [token.token for token in odds]
    assert [b" red"] == [bytes(token.bytes) for token in odds]
    assert 3 == len(odds[0].top_logprobs)
    assert odds[0].logprob == odds[0].top_logprobs[0].logprob
    assert -0.1 < odds[0].logprob <= 0
    chunks = stream(client, CIRCLE, logprobs=True)
    assert [" red"] == [token.token for c in chunks if c.choices[0].logprobs for token in c.choices[0].logprobs.content]


def test_an_answer_satisfies_its_schema(client):
    schema = {
        "type": "object",
        "properties": {"color": {"type": "string", "enum": ["red", "blue"]}, "count": {"type": "integer"}},
        "required": ["color", "count"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "shape", "strict": True, "schema": schema}}
    answer = json.loads(ask(client, CIRCLE, response_format=wanted, max_tokens=60).message.content)
    assert {"color", "count"} == set(answer)
    assert answer["color"] in ("red", "blue")
    assert isinstance(answer["count"], int)


def test_an_answer_may_be_any_object(client):
    wanted = {"type": "json_object"}
    choice = ask(client, CIRCLE, response_format=wanted, max_tokens=400)
    assert choice.message.content.startswith("{")
    assert choice.finish_reason == "length" or isinstance(json.loads(choice.message.content), dict)


def test_the_model_is_listed_by_all_its_names(client):
    assert ["shapes", "gpt-4o"] == [model.id for model in client.models.list()]
    assert "gpt-4o" == client.models.retrieve("gpt-4o").id
    assert "red" == ask(client, CIRCLE, model="gpt-4o").message.content


def test_words_that_look_like_control_tokens_are_words(client):
    tokens = [
        client.chat.completions.create(model="shapes", messages=[question(words)]).usage.prompt_tokens
        for words in ("a", "a</s>")
    ]
    assert tokens[1] - tokens[0] > 1


def test_the_snippet_of_the_readme_runs(server, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    (snippet,) = (block for block in blocks("python") if "OpenAI" in block)
    exec(snippet.replace("http://127.0.0.1:8080", server.url), {})
    assert "red\n" == capsys.readouterr().out


# Refusals.


@pytest.mark.parametrize(
    ("param", "options"),
    [
        ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("n", {"n": 2}),
        ("temperature", {"temperature": 9}),
        ("temperature", {"temperature": "0"}),
        ("max_tokens", {"max_tokens": 0}),
        ("logit_bias", {"logit_bias": {"1": 5}}),
        ("modalities", {"modalities": ["audio"]}),
        ("mood", {"extra_body": {"mood": "good"}}),
        (None, {"top_logprobs": 2}),
        (None, {"stream_options": {"include_usage": True}}),
    ],
)
def test_what_the_model_cannot_do_is_refused_by_name(client, param, options):
    error = refusal(client, CIRCLE, **options)
    assert (400, param, "invalid_request_error") == (error.status_code, error.param, error.type)


@pytest.mark.parametrize(
    ("why", "message"),
    [
        ("this server fetches no pictures", question("?", "http://127.0.0.1:1/secret.png?token=1")),
        ("not a data URL", question("?", "file:///etc/passwd")),
        ("not a data URL", question("?", "/etc/passwd")),
        ("not a data URL", question("?", "clip:")),
        ("broken base64", question("?", "data:image/png;base64,%%%")),
        ("looks like HTML", question("?", data_url(b"<!doctype html><title>Log in</title>"))),
        ("unknown detail|Input should be", {"role": "user", "content": [shown(PICTURE, detail="huge")]}),
        ("tool", {"role": "tool", "content": "42", "tool_call_id": "1"}),
        ("no question among them", {"role": "system", "content": "Be brief."}),
        ("Input should be 'text'", {"role": "assistant", "content": [shown(PICTURE)]}),
    ],
)
def test_messages_that_cannot_be_shown_to_the_model_are_refused(client, why, message):
    error = refusal(client, message)
    assert 400 == error.status_code
    assert any(part in error.message for part in why.split("|"))
    assert "secret" not in error.message or "token" not in error.message


def test_where_something_is_wrong_is_said_in_the_words_of_the_request(client):
    message = {"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {}}]}
    assert "messages.0.content.1.image_url.url" == refusal(client, message).param


def test_another_model_is_not_this_one(client):
    error = refusal(client, CIRCLE, model="llava-v1.5-7b")
    assert (404, "model_not_found") == (error.status_code, error.code)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("llava-v1.5-7b")


def test_a_prompt_that_does_not_fit_is_refused_before_it_waits(client):
    error = refusal(client, question("circle " * 3000, PICTURE))
    assert (400, "context_length_exceeded") == (error.status_code, error.code)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"},
        {"type": "string", "pattern": "a+"},
        {"enum": ["a" * 50 + "b"], "pattern": "^(a+)+$"},
        {"enum": [1, 2], "allOf": [{"$ref": "http://127.0.0.1:1/schema"}]},
        {"type": "object", "properties": {str(i): {"type": "string"} for i in range(3000)}},
        {"oneOf": [{"const": i} for i in range(60)]},
    ],
)
def test_a_schema_that_cannot_be_kept_to_or_does_harm_is_refused(client, schema):
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert 400 == refusal(client, CIRCLE, response_format=wanted).status_code


# Many at once.


def test_each_of_fifty_gets_the_answer_about_its_own_picture(client):
    names = list(islice(cycle(name for name in COLORS if name not in ("white", "gray")), 50))

    def about(number):
        picture = data_url(circle(COLORS[names[number]], number))
        words = question("What color is the circle?", picture)
        if number % 2:
            chunks = stream(client, words, user=str(number % 5))
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        return ask(client, words, user=str(number % 5)).message.content

    with ThreadPoolExecutor(50) as pool:
        assert names == list(pool.map(about, range(50)))


# The process around it.


def test_the_access_log_tells_nothing_of_what_was_asked(server, client):
    ask(client, question("Is there a walrus?", PICTURE))
    line = server.wait_for("1 picture")
    assert "POST /v1/chat/completions 200" in line
    assert "walrus" not in "".join(server.lines)


def test_a_port_that_is_taken_is_an_error_with_a_way_out(server, here):
    done = here("serve", "-m", "shapes", "--port", server.port)
    assert 2 == done.returncode
    assert [
        f"llava: 127.0.0.1:{server.port}: another program listens there already",
        f"hint: --port {server.port + 1}, or end that program",
    ] == done.stderr.splitlines()


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("holds no key", ["--api-key-env", "NOT_SET_ANYWHERE"]),
        ("not an origin", ["--cors", "example.org"]),
        ("it needs a key", ["--cors", "*"]),
        ("not an address of this computer", ["--host", "192.0.2.1"]),
        ("not an address of this computer", ["--host", "not a name"]),
    ],
)
def test_a_server_that_makes_no_sense_does_not_start(here, words, arguments):
    done = here("serve", "-m", "shapes", "--port", "0", *arguments)
    assert 2 == done.returncode
    assert words in done.stderr


def test_without_the_extra_it_says_how_to_get_it(here, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    done = here("serve", "-m", "shapes")
    assert 2 == done.returncode
    assert "hint: pip install 'llava-cli[serve]'\n" in done.stderr


def test_pictures_are_fetched_from_public_addresses_only(tmp_path):
    with Server(tmp_path, "-m", "shapes", "--allow-url-images") as server, website() as web, server.client() as client:
        error = refusal(client, question("?", f"{web.url}/ok.png"))
        assert "not a public address" in error.message
        assert [] == web.asked


def test_the_log_records_turns_only_if_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with Server(tmp_path, "-m", "shapes", "--log") as server, server.client() as client:
        ask(client, CIRCLE)
        said = [CIRCLE, {"role": "assistant", "content": "red"}, question("How many shapes are there?")]
        ask(client, *said)
    turns = json.loads(llava("log", "--json").stdout)
    assert ["How many shapes are there?", "What color is the circle?"] == [turn["question"] for turn in turns]
    assert 1 == len({turn["chat"] for turn in turns})


def test_nothing_of_a_server_is_in_the_log_otherwise(server, client, monkeypatch):
    ask(client, CIRCLE)
    home = next(Path(server.home).glob("**/log.db"), None)
    assert home is None
