"""Draws the picture of the README: `python -m training.example examples/scene.png`."""

from __future__ import annotations

import sys

from training.scenes import COLORS, Scene, Shape, draw

SCENE = Scene(
    seed=1,
    width=640,
    height=400,
    shapes=(
        Shape("circle", "red", "large", 0.2, 0.3, 0.28, 0.0, COLORS["red"], None),
        Shape("square", "blue", "small", 0.48, 0.44, 0.16, 8.0, COLORS["blue"], None),
        Shape("star", "green", "large", 0.78, 0.3, 0.3, -6.0, COLORS["green"], None),
    ),
    background="plain",
    background_colors=("white",),
    background_rgb=(COLORS["white"],),
    split="vertical",
    split_at=0.5,
    blur=0.0,
    noise=0.0,
    brightness=1.0,
    jpeg=None,
)

if __name__ == "__main__":
    draw(SCENE).save(sys.argv[1], optimize=True)
