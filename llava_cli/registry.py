"""Turns a name, or a pair of files, into a `ModelSpec`; the names are those of `models.toml` and of the user's own."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_cli.errors import ModelMissing
from llava_cli.model_table import Entry, read_tables, table_of_llava
from llava_cli.settings import config_path


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
    own: bool = False
    """It stands in the user's own list."""
    local: tuple[Path, Path] | None = None
    """Model and projector as files of the user's own, instead of `model` and `projector`."""

    @property
    def full_name(self) -> str:
        """Return the name that asks for just this quant."""
        return f"{self.name}:{self.quant}" if len(self.quants) > 1 else self.name


def user_file() -> Path:
    """Name the user's own list of models, whether it exists or not; it is written like `models.toml`."""
    return config_path().with_name("models.toml")


def find(name: str) -> ModelSpec:
    """Return the model called `name` or `name:QUANT`; raise `ModelMissing`, naming those there are.

    Whole words of a name are enough if no other has them: `34b`, `phi-3`, `1.5-7b`.
    """
    return _spec(*_entry(name))


def find_quants(name: str) -> tuple[ModelSpec, ...]:
    """Return the model called `name` in each of its quants, or in the one of `name:QUANT`; raise `ModelMissing`."""
    entry, quant = _entry(name)
    return tuple(_spec(entry, one) for one in ([quant] if quant else [file["quant"] for file in entry["file"]]))


def _entry(name: str) -> tuple[Entry, str | None]:
    wanted, _, quant = name.partition(":")
    table = {entry["id"]: entry for entry in read_tables(user_file())}
    found = _meant(wanted, table)
    if len(found) > 1:
        raise ModelMissing(name, f"this could be {_either(found)}", hint="give more of the name")
    if not found:
        raise ModelMissing(name or "--model", "there is no model of this name", hint=_models_hint(wanted, table))
    entry = table[found[0]]
    quants = {file["quant"].casefold(): file["quant"] for file in entry["file"]}
    if quant and quant.casefold() not in quants:
        there = ", ".join(f"{entry['id']}:{one}" for one in quants.values())
        close = difflib.get_close_matches(quant.casefold(), quants, n=1)
        hint = f"did you mean {entry['id']}:{quants[close[0]]}? There are {there}" if close else f"there are {there}"
        raise ModelMissing(name, f"{entry['id']} is not published as {quant}", hint=hint)
    return entry, quants.get(quant.casefold())


def _meant(wanted: str, names: Collection[str]) -> list[str]:
    exact = [name for name in names if name.casefold() == wanted.casefold()]
    words = re.compile(rf"(?:^|[-_])v?{re.escape(wanted)}(?:$|[-_])", re.IGNORECASE)
    return exact or [name for name in names if wanted and words.search(name)]


def _either(names: Collection[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"


def all_specs() -> tuple[ModelSpec, ...]:
    """Return every model with its default quant, in the order of the table."""
    return tuple(_spec(entry, None) for entry in read_tables(user_file()))


def published_specs() -> tuple[ModelSpec, ...]:
    """Return the models of `models.toml`, without the user's own."""
    return tuple(_spec(entry, None) for entry in table_of_llava())


def from_files(model_path: Path, projector_path: Path, layout: str | None) -> ModelSpec:
    """Return the spec of a pair of files on disk; raise `UsageError` for an unknown `layout`."""
    from llava_cli.prompts import find_layout

    return ModelSpec(
        name=model_path.stem,
        summary="files of your own",
        layout="" if layout is None else find_layout(layout).name,
        local=(model_path.expanduser(), projector_path.expanduser()),
    )


def _models_hint(wanted: str, known: Collection[str]) -> str:
    names = ", ".join(known)
    if "/" in wanted or wanted.endswith(".gguf"):
        return f"a file is given with --model-path and --projector-path; -m takes one of {names}"
    plain = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(wanted.casefold(), plain, n=1, cutoff=0.5)
    return f"did you mean {plain[close[0]]}? There are {names}" if close else f"there are {names}"


def _spec(entry: Entry, quant: str | None) -> ModelSpec:
    """Make the record of `entry` in `quant`, or in its default one."""
    repo, files = entry.get("hf_repo", ""), entry["file"]
    quant = quant or entry.get("default", files[0]["quant"])
    return ModelSpec(
        name=entry["id"],
        summary=entry["summary"],
        layout=entry["prompt"],
        picture_tokens=entry.get("image_tokens"),
        context=entry.get("context"),
        licence=entry.get("license"),
        model=_file(repo, next(file for file in files if file["quant"] == quant)),
        projector=_file(repo, entry["mmproj"]),
        quant=quant,
        quants=tuple(file["quant"] for file in files),
        fits_8gb=entry.get("fits_8gb", True),
        bundled=entry.get("bundled", False),
        own=entry.get("own", False),
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
