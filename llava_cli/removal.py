"""Removes models from this computer: their files, and what llava made of them, but nothing that others use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_cli import hub_cache, hub_removal, private_files, registry
from llava_cli.cache_files import Entry
from llava_cli.errors import ModelMissing, ModelUnusable, UsageError
from llava_cli.gguf_file import repaired_copies
from llava_cli.inventory import Holding, look_up
from llava_cli.prefix_cache import PrefixCache
from llava_cli.settings import cache_dir


@dataclass(frozen=True)
class Plan:
    """What goes from the disk, and what stays."""

    files: hub_removal.Removal
    copies: tuple[Path, ...]
    """Repaired copies of the projectors that go."""
    parts: tuple[Path, ...]
    """Downloads that were begun."""
    pictures: tuple[Entry, ...]
    """What these models read of pictures."""
    kept: tuple[tuple[str, str], ...]
    """The name of a file that stays, and why."""

    @property
    def size(self) -> int:
        """Return the bytes that gives back."""
        return sum(size for _, size in self.rows())

    def rows(self) -> list[tuple[str, int]]:
        """Say what goes, each with the bytes that gives back."""
        rows = [(path.name, self.files.size_of(path)) for path in self.files.links]
        rows += [(f"{path.name} (begun download)", path.lstat().st_size) for path in self.parts]
        rows += [("repaired copy of the projector", path.lstat().st_size) for path in self.copies]
        if self.pictures:
            rows.append(("what it read of pictures", sum(entry.size for entry in self.pictures)))
        return rows


def plan_removal(names: Sequence[str], *, all_revisions: bool = False) -> Plan:
    """Decide what goes with the models called `names`; nothing is touched yet.

    `all_revisions` takes the files out of every revision in the cache, not only out of the one llava uses.
    Raise `UsageError` for a bundled model, `ModelMissing` for one of which nothing is there.
    """
    leaving, parts = [], []
    for name in names:
        asked = [look_up(spec) for spec in _removable(name)]
        begun = [part for one in asked for file, _ in one.files for part in hub_cache.parts(file)]
        if not begun and not any(path for one in asked for _, path in one.files):
            raise ModelMissing(name, "not on this computer", hint="llava models shows what is")
        leaving += asked
        parts += begun
    left = {(one.spec.name, one.spec.quant) for one in leaving}
    staying = [look_up(spec) for spec in _all_quants() if (spec.name, spec.quant) not in left]
    paths: list[Path] = []
    kept: list[tuple[str, str]] = []
    for path in dict.fromkeys(path for one in leaving for path in _paths(one, all_revisions)):
        if users := [one.spec for one in staying if path.resolve() in _needs(one)]:
            kept.append((path.name, f"{users[0].full_name} needs it"))
        else:
            paths.append(path)
    files = hub_removal.plan_removal(paths)
    kept += [(path.name, why) for path, why in files.kept]
    # Data that stays is as good as before, and so is what was made of it.
    gone = [path for path in paths if path not in dict(files.kept)]
    copies = [copy for path in gone for copy in repaired_copies(path, cache_dir())]
    pictures = PrefixCache().made_by([*gone, *copies])
    return Plan(files, tuple(copies), tuple(dict.fromkeys(parts)), tuple(pictures), tuple(kept))


def remove(plan: Plan) -> int:
    """Do it; return the bytes that gave back. Raise `ModelUnusable` if a file cannot be removed."""
    freed = sum(_remove_part(part) for part in plan.parts)
    try:
        freed += hub_removal.remove(plan.files)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ModelUnusable(str(error.filename), f"it cannot be removed ({reason})") from error
    freed += sum(private_files.remove(copy) for copy in plan.copies)
    for part in plan.parts:
        hub_removal.tidy(part.parent.parent)
    return freed + PrefixCache().forget(plan.pictures)


def _removable(name: str) -> tuple[registry.ModelSpec, ...]:
    specs = registry.find_quants(name)
    if specs[0].bundled:
        raise UsageError(specs[0].name, "it is part of llava and cannot be removed", hint="pip uninstall llava-cli")
    return specs


def _all_quants() -> Iterator[registry.ModelSpec]:
    for spec in registry.all_specs():
        yield from registry.find_quants(spec.name)


def _paths(one: Holding, all_revisions: bool) -> Iterator[Path]:
    for path in (one.model, one.projector):
        if path is not None:
            yield from hub_removal.in_every_revision(path) if all_revisions else (path,)


def _needs(one: Holding) -> set[Path]:
    """Return the data a model that stays cannot do without; a projector alone is of no use to it."""
    return {path.resolve() for _, path in one.files if path is not None} if one.model is not None else set()


def _remove_part(part: Path) -> int:
    # Another process may be downloading it: then it stays.
    with contextlib.suppress(OSError):
        size = part.lstat().st_size
        with private_files.only_writer(part) as file:
            return size if file is not None else 0
    return 0
