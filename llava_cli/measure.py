"""Measures a model on this machine as a user feels it: two questions in one go, one more after opening it again."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llava_cli.errors import Stopped
from llava_cli.pictures import Picture, open_picture
from llava_cli.prefix_cache import PrefixCache

if TYPE_CHECKING:
    from llava_cli.model import Model
    from llava_cli.reply import Reply

_QUESTION, _OTHER = "Describe this picture in detail.", "Which colours do you see?"


@dataclass(frozen=True)
class Measurement:
    """What a new picture, its first answer and the questions after it took. Times are seconds."""

    load_seconds: float
    look_seconds: float
    """Encoding the picture, with opening the vision tower."""
    read_seconds: float
    read_cells: int
    """Tokens and picture tokens of the first prompt."""
    write_seconds: float
    answer_tokens: int
    tokens_per_second: float
    """Of writing; 0 if the answer was one token."""
    first_token_seconds: float
    """From opening the model to the first piece of the answer: a picture it has never seen."""
    next_token_seconds: float
    """From the second question to the first piece of its answer, the model still open."""
    again_token_seconds: float
    """From opening the model once more to the first piece of an answer about the same picture."""
    peak_memory: int
    """Bytes in memory at the most, the mapped part of the model file included; 0 if this system does not say."""

    def numbers(self) -> dict[str, float | int]:
        """Return all of it by name, times and speeds with three digits behind the point: more is noise."""
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in vars(self).items()}


def measure(open_model: Callable[[PrefixCache], Model], max_tokens: int) -> Measurement:
    """Ask a model three questions about a picture made for it, each answered with at most `max_tokens`.

    `open_model` opens it with the cache it is given: a directory that is gone afterwards, so that the picture is
    new to it and the user's own cache stays as it is. Raise `Stopped` when the user stops an answer.
    """
    picture = _picture()
    with tempfile.TemporaryDirectory(prefix="llava-bench-") as directory:
        cache = PrefixCache(Path(directory))
        begun = time.monotonic()
        with open_model(cache) as model:
            load_seconds = time.monotonic() - begun
            chat = model.chat()
            first = _finish(chat.send(_QUESTION, picture=picture, max_tokens=max_tokens))
            following = _finish(chat.send(_OTHER, max_tokens=max_tokens))
        begun = time.monotonic()
        with open_model(cache) as model:
            reload_seconds = time.monotonic() - begun
            again = _finish(model.ask(picture, _OTHER, max_tokens=max_tokens))
    usage = first.usage
    return Measurement(
        load_seconds=load_seconds,
        look_seconds=usage.look_seconds,
        read_seconds=usage.read_seconds,
        read_cells=usage.new_cells,
        write_seconds=usage.write_seconds,
        answer_tokens=usage.answer_tokens,
        tokens_per_second=usage.tokens_per_second,
        first_token_seconds=load_seconds + usage.first_token_seconds,
        next_token_seconds=following.usage.first_token_seconds,
        again_token_seconds=reload_seconds + again.usage.first_token_seconds,
        peak_memory=peak_memory(),
    )


def peak_memory() -> int:
    """Return the most memory this process has held at once, in bytes; 0 if this system does not say."""
    try:
        import resource
    except ImportError:
        return 0  # Windows
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _finish(reply: Reply) -> Reply:
    for _ in reply:
        continue
    if reply.finish_reason == "stopped":
        raise Stopped("bench", "stopped before the end")
    return reply


def _picture() -> Picture:
    """Draw a colourful square; what a picture shows does not change what it costs."""
    from PIL import Image

    across = Image.linear_gradient("L")
    return open_picture(Image.merge("RGB", (across, across.rotate(90), Image.radial_gradient("L"))), name="gradients")
