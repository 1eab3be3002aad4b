"""Know the structure of picture files: what was cut off, and what may be left out or added without touching a pixel."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from llava_cli.sniffing import first_directory


def ends_early(kind: str, data: bytes) -> bool:
    """Say whether a picture file that cannot be decoded was cut off."""
    match kind:
        case "PNG":
            return b"IEND" not in data
        case "JPEG":
            return b"\xff\xda" not in data[:-16]
        case "GIF":
            return not data.rstrip(b"\0").endswith(b";")
        case "WEBP":
            return len(data) < 8 + int.from_bytes(data[4:8], "little")
        case "BMP":
            return len(data) < int.from_bytes(data[2:6], "little")
        case "TIFF":
            return _strips_end_early(data)
        case "AVIF" | "HEIF":
            return _boxes_end_early(data)
        case _:
            return False


def _strips_end_early(data: bytes) -> bool:
    try:
        tags = first_directory(data)
    except struct.error:
        return True
    strips = zip(tags.get(273, ()), tags.get(279, ()), strict=False)
    tiles = zip(tags.get(324, ()), tags.get(325, ()), strict=False)
    return any(start + length > len(data) for start, length in (*strips, *tiles))


def _boxes_end_early(data: bytes) -> bool:
    at = 0
    for _ in range(10_000):
        if at + 8 > len(data) or (size := int.from_bytes(data[at : at + 4], "big")) < 8:
            break
        at += size
    else:
        return False
    return at != len(data) or b"mdat" not in data


def png_variants(data: bytes) -> list[bytes]:
    """Leave out of a PNG first its texts, then all but its pixels."""
    # Picture generators write prompts into zTXt that outgrow what Pillow allows against bombs.
    no_texts = _png_chunks(data, lambda name: name not in (b"tEXt", b"zTXt", b"iTXt"))
    only_pixels = _png_chunks(data, lambda name: name[:1].isupper() or name == b"tRNS")
    return [variant for variant in (no_texts, only_pixels) if len(variant) < len(data)]


def _png_chunks(data: bytes, keep: Callable[[bytes], bool]) -> bytes:
    kept, at = [data[:8]], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if keep(data[at + 4 : at + 8]):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def jpeg_endings(data: bytes) -> tuple[bytes, ...]:
    """End a JPEG that has no end mark in ways that look the same only if no pixel is missing."""
    data = data.rstrip(b"\xff")
    # After a restart mark the decoder takes no noise for pixels before the next mark.
    marks = re.findall(rb"\xff[\xd0-\xd7]", data[data.rfind(b"\xff\xda") :])
    next_mark = marks[-1][1] + 1 if marks else 0
    return tuple(data + noise + b"\xff\xd9" for noise in (b"", _noise(171, next_mark), _noise(85, next_mark)))


def _noise(seed: int, next_mark: int) -> bytes:
    """Make what a JPEG decoder takes for missing pixels, but skips after the last one."""
    noise = bytes((seed + 97 * i) % 255 for i in range(500))
    return noise + b"".join(bytes((0xFF, 0xD0 + (next_mark + i) % 8)) + noise for i in range(8))


def jpeg_lacks_scans(data: bytes) -> bool:
    """Say whether a progressive JPEG ends before it has told every bit of all 64 frequencies of each colour."""
    missing: set[tuple[int, int]] = set()
    at = 2
    while (marker := data[at + 1 : at + 2]) not in (b"\xda", b""):
        if marker == b"\xc2":
            colours = data[at + 10 : at + 10 + 3 * data[at + 9] : 3]
            missing = {(colour, frequency) for colour in colours for frequency in range(64)}
        at += 1 if marker == b"\xff" else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    for scan in re.compile(rb"\xff\xda\0[\x08\x0a\x0c\x0e]").finditer(data, at):
        header = data[scan.end() : scan.end() + 12]
        count = header[0] if header else 0
        span = header[1 + 2 * count : 4 + 2 * count]
        if len(span) == 3 and span[2] & 15 == 0:
            frequencies = range(span[0], span[1] + 1)
            missing -= {(colour, frequency) for colour in header[1 : 1 + 2 * count : 2] for frequency in frequencies}
    return bool(missing)
