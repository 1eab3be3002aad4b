"""Paints the pictures of the reference from formulas in whole numbers, the same on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SHAPES = {
    "landscape": (517, 345),
    "portrait": (301, 480),
    "square": (400, 400),
    "tiny": (3, 2),
    "one_to_twenty": (40, 800),
    "exact": (336, 336),
}
"""Sizes (width, height) of the RGB pictures; they are brought to 336 by 336."""

MODES = ("RGB", "L", "LA", "P", "RGBA", "CMYK")
MODE_SIZE = (150, 97)
MODE_SIDE = 112

ANYRES_TILE = 56
ANYRES_SHAPES = (
    (40, 28), (56, 56), (112, 112), (128, 72), (72, 128), (300, 75), (62, 190), (226, 114), (200, 170), (301, 302),
)  # fmt: skip
"""Sizes (width, height) of the pictures that are cut into tiles of `ANYRES_TILE` pixels."""


def _planes(width: int, height: int) -> list[NDArray[np.uint8]]:
    """Return four planes: a ramp, rings that grow finer, blocks with hard edges, and a slanted ramp."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    ramp = x * 255 // max(1, width - 1)
    rings = ((x - width // 3) ** 2 + (y - height // 4) ** 2) // 40 % 256
    blocks = (x // 23 * 5 + y // 17 * 3) % 7 * 42
    slant = (x * 2 + y * 3) * 255 // max(1, 2 * width + 3 * height)
    return [plane.astype(np.uint8) for plane in (ramp, rings, blocks, slant)]


def paint(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Return the picture of this size in one of `MODES`."""
    planes = [Image.fromarray(plane) for plane in _planes(width, height)]
    if mode == "P":
        levels = np.arange(256)
        palette = np.stack([levels, levels * 7 % 256, 255 - levels], axis=1).astype(np.uint8)
        image = Image.frombytes("P", (width, height), planes[1].tobytes())
        image.putpalette(palette.tobytes())
        image.info["transparency"] = bytes(int(255 - level // 2) for level in levels)
        return image
    wanted = {"L": [1], "LA": [1, 3], "RGB": [0, 1, 2], "RGBA": [0, 1, 2, 3], "CMYK": [0, 1, 2, 3]}[mode]
    return Image.merge(mode, [planes[n] for n in wanted]) if len(wanted) > 1 else planes[wanted[0]]
