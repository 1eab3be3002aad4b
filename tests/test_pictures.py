"""Facts about where a picture comes from, and about everything that is none."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
from PIL import Image

from llava_cli.errors import UnreadablePicture
from llava_cli.pictures import LIMITS, Picture, PictureLimits, RememberedPicture, open_data_url, open_picture, shown
from tests import drawings
from tests.drawings import encoded, noise, tiff, tiff_size
from tests.odd_refused import AGAIN, ITSELF, PARTIAL, TEXT

PNG = encoded(noise(), "PNG")
RGB = noise().tobytes()


def refusal(source: Any, **options: Any) -> tuple[str, str, str]:
    """Tell what is refused, why, and what mends it."""
    with pytest.raises(UnreadablePicture) as error:
        open_picture(source, **options)
    assert error.value.exit_code == 3
    return error.value.what, error.value.why, error.value.hint


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of the test, as a user does."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_picture_is_the_same_from_every_source(here: Path) -> None:
    Path("cat.png").write_bytes(PNG)
    expected = Picture("cat.png", 80, 60, RGB)
    assert open_picture("cat.png") == expected
    assert open_picture(Path("cat.png")) == expected
    assert open_picture(PNG, name="cat.png") == expected
    assert open_picture(noise(), name="cat.png") == expected
    assert open_picture(expected) is expected
    assert open_data_url("data:image/png;base64," + base64.b64encode(PNG).decode(), name="cat.png") == expected
    assert open_picture("cat.png").image().tobytes() == RGB


def test_a_source_without_a_name_gets_one() -> None:
    names = open_picture(PNG).name, open_picture(noise()).name, open_data_url("data:," + quote_from_bytes(PNG)).name
    assert names == ("picture", "picture", "data URL")
    assert open_picture(open_picture(PNG), name="cat").name == "cat"


@pytest.mark.parametrize("name", ["holiday.jpg", "holiday", "-", "--help.png", "[b].png", "a b.png", "data:x"])
def test_the_content_decides_and_not_the_name(here: Path, name: str) -> None:
    Path(name).write_bytes(PNG)
    assert open_picture(name) == Picture(name, 80, 60, RGB)


def test_a_picture_without_its_pixels_cannot_be_made() -> None:
    for width, height, rgb in ((2, 1, b"123"), (0, 0, b""), (-1, -1, b"123")):
        with pytest.raises(ValueError, match="RGB pixels"):
            Picture("cat", width, height, rgb)


def test_the_hash_is_of_the_pixels_and_their_shape() -> None:
    assert Picture("cat", 2, 1, b"abcdef").sha256 == hashlib.sha256(b"RGB 2 1\nabcdef").hexdigest()
    pictures = [
        Picture("a", 2, 1, b"abcdef"),
        Picture("b", 2, 1, b"abcdef", ("a note",)),
        Picture("a", 1, 2, b"abcdef"),
    ]
    assert len({picture.sha256 for picture in pictures}) == 2
    assert open_picture(PNG).sha256 == open_picture(encoded(noise(), "BMP")).sha256


def test_a_picture_shown_by_python_does_not_pour_out_its_pixels() -> None:
    assert repr(open_picture(PNG)) == "Picture(name='picture', width=80, height=60, notes=(), detail=None)"


def test_something_else_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match="not int"):
        open_picture(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("expected", "name"),
    [
        ("cat.png", "cat.png"),
        ("Straße 猫 🐈.png", "Straße 猫 🐈.png"),
        ("[/b].png", "[/b].png"),
        (r"a\nb", "a\nb"),
        (r"\x1b[31mred", "\x1b[31mred"),
        (r"\x9b31m", "\x9b31m"),
        (r"\u202egnp.exe", "\u202egnp.exe"),
        (r"caf\xe9.png", os.fsdecode(b"caf\xe9.png")),
        (r"\ud800", "\ud800"),
        ("''", ""),
        ("a" * 200 + "…" + "b" * 99, "a" * 500 + "b" * 500),
    ],
)
def test_a_name_is_shown_on_one_line_and_harmless(expected: str, name: str) -> None:
    assert shown(name) == expected
    assert shown(expected) == expected


@pytest.mark.parametrize("name", ["new\nline.png", "esc\x1b[31m.png", os.fsdecode(b"caf\xe9.png")])
def test_a_file_with_a_nasty_name_opens_and_is_refused_with_its_shown_name(here: Path, name: str) -> None:
    Path(name).write_bytes(PNG)
    assert open_picture(name).name == shown(name)
    Path(name).write_bytes(b"")
    assert refusal(name)[0] == shown(name)


def test_a_tiff_with_smaller_copies_inside_is_not_taken_for_a_raw_file() -> None:
    assert open_picture(tiff([*tiff_size(1, 1, [8], 1), (254, 4, [0]), (330, 4, [99])], b"a")).rgb == b"aaa"


@pytest.mark.parametrize(
    ("hint", "name"),
    [
        ("did you mean photo.jpg?", "foto.jpg"),
        ("did you mean photo.jpg?", "Photo.jpeg"),
        ("did you mean IMG_0042.PNG?", "img_0042.png"),
        ("did you mean photo.jpg?", "PHOTO.JPG"),
        ("did you mean holiday/beach.png?", "holiday/beech.png"),
        (r"did you mean esc\x1b.png?", "esc.png"),
        ("check the name; llava looked in {here}", "zzz"),
        ("check the name; llava looked in {here}", ""),
        ("there is no folder holidays", "holidays/beach.png"),
        ("there is no folder photo.jpg", "photo.jpg/x"),
        ("it is a link to nowhere.png, which is gone", "link.png"),
        ("leave ~ out of the quotes, so that the shell replaces it", "~/cat.png"),
    ],
)
def test_a_missing_file_comes_with_a_guess(here: Path, hint: str, name: str) -> None:
    Path("holiday").mkdir()
    for there in ("photo.jpg", "IMG_0042.PNG", "holiday/beach.png", "esc\x1b.png"):
        Path(there).write_bytes(PNG)
    Path("link.png").symlink_to("nowhere.png")
    assert refusal(name) == (shown(name), "no such file", hint.format(here=here))


def test_a_folder_is_not_guessed(here: Path) -> None:
    Path("photos").mkdir()
    assert refusal("photo")[2] == f"check the name; llava looked in {here}"


@pytest.mark.parametrize(
    ("what", "hint", "name"),
    [
        ("https://example.org/cat.png", "download it first: curl -LO ADDRESS", "https://example.org/cat.png"),
        ("https://example.org/cat.png", "download it first: curl -LO ADDRESS", "https://me:secret@example.org/cat.png"),
        ("file:///tmp/cat.png", "give the path without file://", "file:///tmp/cat.png"),
    ],
)
def test_an_address_is_not_taken_for_a_file(what: str, hint: str, name: str) -> None:
    assert refusal(name) == (what, "an address, not a file", hint)


def test_what_is_no_file_is_named_and_never_waited_for(here: Path) -> None:
    Path("folder").mkdir()
    os.mkfifo("fifo")
    Path("loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    whys = {name: refusal(name)[1:] for name in ("folder", "fifo", "loop", "socket", "/dev/zero")}
    assert whys == {
        "folder": ("a folder, not a single picture", "give one picture that is in it"),
        "fifo": ("a pipe, not a file", "save the picture to a file first, or: … | llava ask -"),
        "loop": ("a link that leads back to itself", "give the picture itself"),
        "socket": ("a socket, not a file", "give a picture file"),
        "/dev/zero": ("a device, not a file", "give a picture file"),
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused_with_the_command(here: Path) -> None:
    Path("my cat.png").write_bytes(PNG)
    Path("my cat.png").chmod(0)
    assert refusal("my cat.png")[1:] == ("permission denied", "let yourself read it: chmod u+r 'my cat.png'")


@pytest.mark.parametrize(
    ("why", "hint", "error"),
    [
        ("permission denied", "let yourself read it: chmod u+r 'my cat.png'", PermissionError(13, "")),
        ("cannot be read (input/output error)", "copy it to another disk and try again", OSError(5, "")),
    ],
)
def test_a_file_that_the_system_does_not_give_is_refused(
    monkeypatch: pytest.MonkeyPatch, why: str, hint: str, error: OSError
) -> None:
    def fail(*_arguments: object) -> int:
        raise error

    monkeypatch.setattr(os, "open", fail)
    assert refusal("my cat.png") == ("my cat.png", why, hint)


@pytest.mark.parametrize(
    ("why", "name"), [("the name is too long", "x" * 5000), ("not a possible file name", "cat\0.png")]
)
def test_an_impossible_name_is_refused(why: str, name: str) -> None:
    assert refusal(name) == (shown(name), why, "check the name")


def test_a_file_with_too_many_bytes_is_refused_unread(here: Path) -> None:
    with Path("sparse.png").open("wb") as file:
        file.truncate(3 * 2**30)
    assert refusal("sparse.png")[1] == "too large: 3,221,225,472 bytes (at most 100,000,000)"


def test_as_many_bytes_as_allowed_are_not_too_many(here: Path) -> None:
    Path("cat.png").write_bytes(PNG)
    exact, one_less = PictureLimits(max_bytes=len(PNG)), PictureLimits(max_bytes=len(PNG) - 1)
    assert open_picture("cat.png", limits=exact).rgb == RGB
    why = f"too large: {len(PNG):,} bytes (at most {len(PNG) - 1:,})"
    assert refusal("cat.png", limits=one_less)[1] == refusal(PNG, limits=one_less)[1] == why


def test_a_picture_that_was_allowed_to_be_large_is_found_again(here: Path) -> None:
    Image.new("L", (41_000, 1000)).save("large.png")
    assert refusal("large.png")[1] == "too large: 41,000,000 pixels (at most 40,000,000)"
    picture = open_picture("large.png", limits=PictureLimits.up_to(41))
    known = RememberedPicture(picture.sha256, "large.png", 41_000, 1000, path=str(Path("large.png").absolute()))
    assert picture.sha256 == known.open().sha256


def test_a_file_that_grows_while_it_is_read_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("cat.png").write_bytes(PNG)
    before = Path("empty")
    before.touch()
    monkeypatch.setattr(os, "fstat", lambda _handle: before.stat())
    assert refusal("cat.png", limits=PictureLimits(max_bytes=100))[1] == "too large: 101 bytes (at most 100)"


def open_files() -> int:
    """Count the files that this process holds open."""
    return len(list(Path("/dev/fd").iterdir()))


def test_no_file_stays_open(here: Path) -> None:
    Path("cat.png").write_bytes(PNG)
    Path("folder").mkdir()
    before = open_files()
    open_picture("cat.png")
    open_picture(encoded(noise(), "TIFF"))
    refusal("folder")
    refusal("missing.png")
    assert open_files() == before


BASE64 = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64," + BASE64,
        "DATA:;BASE64," + BASE64,
        "data:image/jpeg;name=cat.png;base64," + BASE64.replace("=", "%3D").replace("+", "%2B"),
        "data:image/png," + quote_from_bytes(PNG),
    ],
)
def test_a_data_url_is_opened_whatever_it_claims_to_be(url: str) -> None:
    assert open_data_url(url) == Picture("data URL", 80, 60, RGB)


WRAPPED = "encode the whole file, without line breaks: base64 -w0 FILE"


@pytest.mark.parametrize(
    ("why", "hint", "url"),
    [
        ("not a data URL", "it begins like data:image/png;base64,", "cat.png"),
        ("not a data URL", "it begins like data:image/png;base64,", "data:image/png;base64"),
        ("not a data URL", "it begins like data:image/png;base64,", "https://example.org/a,b"),
        ("broken base64 (incorrect padding)", WRAPPED, "data:;base64,AAA"),
        ("broken base64 (only base64 data is allowed)", WRAPPED, "data:;base64,AA\nAA"),
        ("broken base64 (only base64 data is allowed)", WRAPPED, "data:;base64,ÄÄÄÄ"),
        ("broken base64 (excess data after padding)", WRAPPED, "data:;base64,AA==AAAA"),
        ("empty", AGAIN, "data:image/png;base64,"),
        (TEXT, ITSELF, "data:,hello%20world"),
        (
            "truncated",
            PARTIAL,
            "data:;base64," + BASE64[:4000],
        ),
    ],
)
def test_a_broken_data_url_is_refused_without_pouring_it_out(why: str, hint: str, url: str) -> None:
    with pytest.raises(UnreadablePicture) as error:
        open_data_url(url)
    assert (error.value.what, error.value.why, error.value.hint) == ("data URL", why, hint)


def test_a_data_url_knows_the_options_of_a_file() -> None:
    url = "data:image/gif;base64," + base64.b64encode(drawings.gif([noise(), noise(seed=1)])).decode()
    assert open_data_url(url, frame=1).notes == ("animated: only number 1 (from 0) of 2 frames is used",)
    with pytest.raises(UnreadablePicture, match=r"too large: [\d,]+ bytes \(at most 10\)"):
        open_data_url(url, limits=PictureLimits(max_bytes=10))
    assert open_data_url("data:;base64," + BASE64[:4000], allow_truncated=True).notes


def test_the_limits_are_the_promised_ones() -> None:
    assert PictureLimits(max_pixels=40_000_000, max_bytes=100_000_000) == LIMITS


def test_the_room_can_be_entered_without_numpy_and_pillow() -> None:
    code = "import sys, llava_cli.pictures; print({'PIL', 'numpy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
