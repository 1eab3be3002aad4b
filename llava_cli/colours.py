"""Turn any of Pillow's pixel modes into sRGB over white."""

from __future__ import annotations

import contextlib
import io
import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


def correct_transparent_key(image: Image.Image) -> None:
    """Scale the transparent colour of an opened PNG like its pixels; Pillow keeps it as the file says it."""
    key = image.info.get("transparency")
    stored = image.tile[0][3] if getattr(image, "tile", None) else None  # type: ignore[attr-defined]
    if stored in ("L;2", "L;4") and isinstance(key, int):
        image.info["transparency"] = key * (85 if stored == "L;2" else 17)
    elif stored == "RGB;16B" and isinstance(key, tuple):
        image.info["transparency"] = tuple(level >> 8 for level in key)


def to_srgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Give an RGB image that shows what a loaded image of any mode shows on white paper, and notes about it."""
    from PIL import ImageChops

    colours, alpha = _colours_and_alpha(_eight_bits(image))
    picture = _through_profile(colours, image.info.get("icc_profile"), is_ours=colours is not image)
    if alpha is None:
        return picture, ()
    notes: tuple[str, ...] = ()
    if alpha.getextrema() == (0, 0):
        # Many programs leave the fourth byte of a BMP's pixels at zero and mean nothing by it.
        if image.format == "BMP":
            return picture, ()
        notes = ("wholly transparent: seen as plain white",)
    if picture is image:
        picture = image.copy()
    # In place: at 40 megapixels another sheet would take 160 MB more.
    picture.paste("white", mask=ImageChops.invert(alpha))
    return picture, notes


def _colours_and_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Separate an 8-bit image into an L, RGB or CMYK image and its alpha."""
    if image.mode == "La":
        image = image.convert("LA")  # the only way out of this mode
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        alpha = rgba.getchannel("A")
        if image.mode == "RGB":
            return image, alpha  # one colour of it is transparent
        return rgba.getchannel("R") if image.mode in ("1", "L", "LA") else rgba.convert("RGB"), alpha
    if image.mode in ("L", "RGB", "CMYK"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale the modes of more than 8 bits to L or LA; Pillow's own conversion would clip them to white."""
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if not is_16_bit and image.mode not in ("I", "F"):
        return image
    import numpy as np
    from PIL import Image

    bits, white_is_zero = _tiff_levels(image)
    if is_16_bit:
        top = (1 << bits) - 1
        table = [(min(level, top) * 255 + top // 2) // top for level in range(1 << 16)]
        # Through a table: arithmetic on 40 million numbers takes half a gigabyte.
        picture = (image if image.mode == "I" else image.convert("I")).point(table, "L")
    else:
        picture = Image.fromarray(_spread(np.asarray(image)))
    if white_is_zero:
        picture = picture.point(range(255, -1, -1))
    if isinstance(key := image.info.get("transparency"), int):
        alpha = Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
        return Image.merge("LA", (picture, alpha))
    return picture


def _tiff_levels(image: Image.Image) -> tuple[int, bool]:
    """Tell how many bits a deep level has, and whether 0 is white: Pillow leaves those of a TIFF as they are stored."""
    if image.format != "TIFF":
        return 16, False
    tags = image.tag_v2  # type: ignore[attr-defined]
    return 12 if tags.get(258) == (12,) else 16, tags.get(262) == 0


def _spread(levels: Any) -> Any:
    """Scale numbers without a stated range to 0..255: by 1, 255 or 65535 if they fit, else by their own range."""
    import numpy as np

    is_known = np.isfinite(levels)
    if not is_known.all():
        levels = np.where(is_known, levels, levels[is_known].min() if is_known.any() else 0)
    low, high = float(levels.min()), float(levels.max())
    tops = (1, 255, 65535) if levels.dtype.kind == "f" else (255, 65535)
    if low >= 0 and high <= tops[-1]:
        low, high = 0.0, float(next(top for top in tops if high <= top))
    grey = np.empty(levels.shape, np.uint8)
    for row in range(0, len(levels), 256):  # not at once: 40 million numbers are 160 MB
        grey[row : row + 256] = np.rint(
            (levels[row : row + 256].astype(np.float32) - low) * (255 / ((high - low) or 1))
        )
    return grey


def _through_profile(colours: Image.Image, profile: bytes | None, *, is_ours: bool) -> Image.Image:
    """Convert an L, RGB or CMYK image to sRGB, through its colour profile if that is sound and fits.

    With `is_ours` the image is not needed any more, and may be what is returned.
    """
    if profile:
        # A broken profile raises nearly anything, and is no reason to refuse the picture.
        with contextlib.suppress(Exception):
            return _converted(colours, profile, is_ours=is_ours)
    return colours if colours.mode == "RGB" else colours.convert("RGB")


def _converted(colours: Image.Image, profile: bytes, *, is_ours: bool) -> Image.Image:
    from PIL import Image, ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}[source.profile.xcolor_space.strip()]
    if (colours.mode, mode) == ("L", "RGB"):
        colours = colours.convert("RGB")
    if colours.mode != mode:
        raise ValueError("a profile for other pixels")
    # What LittleCMS prepares for speed knows too few levels of grey: dark ones come out at half.
    flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", flags=flags)
    if _is_srgb(transform, mode):
        return colours if mode == "RGB" else colours.convert("RGB")
    if mode == "L":
        ramp = transform.apply(Image.frombytes("L", (256, 1), bytes(range(256))))
        return Image.merge("RGB", [colours.point(list(band.tobytes())) for band in ramp.split()])
    return transform.apply_in_place(colours) if is_ours and mode == "RGB" else transform.apply(colours)


def _is_srgb(transform: Any, mode: str) -> bool:
    """Say whether a transform leaves a sample of colours as they are; then the picture's bytes stay untouched."""
    from PIL import Image, ImageChops

    if mode == "CMYK":
        return False
    steps = range(0, 256, 15 if mode == "RGB" else 1)
    levels = bytes(itertools.chain.from_iterable(itertools.product(steps, repeat=len(mode))))
    sample = Image.frombytes(mode, (len(levels) // len(mode), 1), levels)
    moved = ImageChops.difference(transform.apply(sample), sample.convert("RGB"))
    return max(moved.tobytes()) <= 2
