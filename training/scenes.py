"""Scenes of simple shapes: a pure function of a seed, drawn with Pillow.

All lengths are fractions of the long side of the picture, so what the model sees after padding to a
square does not depend on the aspect ratio.  Shapes are kept in order from left to right.
"""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from training.outlines import KINDS, Point, outline_points

Rgb = tuple[int, int, int]

COLORS: dict[str, Rgb] = {
    "red": (218, 38, 38),
    "green": (48, 160, 66),
    "blue": (42, 78, 208),
    "yellow": (246, 222, 48),
    "orange": (244, 138, 28),
    "purple": (132, 48, 168),
    "black": (24, 24, 24),
    "white": (246, 246, 246),
    "gray": (132, 132, 132),
    "pink": (246, 148, 190),
    "brown": (118, 70, 34),
    "cyan": (48, 206, 222),
}
COLOR_NAMES = tuple(COLORS)
SIZES = ("small", "large")
DIAMETERS = {"small": (0.13, 0.17), "large": (0.25, 0.33)}
BACKGROUNDS = ("plain", "noisy", "gradient", "two-tone")
SPLITS = ("vertical", "horizontal", "rising", "falling")
PAD: Rgb = (122, 116, 104)
MIN_STEP = 0.06  # between the centres of neighbours, so that "left to right" is never a matter of taste
MARGIN = 0.015
TOO_CLOSE = frozenset(
    frozenset(pair)
    for pair in (
        ("black", "brown"),
        ("red", "orange"),
        ("red", "brown"),
        ("orange", "yellow"),
        ("blue", "purple"),
    )
)


@dataclass(frozen=True)
class Shape:
    """One shape; `x`, `y` (its centre) and `diameter` in fractions of the picture's long side."""

    kind: str
    color: str
    size: str
    x: float
    y: float
    diameter: float
    angle: float
    rgb: Rgb
    outline: Rgb | None


@dataclass(frozen=True)
class Scene:
    """Everything needed to draw a picture and to answer questions about it."""

    seed: int
    width: int
    height: int
    shapes: tuple[Shape, ...]
    background: str
    background_colors: tuple[str, ...]
    background_rgb: tuple[Rgb, ...]
    split: str
    split_at: float
    blur: float
    noise: float
    brightness: float
    jpeg: int | None

    @property
    def long_side(self) -> int:
        return max(self.width, self.height)


def too_close(one: str, other: str) -> bool:
    """Whether two colours are the same or hard to tell apart when one lies on the other."""
    return one == other or frozenset((one, other)) in TOO_CLOSE


def make_scene(seed: int, *, longest: int = 1600) -> Scene:
    """The scene of this seed; `longest` bounds the long side in pixels."""
    rng = random.Random(seed)
    long_side = round(math.exp(rng.uniform(math.log(112), math.log(longest))))
    aspect = math.exp(rng.uniform(-math.log(2), math.log(2))) if rng.random() < 0.75 else 1.0
    width = long_side if aspect >= 1 else max(56, round(long_side * aspect))
    height = long_side if aspect <= 1 else max(56, round(long_side / aspect))
    background = rng.choices(BACKGROUNDS, (0.3, 0.22, 0.22, 0.26))[0]
    colors = _background_colors(rng, 2 if background == "two-tone" else 1)
    shapes = _place(rng, width / long_side, height / long_side, colors)
    return Scene(
        seed=seed,
        width=width,
        height=height,
        shapes=shapes,
        background=background,
        background_colors=colors,
        background_rgb=tuple(_jitter(rng, name) for name in colors),
        split=rng.choice(SPLITS),
        split_at=rng.uniform(0.4, 0.6),
        blur=rng.uniform(0.0, 0.006) if rng.random() < 0.35 else 0.0,
        noise=rng.uniform(2, 9) if rng.random() < 0.3 else 0.0,
        brightness=rng.uniform(0.85, 1.15),
        jpeg=rng.randint(45, 95) if rng.random() < 0.4 else None,
    )


def _background_colors(rng: random.Random, count: int) -> tuple[str, ...]:
    # Half of the plain pictures people draw are on white: give it its share.
    first = "white" if count == 1 and rng.random() < 0.2 else rng.choice(COLOR_NAMES)
    if count == 1:
        return (first,)
    return first, rng.choice([name for name in COLOR_NAMES if not too_close(name, first)])


def _jitter(rng: random.Random, name: str) -> Rgb:
    red, green, blue = (min(255, max(0, value + rng.randint(-10, 10))) for value in COLORS[name])
    if name in ("black", "white", "gray"):
        drift = rng.randint(-8, 8)
        middle = min(255, max(0, COLORS[name][0] + drift))
        return tuple(min(255, max(0, middle + rng.randint(-4, 4))) for _ in range(3))  # type: ignore[return-value]
    return red, green, blue


def _place(rng: random.Random, width: float, height: float, background: tuple[str, ...]) -> tuple[Shape, ...]:
    allowed = [name for name in COLOR_NAMES if not any(too_close(name, other) for other in background)]
    count = rng.randint(1, 5)
    while True:
        shapes: list[Shape] = []
        for _ in range(count):
            shape = _try_place(rng, width, height, allowed, shapes, large=0.5 if count < 4 else 0.35)
            if shape is None:
                break
            shapes.append(shape)
        if len(shapes) == count:
            return tuple(sorted(shapes, key=lambda shape: shape.x))


def _try_place(
    rng: random.Random, width: float, height: float, allowed: list[str], others: list[Shape], *, large: float
) -> Shape | None:
    size = "large" if rng.random() < large else "small"
    diameter = rng.uniform(*DIAMETERS[size])
    border = diameter * 0.56 + MARGIN
    for _ in range(30):
        x, y = rng.uniform(border, width - border), rng.uniform(border, height - border)
        if all(_apart(x, y, diameter, other) for other in others):
            break
    else:
        return None
    # Repeated kinds and colours make counting and naming worth asking about.
    kind = rng.choice(others).kind if others and rng.random() < 0.25 else rng.choice(KINDS)
    color = rng.choice(others).color if others and rng.random() < 0.25 else rng.choice(allowed)
    rgb = _jitter(rng, color)
    outline = None
    if rng.random() < 0.25 and color not in ("black", "brown"):
        outline = rng.choice([(20, 20, 20), _scaled(rgb, 0.5)])
    return Shape(kind, color, size, x, y, diameter, rng.uniform(-15, 15), rgb, outline)


def _apart(x: float, y: float, diameter: float, other: Shape) -> bool:
    room = 0.56 * (diameter + other.diameter) + MARGIN
    return abs(x - other.x) >= MIN_STEP and math.hypot(x - other.x, y - other.y) >= room


def _scaled(rgb: Rgb, factor: float) -> Rgb:
    red, green, blue = (min(255, max(0, round(value * factor))) for value in rgb)
    return red, green, blue


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene: RGB, `scene.width` by `scene.height`."""
    noise = np.random.default_rng(scene.seed)
    picture = _draw_background(scene, noise)
    for shape in scene.shapes:
        _draw_shape(picture, shape, scene.long_side)
    if scene.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(scene.blur * scene.long_side))
    table = [min(255, round(value * scene.brightness)) for value in range(256)]
    picture = picture.point(table * 3)
    if scene.noise:
        pixels = np.asarray(picture, dtype=np.float32)
        pixels = pixels + scene.noise * noise.standard_normal(pixels.shape, dtype=np.float32)
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if scene.jpeg is not None:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=scene.jpeg)
        picture = Image.open(buffer).convert("RGB")
    return picture


def _draw_background(scene: Scene, noise: np.random.Generator) -> Image.Image:
    width, height = scene.width, scene.height
    first = scene.background_rgb[0]
    if scene.background == "two-tone":
        picture = Image.new("RGB", (width, height), scene.background_rgb[1])
        ImageDraw.Draw(picture).polygon(split_area(scene), fill=first)
        return picture
    if scene.background == "plain":
        return Image.new("RGB", (width, height), first)
    base = np.asarray(first, dtype=np.float32)
    if scene.background == "noisy":
        grain = noise.uniform(5, 16) * noise.standard_normal((height, width, 1), dtype=np.float32)
        pixels = base + grain
    else:
        turn = noise.uniform(0, 2 * math.pi)
        rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * math.sin(turn)
        columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :] * math.cos(turn)
        pixels = base * (1 + 0.11 * (rows + columns)[..., None] / (abs(math.sin(turn)) + abs(math.cos(turn))))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def split_area(scene: Scene) -> list[Point]:
    """The part of a two-tone background that has its first colour (left, or else top), in pixels."""
    width, height, at = scene.width, scene.height, scene.split_at
    if scene.split == "vertical":
        return [(0, 0), (at * width, 0), (at * width, height), (0, height)]
    if scene.split == "horizontal":
        return [(0, 0), (width, 0), (width, at * height), (0, at * height)]
    shift = (at - 0.5) * width
    if scene.split == "rising":
        return [(-width, 0), (width + shift, 0), (shift, height), (-width, height)]
    return [(-width, 0), (shift, 0), (width + shift, height), (-width, height)]


def _draw_shape(picture: Image.Image, shape: Shape, long_side: int) -> None:
    scale = 4 if long_side < 500 else 2
    diameter = shape.diameter * long_side
    left, top = math.floor(shape.x * long_side - diameter), math.floor(shape.y * long_side - diameter)
    side = math.ceil(diameter * 2) + 2
    centre = (shape.x * long_side - left, shape.y * long_side - top)
    edge = max(1.0, 0.06 * diameter) if shape.outline else 0.0
    layers = [(shape.outline, 0.0), (shape.rgb, edge)] if shape.outline else [(shape.rgb, 0.0)]
    for color, shrink in layers:
        mask = Image.new("L", (side * scale, side * scale), 0)
        pen = ImageDraw.Draw(mask)
        for diameter_now, inset, fill in _rings(shape.kind, diameter, shrink):
            points = outline_points(shape.kind, diameter_now, shape.angle, inset)
            pen.polygon([((x + centre[0]) * scale, (y + centre[1]) * scale) for x, y in points], fill=fill)
        picture.paste(color, (left, top), mask.reduce(scale))


def _rings(kind: str, diameter: float, shrink: float) -> list[tuple[float, float, int]]:
    if kind != "ring":
        return [(diameter, shrink, 255)]
    return [(diameter, shrink, 255), (diameter * 0.56 + shrink, 0.0, 0)]


def to_square(picture: Image.Image, side: int) -> Image.Image:
    """Scaled so that the long side is `side`, then centred on a square in the padding colour."""
    factor = side / max(picture.size)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    square = Image.new("RGB", (side, side), PAD)
    small = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    square.paste(small, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square
