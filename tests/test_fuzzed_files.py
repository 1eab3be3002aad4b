"""Facts about files that Hypothesis damages: each is used or refused with a sentence, and nothing else happens."""

from __future__ import annotations

import base64
import functools
import sqlite3
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_cli import registry, settings
from llava_cli.commands import log
from llava_cli.config_file import write_setting
from llava_cli.errors import LlavaError, LogUnusable, ModelUnusable, UnreadablePicture, UsageError
from llava_cli.history import History
from llava_cli.pictures import Picture, PictureLimits, open_data_url, open_picture
from llava_cli.weights import open_weights
from tests import drawings
from tests.drawings import encoded, noise
from tests.fuzzing import damaged, examples
from tests.questions import picture
from tests.turns import a_turn

SMALL = noise(24, 17)
FILES = [
    *(encoded(SMALL, kind) for kind in ("PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM")),
    encoded(SMALL, "WEBP", lossless=True, exif=drawings.exif(6)),
    encoded(SMALL, "JPEG", exif=drawings.exif(6), icc_profile=drawings.icc_display_p3()),
    encoded(SMALL, "JPEG", progressive=True),
    encoded(SMALL.convert("CMYK"), "JPEG"),
    encoded(SMALL, "MPO", save_all=True, append_images=[noise(8, 8)]),
    encoded(SMALL.convert("LA"), "PNG", save_all=True, append_images=[noise(24, 17, seed=1)]),
    encoded(SMALL.quantize(), "PNG", transparency=3),
    encoded(SMALL, "PNG", exif=drawings.exif(3), icc_profile=drawings.icc_linear_rgb()),
    encoded(SMALL.convert("I;16"), "PNG"),
    encoded(SMALL, "TIFF", compression="tiff_lzw", save_all=True, append_images=[SMALL]),
    encoded(SMALL, "TIFF", compression="jpeg"),
    encoded(SMALL.convert("1"), "TIFF", compression="group4"),
    drawings.gif([SMALL, noise(24, 17, seed=1)]),
    drawings.bmp_with_alpha([(1, 2, 3, 4)] * 9),
    b"P3 2 2 255 " + b"1 2 3 " * 4,
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    drawings.heif_box(b"heic", b"mif1"),
]
LIMITS = PictureLimits(max_pixels=1_000_000)
"""Small: damage that makes a picture large is looked at elsewhere, and would take the time for thousands of others."""


def require_sentence(error: LlavaError, exit_code: int, what: str = "") -> None:
    """See that an error is one that `llava` can show, about `what`."""
    assert (exit_code, what or error.what) == (error.exit_code, error.what)
    assert error.why
    assert error.hint
    assert len(error.why) < 500


def outcome(data: bytes, **options: int) -> Picture | None:
    """Open a picture, or see that it is refused properly."""
    try:
        return open_picture(data, limits=LIMITS, **options)  # type: ignore[arg-type]
    except UnreadablePicture as error:
        require_sentence(error, 3)
        return None


@given(damaged(FILES), st.integers(0, 2))
@examples(250)
def test_a_damaged_picture_is_opened_or_refused(data: bytes, frame: int) -> None:
    whole = outcome(data, frame=frame)
    part = outcome(data, frame=frame, allow_truncated=True)
    assert whole is None or whole == part


@given(
    damaged(FILES), st.sampled_from(["data:image/png;base64,", "data:,", "data:;x=,;base64,", "DATA:image/"]), st.text()
)
@examples(100)
def test_a_damaged_data_url_is_opened_or_refused(data: bytes, header: str, rubbish: str) -> None:
    body = base64.b64encode(data).decode() if "base64" in header else quote_from_bytes(data)
    for url in (header + body, header + body + rubbish, header + rubbish + body, rubbish):
        try:
            open_data_url(url, limits=LIMITS)
        except UnreadablePicture as error:
            require_sentence(error, 3, "data URL")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


@given(st.data())
@examples(60)
def test_a_damaged_model_is_let_through_or_refused(
    tiny_pair: tuple[Path, Path], folder: Path, data: st.DataObject
) -> None:
    pair = [folder / path.name for path in tiny_pair]
    broken = data.draw(st.integers(0, 1))
    for number, (source, copy) in enumerate(zip(tiny_pair, pair, strict=True)):
        whole = source.read_bytes()
        copy.write_bytes(data.draw(damaged([whole], within=len(whole) // 3)) if number == broken else whole)
    try:
        open_weights(registry.from_files(pair[0], pair[1], "llava_v1"))
    except ModelUnusable as error:
        require_sentence(error, 4)


# Texts of the user's own.

_VALUES = st.one_of(
    st.sampled_from(["true", "2048", "0.2", '"2 GiB"', '"q8_0"', "1e400", "-1", "nan", "[]", "{}", "1979-05-27"]),
    st.integers(0, 9999).map(lambda count: "9" * count),
    st.integers(0, 3000).map(lambda count: "[" * count + "]" * count),
    st.integers(0, 500).map(lambda count: f'"{"9" * count} GiB"'),
    st.text(max_size=9).map(lambda text: '"' + text.replace("\\", "").replace('"', "") + '"'),
)  # fmt: skip
_KEYS = st.sampled_from([*vars(settings)["_TYPES"], "model.x", "[model]", "nonsense", '"log"'])
CONFIG = st.lists(st.tuples(_KEYS, _VALUES).map(" = ".join), max_size=4).map(lambda lines: "\n".join(lines).encode())


@given(st.one_of(CONFIG, damaged([b'log = true\nmodel = "shapes"\n# by hand\nsystem = """\nlog = false\n"""\n'])))
@examples(150)
def test_a_config_file_of_any_content_is_read_or_refused(text: bytes) -> None:
    path = settings.config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    try:
        settings.explain()
    except UsageError as error:
        require_sentence(error, 2)
    try:
        write_setting("log", "off")
    except UsageError as error:
        require_sentence(error, 2)
        assert text == path.read_bytes()
    else:
        assert tomllib.loads(path.read_text()) == {**tomllib.loads(text.decode()), "log": "off"}


OWN = (Path(__file__).parent.parent / "models.toml").read_bytes()[-1500:]
OWN = OWN[OWN.index(b"[[model]]") :]


@given(st.one_of(damaged([OWN]), CONFIG.map(lambda text: b"[[model]]\n" + text)))
@examples(60)
def test_a_list_of_models_of_any_content_is_read_or_refused(text: bytes) -> None:
    path = settings.config_path().with_name("models.toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    try:
        assert "shapes" in {spec.name for spec in registry.all_specs()}
    except UsageError as error:
        require_sentence(error, 2)


# The log.


@functools.cache
def whole_log() -> bytes:
    """Return the bytes of a log of two turns."""
    with tempfile.TemporaryDirectory() as directory:
        history = History(Path(directory) / "whole.db")
        first = history.record(a_turn("What is this?", pictures=[picture(1)]))
        assert first is not None
        history.record(a_turn("And that?"), chat=first.chat, after=first.id)
        history.name_chat(first.chat, "holiday")
        assert history.find(words="that")
        with closing(sqlite3.connect(history.path)) as database:
            database.execute("PRAGMA wal_checkpoint (TRUNCATE)")
        return history.path.read_bytes()


def used(history: History) -> Iterator[object]:
    """Use a log in every way there is."""
    yield lambda: history.find(words="what")
    yield lambda: [(log._heading(turn), log._details(turn), log._as_json(turn)) for turn in history.find()]
    yield lambda: history.find(picture=picture(1).sha256)
    yield lambda: [history.turns(chat.id) for chat in history.chats()]
    yield lambda: history.turn(2)
    yield lambda: history.thumbnail(picture(1).sha256)
    yield lambda: history.named("holiday")
    yield lambda: history.remove([1])


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@given(st.deferred(lambda: damaged([whole_log()])))
@examples(40)
def test_a_damaged_log_is_read_or_refused_or_set_aside(folder: Path, content: bytes) -> None:
    path = folder / "log.db"
    for old in folder.glob("log.db*"):
        old.unlink()
    path.write_bytes(content)
    history = History(path)
    for use in used(history):
        try:
            use()  # type: ignore[operator]
        except (LogUnusable, UsageError) as error:
            require_sentence(error, error.exit_code)
    assert history.record(a_turn("Once more?")) is not None or history.notes


@given(st.text(), st.text(), st.text(max_size=20))
@examples(60)
def test_what_is_asked_in_any_letters_is_found_again(folder: Path, question: str, answer: str, name: str) -> None:
    history = History(folder / "texts.db")
    kept = history.record(a_turn(question, answer=answer))
    assert kept is not None
    history.name_chat(kept.chat, name)
    read = history.turn(kept.id)
    assert (question, answer) == (read.question, read.answer)
    assert name == next(chat.name for chat in history.chats())
    words = question.replace("\0", " ").split()[:1]
    assert kept.id in [turn.id for turn in history.find(words="".join(words))]
