"""What a person sees on white paper, by the formulas of the standards, in NumPy: nothing here is shared with llava."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Levels = NDArray[Any]

# The primaries of sRGB, adapted to D50, as ICC's sRGB profile has them (columns: red, green, blue).
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
D50 = np.array([0.9642, 1.0, 0.8249])


def eight_bits(share: Levels) -> Levels:
    """Turn shares of white, 0 to 1, into levels."""
    return np.floor(np.clip(share, 0, 1) * 255 + 0.5).astype(np.uint8)


def grey(share: Levels) -> Levels:
    """Show grey: the same in all three colours."""
    return eight_bits(share)[..., None].repeat(3, -1)


def on_white(share: Levels, alpha: Levels) -> Levels:
    """Lay colours of this opacity, both 0 to 1, on white paper."""
    return eight_bits(share * alpha[..., None] + (1 - alpha[..., None]))


def inks(cyan_to_black: Levels) -> Levels:
    """Print with shares of cyan, magenta, yellow and black."""
    return eight_bits((1 - cyan_to_black[..., :3]) * (1 - cyan_to_black[..., 3:]))


def gamma_encoded(light: Levels) -> Levels:
    """Encode light as sRGB does (IEC 61966-2-1)."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def gamma_decoded(share: Levels) -> Levels:
    """Return the light of a share of sRGB."""
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def from_xyz(xyz: Levels) -> Levels:
    """Show XYZ, adapted to D50, as sRGB."""
    return eight_bits(gamma_encoded(xyz @ np.linalg.inv(SRGB).T))


def from_primaries(light: Levels, primaries: tuple[tuple[float, float, float], ...]) -> Levels:
    """Show light of these primaries (XYZ of red, green and blue, adapted to D50) as sRGB."""
    return from_xyz(light @ np.array(primaries))


def from_lab(lab: Levels) -> Levels:
    """Show CIE L*a*b* (D50) as sRGB."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack((y + lab[..., 1] / 500, y, y - lab[..., 2] / 200), -1)
    return from_xyz(D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)))


def from_ycc(luma: Levels, blue: Levels, red: Levels) -> Levels:
    """Show YCbCr, in levels, as JFIF has it."""
    return eight_bits(
        np.stack((luma + 1.402 * (red - 128), luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128),
                  luma + 1.772 * (blue - 128)), -1) / 255
    )  # fmt: skip
