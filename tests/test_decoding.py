"""Facts about decoding: photos stand upright, broken files are refused, and nothing is read that is too large."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from llava_cli.errors import UnreadablePicture
from llava_cli.pictures import Picture, PictureLimits, open_picture
from tests import drawings
from tests.drawings import encoded, noise, tiff, tiff_size
from tests.odd_refused import AGAIN, PARTIAL, SMALLER, WAYS, cut_hint


def refusal(source: bytes | Image.Image, **options: Any) -> tuple[str, str]:
    """Tell why a picture is refused, and what mends it."""
    with pytest.raises(UnreadablePicture) as error:
        open_picture(source, **options)
    return error.value.why, error.value.hint


def outcome(source: bytes) -> Picture | tuple[str, str]:
    """Give the picture, or why it is refused and what mends it."""
    try:
        return open_picture(source)
    except UnreadablePicture as error:
        return error.why, error.hint


def difference(expected: Image.Image, source: bytes) -> int:
    """Measure how far a picture is from an image, in levels of its worst pixel."""
    picture = open_picture(source)
    assert (picture.width, picture.height) == expected.size
    return int(np.abs(np.asarray(picture.image(), int) - np.asarray(expected, int)).max())


def test_broken_exif_does_not_cost_an_avif() -> None:
    sound = encoded(drawings.patches(), "AVIF", exif=b"Exif\0\0MM\0*" + b"\0\0\0\x08" + b"\0" * 6, subsampling="4:4:4")
    assert difference(drawings.patches(), sound.replace(b"MM\0*", b"nope")) < 16


@pytest.mark.parametrize(
    ("note", "file"),
    [
        ("animated: only the first of 3 frames is used", drawings.gif([noise(), noise(seed=1), noise(seed=2)])),
        *(
            (
                f"{'only' if kind == 'TIFF' else 'animated: only'} the first of 2 {unit} is used",
                encoded(noise(), kind, save_all=True, append_images=[noise(seed=1)]),
            )
            for kind, unit in (("PNG", "frames"), ("WEBP", "frames"), ("AVIF", "frames"), ("TIFF", "pages"))
        ),
    ],
    ids=["GIF", "PNG", "WEBP", "AVIF", "TIFF"],
)
def test_of_several_frames_the_first_is_used_and_that_is_said(note: str, file: bytes) -> None:
    assert open_picture(file).notes == (note,)


def test_the_further_pictures_of_a_phone_photo_are_not_worth_a_note() -> None:
    assert open_picture(encoded(noise(), "MPO", save_all=True, append_images=[noise(seed=1)])).notes == ()


def test_a_frame_can_be_chosen() -> None:
    film = encoded(noise(), "PNG", save_all=True, append_images=[noise(seed=1)])
    picture = open_picture(film, frame=1)
    assert picture.rgb == noise(seed=1).tobytes()
    assert picture.notes == ("animated: only number 1 (from 0) of 2 frames is used",)


@pytest.mark.parametrize(
    ("hint", "frame", "file"),
    [
        ("--frame 0 to --frame 1", 2, drawings.gif([noise(), noise(seed=1)])),
        ("--frame 0 to --frame 1", -1, drawings.gif([noise(), noise(seed=1)])),
        ("leave --frame out", 1, encoded(noise(), "JPEG")),
    ],
)
def test_a_frame_that_is_not_there_is_refused(hint: str, frame: int, file: bytes) -> None:
    assert refusal(file, frame=frame) == (f"has no frame {frame}", hint)


def test_pages_are_counted_to_a_thousand_and_each_can_be_chosen() -> None:
    assert open_picture(drawings.tiff_of_pages(999)).notes == ("only the first of 999 pages is used",)
    many = drawings.tiff_of_pages(1500)
    assert open_picture(many).notes == ("only the first of 1,000 and more pages is used",)
    assert open_picture(many, frame=1200).notes == ("only number 1200 (from 0) of 1,000 and more pages is used",)
    assert refusal(many, frame=2000)[0] == "damaged, or a rare kind of TIFF"


def test_a_broken_later_frame_does_not_matter() -> None:
    film = drawings.gif([noise(), noise(seed=1), noise(seed=2)])
    third = film.rindex(b"!\xf9\x04")
    picture = open_picture(film[: third + 12])
    assert picture.rgb == open_picture(film).rgb
    assert picture.notes == ("animated: only frame 0 (from 0) is used, a later one is broken",)


def test_a_broken_later_page_does_not_matter() -> None:
    pages = encoded(noise(), "TIFF", save_all=True, append_images=[noise(seed=1), noise(seed=2)])
    third_page = pages.rindex(noise(seed=1).tobytes()) + len(noise().tobytes()) + 40
    picture = open_picture(pages[:third_page])
    assert picture.rgb == noise().tobytes()
    assert picture.notes == ("only page 0 (from 0) is used, a later one is broken",)
    assert open_picture(pages[:third_page], frame=1).rgb == noise(seed=1).tobytes()
    assert refusal(pages[:third_page], frame=2)[0] == "damaged, or a rare kind of TIFF"


@pytest.mark.parametrize(("kind", "options"), WAYS)
def test_a_cut_picture_is_refused_as_truncated_or_misses_no_pixel(kind: str, options: dict[str, Any]) -> None:
    file = encoded(noise(), kind, **options)
    whole = open_picture(file)
    refused = ("truncated", cut_hint(kind))
    cuts = {*range(16, len(file), 97), *range(len(file) - 30, len(file))}
    assert [cut for cut in cuts if outcome(file[:cut]) not in (whole, refused)] == []


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (noise(34, 19, seed=10), {"quality": 98}),
        (Image.linear_gradient("L").resize((90, 70)), {"restart_marker_rows": 1}),
    ],
    ids=["noise", "restart marks"],
)
def test_a_jpeg_that_lacks_its_last_pixels_is_not_taken_for_one_without_end_mark(
    image: Image.Image, options: dict[str, Any]
) -> None:
    """These were accepted once: what stood in for the missing pixels happened to look like them."""
    file = encoded(image, "JPEG", **options)
    assert {outcome(file[:cut]) for cut in range(len(file) - 100, len(file) - 5)} == {("truncated", PARTIAL)}


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_may_lack_its_end_mark(options: dict[str, Any]) -> None:
    file = encoded(noise(), "JPEG", **options)
    whole = open_picture(file)
    assert open_picture(file[:-2]) == open_picture(file[:-1]) == whole
    assert whole.notes == ()


def test_a_progressive_jpeg_that_lacks_scans_is_truncated() -> None:
    file = encoded(noise(), "JPEG", progressive=True)
    last_scan = file.rindex(b"\xff\xda")
    assert refusal(file[:last_scan]) == ("truncated", PARTIAL)
    assert refusal(file[:last_scan] + b"\xff\xd9") == ("truncated", PARTIAL)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM"])
def test_bytes_after_the_end_do_not_matter(kind: str) -> None:
    file = encoded(noise(), kind)
    assert open_picture(file + b"\0" * 7 + b"<html>") == open_picture(file)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM"])
def test_a_truncated_picture_is_used_on_demand_and_that_is_said(kind: str) -> None:
    file = encoded(noise(), kind, interlace=0)
    half = open_picture(file[: len(file) // 2], allow_truncated=True)
    assert half.notes == ("truncated: only a part of it could be read",)
    top = -80 * 3 * 10 if kind == "BMP" else 80 * 3 * 10
    rows = slice(top, None) if kind == "BMP" else slice(0, top)
    assert half.rgb[rows] == open_picture(file).rgb[rows]


def test_a_whole_picture_is_not_called_truncated() -> None:
    assert open_picture(encoded(noise(), "JPEG"), allow_truncated=True).notes == ()


def test_what_cannot_be_used_even_on_demand_has_another_hint() -> None:
    assert refusal(encoded(noise(), "JPEG")[:100], allow_truncated=True) == ("truncated", AGAIN)


def test_the_switches_of_pillow_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12345)
    open_picture(encoded(noise(), "PNG"))
    refusal(encoded(noise(), "PNG")[:-100])
    open_picture(encoded(noise(), "PNG")[:-100], allow_truncated=True)
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == (12345, False)


def test_a_tiff_whose_pages_run_in_a_circle_ends() -> None:
    page = tiff(tiff_size(1, 1, [8], 1), b"a")
    start = struct.unpack_from("<I", page, 4)[0]
    count = struct.unpack_from("<H", page, start)[0]
    link = start + 2 + 12 * count
    circle = page[:link] + struct.pack("<I", start) + page[link + 4 :]
    assert open_picture(circle).rgb == b"aaa"


def test_as_many_pixels_as_allowed_are_not_too_many() -> None:
    limits = PictureLimits(max_pixels=80 * 60)
    assert open_picture(encoded(noise(), "PNG"), limits=limits).width == 80
    assert refusal(encoded(noise(81), "PNG"), limits=limits)[0] == "too large: 4,860 pixels (at most 4,800)"
    assert refusal(noise(81), limits=limits)[0] == "too large: 4,860 pixels (at most 4,800)"


@pytest.mark.parametrize(("step", "most"), [(2, 1200), (4, 1199), (8, 80)])
def test_a_large_jpeg_is_read_smaller(step: int, most: int) -> None:
    photo = encoded(drawings.patches(20).resize((80, 60), 0), "JPEG", quality=95)
    picture = open_picture(photo, limits=PictureLimits(max_pixels=most))
    assert (picture.width, picture.height) == (80 // step, -(-60 // step))
    assert picture.notes == (f"very large: 80 by 60 pixels, read at 1/{step} of that size",)
    assert picture.rgb[0] > 200


@pytest.mark.parametrize(("options", "most"), [({}, 70), ({"progressive": True}, 1199)])
def test_a_jpeg_that_stays_too_large_is_refused(options: dict[str, Any], most: int) -> None:
    why = f"too large: 4,800 pixels (at most {most:,})"
    assert refusal(encoded(noise(), "JPEG", **options), limits=PictureLimits(max_pixels=most)) == (why, SMALLER)


def test_what_takes_more_memory_than_allowed_is_refused_before_it_is_decoded() -> None:
    limits = PictureLimits(max_memory=26_000_000)
    assert refusal(encoded(Image.new("RGB", (400, 200)), "WEBP"), limits=limits) == (
        "too large: decoding 80,000 pixels of this WEBP takes 26 MB of memory (at most 26)", SMALLER,
    )  # fmt: skip
    clear = [Image.new("RGBA", (300, 200), colour) for colour in ("#ff000080", "#0000ff80")]
    for kind, per_pixel, frame in (("WEBP", 18, 0), ("AVIF", 12, 0), ("PNG", 14, 1)):
        file = encoded(clear[0], kind, save_all=True, append_images=clear[1:])
        exact = 25_000_000 + 60_000 * per_pixel + 2 * len(file)
        assert open_picture(file, frame=frame, limits=PictureLimits(max_memory=exact)).width == 300
        assert "takes 2" in refusal(file, frame=frame, limits=PictureLimits(max_memory=exact - 1))[0]
    assert open_picture(file, limits=limits).width == 300
    assert open_picture(encoded(clear[0], "WEBP"), limits=PictureLimits.up_to(1)).width == 300


def test_an_image_without_pixels_is_refused() -> None:
    assert refusal(Image.new("RGB", (0, 5))) == ("has no pixels", "give another picture")


def test_an_image_of_the_caller_is_left_as_it_was() -> None:
    image = Image.open(io.BytesIO(encoded(drawings.patches(), "JPEG", exif=drawings.exif(6), quality=95)))
    assert (open_picture(image).width, image.size, image.getexif()[0x112]) == (32, (48, 32), 6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_pixels_of_the_caller_are_left_as_they_were(mode: str) -> None:
    image = noise().convert(mode)
    image.putpixel((0, 0), (1, 2, 3, 0)[: len(mode)])
    image.info = {"icc_profile": drawings.icc_display_p3(), **({"transparency": (1, 2, 3)} if mode == "RGB" else {})}
    before = image.tobytes()
    picture = open_picture(image)
    assert (before, b"\xff\xff\xff") == (image.tobytes(), picture.rgb[:3])
    del image.info["icc_profile"]
    assert picture.rgb != open_picture(image).rgb
    assert before == image.tobytes()


def test_heic_without_its_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    expected = ("HEIC pictures need an extra package", "pip install 'llava-cli[heic]'")
    assert refusal(drawings.heif_box(b"heic", b"mif1")) == expected
    assert refusal(drawings.heif_box(b"mif1", b"heic")) == expected


def test_a_pillow_without_avif_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.features.check", lambda name: name != "avif")
    assert refusal(encoded(noise(), "AVIF")) == (
        "the installed Pillow cannot read AVIF",
        "pip install --upgrade pillow",
    )


def test_odd_files_make_no_noise(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        whole = encoded(noise(), "TIFF", compression="jpeg")
        for file in (
            *(whole[:cut] for cut in range(len(whole) - 100, len(whole), 9)),
            encoded(noise(), "JPEG", exif=drawings.exif(6)[:20]),
            drawings.huge_png(9_400, 9_400),
            encoded(noise(), "MPO", save_all=True, append_images=[noise()]).replace(b"MPF\0II", b"MPF\0XX"),
        ):
            with contextlib.suppress(UnreadablePicture):
                open_picture(file)
    assert capfd.readouterr() == ("", "")
    os.write(2, b"stderr is back")
    assert capfd.readouterr().err == "stderr is back"


def test_the_log_of_pillow_stays_empty(tmp_path: Path) -> None:
    """In a process of its own: pytest listens to every log."""
    path = tmp_path / "many_samples.tiff"
    path.write_bytes(tiff(tiff_size(1, 1, [8] * 60, 1), b"a"))
    code = "import sys, llava_cli.pictures as p\ntry: p.open_picture(sys.argv[1])\nexcept Exception as e: print(e.why)"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("damaged, or a rare kind of TIFF\n", "")


def test_pictures_are_decoded_rightly_from_several_threads() -> None:
    file = encoded(noise(), "PNG")

    def opened(number: int) -> bool:
        if number % 2:
            return refusal(file[:-3000]) == ("truncated", PARTIAL)
        return open_picture(file[:-3000], allow_truncated=True).notes != ()

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(opened, range(40)))
