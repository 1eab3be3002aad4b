"""Facts about requests that no honest program sends: made from the server's own description, right and wrong ones."""

import hypothesis.strategies as st
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import positive_data_acceptance
from schemathesis.generation import GenerationMode

from tests.serving import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("home"), "-m", "shapes", "--no-cache") as running:
        yield running


def send_many(server, examples):
    """Send requests to every page; return the statuses of the answers."""
    statuses = set()
    for found in schemathesis.openapi.from_url(f"{server.url}/openapi.json").get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=examples, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=st.one_of([operation.as_strategy(generation_mode=mode) for mode in GenerationMode]))
        def send(case):
            if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
                # Else they would all end there; and long answers are tested elsewhere.
                case.body |= {"model": "shapes", "max_tokens": 2}
            answer = case.call()
            statuses.add(answer.status_code)
            # What is valid by the page may still make no sense together.
            case.validate_response(answer, excluded_checks=[positive_data_acceptance])
            assert answer.status_code < 500

        send()
    return statuses


def test_no_request_becomes_a_mistake_of_the_server(server):
    assert {200, 400, 404} <= send_many(server, 8)


@pytest.mark.slow
def test_no_request_of_thousands_becomes_a_mistake_of_the_server(server):
    assert {200, 400, 404} <= send_many(server, 1000)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[" * 5000,
        b'{"model": "shapes", "messages": ' + b'[{"a": ' * 900 + b"1" + b"}]" * 900 + b"}",
        b'{"model": "shapes", "messages": [], "temperature": NaN}',
        b'{"model": "\\ud800", "messages": [{"role": "user", "content": "?"}]}',
        b'{"model": "shapes", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "shapes", "messages": [{"role": "user", "content": "?"}], "\\ud800": 1}',
        b'{"model": "shapes", "messages": [{"role": "user", "content": "?"}], "seed": 1e400}',
        b'{"model": "shapes", "messages": [{"role": "user", "content": "?"}], "seed": ' + b"9" * 5000 + b"}",
        b"\xff\xfe\x00",
        b"{}",
    ],
)
def test_a_body_that_makes_no_sense_is_refused(server, body):
    answer = server.post(body)
    assert 400 == answer.status
    assert "invalid_request_error" == answer.error["type"]


def test_a_body_of_another_kind_is_refused(server):
    body = b'{"model": "shapes", "messages": [{"role": "user", "content": "?"}]}'
    assert 200 == server.post(body).status
    refused = server.post(body, kind="text/plain")
    assert (415, True) == (refused.status, "Content-Type: application/json" in refused.body["error"]["message"])
