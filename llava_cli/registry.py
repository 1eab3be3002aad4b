"""Turns a name, or a pair of files, into a `ModelSpec`; the names are those of `models.toml`."""

from __future__ import annotations

import difflib
import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from llava_cli.errors import ModelMissing, UsageError


@dataclass(frozen=True)
class FileSpec:
    """One published file. What is None is not known."""

    repo: str
    """Its repository on the Hugging Face hub; empty for a file of this package."""
    name: str
    size: int | None = None
    """Bytes, exactly."""
    sha256: str | None = None
    revision: str | None = None
    size_gb: float | None = None
    """Its size as published, rounded, where that is all that is."""

    @property
    def gigabytes(self) -> float | None:
        return self.size_gb if self.size is None else self.size / 1e9


@dataclass(frozen=True)
class ModelSpec:
    """What is known about a model before any file of it is opened."""

    name: str
    summary: str
    layout: str
    """How it wants its chats written: a name of `llava_cli.prompts.LAYOUTS`; empty if the file must tell."""
    picture_tokens: int | None = None
    """What a picture takes at most."""
    context: int | None = None
    licence: str | None = None
    model: FileSpec | None = None
    projector: FileSpec | None = None
    quant: str = ""
    quants: tuple[str, ...] = ()
    """All that are published; `name:QUANT` asks for one."""
    fits_8gb: bool = True
    bundled: bool = False
    local: tuple[Path, Path] | None = None
    """Model and projector as files of the user's own, instead of `model` and `projector`."""


def find(name: str) -> ModelSpec:
    """Return the model called `name` or `name:QUANT`; raise `ModelMissing`, naming those there are."""
    wanted, _, quant = name.partition(":")
    table = {entry["id"]: entry for entry in _table()}
    known = {one.casefold(): one for one in table}
    if wanted.casefold() not in known:
        raise ModelMissing(name, "there is no model of this name", hint=_models_hint(wanted, known))
    entry = table[known[wanted.casefold()]]
    quants = {file["quant"].casefold(): file["quant"] for file in entry["file"]}
    if quant and quant.casefold() not in quants:
        there = ", ".join(f"{entry['id']}:{one}" for one in quants.values())
        raise ModelMissing(name, f"{entry['id']} is not published as {quant}", hint=f"there are {there}")
    return _spec(entry, quants.get(quant.casefold(), entry["default"]))


def all_specs() -> tuple[ModelSpec, ...]:
    """Return every model with its default quant, in the order of the table."""
    return tuple(_spec(entry, entry["default"]) for entry in _table())


def from_files(model_path: Path, projector_path: Path, layout: str | None) -> ModelSpec:
    """Return the spec of a pair of files on disk; raise `UsageError` for an unknown `layout`."""
    from llava_cli.prompts import find_layout

    return ModelSpec(
        name=model_path.stem,
        summary="files of your own",
        layout="" if layout is None else find_layout(layout).name,
        local=(model_path.expanduser(), projector_path.expanduser()),
    )


def choose(name: str, model_path: Path | None, projector_path: Path | None, layout: str | None) -> ModelSpec:
    """Return the spec of the pair of files if they are given, else of `name`; raise `UsageError` for half a pair."""
    if (model_path is None) != (projector_path is None):
        raise UsageError("model files", "a model needs its projector: give both paths or neither")
    if model_path is not None and projector_path is not None:
        return from_files(model_path, projector_path, layout)
    return find(name)


def _models_hint(wanted: str, known: Mapping[str, str]) -> str:
    names = ", ".join(known.values())
    if "/" in wanted or wanted.endswith(".gguf"):
        return f"a file is given with --model-path and --projector-path; -m takes one of {names}"
    close = difflib.get_close_matches(wanted.casefold(), known, n=1, cutoff=0.5)
    return f"did you mean {known[close[0]]}? There are {names}" if close else f"there are {names}"


@functools.cache
def _table() -> tuple[dict[str, Any], ...]:
    # A wheel carries the file inside the package; in a checkout it stands beside the package, at the top.
    inside = resources.files("llava_cli") / "models.toml"
    text = (inside if inside.is_file() else Path(__file__).parent.parent / "models.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    return tuple(table["model"])


def _spec(entry: Mapping[str, Any], quant: str) -> ModelSpec:
    repo = entry.get("hf_repo", "")
    file = next(file for file in entry["file"] if file["quant"] == quant)
    return ModelSpec(
        name=entry["id"],
        summary=entry["summary"],
        layout=entry["prompt"],
        picture_tokens=entry["image_tokens"],
        context=entry.get("context"),
        licence=entry.get("license"),
        model=_file(repo, file),
        projector=_file(repo, entry["mmproj"]),
        quant=quant,
        quants=tuple(file["quant"] for file in entry["file"]),
        fits_8gb=entry.get("fits_8gb", True),
        bundled=entry.get("bundled", False),
    )


def _file(repo: str, row: Mapping[str, Any]) -> FileSpec:
    return FileSpec(
        repo=row.get("hf_repo", repo),
        name=row["name"],
        size=row.get("size"),
        sha256=row.get("sha256"),
        revision=row.get("revision"),
        size_gb=row.get("size_gb"),
    )
