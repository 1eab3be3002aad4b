"""Cuts a part out of a picture, so that a model looks at it closely."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from llava_cli.errors import UsageError
from llava_cli.pictures import Picture

_HINT = "left, top, width and height, each in percent or pixels of the upright picture: --crop 10%,20%,50%,40%"


@dataclass(frozen=True)
class Crop:
    """A part of any picture: left, top, width and height."""

    text: str
    """As the user gave it."""
    lengths: tuple[tuple[float, bool], ...]
    """Four numbers, each with whether it is a percentage."""

    def of(self, picture: Picture) -> Picture:
        """Return that part as a picture of its own; raise `UsageError` where there is none."""
        sides = (picture.width, picture.height) * 2
        left, top, width, height = (
            number * side / 100 if is_percent else number
            for (number, is_percent), side in zip(self.lengths, sides, strict=True)
        )
        box = round(left), round(top), round(left + width), round(top + height)
        size = f"{picture.name}, which is {picture.width} × {picture.height}"
        if left + width > picture.width + 1e-6 or top + height > picture.height + 1e-6:
            raise UsageError("--crop", f"{self.text} reaches beyond {size}", hint=_HINT)
        if box[0] == box[2] or box[1] == box[3]:
            raise UsageError("--crop", f"{self.text} is less than a pixel of {size}", hint=_HINT)
        part = picture.image().crop(box)
        # Its file holds another picture, so it is not remembered where this one came from.
        name = f"{picture.name} [{self.text}]"
        return replace(picture, name=name, width=part.width, height=part.height, rgb=part.tobytes(), path="")


def read_crop(text: str) -> Crop:
    """Read `X,Y,WIDTH,HEIGHT`, numbers of pixels or, with a % behind, of the picture's own size."""
    lengths = [re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", part.strip()) for part in text.split(",")]
    found = tuple((float(one[1]), one[2] == "%") for one in lengths if one)
    if not len(found) == len(lengths) == 4:
        raise UsageError("--crop", f"{text!r} is not four lengths", hint=_HINT)
    return Crop("".join(text.split()), found)
