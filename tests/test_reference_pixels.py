"""Facts about pixels: what the tower is shown equals `expand2square` and `CLIPImageProcessor` (tests/reference)."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from llava_cli.pictures import open_picture
from llava_cli.vision import square_pixels
from tests.reference import scenes

EXPECTED = np.load(Path(__file__).parent / "reference" / "expected" / "pixels.npz")


def seen(image: Image.Image, side: int) -> NDArray[np.int_]:
    """Return what our tower is shown, as signed numbers."""
    pixels = square_pixels(open_picture(image), side)
    return np.frombuffer(pixels, np.uint8).reshape(side, side, 3).astype(int)


@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_a_picture_of_any_shape_is_squared_as_the_reference_does(shape: str) -> None:
    assert abs(EXPECTED[shape].astype(int) - seen(scenes.paint(*scenes.SHAPES[shape]), 336)).max() <= 1


@pytest.mark.parametrize("mode", scenes.MODES)
def test_a_picture_of_any_mode_is_seen_as_the_reference_sees_its_rgb(mode: str) -> None:
    """Transparency is put on white paper first, on both sides."""
    image = scenes.paint(*scenes.MODE_SIZE, mode)
    assert abs(EXPECTED[f"mode_{mode}"].astype(int) - seen(image, scenes.MODE_SIDE)).max() <= 1


def test_the_padding_is_clips_mean_colour() -> None:
    corner = EXPECTED["one_to_twenty"][0, 0].tolist()
    assert corner == seen(scenes.paint(*scenes.SHAPES["one_to_twenty"]), 336)[0, 0].tolist() == [122, 116, 104]
