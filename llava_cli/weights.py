"""Turns a `ModelSpec` into `Weights`: two files on disk, checked, that fit each other. It never asks the network."""

from __future__ import annotations

import difflib
import shutil
import sys
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
        # The hub's tool takes a cached file for good, whatever is in it.
        damaged = [file for file in _hub_files(spec) if file.name == error.what]
        raise ModelUnusable(error.what, error.why, hint=f"{_download(damaged)} --force-download") from error
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
    found = {file: hub_cache.find(file) for file in _hub_files(spec)}
    missing = [file for file, path in found.items() if path is None]
    if missing:
        raise _not_on_disk(spec, missing)
    model, projector = (path for path in found.values() if path is not None)
    return Weights(model, projector, tuple(_strangers(found)))


def _hub_files(spec: ModelSpec) -> tuple[FileSpec, FileSpec]:
    if spec.model is None or spec.projector is None:
        raise ModelMissing(spec.name, "it has no files")
    return spec.model, spec.projector


def _bundled(spec: ModelSpec) -> Weights:
    directory = Path(str(resources.files("llava_cli"))) / "data" / spec.name
    model, projector = (directory / file.name for file in _hub_files(spec))
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


def _not_on_disk(spec: ModelSpec, missing: list[FileSpec]) -> ModelMissing:
    sizes = [file.gigabytes for file in missing]
    size = f" ({sum(filter(None, sizes)):.2f} GB)" if all(sizes) else ""
    name = spec.name if len(missing) == 2 else f"{spec.name}: {missing[0].name}"
    too_large = "" if spec.fits_8gb else ", and it needs more than 8 GB of memory"
    demo = "or ask the built-in demo: llava ask PICTURE QUESTION -m shapes"
    return ModelMissing(
        name, f"not on this computer{too_large}", hint=f"download it{size}: {_download(missing)}; {demo}"
    )


def _download(files: tuple[FileSpec, ...] | list[FileSpec]) -> str:
    """Return the commands of huggingface_hub's own tool that fetch `files`."""
    beside = Path(sys.executable).with_name("hf")
    # Whoever runs `.venv/bin/llava` has no `hf` on the path, but one lies beside it.
    tool = str(beside) if shutil.which("hf") is None and beside.exists() else "hf"
    wanted: dict[tuple[str, str | None], list[str]] = {}
    for file in files:
        wanted.setdefault((file.repo, file.revision), []).append(file.name)
    return " && ".join(
        " ".join([tool, "download", repo, *names, *(["--revision", revision] if revision else [])])
        for (repo, revision), names in wanted.items()
    )
