"""Turn a path, bytes, a data URL or a Pillow image into a `Picture`: checked, upright, sRGB."""

from __future__ import annotations

import binascii
import contextlib
import dataclasses
import difflib
import errno
import hashlib
import io
import itertools
import os
import re
import shlex
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from llava_cli import decoding
from llava_cli.errors import UnreadablePicture
from llava_cli.settings import Detail, require_detail

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class PictureLimits:
    """What is refused before any pixel is decoded."""

    max_pixels: int = 40_000_000
    max_bytes: int = 100_000_000
    max_memory: int = 500_000_000
    """What a process that only decodes it may take, about: in a few formats, fewer pixels than `max_pixels` do."""

    @classmethod
    def up_to(cls, megapixels: int) -> PictureLimits:
        """Allow as many, whatever memory they take; 0 is the default."""
        if not megapixels:
            return cls()
        pixels = megapixels * 1_000_000
        return cls(pixels, max(cls.max_bytes, 4 * pixels), sys.maxsize)


LIMITS = PictureLimits()


@dataclass(frozen=True)
class Picture:
    """Hold the upright sRGB pixels of one picture, three bytes each, row by row."""

    name: str
    """As the user gave it, safe to show."""
    width: int
    height: int
    rgb: bytes = field(repr=False)
    notes: tuple[str, ...] = ()
    """What is worth saying once, e.g. that an animation's other frames are not seen."""
    detail: Detail | None = None
    """How closely a LLaVA-1.6 looks at it; None leaves that to the model (`LoadOptions.detail`)."""
    path: str = field(default="", repr=False, compare=False)
    """The file it came from, absolute; empty if it came from elsewhere."""
    frame: int = field(default=0, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or len(self.rgb) != self.width * self.height * 3:
            raise ValueError(f"{len(self.rgb)} bytes are not {self.width} by {self.height} RGB pixels")
        if self.detail is not None:
            require_detail(self.detail)

    @cached_property
    def sha256(self) -> str:
        """Identify the pixels and their shape, whatever file they came from."""
        digest = hashlib.sha256(f"RGB {self.width} {self.height}\n".encode())
        digest.update(self.rgb)
        return digest.hexdigest()

    def image(self) -> Image.Image:
        """Make a Pillow image of it."""
        from PIL import Image

        return Image.frombytes("RGB", (self.width, self.height), self.rgb)

    def thumbnail(self) -> bytes:
        """Make a small JPEG of it, at most 10 kB; empty if there is no memory for that."""
        file = io.BytesIO()
        with contextlib.suppress(MemoryError, OSError):
            image = self.image()
            image.thumbnail((160, 160), reducing_gap=2.0)
            for quality in (75, 50, 25):
                file = io.BytesIO()
                image.save(file, "JPEG", quality=quality)
                if file.tell() <= 10_000:
                    return file.getvalue()
        return b""

    def remembered(self) -> RememberedPicture:
        """Return what to write down of it."""
        return RememberedPicture(self.sha256, self.name, self.width, self.height, self.detail, self.path, self.frame)


@dataclass(frozen=True)
class RememberedPicture:
    """Know a picture by its hash, without its pixels: enough where its embeddings are kept, and to open it again."""

    sha256: str
    name: str
    width: int
    height: int
    detail: Detail | None = None
    path: str = ""
    frame: int = 0

    def open(self) -> Picture:
        """Open its file again; raise `UnreadablePicture` unless that still holds the same pixels."""
        if not self.path:
            raise self._forgotten("it came from no file")
        try:
            # A cut file, or a large one, may have been allowed then; the hash tells whether it is what was seen.
            picture = open_picture(
                self.path,
                name=self.name,
                frame=self.frame,
                allow_truncated=True,
                limits=PictureLimits.up_to(max(LIMITS.max_pixels, self.width * self.height + 999_999) // 1_000_000),
                detail=self.detail,
            )
        except UnreadablePicture as error:
            raise self._forgotten(f"{shown(self.path)}: {error.why}") from error
        if picture.sha256 != self.sha256:
            raise self._forgotten(f"{shown(self.path)} is another picture now")
        return picture

    def _forgotten(self, why: str) -> UnreadablePicture:
        return UnreadablePicture(self.name, f"the picture is no longer known ({why})", hint="give the file again")


@dataclass(frozen=True)
class SentPicture(RememberedPicture):
    """A picture that came in a request: while it waits, its file is kept and not its pixels, twenty times as many."""

    file: str | bytes = field(default=b"", repr=False, compare=False)
    """A data URL, or the bytes of a file."""
    how: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """How it was opened: `allow_truncated` and `limits`."""

    def open(self) -> Picture:
        """Decode it again."""
        how = {"name": self.name, "detail": self.detail, **self.how}
        return open_data_url(self.file, **how) if isinstance(self.file, str) else open_picture(self.file, **how)


def open_picture(
    source: str | os.PathLike[str] | os.PathLike[bytes] | bytes | Image.Image | Picture,
    *,
    name: str | None = None,
    frame: int = 0,
    allow_truncated: bool = False,
    limits: PictureLimits = LIMITS,
    detail: Detail | None = None,
) -> Picture:
    """Open a file, the bytes of one, or a Pillow image (as it stands); raise UnreadablePicture if it is none."""
    if isinstance(source, Picture):
        if name is None and detail is None:
            return source  # which knows its hash already
        name = source.name if name is None else shown(name)
        return dataclasses.replace(source, name=name, detail=detail or source.detail)
    place = ""
    if isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        what = shown(path if name is None else name)
        data = _read(path, what, limits)
        place = str(Path(path).absolute())
    elif isinstance(source, bytes):
        what = shown("picture" if name is None else name)
        _require_bytes(what, len(source), limits)
        data = source
    else:
        from PIL import Image

        if not isinstance(source, Image.Image):
            raise TypeError(f"a picture is a path, bytes, a Pillow image or a Picture, not {type(source).__name__}")
        what = shown("picture" if name is None else name)
        return _picture(what, *decoding.upright(what, source, max_pixels=limits.max_pixels), detail)
    image, notes = decoding.decode(
        what,
        data,
        frame=frame,
        allow_truncated=allow_truncated,
        max_pixels=limits.max_pixels,
        max_memory=limits.max_memory,
    )
    return dataclasses.replace(_picture(what, image, notes, detail), path=place, frame=frame)


def open_data_url(
    url: str,
    *,
    name: str | None = None,
    frame: int = 0,
    allow_truncated: bool = False,
    limits: PictureLimits = LIMITS,
    detail: Detail | None = None,
) -> Picture:
    """Open the picture that a `data:` URL carries, whatever media type it claims."""
    what = shown("data URL" if name is None else name)
    header, comma, body = url.partition(",")
    if header[:5].lower() != "data:" or not comma:
        raise UnreadablePicture(what, "not a data URL", hint="it begins like data:image/png;base64,")
    data = unquote_to_bytes(body)
    if header.lower().endswith(";base64"):
        try:
            data = binascii.a2b_base64(data, strict_mode=True)
        except binascii.Error as error:
            hint = "encode the whole file, without line breaks: base64 -w0 FILE"
            raise UnreadablePicture(what, f"broken base64 ({str(error).lower()})", hint=hint) from error
    return open_picture(data, name=what, frame=frame, allow_truncated=allow_truncated, limits=limits, detail=detail)


def shown(name: str) -> str:
    """Make a file name safe to show on one line: what does not print is escaped, what is endless is cut."""
    if len(name) > 300:
        name = f"{name[:200]}…{name[-99:]}"
    return "".join(map(_shown_letter, name)) or "''"


def _shown_letter(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # how Python reads a byte that is no UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter if letter.isprintable() else ascii(letter)[1:-1]


def _picture(what: str, image: Image.Image, notes: tuple[str, ...], detail: Detail | None) -> Picture:
    return Picture(what, image.width, image.height, image.tobytes(), notes, detail)


def _read(path: str, what: str, limits: PictureLimits) -> bytes:
    # Opened once and never waiting: what is checked is what is read, and a pipe without a writer is no trap.
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            status = os.fstat(handle)
            _require_file(what, status.st_mode)
            _require_bytes(what, status.st_size, limits)
            with os.fdopen(handle, "rb", closefd=False) as file:
                data = file.read(limits.max_bytes + 1)
        finally:
            os.close(handle)
    except ValueError as error:
        raise UnreadablePicture(what, "not a possible file name", hint="check the name") from error
    except OSError as error:
        raise _unopened(path, what, error) from error
    _require_bytes(what, len(data), limits)
    return data


def _require_file(what: str, mode: int) -> None:
    kinds = (
        (stat.S_ISDIR, "a folder, not a single picture", "give one picture that is in it"),
        (stat.S_ISFIFO, "a pipe, not a file", "save the picture to a file first, or: … | llava ask -"),
        (stat.S_ISSOCK, "a socket, not a file", "give a picture file"),
        (stat.S_ISCHR, "a device, not a file", "give a picture file"),
        (stat.S_ISBLK, "a device, not a file", "give a picture file"),
    )
    for is_kind, why, hint in kinds:
        if is_kind(mode):
            raise UnreadablePicture(what, why, hint=hint)


def _require_bytes(what: str, size: int, limits: PictureLimits) -> None:
    if size > limits.max_bytes:
        why = f"too large: {size:,} bytes (at most {limits.max_bytes:,})"
        raise UnreadablePicture(what, why, hint=decoding.SMALLER)


def _unopened(path: str, what: str, error: OSError) -> UnreadablePicture:
    if scheme := re.match(r"(?i)[a-z][a-z0-9+.-]*://", path):
        # A password in an address is nobody's business.
        what = shown(re.sub(r"://[^/]*@", "://", path)) if what == shown(path) else what
        is_file = scheme[0].lower() == "file://"
        hint = "give the path without file://" if is_file else "download it first: curl -LO ADDRESS"
        return UnreadablePicture(what, "an address, not a file", hint=hint)
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return UnreadablePicture(what, "no such file", hint=_did_you_mean(Path(path)))
        case errno.EACCES | errno.EPERM:
            hint = f"let yourself read it: chmod u+r {shlex.quote(what)}"
            return UnreadablePicture(what, "permission denied", hint=hint)
        case errno.ELOOP:
            return UnreadablePicture(what, "a link that leads back to itself", hint="give the picture itself")
        case errno.ENAMETOOLONG:
            return UnreadablePicture(what, "the name is too long", hint="check the name")
        case errno.ENXIO:
            with contextlib.suppress(OSError):
                _require_file(what, Path(path).stat().st_mode)
    why = f"cannot be read ({os.strerror(error.errno or errno.EIO).lower()})"
    return UnreadablePicture(what, why, hint="copy it to another disk and try again")


def _did_you_mean(path: Path) -> str:
    if path.is_symlink():
        return f"it is a link to {shown(str(path.readlink()))}, which is gone"
    if str(path).startswith("~"):
        return "leave ~ out of the quotes, so that the shell replaces it"
    if not path.parent.is_dir():
        return f"there is no folder {shown(str(path.parent))}"
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        files = (entry.name for entry in entries if not entry.is_dir())
        names = {name.lower(): name for name in itertools.islice(files, 2000)}
        if near := difflib.get_close_matches(path.name.lower(), names, n=1):
            return f"did you mean {shown(str(path.with_name(names[near[0]])))}?"
    try:
        return f"check the name; llava looked in {shown(str(path.parent.absolute()))}"
    except FileNotFoundError:
        return "the directory this shell stands in is gone: cd to another"
