"""Brings the two files of a model onto this disk: asks for them, waits its turn, fetches, checks, puts them there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llava_cli import hub, hub_cache
from llava_cli.checksums import remember, sha256_of
from llava_cli.errors import DownloadFailed, ModelUnusable, NotEnoughRoom
from llava_cli.hub import Limits, Published
from llava_cli.partial_file import PartialFile, open_part, remove_stale
from llava_cli.registry import FileSpec, ModelSpec
from llava_cli.settings import cache_dir
from llava_cli.transfer import fetch
from llava_cli.weights import Weights, hub_files, open_weights

WAITING, FETCHING, CHECKING, HERE = "waiting", "fetching", "checking what is here", "here"


@dataclass(frozen=True)
class Progress:
    """How far one of the two files is."""

    role: str
    """`model` or `projector`."""
    done: int
    size: int
    doing: str


@dataclass(frozen=True)
class Pulled:
    """A model that is on this disk, checked."""

    spec: ModelSpec
    """What was pulled, with the sizes and hashes of its files."""
    weights: Weights
    fetched: bool
    """Whether anything had to come over the network."""


def pull(
    spec: ModelSpec,
    *,
    on_progress: Callable[[Progress], None],
    on_note: Callable[[str], None],
    trust: bool = False,
    projector_quant: str = "original",
    limits: Limits | None = None,
) -> Pulled:
    """Make sure that both files of `spec` are on this disk, to the bit.

    Raise `DownloadFailed` or `NotEnoughRoom`; what has come by then is kept, and the next call goes on there. Raise
    `ModelUnusable` if the files are as published, but of no use. `trust` takes what the hub has, even if the
    registry knows another file by this name.
    """
    files = tuple(replace(file, sha256=None, size=None) if trust else file for file in hub_files(spec))
    run = _Run(on_progress, on_note, limits or hub.LIMITS)
    # The small one first: what is wrong with a connection or a token shows at once.
    roles = dict(zip(("model", "projector"), files, strict=True))
    found = {role: run.find(role, file) for role, file in roles.items()}
    missing = [role for role, file in found.items() if file is None]
    published = {role: run.ask(roles[role]) for role in missing}
    _check_room(spec, published)
    for role, one in published.items():
        on_progress(Progress(role, 0, one.size, WAITING))
    for role, one in sorted(published.items(), reverse=True):
        found[role] = run.bring(role, one)
    complete = replace(spec, model=found["model"], projector=found["projector"])
    for file in (complete.model, complete.projector):
        for part in hub_cache.parts(file) if file else ():
            with contextlib.suppress(OSError):
                remove_stale(part)
    return Pulled(complete, _open(complete, projector_quant), fetched=bool(missing))


def _open(spec: ModelSpec, projector_quant: str) -> Weights:
    try:
        return open_weights(spec, projector_quant=projector_quant)
    except ModelUnusable as error:
        if not error.hint.startswith("llava pull"):
            raise
        hint = f"it is as {spec.model.repo if spec.model else spec.name} published it: fetching it again will not help"
        raise ModelUnusable(error.what, error.why, hint=hint) from error


class _Run:
    """One run of `pull`: whom to tell, and how long to wait."""

    def __init__(self, on_progress: Callable[[Progress], None], on_note: Callable[[str], None], limits: Limits) -> None:
        self._on_progress = on_progress
        self._on_note = on_note
        self._limits = limits

    def find(self, role: str, file: FileSpec) -> FileSpec | None:
        """Return the file with its hash if it is here and whole, as far as is known without the network."""
        path = hub_cache.find(file)
        if path is None:
            return None
        expected = file.sha256 or hub_cache.named_sha256(path)
        if expected is None:
            return None
        if not self._is(path, expected, role):
            self._on_note(f"{file.name}: the file in the cache is damaged or another one; it is fetched again")
            return None
        size = path.stat().st_size
        self._on_progress(Progress(role, size, size, HERE))
        return replace(file, sha256=expected, size=size)

    def ask(self, file: FileSpec) -> Published:
        """Return what the hub says about the file."""

        def on_pause(why: str, seconds: float) -> None:
            if seconds >= 1:
                self._on_note(f"{why}; trying again in {seconds:.0f} s")

        return hub.ask_hub(file, limits=self._limits, on_pause=on_pause)

    def bring(self, role: str, published: Published) -> FileSpec:
        """Fetch the file, unless another process does, and put it in place; return it with its hash."""
        file = published.file
        path = hub_cache.part_path(file, published.sha256)
        try:
            while not self._settle(role, published, path):
                done = path.stat().st_size if path.exists() else 0
                self._on_progress(Progress(role, done, published.size, "another llava fetches it"))
                time.sleep(self._limits.poll)
        except OSError as error:
            raise _no_place(file, path, error) from error
        self._on_progress(Progress(role, published.size, published.size, HERE))
        return replace(file, sha256=published.sha256, size=published.size, revision=published.commit)

    def _settle(self, role: str, published: Published, path: Path) -> bool:
        """Put the file in place, if it is our turn; tell whether it is there."""
        file, sha256 = published.file, published.sha256
        blob = hub_cache.blob_path(file, sha256)
        with open_part(path) as part:
            if part is None:
                return False
            there = next((one for one in _places(published) if self._is(one, sha256, role)), None)
            if there is None:
                self._fill(role, published, part)
                part.become(blob)
                remember(blob, sha256)
            else:
                part.discard()
            if there in (None, blob):
                try:
                    hub_cache.enter(file, sha256, published.commit)
                except FileNotFoundError:
                    # Without links, another process may just have moved it to its place.
                    if not any(self._is(one, sha256, role) for one in _places(published)):
                        raise
            return True

    def _fill(self, role: str, published: Published, part: PartialFile) -> None:
        def telling(doing: str) -> Callable[[int], None]:
            return lambda done: self._on_progress(Progress(role, done, published.size, doing))

        def on_pause(why: str, seconds: float) -> None:
            if seconds >= 1:
                telling(f"{why}; trying again in {seconds:.0f} s")(part.length)

        part.take_up(published.size, telling(CHECKING))
        telling(FETCHING)(part.length)
        fetch(published, part, limits=self._limits, on_bytes=telling(FETCHING), on_pause=on_pause)

    def _is(self, path: Path, sha256: str, role: str) -> bool:
        """Tell whether the file is there and has this hash; it is read once in its life."""
        try:
            size = path.stat().st_size
            return (
                sha256_of(path, on_bytes=lambda done: self._on_progress(Progress(role, done, size, CHECKING))) == sha256
            )
        except OSError:
            return False


def _places(published: Published) -> Iterator[Path]:
    yield hub_cache.blob_path(published.file, published.sha256)
    path = hub_cache.find(replace(published.file, revision=published.commit))
    if path is not None:
        yield path


def _check_room(spec: ModelSpec, published: dict[str, Published]) -> None:
    """Raise `NotEnoughRoom` if a disk cannot take what will be written to it."""
    needs: list[tuple[Path, int]] = []
    for role, one in published.items():
        part = hub_cache.part_path(one.file, one.sha256)
        there = part.stat().st_size if part.exists() else 0
        if not hub_cache.blob_path(one.file, one.sha256).exists():
            needs.append((hub_cache.cache_root(), max(0, one.size - there)))
        if role == "projector":
            # Most published projectors need a repaired copy.
            needs.append((cache_dir(), one.size))
    disks: dict[int, tuple[Path, int]] = {}
    for directory, size in needs:
        existing = next(one for one in (directory, *directory.absolute().parents) if one.exists())
        first, before = disks.get(existing.stat().st_dev, (directory, 0))
        disks[existing.stat().st_dev] = (first, before + size)
        free = shutil.disk_usage(existing).free
        if before + size > free:
            why = f"it takes {_gigabytes(before + size)}, and {first} has {_gigabytes(free)} left"
            raise NotEnoughRoom(spec.full_name, why, hint=_SMALLER)


_SMALLER = "make room there, set HF_HOME to a directory on another disk, or pull a smaller one: NAME:QUANT"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size > 1e8 else f"{size / 1e6:.1f} MB"


def _no_place(file: FileSpec, path: Path, error: OSError) -> DownloadFailed | NotEnoughRoom:
    reason = (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NotEnoughRoom(file.name, f"{path.parent} does not take more ({reason})", hint=_SMALLER)
    place = os.fspath(error.filename) if error.filename else str(path.parent)
    return DownloadFailed(
        file.name, f"{place} cannot be written ({reason})", hint="set HF_HOME to a directory that can be written to"
    )
