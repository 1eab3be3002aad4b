"""Facts about colours: whatever a file stores, llava sees what a person sees on white paper."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from llava_cli.pictures import open_picture
from tests import drawings
from tests.drawings import encoded

RGB = tuple[int, int, int]
WHITE, GREY, BLACK, RED = (255, 255, 255), (127, 127, 127), (0, 0, 0), (255, 0, 0)


def seen(source: bytes | Image.Image, **options: Any) -> list[RGB]:
    """List the pixels of a picture, row by row."""
    rgb = open_picture(source, **options).rgb
    return list(zip(rgb[::3], rgb[1::3], rgb[2::3], strict=True))


@pytest.mark.parametrize(
    ("expected", "image"),
    [
        (GREY, Image.new("LA", (1, 1), (0, 128))),
        (GREY, Image.new("La", (1, 1), (0, 128))),
        (WHITE, Image.new("La", (1, 1), (0, 0))),
        (GREY, Image.new("RGBa", (1, 1), (0, 0, 0, 128))),
        (WHITE, Image.new("PA", (1, 1))),
        (RED, Image.new("RGBX", (1, 1), (255, 0, 0, 0))),
        (RED, Image.new("CMYK", (1, 1), (0, 255, 255, 0))),
        (BLACK, Image.new("CMYK", (1, 1), (0, 0, 0, 255))),
        ((119,) * 3, Image.new("YCbCr", (1, 1), (119, 128, 128))),
        (RED, Image.new("HSV", (1, 1), (0, 255, 255))),
        ((2,) * 3, Image.new("I;16", (1, 1), 514)),
        ((200,) * 3, Image.new("I", (1, 1), 200)),
        ((2,) * 3, Image.new("I", (1, 1), 514)),
        ((128,) * 3, Image.new("F", (1, 1), 0.5)),
        ((200,) * 3, Image.new("F", (1, 1), 200.0)),
        (BLACK, Image.new("F", (1, 1), float("nan"))),
    ],
    ids=lambda value: f"{value.mode} {value.getpixel((0, 0))}" if isinstance(value, Image.Image) else "",
)
def test_an_image_that_pillow_holds_is_seen_alike(expected: RGB, image: Image.Image) -> None:
    assert seen(image) == [expected]


@pytest.mark.parametrize(
    ("expected", "image", "profile"),
    [
        ((200, 10, 30), Image.new("RGB", (1, 1), (10, 200, 30)), drawings.icc_with_red_and_green_swapped()),
        ((200, 10, 30), Image.new("RGBA", (1, 1), (10, 200, 30, 255)), drawings.icc_with_red_and_green_swapped()),
        ((200, 10, 30), Image.new("RGB", (1, 1), (10, 200, 30)).quantize(), drawings.icc_with_red_and_green_swapped()),
        ((255, 0, 0), Image.new("RGB", (1, 1), (234, 51, 35)), drawings.icc_display_p3()),
        ((188, 188, 188), Image.new("L", (1, 1), 128), drawings.icc_linear_grey()),
        ((221, 221, 221), Image.new("LA", (1, 1), (128, 128)), drawings.icc_linear_grey()),
        ((188, 188, 188), Image.new("L", (1, 1), 128), drawings.icc_linear_rgb()),
    ],
)
def test_a_colour_profile_is_obeyed(expected: RGB, image: Image.Image, profile: bytes) -> None:
    assert seen(encoded(image, "PNG", icc_profile=profile)) == [expected]


def test_the_profile_of_a_printer_is_obeyed() -> None:
    sheet = Image.new("CMYK", (2, 1), (255, 255, 0, 0))
    sheet.putpixel((1, 0), (0, 0, 0, 255))
    assert seen(encoded(sheet, "TIFF", icc_profile=drawings.icc_only_black_ink_shows())) == [WHITE, BLACK]
    enlarged = encoded(sheet.resize((32, 16), 0), "JPEG", quality=100, icc_profile=drawings.icc_only_black_ink_shows())
    assert set(seen(enlarged)) == {WHITE, BLACK}


def test_a_picture_of_nothing_but_transparency_is_said_to_be_white() -> None:
    picture = open_picture(Image.new("RGBA", (2, 2), (200, 100, 50, 0)))
    assert (picture.rgb, picture.notes) == (b"\xff" * 12, ("wholly transparent: seen as plain white",))
