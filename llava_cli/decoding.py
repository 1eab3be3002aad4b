"""Turn the bytes of a picture file into upright sRGB pixels, or say why that cannot be."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llava_cli import colours, mending, sniffing
from llava_cli.errors import UnreadablePicture

if TYPE_CHECKING:
    from PIL import Image

SMALLER = "make a smaller copy first: magick FILE -resize 2048x2048 smaller.jpg (or allow it: --max-megapixels N)"
AGAIN = "copy or download it again"
_PARTIAL = f"{AGAIN}, or use the part that is there with --allow-truncated"

_MOST_PAGES = 1000
_MOST_READS = {"GIF": 1_000_000, "TIFF": 1_000_000}
_MOST_READS_OF_OTHERS = 300_000
"""Either is about half a second. A GIF of 100 MB takes 800,000, of 255 bytes; a TIFF may consist of tiny tiles."""

_BYTES_PER_PIXEL = {"WEBP": 16, "AVIF": 10, "HEIF": 11}
_BYTES_PER_PIXEL_OF_LATER_FRAMES = {**_BYTES_PER_PIXEL, "GIF": 12, "PNG": 12}
_BYTES_OF_PROGRAM = 25_000_000
"""What decoding takes at its peak, measured: so much, twice the file, and two more for a pixel that may be
transparent. Other formats stay below 500 MB at 40 megapixels and 100 MB of file."""

# Pillow's limits, and the stderr that libtiff writes to, belong to the whole process.
_one_at_a_time = threading.Lock()


def decode(
    what: str, data: bytes, *, frame: int, allow_truncated: bool, max_pixels: int, max_memory: int
) -> tuple[Image.Image, tuple[str, ...]]:
    """Decode a picture file to an upright RGB image, with notes worth saying once; errors call it `what`."""
    kind = sniffing.picture_format(data)
    if kind is None:
        why, hint = sniffing.refusal(data)
        raise UnreadablePicture(what, why, hint=hint)
    _require_decoder(what, kind)
    failure: Exception | None = None
    for attempt, lenient in _attempts(kind, data, max_pixels, allow_truncated):
        try:
            image, notes = _decode(what, kind, attempt, frame, max_pixels, max_memory, lenient)
        except UnreadablePicture:
            raise
        except Exception as error:  # noqa: BLE001 - decoders raise whatever a broken file makes of them
            failure = failure or error
            if isinstance(error, _TooManyPieces):
                break
        else:
            return image, (*notes, "truncated: only a part of it could be read") if lenient else notes
    raise _explained(what, kind, data, failure, allow_truncated) from failure


def upright(what: str, image: Image.Image, *, max_pixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    """Turn an image that Pillow holds already into an upright RGB one, with notes; errors call it `what`."""
    kind = image.format or "image"
    try:
        with _pillow(kind, max_pixels, lenient=False):
            _require_size(what, image.size, max_pixels)
            picture, orientation, notes = _flattened(image)
            return _turned(picture, orientation), notes
    except UnreadablePicture:
        raise
    except Exception as error:
        raise _explained(what, kind, b"", error, False) from error


class _TooManyPieces(Exception):
    """A file consists of millions of pieces, of which no picture has as many."""


class _File(io.BytesIO):
    """A file in memory that can be read in so many pieces: an empty one costs as much time as a full one."""

    def __init__(self, kind: str, data: bytes) -> None:
        super().__init__(data)
        self._left = _MOST_READS.get(kind, _MOST_READS_OF_OTHERS)

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise _TooManyPieces
        return super().read(size)


def _require_decoder(what: str, kind: str) -> None:
    from PIL import features

    if kind == "HEIF":
        try:
            import pillow_heif
        except ImportError:
            hint = "pip install 'llava-cli[heic]'"
            raise UnreadablePicture(what, "HEIC pictures need an extra package", hint=hint) from None
        pillow_heif.register_heif_opener()
    elif kind in ("AVIF", "WEBP") and not features.check(kind.lower()):
        hint = "pip install --upgrade pillow"
        raise UnreadablePicture(what, f"the installed Pillow cannot read {kind}", hint=hint)


def _attempts(kind: str, data: bytes, max_pixels: int, allow_truncated: bool) -> Iterator[tuple[bytes, bool]]:
    """Offer the file, then the file without faults that do not touch the pixels, then what is left of it."""
    yield data, False
    if kind == "PNG" and not mending.ends_early(kind, data):
        yield from ((variant, False) for variant in mending.png_variants(data))
    if kind == "AVIF":
        # Pillow refuses the whole picture when it cannot read its EXIF.
        yield data.replace(b"Exif", b"skip"), False
    if kind == "JPEG":
        endings = mending.jpeg_endings(data)
        with contextlib.suppress(Exception):
            pixels = _jpeg_pixels(endings[0], max_pixels)
            if all(_jpeg_pixels(ending, max_pixels) == pixels for ending in endings[1:]):
                yield endings[0], False
    if allow_truncated:
        yield data, True


def _jpeg_pixels(data: bytes, max_pixels: int) -> bytes:
    from PIL import Image

    with _pillow("JPEG", None, lenient=False), Image.open(_File("JPEG", data), formats=["JPEG"]) as image:
        _reduce(image, max_pixels)
        return image.tobytes()


def _decode(
    what: str, kind: str, data: bytes, frame: int, max_pixels: int, max_memory: int, lenient: bool
) -> tuple[Image.Image, tuple[str, ...]]:
    from PIL import Image

    # A large JPEG can be read smaller, so it has to get past Pillow's own limit first.
    limit = None if kind == "JPEG" else max_pixels
    with _pillow(kind, limit, lenient):
        try:
            with Image.open(_File(kind, data), formats=[kind]) as image:
                notes = _choose_frame(what, kind, image, frame)
                if image.info.get("progressive") and not lenient and mending.jpeg_lacks_scans(data):
                    raise EOFError("truncated before its last scan")
                notes += _reduce(image, max_pixels)
                _require_size(what, image.size, max_pixels)
                _require_memory(what, kind, image, frame, len(data), max_memory)
                colours.correct_transparent_key(image)
                picture, orientation, more = _flattened(image)
                # Without what its decoder holds, which is several times as much.
                picture = picture.copy() if picture is image else picture
            del image
            picture = _turned(picture, orientation)
        except Image.DecompressionBombError as error:
            pixels = re.search(r"\d+", str(error))
            raise _too_large(what, int(pixels[0]) if pixels else 0, max_pixels) from error
    return picture, notes + more


@contextlib.contextmanager
def _pillow(kind: str, limit: int | None, lenient: bool) -> Iterator[None]:
    """Set Pillow's process-wide switches for one picture, and keep it quiet."""
    from PIL import Image, ImageFile

    with _one_at_a_time, warnings.catch_warnings(), contextlib.ExitStack() as restored:
        warnings.simplefilter("ignore")
        restored.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
        restored.callback(setattr, ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES)
        Image.MAX_IMAGE_PIXELS = limit
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
        if kind == "TIFF":
            restored.enter_context(_stderr_to_nowhere())
        yield


@contextlib.contextmanager
def _stderr_to_nowhere() -> Iterator[None]:
    """Drop what libtiff and Pillow's TIFF reader write to stderr about broken files; neither has a switch for it."""
    try:
        stderr = os.dup(2)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _choose_frame(what: str, kind: str, image: Image.Image, frame: int) -> tuple[str, ...]:
    count: int | None = None
    # The frames after the chosen one may be broken: they are not needed.
    with contextlib.suppress(Exception):
        count = _count(kind, image)
    is_more = count == _MOST_PAGES
    if frame < 0 or (count and frame >= count and not is_more):
        hint = f"--frame 0 to --frame {count - 1}" if count and count > 1 else "leave --frame out"
        raise UnreadablePicture(what, f"has no frame {frame}", hint=hint)
    # Counting leaves a TIFF on a later page; HEIC has its main picture anywhere.
    if frame or count is None or kind == "TIFF":
        image.seek(frame)
    # A JPEG's further pictures are previews and depth maps: a camera's photo is one picture.
    if count == 1 or kind == "JPEG":
        return ()
    animated, unit = ("animated: ", "frame") if kind in ("GIF", "PNG", "WEBP", "AVIF") else ("", "page")
    if count is None:
        return (f"{animated}only {unit} {frame} (from 0) is used, a later one is broken",)
    which = f"number {frame} (from 0)" if frame else "the first"
    return (f"{animated}only {which} of {f'{count:,} and more' if is_more else count} {unit}s is used",)


def _count(kind: str, image: Image.Image) -> int:
    """Count frames; of a TIFF `_MOST_PAGES` at most, because Pillow takes longer for each page than for the last."""
    if kind == "TIFF":
        with contextlib.suppress(EOFError):
            for page in range(_MOST_PAGES):
                image.seek(page)
            return _MOST_PAGES
    return int(getattr(image, "n_frames", 1))


def _reduce(image: Image.Image, max_pixels: int) -> tuple[str, ...]:
    """Let the JPEG decoder halve a picture that is over the ceiling, up to three times."""
    width, height = image.size
    if image.format not in ("JPEG", "MPO") or width * height <= max_pixels:
        return ()
    # A progressive JPEG is held in memory at full size, whatever size comes out.
    for step in (2,) if image.info.get("progressive") else (2, 4, 8):
        if -(-width // step) * -(-height // step) <= max_pixels:
            image.draft(None, (width // step, height // step))
            return (f"very large: {width} by {height} pixels, read at 1/{step} of that size",)
    return ()


def _require_size(what: str, size: tuple[int, int], max_pixels: int) -> None:
    if 0 in size:
        raise UnreadablePicture(what, "has no pixels", hint="give another picture")
    if size[0] * size[1] > max_pixels:
        raise _too_large(what, size[0] * size[1], max_pixels)


def _require_memory(what: str, kind: str, image: Image.Image, frame: int, size: int, max_memory: int) -> None:
    table = _BYTES_PER_PIXEL_OF_LATER_FRAMES if frame else _BYTES_PER_PIXEL
    if kind not in table:
        return
    pixels = image.width * image.height
    memory = _BYTES_OF_PROGRAM + pixels * (table[kind] + 2 * (image.mode == "RGBA")) + 2 * size
    if memory > max_memory:
        takes = f"decoding {pixels:,} pixels of this {kind} takes {memory // 1_000_000:,} MB of memory"
        raise UnreadablePicture(what, f"too large: {takes} (at most {max_memory // 1_000_000:,})", hint=SMALLER)


def _too_large(what: str, pixels: int, most: int) -> UnreadablePicture:
    return UnreadablePicture(what, f"too large: {pixels:,} pixels (at most {most:,})", hint=SMALLER)


def _flattened(image: Image.Image) -> tuple[Image.Image, int, tuple[str, ...]]:
    """Return the picture as it lies in the file, its EXIF orientation, and notes."""
    from PIL import ExifTags

    image.load()
    orientation = 1
    # Broken EXIF raises nearly anything; exif_transpose() would also write it anew, and fail over that.
    with contextlib.suppress(Exception):
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    picture, notes = colours.to_srgb(image)
    return picture, orientation, notes


def _turned(picture: Image.Image, orientation: int) -> Image.Image:
    from PIL.Image import Transpose

    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def _explained(
    what: str, kind: str, data: bytes, failure: Exception | None, allow_truncated: bool
) -> UnreadablePicture:
    text = str(failure).lower()
    if isinstance(failure, MemoryError):
        return UnreadablePicture(what, "not enough memory to decode it", hint=SMALLER)
    if "truncated" in text or "not enough image data" in text or mending.ends_early(kind, data):
        is_all_or_nothing = kind in ("WEBP", "AVIF", "HEIF")
        hint = AGAIN if is_all_or_nothing or allow_truncated else _PARTIAL
        return UnreadablePicture(what, "truncated", hint=hint)
    return UnreadablePicture(what, f"damaged, or a rare kind of {kind}", hint=AGAIN)
