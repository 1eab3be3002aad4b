"""Facts about who may have the page of `llava web`, and what of it."""

import asyncio
import json

import pytest

from llava_cli.guard import Limits, Rules
from llava_cli.web_guard import PageGuard

HOST = "127.0.0.1:7860"


async def page(scope, receive, send):
    """Answer everything, as Gradio would if it were asked."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-page", b"yes")]})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def guard(tmp_path, password="", hosts=("pi.local",), **options):
    return PageGuard(page, Rules(frozenset(hosts)), tmp_path, password, **options)


def ask(app, path="/", method="GET", body=b"", *, is_cut=False, **headers):
    """Send one request; return the status, the headers and the body of the answer. After a cut body nothing comes."""
    fields = {"host": HOST, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http", "method": method, "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
    }  # fmt: skip
    sent, parts = [], [body]

    async def receive():
        if is_cut and not parts:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": parts.pop() if is_cut else body, "more_body": is_cut}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start, *rest = sent
    answered = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], answered, b"".join(part.get("body", b"") for part in rest).decode()


def status(*arguments, **options):
    return ask(*arguments, **options)[0]


@pytest.mark.parametrize("host", [HOST, "localhost:7860", "[::1]:7860", "pi.local:7860", "192.168.1.5:7860"])
def test_it_answers_to_names_of_this_computer(tmp_path, host):
    assert 200 == status(guard(tmp_path), host=host)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:7860", "evil.example@127.0.0.1.nip.io", "", "["]
)
def test_it_answers_to_no_name_a_stranger_can_own(tmp_path, host):
    assert 403 == status(guard(tmp_path), host=host)


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("GET", {}, 200),
        ("GET", {"sec_fetch_site": "cross-site"}, 200),
        ("GET", {"origin": f"http://{HOST}"}, 200),
        ("POST", {}, 200),
        ("POST", {"origin": f"http://{HOST}", "sec_fetch_site": "same-origin"}, 200),
        ("POST", {"origin": "http://evil.example"}, 403),
        ("POST", {"origin": "http://127.0.0.1:8080"}, 403),
        ("POST", {"origin": "null"}, 403),
        ("POST", {"sec_fetch_site": "cross-site"}, 403),
        ("GET", {"origin": "http://evil.example"}, 403),
    ],
)
def test_other_sites_may_link_to_the_page_and_order_nothing(tmp_path, method, headers, expected):
    path = "/gradio_api/queue/join" if method == "POST" else "/"
    assert expected == status(guard(tmp_path), path, method, b'{"data": []}', **headers)


@pytest.mark.parametrize("path", ["/", "/config", "/theme.css", "/assets/index.js", "/gradio_api/upload"])
def test_what_the_page_is_made_of_is_there(tmp_path, path):
    assert 200 == status(guard(tmp_path), path)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/call/ask", "/gradio_api/run/predict",
        "/gradio_api/proxy=http://example.org", "/monitoring", "/gradio_api/vibe-edit/", "/gradio_api/component_server",
        "/gradio_api/process_recording", "/gradio_api/deep_link", "/docs", "/login", "/gradio_api/mcp",
    ],
)  # fmt: skip
def test_the_rest_of_gradio_is_not(tmp_path, path):
    assert 404 == status(guard(tmp_path), path)


def test_files_come_from_the_folder_of_uploads_alone(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "out").symlink_to("/etc")
    app = guard(tmp_path / "there")
    inside, *outside = [
        tmp_path / "there" / "a.png", tmp_path / "b.png", tmp_path / "there" / ".." / "b.png", "/etc/passwd",
        tmp_path / "out" / "passwd", "https://example.org/a.png", "", "\0",
        tmp_path / "there" / "a\0.png",
    ]  # fmt: skip
    assert 200 == status(app, f"/gradio_api/file={inside}")
    assert [404] * len(outside) == [status(app, f"/gradio_api/file={path}") for path in outside]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("there/a.png", 200), ("/etc/passwd", 403), ("there/../b.png", 403), ("http://127.0.0.1:9/a.png", 403),
        (None, 403), (["there/a.png"], 403), ("there/\0", 403),
    ],
)  # fmt: skip
def test_an_order_names_no_file_that_was_not_uploaded(tmp_path, data, expected):
    path = f"{tmp_path}/{data}" if isinstance(data, str) and data.startswith("there") else data
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    for body in ({"data": [file], "fn_index": 1}, {"data": [{"deep": [file]}]}):
        order = json.dumps(body).encode()
        assert expected == status(guard(tmp_path / "there"), "/gradio_api/queue/join", "POST", order)


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b'"' + b"x" * 1_000_001 + b'"', b"\xff"])
def test_an_order_that_is_none_is_refused(tmp_path, body):
    assert 403 == status(guard(tmp_path), "/gradio_api/queue/join", "POST", body)


@pytest.mark.parametrize(("path", "password"), [("/gradio_api/queue/join", ""), ("/login", "open sesame")])
def test_a_body_that_does_not_come_is_not_waited_for(tmp_path, path, password):
    app = guard(tmp_path, password, limits=Limits(body_seconds=0.05))
    code, headers, body = ask(app, path, "POST", b"p", is_cut=True)
    assert (408, "close", "nosniff") == (code, headers["connection"], headers["x-content-type-options"])
    assert "the body did not come within 0.05 seconds" == body


def test_every_answer_forbids_the_browser_to_ask_anybody_else(tmp_path):
    for path, expected in (("/", 200), ("/nothing", 404)):
        code, headers, _ = ask(guard(tmp_path), path)
        assert (expected, "nosniff", "same-origin") == (
            code, headers["x-content-type-options"], headers["referrer-policy"],
        )  # fmt: skip
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "unsafe-eval" not in headers["content-security-policy"]


def log_in(app, password):
    return ask(app, "/login", "POST", f"password={password}".encode())


def test_without_the_password_there_is_a_form_and_nothing_else(tmp_path):
    app = guard(tmp_path, "open sesame")
    code, _, body = ask(app)
    assert (401, True) == (code, '<input id="password"' in body)
    assert [401] * 3 == [status(app, path) for path in ("/config", "/assets/index.js", "/gradio_api/queue/data")]


def test_the_password_opens_the_page_for_this_browser(tmp_path):
    app = guard(tmp_path, "open sesame")
    code, headers, _ = log_in(app, "open+sesame")
    cookie, *limits = headers["set-cookie"].split("; ")
    assert (303, "/", {"HttpOnly", "SameSite=Strict", "Path=/"}) == (code, headers["location"], set(limits))
    assert "sesame" not in cookie
    assert 200 == status(app, cookie=cookie)
    assert 401 == status(guard(tmp_path, "open sesame"), cookie=cookie)


@pytest.mark.parametrize("cookie", ["llava=", "llava=x", "llava=%C3%BC", "other=1", "=", "llava"])
def test_a_made_up_cookie_opens_nothing(tmp_path, cookie):
    assert 401 == status(guard(tmp_path, "open sesame"), cookie=cookie)


def test_a_wrong_password_is_said_and_guesses_come_one_by_one(tmp_path, monkeypatch):
    waited = []

    async def wait(seconds):
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", wait)
    app = guard(tmp_path, "open sesame")
    codes = [log_in(app, guess)[0] for guess in ("", "open", "open+sesame+", "x" * 5000, "%ff%00")]
    assert ([401] * 5, 5) == (codes, len(waited))
    assert "That is not it." in log_in(app, "<b>")[2]
    assert "<b>" not in log_in(app, "<b>")[2]
