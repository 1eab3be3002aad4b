"""Lays out what a model sees of pictures as one PNG file: a row for each, its tiles beside the whole."""

from __future__ import annotations

import errno
import io
from collections.abc import Sequence
from pathlib import Path

from llava_cli.errors import LlavaError, NotEnoughRoom, UsageError
from llava_cli.pictures import Picture

_GAP, _GREY = 8, (128, 128, 128)
"""Between squares. One square alone is the whole file, pixel for pixel."""


def require_writable(path: Path, sources: Sequence[Picture]) -> None:
    """Raise `UsageError` for a file that could not be written, or should not be, before anything is loaded."""
    if path.suffix.lower() != ".png":
        raise UsageError("--show-input", f"{path} is no name of a PNG file", hint="--show-input seen.png")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError("--show-input", f"{path} cannot be a file", hint="give a name in a folder that is there")
    if any(one.path and path.resolve() == Path(one.path).resolve() for one in sources):
        raise UsageError("--show-input", f"{path} is the picture itself", hint="give another name")


def write_sheet(path: Path, rows: Sequence[Sequence[Picture]]) -> None:
    """Write the squares of each picture as a row of one PNG file."""
    from PIL import Image

    side = rows[0][0].width
    step = side + _GAP
    sheet = Image.new("RGB", (max(map(len, rows)) * step - _GAP, len(rows) * step - _GAP), _GREY)
    for down, squares in enumerate(rows):
        for across, square in enumerate(squares):
            sheet.paste(square.image(), (across * step, down * step))
    drawn = io.BytesIO()
    sheet.save(drawn, "PNG")
    try:
        path.write_bytes(drawn.getvalue())
    except OSError as error:
        kind = NotEnoughRoom if error.errno == errno.ENOSPC else LlavaError
        raise kind(str(path), f"it cannot be written ({(error.strerror or str(error)).lower()})") from error
