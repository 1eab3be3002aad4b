"""The outlines of the eight shapes, about their centre."""

from __future__ import annotations

import math

Point = tuple[float, float]
KINDS = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")


def outline_points(kind: str, diameter: float, angle: float, shrink: float = 0.0) -> list[Point]:
    """The corners of a shape about its centre; `shrink` moves the edge inwards by about that much."""
    radius = diameter / 2
    if kind in ("circle", "ring"):
        points = [_polar(radius, step * 6) for step in range(60)]
    elif kind == "square":
        side = radius * 0.88
        points = [(-side, -side), (side, -side), (side, side), (-side, side)]
    elif kind == "diamond":
        points = [(0.0, -radius * 1.1), (radius * 0.74, 0.0), (0.0, radius * 1.1), (-radius * 0.74, 0.0)]
    elif kind == "triangle":
        points = [(x, y + radius * 0.16) for x, y in (_polar(radius * 1.12, turn) for turn in (-90, 30, 150))]
    elif kind == "star":
        points = [_polar(radius * (1.12 if step % 2 == 0 else 0.46), step * 36 - 90) for step in range(10)]
    elif kind == "cross":
        arm, half = radius, radius * 0.34
        points = [
            (-half, -arm), (half, -arm), (half, -half), (arm, -half), (arm, half), (half, half),
            (half, arm), (-half, arm), (-half, half), (-arm, half), (-arm, -half), (-half, -half),
        ]  # fmt: skip
    else:
        points = [_heart(radius * 1.04, step / 60 * 2 * math.pi) for step in range(60)]
    keep = max(0.1, 1 - shrink / (radius * (0.6 if kind in ("star", "cross", "triangle") else 0.85)))
    cos, sin = math.cos(math.radians(angle)) * keep, math.sin(math.radians(angle)) * keep
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in points]


def _polar(radius: float, degrees: float) -> Point:
    return radius * math.cos(math.radians(degrees)), radius * math.sin(math.radians(degrees))


def _heart(radius: float, turn: float) -> Point:
    across = 16 * math.sin(turn) ** 3
    up = 13 * math.cos(turn) - 5 * math.cos(2 * turn) - 2 * math.cos(3 * turn) - math.cos(4 * turn)
    return across / 16 * radius, -(up + 2.5) / 16 * radius
