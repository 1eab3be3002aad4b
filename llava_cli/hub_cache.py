"""Knows how the Hugging Face cache lays out its files: finds them, and puts new ones where other tools look, too.

    models--OWNER--REPO/blobs/<sha256>            the bytes, once
                        snapshots/<commit>/NAME   a link to them; the bytes themselves where there are no links
                        refs/main                 the commit that `main` was when somebody last asked

It never asks the network, and nothing that a server said becomes part of a path before it is looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from llava_cli.errors import UsageError
from llava_cli.registry import FileSpec


def cache_root() -> Path:
    """Return where the cache is: HF_HUB_CACHE, else below HF_HOME, else below XDG_CACHE_HOME or ~/.cache."""
    # Only this module of huggingface_hub: the ones that look files up cost a third of a second to import.
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def find(file: FileSpec) -> Path | None:
    """Return the file in the cache: of the revision wanted, else of `main`, else of any."""
    repository = _repository(file)
    for revision in _revisions(repository, file):
        path = repository / "snapshots" / revision / file.name
        if path.is_file():
            return path
    return None


def named_sha256(path: Path) -> str | None:
    """Return the sha256 that the cache calls a file by, if it does; nothing is read."""
    name = path.resolve().name
    return name if is_sha256(name) else None


def is_sha256(text: str | None) -> bool:
    """Tell whether `text` is a sha256, and so harmless in a path."""
    return text is not None and re.fullmatch(r"[0-9a-f]{64}", text) is not None


def is_commit(text: str | None) -> bool:
    """Tell whether `text` is a commit, and so harmless in a path."""
    return text is not None and re.fullmatch(r"[0-9a-f]{40}", text) is not None


def blob_path(file: FileSpec, sha256: str) -> Path:
    """Name the place of the bytes with this sha256."""
    if not is_sha256(sha256):
        raise ValueError(sha256)
    return _repository(file) / "blobs" / sha256


def part_path(file: FileSpec, sha256: str) -> Path:
    """Name the place of what has come of a file so far: the same in every process, as huggingface_hub names its own."""
    return blob_path(file, sha256).with_suffix(f".{_tag(file)}.incomplete")


def parts(file: FileSpec) -> list[Path]:
    """Return what has been begun of `file`, of any version."""
    return list((_repository(file) / "blobs").glob(f"*.{_tag(file)}.incomplete"))


def enter(file: FileSpec, sha256: str, commit: str) -> Path:
    """Make the blob `sha256` known as `file` of `commit`; return its path there. Raise `OSError` if that cannot be."""
    if not is_commit(commit):
        raise ValueError(commit)
    repository, blob = _repository(file), blob_path(file, sha256)
    pointer = repository / "snapshots" / commit / file.name
    pointer.parent.mkdir(parents=True, exist_ok=True)
    if not (pointer.is_symlink() and pointer.resolve() == blob.resolve()):
        _point(pointer, blob)
    # A commit is its own name; a branch has to be looked up.
    if not is_commit(file.revision):
        _write(repository / "refs" / (file.revision or "main"), commit)
    return pointer


def _repository(file: FileSpec) -> Path:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", file.repo) or ".." in file.repo:
        raise UsageError(file.repo or file.name, "not the name of a repository on the hub: OWNER/REPOSITORY")
    for what in (file.name, file.revision or "main"):
        if not re.fullmatch(r"[^/\\\0]+(/[^/\\\0]+)*", what) or {".", ".."} & set(what.split("/")):
            raise UsageError(what, "not the name of a file or revision on the hub")
    return cache_root() / f"models--{file.repo.replace('/', '--')}"


def _revisions(repository: Path, file: FileSpec) -> Iterator[str]:
    if file.revision is not None:
        yield file.revision
    with contextlib.suppress(OSError, UnicodeDecodeError):
        main = (repository / "refs" / "main").read_text(encoding="ascii").strip()
        if is_commit(main):
            yield main
    with contextlib.suppress(OSError):
        snapshots = sorted((repository / "snapshots").iterdir(), key=lambda entry: entry.stat().st_mtime, reverse=True)
        yield from (entry.name for entry in snapshots)


def _tag(file: FileSpec) -> str:
    return hashlib.sha256(file.name.encode()).hexdigest()[:8]


def _point(pointer: Path, blob: Path) -> None:
    from huggingface_hub import constants

    new = pointer.with_name(f".{secrets.token_hex(4)}.link")
    try:
        if constants.HF_HUB_DISABLE_SYMLINKS:
            raise OSError("links are not wanted")  # noqa: TRY301 - the same as a disk that has none
        new.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        # A disk without links: as huggingface_hub does, the bytes themselves go to the place of the link.
        blob.replace(pointer)
    else:
        new.replace(pointer)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        new.write_text(text, encoding="ascii")
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
