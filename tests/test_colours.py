"""Facts about colours: whatever a file stores, llava sees what a person sees on white paper."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llava_cli.pictures import open_picture
from tests import drawings
from tests.drawings import chunk, encoded, noise, png, tiff, tiff_size

RGB = tuple[int, int, int]
WHITE, GREY, BLACK, RED = (255, 255, 255), (127, 127, 127), (0, 0, 0), (255, 0, 0)


def seen(source: bytes | Image.Image, **options: Any) -> list[RGB]:
    """List the pixels of a picture, row by row."""
    rgb = open_picture(source, **options).rgb
    return list(zip(rgb[::3], rgb[1::3], rgb[2::3], strict=True))


KEY = b"tRNS"
PALETTE = chunk(b"PLTE", bytes((*RED, *BLACK, 0, 255, 0)))


@pytest.mark.parametrize(
    ("expected", "file"),
    [
        pytest.param([BLACK, WHITE], png(2, 1, 1, 0, b"\x40"), id="1 bit"),
        pytest.param([BLACK, (85,) * 3, (170,) * 3, WHITE], png(4, 1, 2, 0, b"\x1b"), id="2 bits"),
        pytest.param([(17,) * 3, (238,) * 3], png(2, 1, 4, 0, b"\x1e"), id="4 bits"),
        pytest.param([(7,) * 3, (200,) * 3], png(2, 1, 8, 0, bytes((7, 200))), id="8 bits"),
        pytest.param([WHITE, GREY, (9,) * 3], png(3, 1, 8, 4, bytes((0, 0, 0, 128, 9, 255))), id="grey and alpha"),
        pytest.param([WHITE, (255, 127, 127)], png(2, 1, 8, 6, bytes((9, 9, 9, 0, *RED, 128))), id="colour and alpha"),
        pytest.param([RED, (0, 255, 0)], png(2, 1, 8, 3, b"\0\2", PALETTE), id="palette"),
        pytest.param(
            [WHITE, GREY, (0, 255, 0)],
            png(3, 1, 8, 3, b"\0\1\2", PALETTE, chunk(KEY, bytes((0, 128)))),
            id="palette with alpha",
        ),
        pytest.param(
            [WHITE, BLACK], png(2, 1, 8, 3, b"\0\1", PALETTE, chunk(KEY, b"\0")), id="palette with a hidden colour"
        ),
        pytest.param([WHITE, BLACK], png(2, 1, 1, 0, b"\x80", chunk(KEY, b"\0\1")), id="1 bit with a hidden level"),
        pytest.param(
            [BLACK, WHITE, (170,) * 3],
            png(3, 1, 2, 0, b"\x18", chunk(KEY, b"\0\1")),
            id="2 bits with a hidden level",
        ),
        pytest.param(
            [WHITE, (34,) * 3], png(2, 1, 4, 0, b"\x12", chunk(KEY, b"\0\1")), id="4 bits with a hidden level"
        ),
        pytest.param(
            [WHITE, (8,) * 3], png(2, 1, 8, 0, b"\7\x08", chunk(KEY, b"\0\7")), id="8 bits with a hidden level"
        ),
        pytest.param(
            [WHITE, (1, 2, 4)],
            png(2, 1, 8, 2, bytes((1, 2, 3, 1, 2, 4)), chunk(KEY, bytes((0, 1, 0, 2, 0, 3)))),
            id="RGB with a hidden colour",
        ),
        pytest.param(
            [WHITE, (2,) * 3],
            png(2, 1, 16, 0, struct.pack(">2H", 513, 514), chunk(KEY, struct.pack(">H", 513))),
            id="16 bits with a hidden level",
        ),
        pytest.param(
            [WHITE, (3, 2, 1)],
            png(
                2,
                1,
                16,
                2,
                struct.pack(">6H", 256, 512, 768, 768, 512, 256),
                chunk(KEY, struct.pack(">3H", 256, 512, 768)),
            ),
            id="16-bit RGB with a hidden colour",
        ),
        pytest.param(
            [(1, 128, 255), BLACK], png(2, 1, 16, 2, struct.pack(">6H", 257, 32896, 65535, 0, 0, 0)), id="16-bit RGB"
        ),
        pytest.param(
            [WHITE, RED], png(2, 1, 16, 6, struct.pack(">8H", 9, 9, 9, 0, 65535, 0, 0, 65535)), id="16-bit RGBA"
        ),
        pytest.param([(77,) * 3], png(1, 1, 16, 4, struct.pack(">2H", 77 * 257, 65535)), id="16-bit grey and alpha"),
        pytest.param([BLACK, (2,) * 3, WHITE], b"P5 3 1 65535\n" + struct.pack(">3H", 0, 514, 65535), id="16-bit PGM"),
        pytest.param([BLACK, (1,) * 3], b"P5 2 1 65535\n" + struct.pack(">2H", 0, 200), id="dark 16-bit PGM"),
        pytest.param([BLACK, (128,) * 3, WHITE], b"P5 3 1 100\n" + bytes((0, 50, 100)), id="PGM up to 100"),
        pytest.param([(1, 2, 3)], b"P3 # a remark\n1 1 255\n1 2 3\n", id="PPM in digits"),
        pytest.param([WHITE, BLACK], b"P4 2 1\n\x40", id="PBM"),
        pytest.param([BLACK, (64,) * 3, WHITE], b"Pf\n3 1\n-1.0\n" + struct.pack("<3f", 0, 0.25, 1), id="PFM"),
        pytest.param([RED, BLACK], tiff(tiff_size(2, 1, [8] * 4, 5), bytes((0, 255, 255, 0, 0, 0, 0, 255))), id="CMYK"),
        pytest.param(
            [(254, 255, 254), (1, 0, 1)], tiff(tiff_size(2, 1, [8] * 3, 8), bytes((255, 0, 0, 0, 0, 0))), id="LAB"
        ),
        pytest.param(
            [WHITE, (100, 50, 0)],
            tiff([*tiff_size(2, 1, [8] * 4, 2), (338, 3, [2])], bytes((1, 2, 3, 0, 100, 50, 0, 255))),
            id="RGBA TIFF",
        ),
        pytest.param(
            [WHITE, (227, 177, 127)],
            tiff([*tiff_size(2, 1, [8] * 4, 2), (338, 3, [1])], bytes((0, 0, 0, 0, 100, 50, 0, 128))),
            id="RGBA TIFF with colours multiplied by alpha",
        ),
        pytest.param(
            [BLACK, (128,) * 3, WHITE],
            tiff([*tiff_size(3, 1, [32], 1), (339, 3, [3])], struct.pack("<3f", -10, 0, 10)),
            id="floating point of any range",
        ),
        pytest.param(
            [BLACK, BLACK, WHITE, WHITE],
            tiff([*tiff_size(4, 1, [32], 1), (339, 3, [3])], struct.pack("<4f", float("nan"), 0, 1, 1)),
            id="floating point with gaps",
        ),
        pytest.param(
            [(9,) * 3, (200,) * 3],
            tiff([*tiff_size(2, 1, [32], 1), (339, 3, [2])], struct.pack("<2i", 9, 200)),
            id="32-bit integers that are levels",
        ),
        pytest.param([(1, 2, 3), (4, 5, 6)], drawings.bmp_with_alpha([(1, 2, 3, 0), (4, 5, 6, 0)]), id="unused alpha"),
        pytest.param([WHITE, (4, 5, 6)], drawings.bmp_with_alpha([(1, 2, 3, 0), (4, 5, 6, 255)]), id="used alpha"),
    ],
)
def test_every_kind_of_pixel_is_seen_as_on_white_paper(expected: list[RGB], file: bytes) -> None:
    assert seen(file) == expected


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_grey_is_scaled_and_not_clipped(order: str) -> None:
    levels = np.arange(65536)
    stored = levels.astype(f"{order}u2").tobytes()
    expected = np.round(levels / 257).astype(np.uint8).repeat(3).tobytes()
    assert open_picture(tiff(tiff_size(256, 256, [16], 1), stored, order=order)).rgb == expected
    assert open_picture(png(256, 256, 16, 0, levels.astype(">u2").tobytes())).rgb == expected


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


def test_the_cmyk_jpeg_that_adobe_inverts_is_not_a_negative() -> None:
    sheet = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert set(seen(encoded(sheet, "JPEG", quality=100))) == {RED}


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


@pytest.mark.parametrize(
    "profile",
    [
        b"nonsense",
        drawings.icc_display_p3()[:200],
        drawings.icc_linear_grey(),
        drawings.icc_only_black_ink_shows(),
    ],
    ids=["nonsense", "cut", "for grey", "for ink"],
)
def test_a_profile_that_is_broken_or_for_other_pixels_is_ignored(profile: bytes) -> None:
    image = Image.new("RGB", (1, 1), (10, 200, 30))
    assert seen(encoded(image, "TIFF", icc_profile=profile)) == [(10, 200, 30)]


def test_a_profile_that_is_nearly_srgb_changes_no_bit() -> None:
    file = encoded(noise(), "PNG", icc_profile=drawings.icc_srgb_rounded_otherwise())
    assert open_picture(file).rgb == noise().tobytes()


def test_a_picture_of_nothing_but_transparency_is_said_to_be_white() -> None:
    picture = open_picture(Image.new("RGBA", (2, 2), (200, 100, 50, 0)))
    assert (picture.rgb, picture.notes) == (b"\xff" * 12, ("wholly transparent: seen as plain white",))
