"""Tell from the bytes alone what a file is, and what to do about it when it is no picture."""

from __future__ import annotations

import re
import struct

SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".pnm",
    ".heic", ".heif",
}  # fmt: skip
"""How the names of picture files end; what is in them is decided when they are opened."""

_PICTURES = (
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("JPEG", b"\xff\xd8\xff"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
    ("TIFF", b"II+\0"),
    ("TIFF", b"MM\0+"),
)
_BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}
_AVIF = {b"avif", b"avis"}
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def picture_format(data: bytes) -> str | None:
    """Name the format of a picture that llava opens, or None; a file cut inside its first bytes counts."""
    if _is_raw(data):
        return None
    for name, magic in _PICTURES:
        if data.startswith(magic) or (len(data) > 1 and magic.startswith(data)):
            return name
    if data.startswith(b"RIFF") and data.startswith(b"WEBP", 8):
        return "WEBP"
    # "BM" alone also begins many a text.
    if data.startswith(b"BM") and b"\0" in data[2:18] and (len(data) < 18 or data[14] in _BMP_HEADERS):
        return "BMP"
    # Not in all of it: of a file of spaces, `re` remembers every one.
    if re.match(rb"P[1-6f]\s(?:\s|#[^\n]*\n)*\d", data[:4096]):
        return "PPM"
    brands = _brands(data)
    return "AVIF" if brands & _AVIF else "HEIF" if brands & _HEIF else None


def _brands(data: bytes) -> set[bytes]:
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 256, len(data))
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}


def _is_raw(data: bytes) -> bool:
    """Recognise cameras' raw files that are TIFFs; their first page is only a thumbnail or a mosaic."""
    try:
        tags = first_directory(data)
    except struct.error:
        return False
    is_dng = 50706 in tags
    is_thumbnail_of_more = tags.get(254) == (1,) and 330 in tags
    is_mosaic = tags.get(262) == (32803,)
    return is_dng or is_thumbnail_of_more or is_mosaic


# Where the pixels are (strips, tiles), and what tells a raw file; with all tags a small file could fill the memory.
_WANTED = {254, 262, 273, 279, 324, 325, 330, 50706}
_MOST_VALUES = 1 << 20


def first_directory(data: bytes) -> dict[int, tuple[int, ...]]:
    """Read the first directory of a classic TIFF: its tags, those that are `_WANTED` with their whole numbers.

    Raise `struct.error` if it is not all there.
    """
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return {}
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    tags: dict[int, tuple[int, ...]] = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, at)
        layout = f"{order}{number}{'BBHIQBBHIQIQI'[kind - 1 : kind]}"
        size = struct.calcsize(layout)
        (where,) = (at + 8,) if size <= 4 else struct.unpack_from(order + "I", data, at + 8)
        if where + size > len(data):
            raise struct.error("the values lie past the end")
        is_wanted = tag in _WANTED and tag not in tags and kind in (3, 4) and number <= _MOST_VALUES
        tags.setdefault(tag, struct.unpack_from(layout, data, where) if is_wanted else ())
    return tags


_TO_PNG = "convert it to PNG first: magick FILE picture.png"
_DEVELOP = "save it as JPEG first, or take its preview: exiftool -b -PreviewImage FILE > preview.jpg"
_OTHER_PICTURES = (
    (0, b"8BPS", "Photoshop", _TO_PNG),
    (0, b"gimp xcf", "GIMP (XCF)", _TO_PNG),
    (0, b"\0\0\0\x0cJXL \r\n", "JPEG XL", "convert it to PNG first: djxl FILE picture.png"),
    (0, b"\xff\x0a", "JPEG XL", "convert it to PNG first: djxl FILE picture.png"),
    (0, b"\0\0\0\x0cjP  \r\n", "JPEG 2000", "convert it to PNG first: opj_decompress -i FILE -o picture.png"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000", "convert it to PNG first: opj_decompress -i FILE -o picture.png"),
    (0, b"SIMPLE  =", "FITS", _TO_PNG),
    (0, b"\x76\x2f\x31\x01", "OpenEXR", _TO_PNG),
    (0, b"#?RADIANCE", "Radiance HDR", _TO_PNG),
    (0, b"\0\0\x01\0", "icon (ICO)", _TO_PNG),
    (0, b"icns", "icon (ICNS)", _TO_PNG),
    (0, b"qoif", "QOI", _TO_PNG),
    (0, b"DDS ", "DDS", _TO_PNG),
    (128, b"DICM", "DICOM", _TO_PNG),
    (0, b"FUJIFILMCCD-RAW", "raw camera", _DEVELOP),
    (0, b"IIRO", "raw camera", _DEVELOP),
    (0, b"IIRS", "raw camera", _DEVELOP),
    (0, b"IIU\0", "raw camera", _DEVELOP),
    (0, b"FOVb", "raw camera", _DEVELOP),
    (0, b"\0MRM", "raw camera", _DEVELOP),
    (4, b"ftypcrx ", "raw camera", _DEVELOP),
)

_AGAIN = "copy or download it again"
_ADDRESS = "download it again, from the address of the picture itself"
_ITSELF = "give the file of the picture itself"
_UNPACK = "unpack it and give the picture in it"
_FRAME = "take a picture out of it: ffmpeg -i FILE -frames:v 1 frame.png"
_PAGE = "make a picture of a page: gs -sDEVICE=png16m -r150 -o page.png FILE"
_NO_PICTURES = (
    (0, b"%PDF-", "a PDF document", "make a picture of a page: pdftoppm -png -r 150 FILE page"),
    (0, b"%!PS", "an EPS or PostScript document", _PAGE),
    (0, b"\xc5\xd0\xd3\xc6", "an EPS or PostScript document", _PAGE),
    (0, b"PK\x03\x04", "a ZIP archive or an office document", _UNPACK),
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (0, b"\xfd7zXZ\0", "an xz archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\x7fELF", "a program", _ITSELF),
    (0, b"MZ\x90\0", "a program", _ITSELF),
    (0, b"SQLite format 3\0", "a database", _ITSELF),
    (4, b"ftyp", "a video or sound file", _FRAME),
    (4, b"moov", "a video", _FRAME),
    (4, b"mdat", "a video", _FRAME),
    (0, b"\x1aE\xdf\xa3", "a video", _FRAME),
    (8, b"AVI ", "a video", _FRAME),
    (8, b"WAVE", "a sound file", _ITSELF),
    (0, b"OggS", "a sound file", _ITSELF),
    (0, b"fLaC", "a sound file", _ITSELF),
    (0, b"ID3", "a sound file", _ITSELF),
)


def refusal(data: bytes) -> tuple[str, str]:
    """Tell why bytes that are no picture for llava are none, and the step that mends it."""
    if not data:
        return "empty", _AGAIN
    if data.startswith(b"GGUF"):
        model = "llava ask PICTURE --model-path MODEL.gguf --projector-path PROJECTOR.gguf"
        return "that is a model file; use --model-path", model
    if _is_raw(data):
        return "raw camera pictures are not supported", _DEVELOP
    for at, magic, name, hint in _OTHER_PICTURES:
        if data.startswith(magic, at):
            return f"{name} pictures are not supported", hint
    for at, magic, name, hint in _NO_PICTURES:
        if data.startswith(magic, at):
            return f"not a picture ({name})", hint
    if not data.strip(b"\0"):
        return "not a picture (nothing but zero bytes: did the download fail?)", _AGAIN
    return _refused_text(data[:4096]) or ("not a picture (unknown kind of file)", _ITSELF)


def _refused_text(head: bytes) -> tuple[str, str] | None:
    coding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = head.decode(coding, "replace").strip().lower()
    # A cut or foreign character or two is still text; a control character is not.
    if re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", text) or text.count("\ufffd") * 8 > len(text):
        return None
    if text.startswith("version https://git-lfs"):
        return "not a picture (a git-lfs pointer to one)", "fetch the picture: git lfs pull"
    if text.startswith("#extm3u"):
        return "not a picture (looks like a playlist)", _ITSELF
    if re.match(r"[{\[]\s*(?:[\"{\[}\]\d-]|$)", text):
        return "not a picture (looks like JSON: did the download fail?)", _ADDRESS
    if text.startswith("<"):
        root = re.search(r"<(?:!doctype\s+)?(html|svg)\b", text)
        if root and root[1] == "svg":
            return "SVG pictures are not supported", "convert it to PNG first: rsvg-convert -o picture.png FILE"
        language = "XML" if text.startswith("<?xml") and not root else "HTML"
        return f"not a picture (looks like {language}: did the download fail?)", _ADDRESS
    return "not a picture (looks like text)", _ITSELF
