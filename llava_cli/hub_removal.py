"""Takes files out of the Hugging Face cache; other programs share it, and what another revision links to stays."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Removal:
    """What goes when some files leave the cache, and what stays because something else uses it."""

    links: tuple[Path, ...]
    """Files of snapshots, mostly links."""
    blobs: tuple[Path, ...]
    """Their data, where nothing else in the cache links to it."""
    kept: tuple[tuple[Path, str], ...]
    """A file whose data stays, and why."""

    @property
    def size(self) -> int:
        """Return the bytes that gives back."""
        return sum(_alone(path) for path in (*self.blobs, *self.links))

    def size_of(self, link: Path) -> int:
        """Return the bytes that one of its links gives back; 0 if its data stays, or goes with an earlier one."""
        data = link.resolve()
        if data in self.blobs:
            first = next(other for other in self.links if other.resolve() == data)
            return _alone(data) if link == first else 0
        return _alone(link)


def in_every_revision(path: Path) -> list[Path]:
    """Return where the file that `hub_cache.find` found is in all revisions of its repository."""
    snapshots = _snapshots(path)
    name = Path(*path.relative_to(snapshots).parts[1:])
    return [place for revision in sorted(snapshots.iterdir()) if (place := revision / name).is_file()]


def plan_removal(paths: Collection[Path]) -> Removal:
    """Decide what goes with `paths`, each as `hub_cache.find` returned it; nothing is touched yet."""
    blobs: list[Path] = []
    kept: list[tuple[Path, str]] = []
    for path in [path for path in paths if path.is_symlink()]:
        blob, snapshots = path.resolve(), _snapshots(path)
        others = [other for other in _links_to(blob, snapshots) if other not in paths]
        if blob.parent != (snapshots.parent / "blobs").resolve():
            kept.append((path, f"its data is not in the cache but at {blob}"))
        elif others:
            revision, *name = others[0].relative_to(snapshots).parts
            kept.append((path, f"revision {revision[:12]} has the same data as {'/'.join(name)}"))
        elif blob not in blobs:
            blobs.append(blob)
    return Removal(tuple(paths), tuple(blobs), tuple(kept))


def remove(removal: Removal) -> int:
    """Do it, and take away what is empty then; return the bytes that gives back. Raise `OSError` if it cannot be."""
    freed = removal.size
    # Links first: whoever is stopped in between leaves data without a name, never a name without data.
    for path in (*removal.links, *removal.blobs):
        path.unlink(missing_ok=True)
    for snapshots in {_snapshots(path) for path in removal.links}:
        tidy(snapshots.parent)
    return freed


def tidy(repository: Path) -> None:
    """Remove the directories of a repository that are empty, and the refs that lead to none of those that are left."""
    _remove_empty(repository / "snapshots")
    # huggingface_hub calls a cache with such a ref corrupt.
    for ref in [path for path in (repository / "refs").rglob("*") if path.is_file()]:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if not (repository / "snapshots" / ref.read_text(encoding="ascii").strip()).is_dir():
                ref.unlink()
    for part in ("refs", "blobs", ".no_exist"):
        _remove_empty(repository / part)
    with contextlib.suppress(OSError):
        repository.rmdir()


def _alone(path: Path) -> int:
    status = path.lstat()
    # A link is nothing; what has a second name (a hard link) somewhere stays on the disk.
    return status.st_size if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 else 0


def _snapshots(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.name == "snapshots")


def _links_to(blob: Path, snapshots: Path) -> Iterator[Path]:
    return (path for path in snapshots.rglob("*") if path.is_symlink() and path.resolve() == blob)


def _remove_empty(directory: Path) -> None:
    for inner, _, _ in os.walk(directory, topdown=False):
        with contextlib.suppress(OSError):
            Path(inner).rmdir()
