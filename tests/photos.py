"""Folders of drawn scenes, as people have folders of photos: some of them broken. And `llava run` on them."""

from __future__ import annotations

import io
import json
import random
import sys
from contextlib import redirect_stderr, redirect_stdout
from contextvars import copy_context
from pathlib import Path
from typing import Any
from unittest import mock

from llava_cli.cli import _run
from training.evaluate import FIRST_SEED, picture_bytes
from training.scenes import make_scene

QUESTION = "Describe this picture."
GREEDY = ("-m", "shapes", "-t", "0", "-q")
_BROKEN = (b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"<html></html>", b"\xff\xd8\xff\xe0" + bytes(50))


def drawn(number: int, *, longest: int = 240) -> bytes:
    """Return a PNG of the scene of that number, which no training has seen."""
    return picture_bytes(make_scene(FIRST_SEED + 20_000 + number, longest=longest))


def broken(count: int, bad: int) -> dict[int, bytes]:
    """Choose which of so many pictures are broken, and how."""
    chosen = random.Random(count).sample(range(count), bad)
    return {number: _BROKEN[at % len(_BROKEN)] for at, number in enumerate(chosen)}


def fill(folder: Path, count: int, *, bad: int = 0) -> Path:
    """Draw `count` pictures into a folder and two below it; `bad` of them are broken."""
    instead = broken(count, bad)
    for number in range(count):
        path = folder / ("", "more", "more/deep")[number % 3] / f"p{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(instead[number] if number in instead else drawn(number))
    return folder


def here(*arguments: object, options: tuple[str, ...] = GREEDY, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run `llava run` in this process, which is quicker; return exit code, stdout and stderr."""
    stdout, stderr = io.StringIO(), io.StringIO()
    command = ["llava", "run", *map(str, arguments), *options]
    with (
        mock.patch.object(sys, "argv", command),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        code = copy_context().run(_run)  # -q is for this command, and not for the next ones
    return code, stdout.getvalue(), stderr.getvalue()


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file without what no two runs have in common."""
    read = [json.loads(line) for line in path.read_text().splitlines()]
    for line in read:
        line["llava"].pop("seconds", None)
    return read


def answers(read: list[dict[str, Any]]) -> dict[tuple[str, str], str | None]:
    """Return what is answered, by the name of the picture and the question; None for an error."""
    return {(Path(line["image"]).name, line["question"]): line.get("answer") for line in read}
