"""Facts about `llava web` before there is a page: what it refuses, and in which order."""

import os
import socket

import pytest

from llava_cli.cli import app
from llava_cli.commands import web
from llava_cli.errors import LlavaError, UnreadablePicture, UsageError


@pytest.fixture
def _gradio(monkeypatch):
    """Let it look as if Gradio were installed: none of this needs it."""
    monkeypatch.setattr(web, "find_spec", lambda name: name)


def refusal(*arguments, kind=UsageError):
    """Return why `llava web` is not begun; the work is done here, not in a process of its own."""
    with pytest.raises(LlavaError) as caught:
        app(["web", "-m", "shapes", "--no-browser", "--port", "0", *arguments], standalone_mode=False)()
    assert type(caught.value) is kind
    return caught.value


def test_without_gradio_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(web, "find_spec", lambda name: None if name == "gradio" else name)
    assert "pip install 'llava-cli[web]'" == refusal().hint


@pytest.mark.usefixtures("_gradio")
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_computers_need_a_password(host):
    assert "add --password, or --password-env NAME" == refusal("--host", host).hint


@pytest.mark.usefixtures("_gradio")
def test_a_variable_without_a_password_is_no_password(monkeypatch):
    monkeypatch.setenv("SECRET", "")
    assert "holds no password" in refusal("--host", "0.0.0.0", "--password-env", "SECRET").why


@pytest.mark.usefixtures("_gradio")
def test_a_port_that_is_taken_is_said_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "another program listens there already" == refusal("--port", str(taken.getsockname()[1])).why


@pytest.mark.usefixtures("_gradio")
def test_a_picture_that_is_none_is_said_before_anything_is_loaded(tmp_path):
    page = tmp_path / "page.jpg"
    page.write_text("<html>")
    assert "HTML" in refusal(str(page), kind=UnreadablePicture).why


def test_uploads_are_for_nobody_else_and_gone_afterwards():
    with web._uploads() as folder:
        assert 0o700 == folder.stat().st_mode & 0o777
        assert {str(folder), "False"} == {
            os.environ.pop(name) for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED")
        }
        (folder / "picture.png").write_bytes(b"")
    assert not folder.exists()
