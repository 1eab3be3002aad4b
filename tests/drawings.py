"""Draw odd pictures as files in memory: what cameras, scanners, browsers and broken downloads leave behind."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Levels = NDArray[Any]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode a copy; Pillow leaves settings of one format on an image, which trip the next."""
    file = io.BytesIO()
    image.copy().save(file, kind, **options)
    return file.getvalue()


def patches(size: int = 16) -> Image.Image:
    """Draw three by two squares of six colours, so that no turn or mirroring looks like another."""
    colours = [[(255, 0, 0), (0, 255, 0), (0, 0, 255)], [(0, 0, 0), (255, 255, 255), (255, 255, 0)]]
    return Image.fromarray(np.array(colours, np.uint8).repeat(size, 0).repeat(size, 1))


def noise(width: int = 80, height: int = 60, seed: int = 0) -> Image.Image:
    """Draw noise, in which every missing byte shows."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def as_stored(upright: Image.Image, orientation: int) -> Image.Image:
    """Store an image as a camera does that notes this EXIF orientation: where its first row and column are seen."""
    seen = np.asarray(upright)
    if orientation > 4:
        seen = seen.swapaxes(0, 1)
    row_is_last = orientation in (3, 4, 6, 7)  # bottom, bottom, right, right
    column_is_last = orientation in (2, 3, 7, 8)  # right, right, bottom, bottom
    return Image.fromarray(np.ascontiguousarray(seen[:: -1 if row_is_last else 1, :: -1 if column_is_last else 1]))


def exif(orientation: int) -> bytes:
    """Write EXIF that holds nothing but an orientation."""
    return b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)


def chunk(name: bytes, body: bytes, *, crc: int | None = None) -> bytes:
    """Write one chunk of a PNG."""
    right = zlib.crc32(name + body)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", right if crc is None else crc)


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes, *chunks: bytes) -> bytes:
    """Write a PNG of `rows` as they are stored, without filter bytes, with `chunks` before the pixels."""
    length = len(rows) // height
    filtered = b"".join(b"\0" + rows[row * length : (row + 1) * length] for row in range(height))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(filtered))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def huge_png(width: int, height: int) -> bytes:
    """Write a PNG of a kilobyte that claims to be enormous."""
    return png(width, height, 1, 0, b"").replace(chunk(b"IDAT", zlib.compress(b"")), chunk(b"IDAT", b"x" * 1000))


def tiff(
    tags: list[tuple[int, int, list[int]]], pixels: bytes, *, order: str = "<", claimed: int | None = None
) -> bytes:
    """Write a one-page TIFF from (tag, 3 for short or 4 for long, values); its strip may claim to be longer."""
    tags = sorted([*tags, (273, 4, [8]), (279, 4, [claimed or len(pixels)])])
    start = 8 + len(pixels) + len(pixels) % 2
    behind = start + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, kind, numbers in tags:
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            where = struct.pack(order + "I", behind + len(values))
            values += packed
        else:
            where = packed.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, kind, len(numbers)) + where
    magic = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(order + "H", len(tags)) + entries + b"\0\0\0\0"
    return magic + struct.pack(order + "I", start) + pixels.ljust(start - 8, b"\0") + directory + values


def tiff_of_pages(count: int) -> bytes:
    """Write a TIFF of many pages, each of the same black pixel."""
    page = tiff(tiff_size(1, 1, [8], 1), b"\0")
    start = struct.unpack_from("<I", page, 4)[0]
    length = len(page) - start
    pages = [page[start:-4] + struct.pack("<I", start + length * number) for number in range(1, count + 1)]
    return page[:start] + b"".join(pages)[:-4] + b"\0\0\0\0"


def gif_of_frames(count: int) -> bytes:
    """Write a GIF of many frames, each of the same black pixel."""
    one = encoded(Image.new("P", (1, 1)), "GIF")
    start = one.index(b",")
    return one[:start] + one[start:-1] * count + b";"


def tiff_size(
    width: int, height: int, bits: list[int], photometric: int, compression: int = 1
) -> list[tuple[int, int, list[int]]]:
    """List the tags every TIFF needs; photometric: 1 grey, 2 RGB, 5 CMYK, 8 LAB."""
    return [
        (256, 3, [width]),
        (257, 3, [height]),
        (258, 3, bits),
        (259, 3, [compression]),
        (262, 3, [photometric]),
        (277, 3, [len(bits)]),
        (278, 3, [height]),
    ]


def bmp_with_alpha(pixels: list[tuple[int, int, int, int]]) -> bytes:
    """Write a 32-bit BMP of one row of (red, green, blue, alpha)."""
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    rows = b"".join(bytes((b, g, r, a)) for r, g, b, a in pixels)
    header = struct.pack("<IiiHHIIiiII", 56, len(pixels), 1, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks
    return b"BM" + struct.pack("<IHHI", 14 + 56 + len(rows), 0, 0, 14 + 56) + header + rows


def gif(frames: list[Image.Image]) -> bytes:
    """Write an animated GIF."""
    first, *others = [frame.convert("P") for frame in frames]
    return encoded(first, "GIF", save_all=True, append_images=others)


def heif_box(*brands: bytes) -> bytes:
    """Write the first box of an ISO media file: its main brand, then the compatible ones."""
    body = brands[0] + b"\0\0\0\0" + b"".join(brands)
    return struct.pack(">I", len(body) + 8) + b"ftyp" + body


def icc_with_red_and_green_swapped() -> bytes:
    """Take Pillow's sRGB profile and let its red mean green."""
    sound = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return sound.replace(b"rXYZ", b"swap").replace(b"gXYZ", b"rXYZ", 1).replace(b"swap", b"gXYZ", 1)


def icc_with_primaries(*primaries: tuple[float, float, float]) -> bytes:
    """Take Pillow's sRGB profile and give it this red, green and blue (XYZ, adapted to D50)."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True):
        (where,) = struct.unpack_from(">I", profile, profile.index(name) + 4)
        struct.pack_into(">3i", profile, where + 8, *(round(value * 65536) for value in xyz))
    return bytes(profile)


Primaries = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]

DISPLAY_P3: Primaries = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE_RGB: Primaries = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
"""XYZ of red, green and blue, adapted to D50."""


def icc_display_p3() -> bytes:
    """Describe the colours of phones and recent screens."""
    return icc_with_primaries(*DISPLAY_P3)


def icc_srgb_rounded_otherwise() -> bytes:
    """Describe sRGB with its primaries rounded as other programs do, a level off."""
    return icc_with_primaries((0.4363, 0.2225, 0.0139), (0.3849, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))


def icc(space: bytes, device: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Write an ICC profile, version 2."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061), **tags}
    table, bodies = b"", b""
    for name, body in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(bodies), len(body))
        bodies += body + b"\0" * (-len(body) % 4)
    rest = struct.pack(">I", len(tags)) + table + bodies
    illuminant = struct.pack(">3i", 63190, 65536, 54061)
    head = struct.pack(">I4xI4s4s4s12x4s", 128 + len(rest), 0x02400000, device, space, connection, b"acsp")
    return head.ljust(68, b"\0") + illuminant + b"\0" * 48 + rest


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def icc_linear_grey() -> bytes:
    """Describe grey levels that are proportional to light."""
    return icc(b"GRAY", b"mntr", b"XYZ ", {b"kTRC": _curve(1)})


def _icc_rgb(primaries: Primaries, gamma: float) -> bytes:
    tags = {
        name + b"XYZ": b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in xyz))
        for name, xyz in zip((b"r", b"g", b"b"), primaries, strict=True)
    }
    return icc(b"RGB ", b"mntr", b"XYZ ", {**tags, **{name + b"TRC": _curve(gamma) for name in (b"r", b"g", b"b")}})


def icc_linear_rgb() -> bytes:
    """Describe the colours of sRGB in levels that are proportional to light."""
    return _icc_rgb(((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141)), 1)


def icc_adobe_rgb() -> bytes:
    """Describe the colours of cameras that are set to Adobe RGB."""
    return _icc_rgb(ADOBE_RGB, 563 / 256)


def icc_only_black_ink_shows() -> bytes:
    """Describe a printer whose cyan, magenta and yellow inks are invisible."""
    ramps = bytes(range(256))
    corners = b"".join(bytes((0 if ink & 1 else 255, 128, 128)) for ink in range(16))
    identity = struct.pack(">9i", *(65536 if at % 4 == 0 else 0 for at in range(9)))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + ramps * 4 + corners + ramps * 3
    return icc(b"CMYK", b"prtr", b"Lab ", {b"A2B0": table})
