"""Files that are opened although they are odd, with the pixels a person sees: moved, hidden, scaled or coloured."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from tests import colour_oracle as oracle
from tests import drawings
from tests.drawings import Levels, chunk, encoded, png, tiff, tiff_size

Seen = tuple[str, bytes, Levels, int]
"""What is odd, the file, the levels that are seen (rows, columns, 3), and by how many they may differ."""

WHITE, GREY, BLACK, RED = (255, 255, 255), (127, 127, 127), (0, 0, 0), (255, 0, 0)
_KEY = b"tRNS"
_PALETTE = chunk(b"PLTE", bytes((*RED, *BLACK, 0, 255, 0)))

_PIXELS = [
    ([BLACK, WHITE], png(2, 1, 1, 0, b"\x40"), "1 bit"),
    ([BLACK, (85,) * 3, (170,) * 3, WHITE], png(4, 1, 2, 0, b"\x1b"), "2 bits"),
    ([(17,) * 3, (238,) * 3], png(2, 1, 4, 0, b"\x1e"), "4 bits"),
    ([(7,) * 3, (200,) * 3], png(2, 1, 8, 0, bytes((7, 200))), "8 bits"),
    ([WHITE, GREY, (9,) * 3], png(3, 1, 8, 4, bytes((0, 0, 0, 128, 9, 255))), "grey and alpha"),
    ([WHITE, (255, 127, 127)], png(2, 1, 8, 6, bytes((9, 9, 9, 0, *RED, 128))), "colour and alpha"),
    ([RED, (0, 255, 0)], png(2, 1, 8, 3, b"\0\2", _PALETTE), "palette"),
    (
        [WHITE, GREY, (0, 255, 0)],
        png(3, 1, 8, 3, b"\0\1\2", _PALETTE, chunk(_KEY, bytes((0, 128)))),
        "palette with alpha",
    ),
    ([WHITE, BLACK], png(2, 1, 8, 3, b"\0\1", _PALETTE, chunk(_KEY, b"\0")), "palette with a hidden colour"),
    ([WHITE, BLACK], png(2, 1, 1, 0, b"\x80", chunk(_KEY, b"\0\1")), "1 bit with a hidden level"),
    (
        [BLACK, WHITE, (170,) * 3],
        png(3, 1, 2, 0, b"\x18", chunk(_KEY, b"\0\1")),
        "2 bits with a hidden level",
    ),
    ([WHITE, (34,) * 3], png(2, 1, 4, 0, b"\x12", chunk(_KEY, b"\0\1")), "4 bits with a hidden level"),
    ([WHITE, (8,) * 3], png(2, 1, 8, 0, b"\7\x08", chunk(_KEY, b"\0\7")), "8 bits with a hidden level"),
    (
        [WHITE, (1, 2, 4)],
        png(2, 1, 8, 2, bytes((1, 2, 3, 1, 2, 4)), chunk(_KEY, bytes((0, 1, 0, 2, 0, 3)))),
        "RGB with a hidden colour",
    ),
    (
        [WHITE, (2,) * 3],
        png(2, 1, 16, 0, struct.pack(">2H", 513, 514), chunk(_KEY, struct.pack(">H", 513))),
        "16 bits with a hidden level",
    ),
    (
        [WHITE, (3, 2, 1)],
        png(
            2,
            1,
            16,
            2,
            struct.pack(">6H", 256, 512, 768, 768, 512, 256),
            chunk(_KEY, struct.pack(">3H", 256, 512, 768)),
        ),
        "16-bit RGB with a hidden colour",
    ),
    ([(1, 128, 255), BLACK], png(2, 1, 16, 2, struct.pack(">6H", 257, 32896, 65535, 0, 0, 0)), "16-bit RGB"),
    ([WHITE, RED], png(2, 1, 16, 6, struct.pack(">8H", 9, 9, 9, 0, 65535, 0, 0, 65535)), "16-bit RGBA"),
    ([(77,) * 3], png(1, 1, 16, 4, struct.pack(">2H", 77 * 257, 65535)), "16-bit grey and alpha"),
    ([BLACK, (2,) * 3, WHITE], b"P5 3 1 65535\n" + struct.pack(">3H", 0, 514, 65535), "16-bit PGM"),
    ([BLACK, (1,) * 3], b"P5 2 1 65535\n" + struct.pack(">2H", 0, 200), "dark 16-bit PGM"),
    ([BLACK, (128,) * 3, WHITE], b"P5 3 1 100\n" + bytes((0, 50, 100)), "PGM up to 100"),
    ([(1, 2, 3)], b"P3 # a remark\n1 1 255\n1 2 3\n", "PPM in digits"),
    ([WHITE, BLACK], b"P4 2 1\n\x40", "PBM"),
    ([BLACK, (64,) * 3, WHITE], b"Pf\n3 1\n-1.0\n" + struct.pack("<3f", 0, 0.25, 1), "PFM"),
    ([RED, BLACK], tiff(tiff_size(2, 1, [8] * 4, 5), bytes((0, 255, 255, 0, 0, 0, 0, 255))), "CMYK"),
    ([(254, 255, 254), (1, 0, 1)], tiff(tiff_size(2, 1, [8] * 3, 8), bytes((255, 0, 0, 0, 0, 0))), "LAB"),
    (
        [WHITE, (100, 50, 0)],
        tiff([*tiff_size(2, 1, [8] * 4, 2), (338, 3, [2])], bytes((1, 2, 3, 0, 100, 50, 0, 255))),
        "RGBA TIFF",
    ),
    (
        [WHITE, (227, 177, 127)],
        tiff([*tiff_size(2, 1, [8] * 4, 2), (338, 3, [1])], bytes((0, 0, 0, 0, 100, 50, 0, 128))),
        "RGBA TIFF with colours multiplied by alpha",
    ),
    (
        [BLACK, (128,) * 3, WHITE],
        tiff([*tiff_size(3, 1, [32], 1), (339, 3, [3])], struct.pack("<3f", -10, 0, 10)),
        "floating point of any range",
    ),
    (
        [BLACK, BLACK, WHITE, WHITE],
        tiff([*tiff_size(4, 1, [32], 1), (339, 3, [3])], struct.pack("<4f", float("nan"), 0, 1, 1)),
        "floating point with gaps",
    ),
    (
        [(9,) * 3, (200,) * 3],
        tiff([*tiff_size(2, 1, [32], 1), (339, 3, [2])], struct.pack("<2i", 9, 200)),
        "32-bit integers that are levels",
    ),
    ([(1, 2, 3), (4, 5, 6)], drawings.bmp_with_alpha([(1, 2, 3, 0), (4, 5, 6, 0)]), "unused alpha"),
    ([WHITE, (4, 5, 6)], drawings.bmp_with_alpha([(1, 2, 3, 0), (4, 5, 6, 255)]), "used alpha"),
]
"""What one row of pixels is seen as, the file, and its kind."""

_BOMB = zlib.compress(b"\0" * 3_000_000)
_REMARKS = [
    chunk(b"zTXt", b"Prompt\0\0" + _BOMB),
    chunk(b"iTXt", b"Prompt\0\1\0\0\0" + _BOMB),
    chunk(b"iCCP", b"profile\0\0" + _BOMB),
    chunk(b"tEXt", b"Title\0cat", crc=0),
    chunk(b"pHYs", b""),
    chunk(b"acTL", b"\0" * 3),
]
"""Chunks of a PNG that are a bomb or broken, and have nothing to do with its pixels."""


def pixels() -> Iterator[Seen]:
    """Show every kind of pixel in a row."""
    for expected, file, name in _PIXELS:
        yield name, file, np.array([expected], np.uint8), 0
    for place, remark in enumerate(_REMARKS):
        yield f"remark {place}", png(2, 1, 8, 2, b"abcdef", remark), np.array([[(97, 98, 99), (100, 101, 102)]]), 0


LOSSLESS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
]
_LOSSY: list[tuple[str, dict[str, Any]]] = [
    (kind, {"quality": 95, "subsampling": "4:4:4"}) for kind in ("JPEG", "MPO", "AVIF")
]


def orientations() -> Iterator[Seen]:
    """Store the same picture in the eight ways of EXIF, each in seven formats."""
    upright = np.asarray(drawings.patches())
    for off_by, ways in ((0, LOSSLESS), (15, _LOSSY)):
        for kind, options in ways:
            for orientation in range(1, 9):
                stored = drawings.as_stored(drawings.patches(), orientation)
                file = encoded(stored, kind, exif=drawings.exif(orientation), **options)
                yield f"{kind} {' '.join(map(str, options.values()))} {orientation}", file, upright, off_by


_BROKEN_EXIF = [
    drawings.exif(0),
    drawings.exif(9),
    drawings.exif(65535),
    b"Exif\0\0nonsense",
    b"Exif\0\0MM\0*\xff\xff\xff\xff",
    drawings.exif(6)[:20],
    drawings.exif(1)[:-10] + b"\xff" * 40,
    drawings.exif(1) + b"\0" * 60_000,
]


def broken_exif() -> Iterator[Seen]:
    upright = np.asarray(drawings.patches())
    for place, exif in enumerate(_BROKEN_EXIF):
        for off_by, kind, options in ((15, *_LOSSY[0]), (0, *LOSSLESS[0]), (0, *LOSSLESS[1])):
            yield f"{kind} {place}", encoded(drawings.patches(), kind, exif=exif, **options), upright, off_by


# All levels, drawn at random, against the formulas.

_HEIGHT, _WIDTH = 16, 32


def _drawn(seed: int, channels: int, top: int) -> Levels:
    return np.random.default_rng(seed).integers(0, top + 1, (_HEIGHT, _WIDTH, channels))


def _png(levels: Levels, bits: int, colour_type: int, *chunks: bytes) -> bytes:
    return png(
        levels.shape[1],
        levels.shape[0],
        bits,
        colour_type,
        levels.astype(">u2" if bits == 16 else "u1").tobytes(),
        *chunks,
    )


def _tiff(levels: Levels, bits: int, photometric: int, *, order: str = "<") -> bytes:
    stored = levels.astype(f"{order}u{bits // 8}").tobytes()
    size = tiff_size(levels.shape[1], levels.shape[0], [bits] * levels.shape[2], photometric)
    return tiff(size, stored, order=order)


def deep() -> Iterator[Seen]:
    """Store 16 bits a level. What Pillow cuts to 8 bits before anybody sees it may be a level darker."""
    grey, colour, clear = _drawn(1, 1, 65535), _drawn(2, 3, 65535), _drawn(3, 1, 65535)
    seen, colours = oracle.grey(grey[..., 0] / 65535), oracle.eight_bits(colour / 65535)
    faded = oracle.on_white(grey / 65535, clear[..., 0] / 65535).repeat(3, -1)
    tinted = oracle.on_white(colour / 65535, clear[..., 0] / 65535)
    every = np.arange(65536).reshape(256, 256, 1)
    each = oracle.grey(every[..., 0] / 65535)
    yield "PNG grey", _png(every, 16, 0), each, 0
    yield "PNG colour", _png(colour, 16, 2), colours, 1
    yield "PNG grey and alpha", _png(np.concatenate((grey, clear), -1), 16, 4), faded, 2
    yield "PNG colour and alpha", _png(np.concatenate((colour, clear), -1), 16, 6), tinted, 2
    for order in "<>":
        yield f"TIFF grey {order}", _tiff(every, 16, 1, order=order), each, 0
        yield f"TIFF colour {order}", _tiff(colour, 16, 2, order=order), colours, 1
    yield "TIFF white is zero", _tiff(65535 - grey, 16, 0), seen, 0
    yield "PGM", b"P5 %d %d 65535\n" % (_WIDTH, _HEIGHT) + grey.astype(">u2").tobytes(), seen, 0
    yield "PPM", b"P6 %d %d 65535\n" % (_WIDTH, _HEIGHT) + colour.astype(">u2").tobytes(), colours, 1
    share = colour[..., :1].astype("<f4") / 65535
    floats = b"Pf\n%d %d\n-1.0\n" % (_WIDTH, _HEIGHT) + share[::-1].tobytes()
    yield "PFM", floats, oracle.grey(share[..., 0]), 0
    negative = tiff([*tiff_size(_WIDTH, _HEIGHT, [32], 0), (339, 3, [3])], share.tobytes())
    yield "TIFF of floats, white is zero", negative, oracle.grey(1 - share[..., 0]), 1
    few = _drawn(4, 1, 4095)
    packed = np.stack((few[:, ::2] >> 4, (few[:, ::2] & 15) << 4 | few[:, 1::2] >> 8, few[:, 1::2] & 255), -1)
    twelve = tiff(tiff_size(_WIDTH, _HEIGHT, [12], 1), packed.astype(np.uint8).tobytes())
    yield "TIFF 12 bits", twelve, oracle.grey(few[..., 0] / 4095), 0


def transparent() -> Iterator[Seen]:
    """Store alpha in every format that has it."""
    rgba = _drawn(5, 4, 255).astype(np.uint8)
    seen = oracle.on_white(rgba[..., :3] / 255, rgba[..., 3] / 255)
    grey = oracle.on_white(rgba[..., :1] / 255, rgba[..., 3] / 255).repeat(3, -1)
    image = Image.fromarray(rgba)
    yield "PNG", encoded(image, "PNG"), seen, 1
    yield "WEBP", encoded(image, "WEBP", lossless=True, exact=True), seen, 1
    yield "TIFF", encoded(image, "TIFF"), seen, 1
    yield "PNG grey", _png(rgba[..., [0, 3]], 8, 4), grey, 1
    index, table = _drawn(6, 1, 255), np.random.default_rng(7).integers(0, 256, (256, 4)).astype(np.uint8)
    palette = chunk(b"PLTE", table[:, :3].tobytes()), chunk(_KEY, table[:, 3].tobytes())
    shown = table[index[..., 0]]
    yield "PNG palette", _png(index, 8, 3, *palette), oracle.on_white(shown[..., :3] / 255, shown[..., 3] / 255), 1
    yield "PNG palette without", _png(index, 8, 3, palette[0]), shown[..., :3], 0
    for kind in ("GIF", "TIFF", "BMP"):
        image = Image.fromarray(index[..., 0].astype(np.uint8), "P")
        image.putpalette(table[:, :3].tobytes())
        yield f"{kind} palette", encoded(image, kind), shown[..., :3], 0
    hidden = np.where(index == 7, 255, shown[..., :3])
    image = Image.fromarray(index[..., 0].astype(np.uint8), "P")
    image.putpalette(table[:, :3].tobytes())
    yield "GIF with a hidden colour", encoded(image, "GIF", transparency=7), hidden, 0


def inked() -> Iterator[Seen]:
    """Store inks, luma and chroma, and Lab."""
    inks = _drawn(8, 4, 255)
    yield "CMYK TIFF", _tiff(inks, 8, 5), oracle.inks(inks / 255), 1
    flat = (inks[::8, ::8] // 8 * 8).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    sheet = Image.fromarray(flat, "CMYK")
    yield "CMYK JPEG", encoded(sheet, "JPEG", quality=100), oracle.inks(flat / 255), 4
    ycc = np.stack((_drawn(9, 1, 255), _drawn(10, 1, 255), _drawn(11, 1, 255)), -1)[..., 0, :]
    flat = ycc[::8, ::8].repeat(8, 0).repeat(8, 1).astype(np.uint8)
    photo = encoded(Image.fromarray(flat, "YCbCr"), "JPEG", quality=100, subsampling="4:4:4")
    yield "JPEG", photo, oracle.from_ycc(*np.moveaxis(flat.astype(float), -1, 0)), 3
    white = _drawn(12, 1, 255)
    yield "TIFF white is zero", _tiff(255 - white, 8, 0), oracle.grey(white[..., 0] / 255), 0
    lab = np.concatenate((_drawn(13, 1, 110) + 80, _drawn(14, 2, 20) - 10), -1)
    stored = np.where(lab < 0, lab + 256, lab)
    yield "LAB TIFF", _tiff(stored, 8, 8), oracle.from_lab(lab * (100 / 255, 1, 1)), 2


def profiled() -> Iterator[Seen]:
    """Store levels that mean other colours than those of sRGB."""
    rgb = _drawn(15, 3, 255).astype(np.uint8)
    share, image = rgb / 255, Image.fromarray(rgb)
    p3 = oracle.from_primaries(oracle.gamma_decoded(share), drawings.DISPLAY_P3)
    adobe = oracle.from_primaries(share ** (563 / 256), drawings.ADOBE_RGB)
    linear = oracle.eight_bits(oracle.gamma_encoded(share))
    for kind, options in (*LOSSLESS[:3], ("JPEG", {"quality": 100, "subsampling": "4:4:4"})):
        if kind != "JPEG":
            yield f"{kind} P3", encoded(image, kind, icc_profile=drawings.icc_display_p3(), **options), p3, 2
        flat = Image.fromarray(rgb[::8, ::8].repeat(8, 0).repeat(8, 1))
        seen = adobe[::8, ::8].repeat(8, 0).repeat(8, 1)
        yield f"{kind} Adobe RGB", encoded(flat, kind, icc_profile=drawings.icc_adobe_rgb(), **options), seen, 4
    yield "linear", encoded(image, "PNG", icc_profile=drawings.icc_linear_rgb()), linear, 2
    grey = oracle.grey(oracle.gamma_encoded(share[..., 0]))
    levels = Image.fromarray(rgb[..., 0])
    yield "linear grey", encoded(levels, "PNG", icc_profile=drawings.icc_linear_grey()), grey, 2
    swapped = rgb[..., [1, 0, 2]]
    yield "swapped", encoded(image, "PNG", icc_profile=drawings.icc_with_red_and_green_swapped()), swapped, 1
    for name, profile in (("nonsense", b"nonsense"), ("cut", drawings.icc_display_p3()[:200]),
                          ("for grey", drawings.icc_linear_grey()), ("for ink", drawings.icc_only_black_ink_shows()),
                          ("nearly sRGB", drawings.icc_srgb_rounded_otherwise())):  # fmt: skip
        yield f"profile {name}", encoded(image, "PNG", icc_profile=profile), rgb, 0


def animated() -> Iterator[Seen]:
    """Store several frames or pages; the first is seen."""
    first, second = drawings.noise(), drawings.noise(seed=1)
    for kind in ("PNG", "TIFF"):
        yield kind, encoded(first, kind, save_all=True, append_images=[second]), np.asarray(first), 0
    film = encoded(first, "WEBP", save_all=True, append_images=[second], lossless=True)
    yield "WEBP", film, np.asarray(first), 0
    palette = first.quantize(64)
    yield "GIF", drawings.gif([palette, palette.rotate(180)]), np.asarray(palette.convert("RGB")), 0
    black = np.zeros((1, 1, 3))
    for count in (10_000, 100_000):
        yield f"GIF of {count}", drawings.gif_of_frames(count), black, 0
    yield "TIFF of 100000", drawings.tiff_of_pages(100_000), black, 0


def many_values() -> Iterator[Seen]:
    """Store a pixel beside a tag of millions of values."""
    file = tiff([*tiff_size(1, 1, [8], 1), (254, 3, [0] * 5)], b"a")
    before, after = file.split(struct.pack("<HHI", 254, 3, 5))
    grown = before + struct.pack("<HHII", 254, 3, 15_000_000, len(file)) + after[4:]
    yield "TIFF", grown + b"\1\2" * 15_000_000, np.full((1, 1, 3), 97), 0


def shapes() -> Iterator[Seen]:
    for size in ((1, 1), (65_500, 1), (1, 65_500)):
        sheet = Image.new("RGB", size, "red")
        yield f"{size[0]} by {size[1]}", encoded(sheet, "PNG"), np.asarray(sheet), 0
