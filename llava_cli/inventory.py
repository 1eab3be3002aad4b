"""Knows which models are on this computer, whole or in part, and which of their quants fits its memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llava_cli import hub_cache, registry
from llava_cli.errors import ModelMissing, UsageError
from llava_cli.registry import FileSpec, ModelSpec
from llava_cli.weights import find_weights

_CLASSES = (1, 2, 4, 8, 16, 32, 64, 128)
"""Sizes of memory that computers are sold with, in GiB."""
_SHARE = 0.85
"""How much of the memory a model may take; the rest is the system's and its programs'."""


@dataclass(frozen=True)
class Holding:
    """A model in one quant, and what of it is on this computer."""

    spec: ModelSpec
    model: Path | None
    projector: Path | None

    @property
    def complete(self) -> bool:
        return self.model is not None and self.projector is not None

    @property
    def files(self) -> tuple[tuple[FileSpec, Path | None], ...]:
        """Return both files as published, and where they are."""
        pairs = ((self.spec.model, self.model), (self.spec.projector, self.projector))
        return tuple((file, path) for file, path in pairs if file is not None)

    @property
    def size(self) -> int | None:
        """Return the bytes of both files, those on disk exactly; None if one is not known."""
        sizes = [size_of(file, path) for file, path in self.files]
        return sum(filter(None, sizes)) if all(sizes) else None


def look_up(spec: ModelSpec) -> Holding:
    """Say what of `spec` is on disk."""
    if spec.bundled:
        try:
            weights = find_weights(spec)
        except ModelMissing:
            return Holding(spec, None, None)
        return Holding(spec, weights.model, weights.projector)
    model, projector = (hub_cache.find(file) if file else None for file in (spec.model, spec.projector))
    return Holding(spec, model, projector)


def all_quants(spec: ModelSpec) -> tuple[Holding, ...]:
    """Say of every quant of a model what is on disk."""
    return tuple(look_up(one) for one in registry.find_quants(spec.name))


def complete(quants: Iterable[Holding]) -> list[Holding]:
    """Return those that are on disk with both files."""
    return [one for one in quants if one.complete]


def names_on_disk() -> list[str]:
    """Return the names of the models that are on disk with both files, each of their quants by itself."""
    return [one.spec.full_name for spec in registry.all_specs() for one in complete(all_quants(spec))]


def choose(name: str) -> Holding:
    """Return the model called `name` in the quant asked for; if none is, in one on disk, else in one that fits.

    Raise `ModelMissing` if there is no such model.
    """
    spec = registry.find(name)
    return look_up(spec) if ":" in name else choose_quant(all_quants(spec), spec.quant)


def spec_of(name: str, model_path: Path | None, projector_path: Path | None, layout: str | None) -> ModelSpec:
    """Return the spec of the pair of files if they are given, else of the model called `name`.

    Raise `UsageError` for half a pair, `ModelMissing` if there is no such model.
    """
    if (model_path is None) != (projector_path is None):
        raise UsageError("model files", "a model needs its projector: give both paths or neither")
    if model_path is not None and projector_path is not None:
        return registry.from_files(model_path, projector_path, layout)
    return choose(name).spec


def choose_quant(quants: tuple[Holding, ...], default: str) -> Holding:
    """Choose among the quants of one model: on disk before not, fitting before not, the default, then the largest."""

    def preference(one: Holding) -> tuple[object, ...]:
        held = one.complete, one.model is not None
        return *held, fits(one) is not False, one.spec.quant == default, one.size or 0

    return max(quants, key=preference)


def fits(holding: Holding) -> bool | None:
    """Say whether the model runs in the memory of this computer; None if its size is not known."""
    needed = needed_memory(holding)
    if needed is not None:
        return needed <= _SHARE * total_memory()
    return False if not holding.spec.fits_8gb and total_memory() < 9 * 1024**3 else None


def memory_class(holding: Holding) -> int | None:
    """Return the smallest size of memory, in GiB, that a computer must have for it; None if that is not known."""
    needed = needed_memory(holding)
    return next((size for size in _CLASSES if needed is not None and needed <= _SHARE * size * 1024**3), None)


def needed_memory(holding: Holding) -> float | None:
    """Estimate the bytes of memory a model takes with the context window of the defaults; None if that is not known."""
    if holding.spec.model is None or holding.spec.projector is None:
        return None
    model = size_of(holding.spec.model, holding.model)
    # Where the size of the projector is not published: that of the tower all these models have.
    projector = size_of(holding.spec.projector, holding.projector) or 0.65e9
    if model is None:
        return None
    # Context and buffers: 1.5 GB for a 7B model (measured), in proportion less for small ones.
    return model + projector + min(1.5e9, 0.2e9 + 0.4 * (model + projector))


def size_of(file: FileSpec, path: Path | None) -> int | None:
    """Return the bytes of a file: on disk if it is there, else as published; None if that is not known."""
    if path is not None:
        return path.stat().st_size
    return None if file.gigabytes is None else round(file.gigabytes * 1e9)


def total_memory() -> int:
    """Return the bytes of memory this computer has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
