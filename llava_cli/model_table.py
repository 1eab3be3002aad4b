"""Reads the tables of models: `models.toml` of llava, and the user's own file of the same form, which is checked."""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from llava_cli.errors import UsageError
from llava_cli.prompts import LAYOUT_NAMES
from llava_cli.sanitiser import sanitise

Entry = Mapping[str, Any]
"""One `[[model]]`, as it stands in the file."""

SCHEMA = 1


def read_tables(own: Path) -> tuple[Entry, ...]:
    """Return every model: those of llava, then those of the file `own`, which take the place of others of their name.

    Raise `UsageError` saying which entry of `own` is wrong, and in what.
    """
    table = {entry["id"].casefold(): entry for entry in table_of_llava()}
    return tuple({**table, **{entry["id"].casefold(): entry for entry in _own_table(own)}}.values())


@functools.cache
def table_of_llava() -> tuple[Entry, ...]:
    """Return the models of `models.toml`."""
    # A wheel carries the file inside the package; in a checkout it stands beside the package, at the top.
    inside = resources.files("llava_cli") / "models.toml"
    text = (inside if inside.is_file() else Path(__file__).parent.parent / "models.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["model"])


def _own_table(path: Path) -> Iterable[Entry]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(str(path), f"your list of models cannot be read ({error})", hint=f"mend {path}") from error
    entries = table.get("model", [])
    if faults := [*_faults_of_file(table), *_faults_of_entries(entries)]:
        raise UsageError(str(path), faults[0], hint=f"mend {path}; it is written like the models.toml of llava")
    return [{"summary": "of your own list", "own": True, **entry} for entry in entries]


def _faults_of_file(table: Mapping[str, Any]) -> Iterable[str]:
    if table.get("schema", SCHEMA) != SCHEMA:
        yield f"schema is {table['schema']!r}; this llava reads {SCHEMA}"
    yield from (f"unknown key {key!r} at the top{_did_you_mean(key, ('schema', 'model'))}"
                for key in table if key not in ("schema", "model"))  # fmt: skip


def _faults_of_entries(entries: Any) -> Iterable[str]:
    if not _is_list_of_tables(entries):
        yield "model is not a list; an entry begins with [[model]]"
        return
    seen: set[str] = set()
    for number, entry in enumerate(entries, 1):
        name = entry.get("id")
        label = f"model {name!r}" if isinstance(name, str) else f"model {number}"
        yield from (f"{label}: {fault}" for fault in faults_of_entry(entry))
        if isinstance(name, str) and name.casefold() in seen:
            yield f"{label}: there is another of this name in this file"
        seen.add(str(name).casefold())


def faults_of_entry(entry: Mapping[str, Any]) -> list[str]:
    """Say everything that is wrong with one `[[model]]`; nothing if it can be used."""
    faults = list(_faults_of_keys(entry, _MODEL, ("id", "prompt", "file", "mmproj")))
    files, projector = entry.get("file"), entry.get("mmproj")
    if faults or not isinstance(files, list) or not isinstance(projector, dict):
        return faults
    quants = [str(file.get("quant")) for file in files]
    for quant, file in zip(quants, files, strict=True):
        faults += [f"file {quant!r}: {fault}" for fault in _faults_of_keys(file, _FILE | _QUANT, ("quant", "name"))]
        if "hf_repo" not in entry and "hf_repo" not in file:
            faults.append(f"file {quant!r}: hf_repo is missing, here or for the whole model")
    faults += [f"mmproj: {fault}" for fault in _faults_of_keys(projector, _FILE, ("name",))]
    if "hf_repo" not in entry and "hf_repo" not in projector:
        faults.append("mmproj: hf_repo is missing, here or for the whole model")
    if len({quant.casefold() for quant in quants}) < len(quants):
        faults.append("two files have the same quant")
    if entry.get("default", quants[0]) not in quants:
        faults.append(f"default is {entry['default']!r}, but there are {', '.join(quants)}")
    return faults


_Check = tuple[Callable[[Any], bool], str]


def _text(pattern: str, what: str) -> _Check:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None, what


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 62


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_file_name(value: Any) -> bool:
    if not isinstance(value, str) or not value.endswith(".gguf") or "\\" in value or not value.isprintable():
        return False
    return not {"", ".", ".."} & set(value.split("/"))


def _is_line(value: Any) -> bool:
    # The completion of a shell shows it: there is nobody on that way who would take anything out.
    return isinstance(value, str) and "" != value == sanitise(value) and not set("\n\t") & set(value)


# Names of repositories, revisions and files become parts of paths: nothing in them may lead elsewhere.
_REPO = _text(r"\w[\w.-]*/\w[\w.-]*", "a repository of the hub (owner/name)")
_SENTENCE = _is_line, "a line of text"
_COUNT = _is_whole, "a whole number above 0"
_NAME = _text(r"\w[\w.+-]*", "a name of letters, digits and . _ + - (no spaces or colons)")

_FILE: dict[str, _Check] = {
    "name": (_is_file_name, "the name of a .gguf file in the repository"),
    "hf_repo": _REPO,
    "size": _COUNT,
    "size_gb": (lambda value: isinstance(value, int | float) and 0 < value < 1e6, "a number of GB"),
    "sha256": _text(r"[0-9a-f]{64}", "64 hexadecimal digits"),
    "revision": _text(r"[0-9a-f]{40}", "a commit of 40 hexadecimal digits"),
}
_QUANT: dict[str, _Check] = {"quant": _NAME}
_MODEL: dict[str, _Check] = {
    "id": _NAME,
    "prompt": (lambda value: value in LAYOUT_NAMES, f"one of {', '.join(LAYOUT_NAMES)}"),
    "file": (lambda value: _is_list_of_tables(value) and bool(value), "a list of [[model.file]]"),
    "mmproj": (lambda value: isinstance(value, dict), "a table [model.mmproj]"),
    "hf_repo": _REPO,
    "summary": _SENTENCE,
    "license": _SENTENCE,
    "default": _NAME,
    "context": _COUNT,
    "image_tokens": _COUNT,
    "fits_8gb": (lambda value: isinstance(value, bool), "true or false"),
}


def _faults_of_keys(table: Mapping[str, Any], checks: Mapping[str, _Check], required: Iterable[str]) -> Iterable[str]:
    yield from (f"{key} is missing" for key in required if key not in table)
    for key, value in table.items():
        if key not in checks:
            yield f"unknown key {key!r}{_did_you_mean(key, checks)}"
        elif not checks[key][0](value):
            yield f"{key} is {_short(value)}, not {checks[key][1]}"


def _short(value: Any) -> str:
    written = repr(value)
    return written if len(written) <= 60 else f"{written[:57]}…"


def _did_you_mean(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
