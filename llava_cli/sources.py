"""Turns what a user names as a picture into one: a path, `-`, an http(s) address, a `data:` URL or `clip:`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from llava_cli.errors import UsageError
from llava_cli.fetching import fetch, is_address, public_name
from llava_cli.pictures import LIMITS, Picture, PictureLimits, open_data_url, open_picture
from llava_cli.sniffing import SUFFIXES


def names_picture(text: str) -> bool:
    """Tell a picture from a question: an address, a file that is there, or what can only be meant as one.

    Of a file that is not there, somebody should hear; a question about nothing would be answered.
    """
    if os.path.lexists(text):
        return True
    folder = os.path.dirname(text)  # noqa: PTH120 - no question is too long for it
    is_path = text.startswith(("~/", "./", "../", "/")) or (folder != "" and os.path.isdir(folder))  # noqa: PTH112
    if any(letter.isspace() for letter in text):
        return is_path and Path(text).suffix.lower() in SUFFIXES
    return (
        text == "clip:" or text[:5].lower() == "data:" or is_address(text) or is_path
        or re.search(r"\w\.\w{2,5}$", text) is not None
    )  # fmt: skip


def _taken() -> bytes:
    raise UsageError("stdin", "it is where the questions come from", hint="give a file, an address or clip:")


def open_source(
    source: str,
    *,
    stdin: Callable[[], bytes] = _taken,
    frame: int = 0,
    allow_truncated: bool = False,
    limits: PictureLimits = LIMITS,
) -> Picture:
    """Open the picture that `source` names; `stdin` gives the bytes when that is `-`.

    Raise `UnreadablePicture` when it is none. A file called like one of the other ways is `./clip:` or `./-`.
    """
    if source == "-":
        return open_picture(stdin(), name="stdin", frame=frame, allow_truncated=allow_truncated, limits=limits)
    if source == "clip:":
        from llava_cli.clipboard import open_clipboard

        return open_clipboard(frame=frame, allow_truncated=allow_truncated, limits=limits)
    if source[:5].lower() == "data:":
        return open_data_url(source, frame=frame, allow_truncated=allow_truncated, limits=limits)
    if is_address(source):
        name = public_name(source)
        return open_picture(fetch(source), name=name, frame=frame, allow_truncated=allow_truncated, limits=limits)
    return open_picture(source, frame=frame, allow_truncated=allow_truncated, limits=limits)
