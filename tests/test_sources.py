"""Facts about pictures that are no files: addresses, stdin, `data:` URLs and the clipboard."""

import base64
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from PIL import Image, ImageGrab

from llava_cli import fetching
from llava_cli.errors import UnreadablePicture, UsageError
from llava_cli.fetching import FetchLimits, fetch, public_name
from llava_cli.pictures import open_picture
from llava_cli.slash import paths_in
from llava_cli.sources import open_source
from tests.processes import SCENE, llava
from tests.web import PICTURE, website

SMALL, SHORT = FetchLimits(max_bytes=1_000_000), FetchLimits(total=0.6)


@pytest.fixture(scope="module")
def site():
    with website() as server:
        yield server


def nobody():
    pytest.fail("stdin was read")


def opened(source, **options):
    return open_source(source, stdin=nobody, **options)


@pytest.mark.parametrize("path", ["ok.png", "there", "ok.png?token=secret"])
def test_an_address_gives_its_picture(site, path):
    assert open_picture(SCENE).sha256 == opened(f"{site.url}/{path}").sha256


def test_what_somebody_else_named_is_asked_at_the_address_that_was_checked(site, monkeypatch):
    """A name may mean another address when it is looked up again."""
    answers = iter(["127.0.0.1", "127.0.0.1", "8.8.8.8"])

    def look_up(host, port, *_rest, **_options):
        found = next(answers) if host == "example.org" else host
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, port))]

    address = f"http://example.org:{site.url.rpartition(':')[2]}/ok.png"
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", look_up)
        with pytest.raises(UnreadablePicture, match="not a public address"):
            fetch(address, public_only=True)
        patched.setattr("ipaddress.IPv4Address.is_global", True)
        assert PICTURE == fetch(address, public_only=True)


def test_a_picture_may_come_from_stdin_or_a_data_url():
    expected = open_picture(SCENE).sha256
    url = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
    assert expected == opened(url).sha256 == open_source("-", stdin=lambda: PICTURE).sha256


def test_names_hold_no_secrets(site):
    host = site.url.removeprefix("http://")
    assert f"http://{host}/ok.png" == opened(f"http://me:secret@{host}/ok.png?token=secret").name
    assert "https://h:1/p.png" == public_name("https://me:secret@h:1/p.png?token=secret#secret")


REFUSALS = {
    "html": "HTML",
    "empty": "empty",
    "nothing": "the server answered 404 (not found)",
    "busy": "the server answered 503",
    "loop": "redirected more than 5 times",
    "metadata": "redirected to 169.254.169.254, which is not a public address",
    "file": "redirected to a file: address",
    "endless": "too large: more than 1 MB",
    "bomb": "too large: more than 1 MB",
    "trickle": "it did not come within 0.6 seconds",
    "slow": "it did not come within 0.6 seconds",
    "cut": "the connection to 127.0.0.1 broke off",
}


@pytest.mark.parametrize(("path", "why"), REFUSALS.items(), ids=REFUSALS)
def test_what_can_go_wrong_is_said(site, monkeypatch, path, why):
    monkeypatch.setitem(fetch.__kwdefaults__, "limits", SHORT if path in ("trickle", "slow") else SMALL)
    with pytest.raises(UnreadablePicture) as refusal:
        opened(f"{site.url}/{path}")
    assert why in refusal.value.why
    assert refusal.value.hint
    assert site.url in refusal.value.what


@pytest.mark.parametrize("path", ["slow", "then/slow"])
def test_what_did_not_come_in_time_is_not_waited_for_any_longer(site, path):
    with pytest.raises(UnreadablePicture, match="did not come"):
        fetch(f"{site.url}/{path}", limits=SHORT)
    waiting = [thread for thread in threading.enumerate() if thread.name == "fetch"]
    for thread in waiting:
        thread.join(10)
    assert [] == [thread for thread in waiting if thread.is_alive()]


def test_a_redirect_to_the_host_that_was_typed_is_followed(site):
    assert PICTURE == fetch(f"{site.url}/home")


def test_a_redirect_from_elsewhere_to_this_computer_is_refused(site):
    """`localhost` was typed; the redirect names another host, which is not public."""
    with pytest.raises(UnreadablePicture, match="not a public address"):
        fetch(f"http://localhost:{site.server_port}/home")
    assert "/home" == site.asked[-1]


def test_a_host_that_is_not_there_is_said():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(UnreadablePicture, match=r"no connection to 127\.0\.0\.1"):
        fetch(f"http://127.0.0.1:{port}/p.png")


def test_an_address_that_cannot_be_one_is_said():
    with pytest.raises(UnreadablePicture, match="not a possible address"):
        fetch("http://[::1/p.png")


def test_ask_takes_an_address(site):
    asked = ("What color is the circle?", "-m", "shapes", "-t", "0")
    assert llava("ask", SCENE, *asked).stdout == llava("ask", f"{site.url}/ok.png", *asked).stdout == "red\n"
    refused = llava("ask", f"{site.url}/nothing?token=secret", *asked)
    assert (3, "") == (refused.returncode, refused.stdout)
    assert [f"llava: {site.url}/nothing: the server answered 404 (not found)"] == refused.stderr.splitlines()[:1]


def test_an_address_in_a_chat_stays_as_it_is(site):
    assert [f"{site.url}/ok.png"] == paths_in(f"{site.url}/ok.png")


def test_without_a_stream_of_its_own_a_picture_cannot_come_from_stdin():
    with pytest.raises(UsageError, match="where the questions come from"):
        open_source("-")


def test_the_clipboard_may_hold_a_picture_or_one_file(monkeypatch, tmp_path):
    expected = open_picture(SCENE)
    monkeypatch.setattr(ImageGrab, "grabclipboard", lambda: Image.open(SCENE))
    assert (expected.sha256, "clipboard") == (opened("clip:").sha256, opened("clip:").name)
    monkeypatch.setattr(ImageGrab, "grabclipboard", lambda: [SCENE])
    assert (expected.sha256, expected.name) == (opened("clip:").sha256, opened("clip:").name)


@pytest.mark.parametrize("held", [None, [], [SCENE, SCENE]])
def test_a_clipboard_without_a_picture_says_so(monkeypatch, held):
    monkeypatch.setattr(ImageGrab, "grabclipboard", lambda: held)
    with pytest.raises(UnreadablePicture, match="no picture on it"):
        opened("clip:")


def test_without_a_clipboard_program_it_says_which(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UnreadablePicture) as refusal:
        opened("clip:")
    assert "xclip" in refusal.value.hint


def test_a_file_of_such_a_name_is_given_with_its_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("clip:", "-", "http:"):
        Path(name).write_bytes(PICTURE)
        assert open_picture(SCENE).sha256 == opened(f"./{name}").sha256
    assert not fetching.is_address("http:")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Make a certificate that nobody has signed."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("there is no openssl on this computer")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(
        [*command, "-keyout", path, "-out", path, "-days", "2", "-subj", "/CN=localhost"],
        check=True,
        capture_output=True,
    )
    return path


def test_a_certificate_that_nobody_has_signed_is_said(certificate):
    with website() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        address = f"https://me:secret@localhost:{server.server_port}/ok.png?token=secret"
        with pytest.raises(UnreadablePicture, match="the certificate of localhost is not valid") as refusal:
            fetch(address)
    assert "secret" not in f"{refusal.value}{refusal.value.hint}"


@pytest.mark.parametrize("path", ["nothing", "busy", "loop", "metadata", "cut", "html", "empty"])
def test_no_refusal_repeats_a_password(site, path):
    with pytest.raises(UnreadablePicture) as refusal:
        opened(f"http://me:secret@{site.url.removeprefix('http://')}/{path}?token=secret")
    assert "secret" not in f"{refusal.value}{refusal.value.hint}"
