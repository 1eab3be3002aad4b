"""Files that are refused as pictures, with sentence and hint: what is none, what was cut, what is damaged or huge."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from tests import drawings
from tests.drawings import encoded, noise, png, tiff, tiff_size

AGAIN, ITSELF = "copy or download it again", "give the file of the picture itself"
PARTIAL = f"{AGAIN}, or use the part that is there with --allow-truncated"
ADDRESS = "download it again, from the address of the picture itself"
UNPACK = "unpack it and give the picture in it"
FRAME = "take a picture out of it: ffmpeg -i FILE -frames:v 1 frame.png"
PAGE = "make a picture of a page: gs -sDEVICE=png16m -r150 -o page.png FILE"
TO_PNG = "convert it to PNG first: magick FILE picture.png"
DEVELOP = "save it as JPEG first, or take its preview: exiftool -b -PreviewImage FILE > preview.jpg"
HTML = "not a picture (looks like HTML: did the download fail?)"
XML = "not a picture (looks like XML: did the download fail?)"
JSON = "not a picture (looks like JSON: did the download fail?)"
TEXT = "not a picture (looks like text)"
UNKNOWN = "not a picture (unknown kind of file)"
RAW = "raw camera pictures are not supported"
SVG = "SVG pictures are not supported"
SVG_HINT = "convert it to PNG first: rsvg-convert -o picture.png FILE"
SMALLER = "make a smaller copy first: magick FILE -resize 2048x2048 smaller.jpg (or allow it: --max-megapixels N)"

Refused = tuple[str, str, bytes]
"""Why, the hint, and the file."""

NO_PICTURES: list[Refused] = [
    ("empty", AGAIN, b""),
    ("not a picture (nothing but zero bytes: did the download fail?)", AGAIN, b"\0" * 5000),
    (UNKNOWN, ITSELF, b"\xff"),
    (TEXT, ITSELF, b"x"),
    (UNKNOWN, ITSELF, noise().tobytes()),
    (TEXT, ITSELF, b"BMW makes cars"),
    (TEXT, ITSELF, b"P5 is a boat"),
    (TEXT, ITSELF, "Straße\n".encode() * 1000),
    (TEXT, ITSELF, "Caf\xe9 au lait, s'il vous pla\xeet".encode("latin-1")),
    (TEXT, ITSELF, "text".encode("utf-16")),
    (HTML, ADDRESS, b"<!DOCTYPE html>\n<html><body>Not found</body></html>"),
    (HTML, ADDRESS, b"\xef\xbb\xbf\n  <HTML><svg></svg></HTML>"),
    (HTML, ADDRESS, b"<script>location='/login'</script>"),
    (HTML, ADDRESS, b"<?xml version='1.0'?><!DOCTYPE html><html/>"),
    (XML, ADDRESS, b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"),
    (JSON, ADDRESS, b'{"error": "not found"}'),
    (JSON, ADDRESS, b'[\n  {"a": "<html>"}]'),
    (SVG, SVG_HINT, b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    (SVG, SVG_HINT, b"<?xml version='1.0'?><!-- drawn --><svg/>"),
    ("not a picture (looks like a playlist)", ITSELF, b"#EXTM3U\n#EXT-X-VERSION:3\n"),
    (
        "not a picture (a git-lfs pointer to one)",
        "fetch the picture: git lfs pull",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    ),
    (
        "that is a model file; use --model-path",
        "llava ask PICTURE --model-path MODEL.gguf --projector-path PROJECTOR.gguf",
        b"GGUF\3\0\0\0",
    ),
    ("not a picture (a program)", ITSELF, b"\x7fELF\2\1\1\0"),
    ("not a picture (a ZIP archive or an office document)", UNPACK, b"PK\3\4\x14\0"),
    ("not a picture (a gzip archive)", UNPACK, b"\x1f\x8b\x08\0"),
    ("not a picture (a tar archive)", UNPACK, b"cat.png".ljust(257, b"\0") + b"ustar\x0000"),
    (
        "not a picture (a PDF document)",
        "make a picture of a page: pdftoppm -png -r 150 FILE page",
        b"%PDF-1.7\n%\xe2\xe3",
    ),
    ("not a picture (an EPS or PostScript document)", PAGE, b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    ("not a picture (an EPS or PostScript document)", PAGE, b"\xc5\xd0\xd3\xc6\x20\0"),
    ("not a picture (a video or sound file)", FRAME, drawings.heif_box(b"isom", b"mp42")),
    ("not a picture (a video)", FRAME, b"\x1aE\xdf\xa3\x01\0"),
    ("not a picture (a video)", FRAME, b"RIFF\0\0\0\0AVI LIST"),
    ("not a picture (a sound file)", ITSELF, b"RIFF\0\0\0\0WAVEfmt "),
    ("Photoshop pictures are not supported", TO_PNG, b"8BPS\0\1"),
    ("FITS pictures are not supported", TO_PNG, b"SIMPLE  =                    T"),
    (
        "JPEG XL pictures are not supported",
        "convert it to PNG first: djxl FILE picture.png",
        b"\0\0\0\x0cJXL \r\n\x87\n",
    ),
    (
        "JPEG XL pictures are not supported",
        "convert it to PNG first: djxl FILE picture.png",
        b"\xff\x0a\xfa\x7f",
    ),
    (
        "JPEG 2000 pictures are not supported",
        "convert it to PNG first: opj_decompress -i FILE -o picture.png",
        b"\0\0\0\x0cjP  \r\n\x87\n",
    ),
    (RAW, DEVELOP, b"FUJIFILMCCD-RAW 0201"),
    (RAW, DEVELOP, b"IIU\0\x18\0\0\0"),
    (RAW, DEVELOP, drawings.heif_box(b"crx ", b"isom")),
    (RAW, DEVELOP, tiff([*tiff_size(1, 1, [8], 1), (50706, 4, [1])], b"a")),
    (RAW, DEVELOP, tiff([*tiff_size(1, 1, [8], 1), (254, 4, [1]), (330, 4, [99])], b"a", order=">")),
    (RAW, DEVELOP, tiff(tiff_size(1, 1, [8], 32803), b"a")),
    ("truncated", PARTIAL, b"\x89PNG"),
]

_DAMAGED: list[tuple[str, bytes]] = [
    ("damaged, or a rare kind of PNG", png(1, 1, 8, 2, b"abc").replace(b"IHDR", b"IHDX")),
    ("damaged, or a rare kind of PNG", png(1, 1, 7, 2, b"abc")),
    ("damaged, or a rare kind of PNG", png(0, 1, 8, 2, b"")),
    ("damaged, or a rare kind of PNG", encoded(noise(), "PNG").replace(b"IDAT", b"IDXT")),
    (
        "damaged, or a rare kind of JPEG",
        encoded(noise(), "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
    ),
    ("damaged, or a rare kind of GIF", b"GIF89a\x01\0\x01\0\0\0\0;"),
    ("damaged, or a rare kind of BMP", drawings.bmp_with_alpha([(0, 0, 0, 0)]).replace(b"\x20\0\3", b"\x21\0\3")),
    ("damaged, or a rare kind of WEBP", b"RIFF\x0e\0\0\0WEBPVP8 \0\0\0\0xx"),
    ("damaged, or a rare kind of TIFF", tiff(tiff_size(1, 1, [7], 1), b"a")),
    ("damaged, or a rare kind of TIFF", tiff(tiff_size(1, 1, [8], 99), b"a")),
    ("damaged, or a rare kind of TIFF", tiff(tiff_size(1, 1, [16], 0), b"ab", order=">")),
    ("damaged, or a rare kind of PPM", b"P5 1 1 99999 a"),
    ("damaged, or a rare kind of AVIF", drawings.heif_box(b"avif") + struct.pack(">I4s", 8, b"mdat")),
    ("truncated", b"II*\0\xff\xff\xff\xff"),
    ("truncated", b"P3 2 1 255 1 2 3"),
    ("truncated", tiff(tiff_size(9, 9, [8], 1, compression=5), b"\x80\x0b", claimed=1000)),
    ("damaged, or a rare kind of TIFF", tiff(tiff_size(9, 9, [8], 1, compression=5), b"\x80\x0b")),
]

_TOO_LARGE = [
    ("2,500,000,000", drawings.huge_png(50_000, 50_000)),
    ("88,360,000", drawings.huge_png(9_400, 9_400)),
    ("40,000,001", drawings.huge_png(40_000_001, 1)),
    ("4,294,836,225", b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\1\0\1\0\0\2\0;"),
    ("1,600,000,000", b"P6 40000 40000 255\n"),
    ("1,600,000,000", tiff(tiff_size(40_000, 40_000, [8], 1), b"a")),
    ("268,435,456", b"RIFF\x22\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0VP8 \0\0\0\0"),
]

WAYS: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("JPEG", {"restart_marker_rows": 1}),
    ("PNG", {}),
    ("GIF", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "jpeg"}),
    ("AVIF", {}),
    ("PPM", {}),
]
"""Formats and ways to write them, of which each byte counts."""


def cut_hint(kind: str) -> str:
    """Return what is said of a cut file: of some formats no part can be used."""
    return AGAIN if kind in ("WEBP", "AVIF") else PARTIAL


def no_pictures() -> Iterator[Refused]:
    yield from NO_PICTURES


def cut() -> Iterator[Refused]:
    """Cut in the header, in half, and shortly before the end."""
    for kind, options in WAYS:
        file = encoded(noise(), kind, **options)
        for length in (24, len(file) // 2, len(file) - 40):
            yield "truncated", cut_hint(kind), file[:length]


def damaged() -> Iterator[Refused]:
    for why, file in _DAMAGED:
        yield why, PARTIAL if why == "truncated" else AGAIN, file


def too_large() -> Iterator[Refused]:
    for pixels, file in _TOO_LARGE:
        yield f"too large: {pixels} pixels (at most 40,000,000)", SMALLER, file


def in_pieces() -> Iterator[Refused]:
    """Make files of nothing but beginnings: of chunks, segments, frames, spaces, and values of a tag."""
    yield "damaged, or a rare kind of PNG", AGAIN, png(1, 1, 8, 2, b"abc", drawings.chunk(b"prVt", b"") * 500_000)
    photo = encoded(noise(8, 8), "JPEG")
    yield "damaged, or a rare kind of JPEG", AGAIN, photo[:2] + b"\xff\xe5\0\2" * 500_000 + photo[2:]
    yield "damaged, or a rare kind of JPEG", AGAIN, photo[:2] + b"\xff" * 1_000_000 + photo[2:]
    yield "damaged, or a rare kind of GIF", AGAIN, drawings.gif_of_frames(300_000)
    yield TEXT, ITSELF, b"P6" + b" " * 5_000_000 + b"1 1 255\nabc"
    box = struct.pack(">I4s", 8, b"free")
    yield "damaged, or a rare kind of AVIF", AGAIN, drawings.heif_box(b"avif") + box * 200_000
