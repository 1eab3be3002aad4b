"""Facts about parts of pictures, and about the file that shows what a model sees."""

import pytest
from PIL import Image

from llava_cli.crops import read_crop
from llava_cli.errors import LlavaError, UsageError
from llava_cli.pictures import open_picture
from llava_cli.sheets import require_writable, write_sheet
from tests.drawings import patches
from tests.processes import SCENE, files_of
from tests.questions import picture
from tests.tiny_model import write_tiny_pair

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def six():
    """Draw three by two squares of 16 pixels, each of its own colour."""
    return open_picture(patches(), name="six.png")


@pytest.mark.parametrize(
    ("text", "size", "colours"),
    [
        ("16,0,16,16", (16, 16), {GREEN}),
        ("0%,0%,33.34%,50%", (16, 16), {RED}),
        ("16,0%,66.66%,16", (32, 16), {GREEN, BLUE}),
        ("0,0,100%,100%", (48, 32), None),
        ("47, 31, 1, 1", (1, 1), {(255, 255, 0)}),
    ],
)
def test_a_crop_is_the_part_that_was_named(six, text, size, colours):
    part = read_crop(text).of(six)
    assert size == (part.width, part.height)
    assert colours is None or colours == {colour for _, colour in part.image().getcolors()}


def test_a_crop_is_a_picture_of_its_own(six):
    part = read_crop("0,0,16,16").of(six)
    assert ("six.png [0,0,16,16]", "") == (part.name, part.path)
    assert part.sha256 != six.sha256
    assert open_picture(patches().crop((0, 0, 16, 16))).sha256 == part.sha256


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,4,5", "a,0,1,1", "-1,0,5,5", "0,0,1e3,1", "10 %,0,1,1", "0,0,inf,1"]
)
def test_what_is_no_crop_is_said(text):
    with pytest.raises(UsageError, match="is not four lengths"):
        read_crop(text)


@pytest.mark.parametrize(
    ("text", "why"), [("0,0,49,1", "beyond"), ("50%,0%,51%,1%", "beyond"), ("0,0,0,5", "less than")]
)
def test_a_crop_outside_of_the_picture_is_said(six, text, why):
    with pytest.raises(UsageError, match=f"{why}.*six.png, which is 48 × 32"):
        read_crop(text).of(six)


def test_one_square_is_the_whole_file(tmp_path):
    square = picture(1, (56, 56))
    write_sheet(tmp_path / "seen.png", [[square]])
    assert square.sha256 == open_picture(tmp_path / "seen.png").sha256


def test_each_picture_is_a_row_and_its_tiles_stand_beside_it(tmp_path):
    squares = [picture(seed, (20, 20)) for seed in range(4)]
    write_sheet(tmp_path / "seen.png", [squares[:3], squares[3:]])
    sheet = Image.open(tmp_path / "seen.png")
    assert (20 * 3 + 16, 20 * 2 + 8) == sheet.size
    assert squares[2].image().tobytes() == sheet.crop((56, 0, 76, 20)).tobytes()
    assert squares[3].image().tobytes() == sheet.crop((0, 28, 20, 48)).tobytes()


def test_a_file_that_should_not_be_written_is_refused(tmp_path):
    own = tmp_path / "own.png"
    patches().save(own)
    (tmp_path / "folder.png").mkdir()
    for path in (own, tmp_path / "seen.jpg", tmp_path / "folder.png", tmp_path / "missing" / "seen.png"):
        with pytest.raises(UsageError, match="--show-input"):
            require_writable(path, [open_picture(own)])


def test_a_full_disk_is_an_error(tmp_path):
    full = tmp_path / "full.png"
    full.symlink_to("/dev/full")
    with pytest.raises(LlavaError, match="no space left") as refusal:
        write_sheet(full, [[picture(1)]])
    assert 6 == refusal.value.exit_code


def test_ask_looks_at_the_crop_and_writes_what_the_model_sees_of_it(here, tiny_pair, tmp_path):
    from llava_cli.vision import square_pixels

    seen = tmp_path / "seen.png"
    done = here(
        "ask", SCENE, "What color?", "-n", "4", "--crop", "0%,0%,45%,100%", "--show-input", seen, *files_of(tiny_pair)
    )
    assert (0, [seen]) == (done.returncode, list(tmp_path.iterdir()))
    part = read_crop("0,0,288,400").of(open_picture(SCENE))
    assert square_pixels(part, 56) == open_picture(seen).rgb


def test_of_a_llava_1_6_the_tiles_are_shown_too(here, tmp_path):
    pair = write_tiny_pair(tmp_path, pinpoints=(56, 112, 112, 56, 112, 112))
    done = here("ask", SCENE, "What color?", "-n", "4", "--show-input", tmp_path / "seen.png", *files_of(pair))
    shown = open_picture(tmp_path / "seen.png")
    assert (0, 56, 0) == (done.returncode, shown.height, (shown.width + 8) % 64)
    assert shown.width > 56
