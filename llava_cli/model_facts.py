"""Writes down what is known of a model: as a row of a table, in full, and for programs; says what nobody published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llava_cli import inventory, registry
from llava_cli.amounts import in_bytes
from llava_cli.inventory import Holding

UNKNOWN = "unknown"


TITLES = ("model", "what it is", "size", "memory", "fits", "on disk", "licence")


def row(one: Holding, there: Sequence[Holding]) -> tuple[Any, ...]:
    """Return the values under `TITLES` for a model, of which the quants `there` are on disk."""
    spec = one.spec
    held = ", ".join(held.spec.quant for held in there) or ("in part" if one.model or one.projector else "no")
    return spec.name, spec.summary, _total(one), _memory(one), _fits(one), held, spec.licence or UNKNOWN


def _total(one: Holding) -> int | str:
    """Return the bytes of both files, or what is known of them."""
    if one.size is not None:
        return one.size
    model = inventory.size_of(one.spec.model, one.model) if one.spec.model else None
    return f"{in_bytes(model)}+" if model else UNKNOWN


def _memory(one: Holding) -> str:
    least = inventory.memory_class(one)
    if least is not None:
        return f"{least} GB"
    return UNKNOWN if one.spec.fits_8gb else "more than 8 GB"


def _published(size: int | None) -> str:
    return "size not published" if size is None else in_bytes(size)


def _fits(one: Holding) -> str:
    return {True: "yes", False: "no", None: UNKNOWN}[inventory.fits(one)]


def about(one: Holding) -> Iterator[tuple[str, str]]:
    """Yield what is known of a model, as pairs to read."""
    spec = one.spec
    yield "model", spec.full_name
    yield "what it is", spec.summary
    yield "known from", str(registry.user_file()) if spec.own else "the list of llava"
    yield "licence", spec.licence or "see its card: hf.co/" + (spec.model.repo if spec.model else "")
    yield "prompt layout", spec.layout
    yield "context", f"{spec.context:,} tokens" if spec.context else UNKNOWN
    yield "a picture is", f"{spec.picture_tokens:,} tokens" if spec.picture_tokens else UNKNOWN
    yield "memory", f"{_memory(one)} (fits this computer: {_fits(one)})"
    for what, (file, path) in zip(("model file", "projector"), one.files, strict=True):
        yield what, str(path) if path is not None else f"{file.repo}/{file.name}, not on this computer"
        yield "", f"{_published(inventory.size_of(file, path))}, sha256 {file.sha256 or 'not published'}"
    for other in inventory.all_quants(spec):
        size = inventory.size_of(other.spec.model, other.model) if other.spec.model else None
        yield "quant", f"{other.spec.quant}, {_published(size)}{', on disk' if other.complete else ''}"


def facts(one: Holding, there: Sequence[Holding]) -> dict[str, Any]:
    """Return what is known of a model as JSON has it; None is not known."""
    spec = one.spec
    files = [
        {
            "repo": file.repo or None,
            "name": file.name,
            "revision": file.revision,
            "sha256": file.sha256,
            "size": inventory.size_of(file, path),
            "path": None if path is None else str(path),
        }
        for file, path in one.files
    ]
    return {
        "name": spec.name,
        "summary": spec.summary,
        "licence": spec.licence,
        "layout": spec.layout,
        "context": spec.context,
        "picture_tokens": spec.picture_tokens,
        "own": spec.own,
        "bundled": spec.bundled,
        "quant": spec.quant,
        "quants": spec.quants,
        "size": one.size,
        "memory_gib": inventory.memory_class(one),
        "fits": inventory.fits(one),
        "complete": one.complete,
        "on_disk": [held.spec.quant for held in there],
        "files": files,
    }
