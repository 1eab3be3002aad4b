"""Writes models into the user's own list, `models.toml` in the config directory; all else there stays as it is."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from llava_cli.errors import UsageError
from llava_cli.private_files import replace_text
from llava_cli.registry import FileSpec, ModelSpec, user_file


def save(spec: ModelSpec) -> Path:
    """Put `spec` into the list, in the place of one of its name, and return the list's path.

    Raise `UsageError` if the list cannot be read or written.
    """
    path, entry = user_file(), _entry(spec)
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else "schema = 1\n"
        kept = [one if _name(one) != spec.name else _comments_below(one) for one in _blocks(before)]
        after = "".join(one.rstrip("\n") + "\n\n" for one in kept if one.strip()) + entry
        others = [one for one in tomllib.loads(before).get("model", []) if one.get("id") != spec.name]
        # Cutting text is only right if reading it says so.
        if tomllib.loads(after)["model"] != [*others, *tomllib.loads(entry)["model"]]:
            raise UsageError(str(path), "nothing can be added to it", hint=f"write it yourself:\n{entry}")
        replace_text(path, after)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(str(path), f"the list of your own models cannot be changed ({error})", hint="") from error
    return path


def _blocks(text: str) -> list[str]:
    """Cut the list before each `[[model]]`."""
    return re.split(r"(?m)^(?=\[\[model\]\]\s*(?:#.*)?$)", text)


def _comments_below(block: str) -> str:
    """Return the last lines of a block, which are about the next one."""
    found = re.search(r"(?m)(?:^[ \t]*(?:#.*)?(?:\n|\Z))*\Z", block)
    return found[0] if found else ""


def _name(block: str) -> object:
    try:
        models = tomllib.loads(block).get("model", [])
    except (ValueError, RecursionError):
        return None
    return models[0].get("id") if models else None


def _entry(spec: ModelSpec) -> str:
    if spec.model is None or spec.projector is None:
        raise ValueError(spec.name)
    facts: dict[str, Any] = {
        "id": spec.name,
        "summary": spec.summary,
        "hf_repo": spec.model.repo,
        "license": spec.licence,
        "context": spec.context,
        "prompt": spec.layout,
        "image_tokens": spec.picture_tokens,
        "default": spec.quant,
    }
    model = {"quant": spec.quant, **_file(spec.model, spec.model.repo)}
    return "".join(
        f"{head}\n{_lines(rows)}"
        for head, rows in (
            ("[[model]]", facts),
            ("[[model.file]]", model),
            ("[model.mmproj]", _file(spec.projector, spec.model.repo)),
        )
    )


def _file(file: FileSpec, repo: str) -> dict[str, Any]:
    return {
        "name": file.name,
        "hf_repo": None if file.repo == repo else file.repo,
        "size": file.size,
        "sha256": file.sha256,
        "revision": file.revision,
    }


def _lines(rows: dict[str, Any]) -> str:
    # A string of JSON is one of TOML, but for DEL, and but for surrogates where all is kept to ASCII.
    written = {key: json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") for key, value in rows.items()}
    return "".join(f"{key} = {text}\n" for key, text in written.items() if rows[key] is not None)
