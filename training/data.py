"""Draw the training scenes once: `python -m training.data --run DIR --count 120000`.

Writes memory-mapped arrays, so that training pays for no drawing: the pictures as the tower gets them and,
per patch, which shape covers it and which background colour lies there.
"""

from __future__ import annotations

import argparse
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from PIL import Image, ImageDraw

from training.outlines import KINDS, outline_points
from training.scenes import (
    COLOR_NAMES,
    SIZES,
    Scene,
    draw,
    make_scene,
    split_area,
    to_square,
)

SIDE = 140
PATCH = 14
GRID = SIDE // PATCH
PATCHES = GRID * GRID
LONGEST = 320  # training pictures stay small: after scaling to SIDE the difference is slight
PADDING = len(COLOR_NAMES)
TABLE = 5  # kind, colour, size, x and y (in 1/1000 of the square)


@dataclass(frozen=True)
class Rendered:
    """The arrays of `render`, one row per seed from 0 up."""

    pixels: np.ndarray
    owner: np.ndarray
    ground: np.ndarray
    shapes: np.ndarray


NAMES = ("pixels", "owner", "ground", "shapes")


def layout(count: int) -> dict[str, tuple[tuple[int, ...], type]]:
    return {
        "pixels": ((count, SIDE, SIDE, 3), np.uint8),
        "owner": ((count, PATCHES), np.uint8),
        "ground": ((count, PATCHES), np.uint8),
        "shapes": ((count, 5, TABLE), np.int16),
    }


def load(run: Path) -> Rendered:
    return Rendered(*(np.load(run / f"{name}.npy", mmap_mode="r") for name in NAMES))


def square_frame(scene: Scene) -> tuple[float, int, int]:
    """Scale and offsets that take pixels of the scene to pixels of the padded square."""
    factor = SIDE / scene.long_side
    width, height = max(1, round(scene.width * factor)), max(1, round(scene.height * factor))
    return factor, (SIDE - width) // 2, (SIDE - height) // 2


def patch_labels(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per patch the covering shape (1 to 5, 0 for none) and the background colour; the table of shapes."""
    factor, left, top = square_frame(scene)
    ground = Image.new("L", (SIDE, SIDE), PADDING)
    pen = ImageDraw.Draw(ground)
    box = (left, top, left + round(scene.width * factor) - 1, top + round(scene.height * factor) - 1)
    pen.rectangle(box, fill=COLOR_NAMES.index(scene.background_colors[-1]))
    if len(scene.background_colors) == 2:
        inside = Image.new("L", (box[2] - left + 1, box[3] - top + 1), COLOR_NAMES.index(scene.background_colors[1]))
        area = [(x * factor, y * factor) for x, y in split_area(scene)]
        ImageDraw.Draw(inside).polygon(area, fill=COLOR_NAMES.index(scene.background_colors[0]))
        ground.paste(inside, (left, top))
    owner = Image.new("L", (SIDE, SIDE), 0)
    pen = ImageDraw.Draw(owner)
    table = np.zeros((5, TABLE), np.int16)
    for number, shape in enumerate(scene.shapes):
        x, y = shape.x * SIDE + left, shape.y * SIDE + top
        points = outline_points(shape.kind, shape.diameter * SIDE, shape.angle)
        pen.polygon([(x + dx, y + dy) for dx, dy in points], fill=number + 1)
        ids = KINDS.index(shape.kind), COLOR_NAMES.index(shape.color), SIZES.index(shape.size)
        table[number] = (*ids, round(x / SIDE * 1000), round(y / SIDE * 1000))
    cells = _cells(owner)
    counts = np.stack([(cells == number).sum(1) for number in range(1, 6)], 1)
    covering = np.where(counts.max(1) >= 20, counts.argmax(1) + 1, 0)
    grounds = np.stack([(_cells(ground) == color).sum(1) for color in range(PADDING + 1)], 1).argmax(1)
    return covering.astype(np.uint8), grounds.astype(np.uint8), table


def _cells(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image).reshape(GRID, PATCH, GRID, PATCH)
    return pixels.transpose(0, 2, 1, 3).reshape(PATCHES, PATCH * PATCH)


def _fill(job: tuple[Path, int, int]) -> int:
    run, start, stop = job
    arrays = {name: np.load(run / f"{name}.npy", mmap_mode="r+") for name in NAMES}
    for seed in range(start, stop):
        scene = make_scene(seed, longest=LONGEST)
        arrays["pixels"][seed] = np.asarray(to_square(draw(scene), SIDE))
        arrays["owner"][seed], arrays["ground"][seed], arrays["shapes"][seed] = patch_labels(scene)
    return stop


def render(run: Path, count: int, processes: int) -> None:
    run.mkdir(parents=True, exist_ok=True)
    for name, (shape, dtype) in layout(count).items():
        open_memmap(run / f"{name}.npy", mode="w+", dtype=dtype, shape=shape).flush()
    step = 2000
    jobs = [(run, start, min(count, start + step)) for start in range(0, count, step)]
    with multiprocessing.Pool(processes) as pool:
        for done in pool.imap(_fill, jobs):
            print(f"{done} scenes drawn", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("training/run"))
    parser.add_argument("--count", type=int, default=120_000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    render(options.run, options.count, options.processes)


if __name__ == "__main__":
    main()
