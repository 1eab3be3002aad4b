"""Finds the pictures that are meant: one by one, under folders, behind patterns, in the order people expect."""

from __future__ import annotations

import glob
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from llava_cli import sniffing
from llava_cli.errors import UnreadablePicture, UsageError
from llava_cli.fetching import is_address
from llava_cli.pictures import shown
from llava_cli.sniffing import SUFFIXES

_HEAD = 512
"""Bytes that tell whether a file is a picture."""


@dataclass(frozen=True)
class Found:
    """One picture to open, or a place where there should have been some."""

    source: str
    """As `open_source` takes it."""
    place: str
    """What it is called inside the folder that was given, so the same wherever that folder stands."""
    error: UnreadablePicture | None = None


@dataclass
class Search:
    """Finds pictures and counts what it leaves out."""

    own: Path | None = None
    """A file of the run itself, resolved, which is no picture and not left out, either."""
    own_suffix: str = ""
    """How the names of such files end."""
    left_out: int = 0
    """Files in folders, or behind patterns, that are no pictures."""

    def find(self, argument: str, *, literal: bool = False) -> Iterator[Found]:
        """Yield what `argument` means: a picture, all of a folder, what fits a pattern unless it is `literal`.

        A name that means nothing is yielded, too: opening it says what is wrong. Raise `UsageError` for a pattern
        that nothing fits, and for a folder without a picture.
        """
        names = [argument]
        is_pattern = glob.has_magic(argument) and not is_elsewhere(argument) and not os.path.lexists(argument)
        if is_pattern and not literal:
            names = sorted(glob.glob(argument, recursive=True), key=_natural)  # noqa: PTH207 - names stay as given
            names = [name for name in names if os.path.isdir(name) or self._takes(name)]  # noqa: PTH112
            if not names:
                raise UsageError(shown(argument), "no picture fits this pattern", hint="check it with ls")
        for name in names:
            if is_elsewhere(name) or not os.path.isdir(name):  # noqa: PTH112 - no name is too long for it
                yield Found(name, name)
            else:
                yield from self._folder(name)

    def _folder(self, folder: str) -> Iterator[Found]:
        before, empty = self.left_out, True
        for found in self._walk(folder, ""):
            empty = False
            yield found
        if empty:
            others = self.left_out - before
            why = f"there is no picture in it ({others} other files)" if others else "there is no picture in it"
            raise UsageError(shown(folder), why, hint="give a folder with pictures")

    def _walk(self, folder: str, inside: str) -> Iterator[Found]:
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: _natural(entry.name))
        except OSError as error:
            why = f"this folder cannot be read ({(error.strerror or str(error)).lower()})"
            hint = "let yourself read it: chmod u+rx FOLDER"
            yield Found(folder, inside, UnreadablePicture(shown(folder), why, hint=hint))
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path, place = os.path.join(folder, entry.name), f"{inside}{entry.name}"  # noqa: PTH118 - names stay as given
            # Links to folders are not followed: one of them may lead back here.
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(path, f"{place}/")
            elif not entry.is_dir() and self._takes(path):
                yield Found(path, place)

    def _takes(self, path: str) -> bool:
        if (self.own_suffix and path.endswith(self.own_suffix)) or Path(path).resolve() == self.own:
            return False
        is_one = is_picture(path)
        self.left_out += not is_one
        return is_one


def is_picture(path: str) -> bool:
    """Tell a picture by its name, so that a broken one is missed by nobody, or by what is in it."""
    if Path(path).suffix.lower() in SUFFIXES:
        return True
    with opened_file(path) as file:
        head = b"" if file is None else file.read(_HEAD)
    # Two letters alone, with which a picture might begin, are none.
    return len(head) > 11 and sniffing.picture_format(head) is not None


def is_missing(name: str) -> bool:
    """Tell whether an argument names a file or folder that is not there."""
    return not (is_elsewhere(name) or glob.has_magic(name) or os.path.lexists(name))


def listed(data: bytes, *, null: bool) -> list[str]:
    """Return the names in a list, one on a line, or with a zero byte behind each."""
    names = data.split(b"\0") if null else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    # In a list, these two are names of files like any other.
    return [f"./{name}" if name in ("-", "clip:") else name for name in map(os.fsdecode, names) if name]


def is_elsewhere(name: str) -> bool:
    """Tell whether a picture is named by anything but a file."""
    return is_address(name) or name == "clip:" or name[:5].lower() == "data:"


@contextmanager
def opened_file(path: str) -> Iterator[io.FileIO | None]:
    """Open a file for a look at its bytes; None if it is none, such as a pipe that would keep us waiting."""
    file = None
    with suppress(OSError, ValueError):
        file = io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY))
    with file or nullcontext():
        yield file if file is not None and stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None


def _natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """Order names as people do: a2 before a10, small and capital letters alike."""
    parts: Iterable[tuple[str, str]] = re.findall(r"([^0-9]*)([0-9]*)", name.casefold())
    return [(text, int(number or -1)) for text, number in parts], name
