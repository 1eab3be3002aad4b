"""Turns a `ModelSpec` into `Weights`: two files on disk, checked, that fit each other. It never asks the network."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from llava_cli import hub_cache
from llava_cli.errors import ModelMissing, ModelUnusable
from llava_cli.gguf_file import check_pair, read_header, repaired_projector
from llava_cli.gguf_header import DOWNLOAD_AGAIN
from llava_cli.recognition import recognised_layout
from llava_cli.registry import FileSpec, ModelSpec
from llava_cli.settings import cache_dir


@dataclass(frozen=True)
class Weights:
    """The two files of a model, and what is worth saying about them once."""

    model: Path
    projector: Path
    notes: tuple[str, ...] = ()
    layout: str = ""
    """The prompt layout: the one of the spec, or what the model file tells if that has none."""


def open_weights(spec: ModelSpec, *, projector_quant: str = "original") -> Weights:
    """Find the files of `spec`, check both and the pair, and mend the projector if it needs it.

    Raise `ModelMissing` if they are not on disk, `ModelUnusable` if llama.cpp must not see them, `UsageError` if
    nothing tells their prompt layout.
    """
    weights = find_weights(spec)
    try:
        model = read_header(weights.model)
        check_pair(model, read_header(weights.projector))
        layout, told = (spec.layout, ()) if spec.layout else recognised_layout(model)
        repaired = repaired_projector(weights.projector, cache_dir(), quant=projector_quant)
    except ModelUnusable as error:
        if spec.model is None or spec.bundled or error.hint != DOWNLOAD_AGAIN:
            raise
        raise ModelUnusable(error.what, error.why, hint=f"llava pull {spec.full_name} fetches it again") from error
    # What was mended is said when the copy is made, not at every start.
    said_before = repaired.path != weights.projector and not repaired.fresh
    repairs = () if said_before else repaired.repairs
    notes = (*weights.notes, *told, *(f"{weights.projector.name}: {repair}" for repair in repairs))
    return replace(weights, projector=repaired.path, notes=notes, layout=layout)


def find_weights(spec: ModelSpec) -> Weights:
    """Return where the two files of `spec` are; raise `ModelMissing`, saying how to get them."""
    if spec.local is not None:
        for path in spec.local:
            if not path.exists():
                raise ModelMissing(str(path), "there is no such file", hint=_did_you_mean(path))
        return Weights(*spec.local)
    if spec.bundled:
        return _bundled(spec)
    found = {file: hub_cache.find(file) for file in hub_files(spec)}
    missing = tuple(file for file, path in found.items() if path is None)
    if missing:
        raise _not_on_disk(spec, missing)
    model, projector = (path for path in found.values() if path is not None)
    return Weights(model, projector, tuple(_strangers(found)))


def missing_files(spec: ModelSpec) -> tuple[FileSpec, ...]:
    """Return the files of `spec` that `llava pull` would fetch."""
    if spec.local is not None or spec.bundled:
        return ()
    return tuple(file for file in hub_files(spec) if hub_cache.find(file) is None)


def hub_files(spec: ModelSpec) -> tuple[FileSpec, FileSpec]:
    """Return the model file and the projector file of `spec`, as published."""
    if spec.model is None or spec.projector is None:
        raise ModelMissing(spec.name, "it has no files")
    return spec.model, spec.projector


def _bundled(spec: ModelSpec) -> Weights:
    directory = Path(str(resources.files("llava_cli"))) / "data" / spec.name
    model, projector = (directory / file.name for file in hub_files(spec))
    for path in (model, projector):
        if not path.is_file():
            why = f"{path.name} is not in this installation"
            raise ModelMissing(spec.name, why, hint="pip install --force-reinstall --no-deps llava-cli")
    return Weights(model, projector)


def _did_you_mean(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.name.endswith(".gguf")]
    except OSError:
        return f"there is no directory {path.parent}, either"
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {path.parent / close[0]}?"
    return f"{path.parent} holds {', '.join(sorted(names)[:5])}" if names else f"{path.parent} holds no .gguf file"


def _strangers(found: dict[FileSpec, Path | None]) -> Iterator[str]:
    """Say which files are not those the registry knows, as far as the cache tells without reading them."""
    for file, path in found.items():
        held = hub_cache.named_sha256(path) if path is not None else None
        if file.sha256 and held and held != file.sha256:
            yield (
                f"{file.name}: the file in the cache is not the one this list knows "
                f"(sha256 {held[:12]}… instead of {file.sha256[:12]}…)"
            )


def _not_on_disk(spec: ModelSpec, missing: tuple[FileSpec, ...]) -> ModelMissing:
    size = size_of(missing)
    name = spec.name if len(missing) == 2 else f"{spec.name}: {missing[0].name}"
    too_large = "" if spec.fits_8gb else ", and it needs more than 8 GB of memory"
    demo = "or ask the built-in demo: llava ask PICTURE QUESTION -m shapes"
    fetch = f"download it{f' ({size})' if size else ''}: llava pull {spec.full_name}"
    return ModelMissing(name, f"not on this computer{too_large}", hint=f"{fetch}; {demo}")


def size_of(files: tuple[FileSpec, ...]) -> str:
    """Write how much there is to fetch for people: `4.7 GB`; empty if nobody published it."""
    sizes = [file.gigabytes for file in files]
    return f"{sum(filter(None, sizes)):.1f} GB" if all(sizes) else ""
