"""Draws a picture small, in the way this terminal can show one: kitty's protocol, sixel, or half blocks."""

from __future__ import annotations

import fcntl
import io
import os
import struct
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llava_cli.pictures import Picture

ROWS, COLUMNS = 12, 48
"""The most a preview takes of the screen."""


def draw(picture: Picture, how: str = "auto", *, rows: int = ROWS) -> RenderableType:
    """Return `picture` for rich to print, at most `rows` high; `how` is a way of `settings.ChatOptions.preview`."""
    way = protocol(os.environ) if how == "auto" else how
    with _unasked():
        from textual_image._terminal import get_cell_size
        from textual_image.renderable import HalfcellImage, SixelImage, TGPImage

        cell = get_cell_size()
    image = picture.image()
    # As many cells as fit into the box without changing its shape.
    scale = min(COLUMNS * cell.width / image.width, rows * cell.height / image.height)
    columns = max(1, round(image.width * scale / cell.width))
    lines = max(1, round(image.height * scale / cell.height))
    if way == "kitty":
        return TGPImage(image, width=columns, height=lines)
    if way == "sixel":
        return SixelImage(image, width=columns, height=lines)
    return HalfcellImage(image, width=columns, height=lines)


def protocol(environment: Mapping[str, str]) -> str:
    """Tell from its environment what a terminal can show: `kitty`, `sixel` or `blocks`.

    Asking the terminal itself would swallow what is typed before it answers.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" in environment or term.startswith(("tmux", "screen")):
        return "blocks"
    if term in ("xterm-kitty", "xterm-ghostty") or "KITTY_WINDOW_ID" in environment or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or term.startswith(("foot", "mlterm", "contour")):
        return "sixel"
    return "sixel" if "KONSOLE_VERSION" in environment else "blocks"


@contextmanager
def _unasked() -> Iterator[None]:
    """Keep textual-image from asking the terminal questions; it does so on a terminal only, and once."""
    terminal, sys.__stdout__ = sys.__stdout__, io.StringIO()  # type: ignore[misc,assignment]
    names = ("TEXTUAL_CELL_WIDTH", "TEXTUAL_CELL_HEIGHT")
    os.environ.update(zip(names, map(str, _cell_pixels()), strict=False))
    try:
        yield
    finally:
        sys.__stdout__ = terminal  # type: ignore[misc]
        for name in names:
            os.environ.pop(name, None)


def _cell_pixels() -> tuple[int, int] | tuple[()]:
    """Return width and height of one character in pixels, if the terminal has told the kernel."""
    with suppress(OSError, ValueError, AttributeError):
        data = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, bytes(8))
        rows, columns, width, height = struct.unpack("HHHH", data)
        if rows and columns and width // columns and height // rows:
            return width // columns, height // rows
    return ()
