"""Questions kept under a name: what to ask, and how, of any picture. Private files in the config directory."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from llava_cli.choices import checked
from llava_cli.errors import UsageError
from llava_cli.private_files import replace_text
from llava_cli.schemas import AnswerSchema
from llava_cli.settings import Sampling, config_path

_LONGEST = 1 << 20


@dataclass(frozen=True)
class Template:
    """What is asked, and with what; None leaves a thing open."""

    question: str | None = None
    system: str | None = None
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    top_p: float | None = None
    schema: Mapping[str, Any] | bool | None = None
    choices: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.schema is not None:
            AnswerSchema(self.schema)
        if self.choices is not None:
            checked(self.choices)
        if self.schema is not None and self.choices is not None:
            raise UsageError("template", "it cannot have both a schema and choices", hint="choices alone are enough")
        Sampling(**{key: value for key, value in self.settings().items() if key not in ("system", "model")})

    def settings(self) -> dict[str, Any]:
        """Return what it sets, as `settings.resolve` takes it."""
        return {key: value for key, value in self.facts().items() if key not in ("question", "schema", "choices")}

    def facts(self) -> dict[str, Any]:
        """Return all that is not left open."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def save(name: str, template: Template) -> Path:
    """Keep `template` under `name`, in the place of one that was there, and return its file."""
    path = _file(name)
    try:
        replace_text(path, json.dumps(template.facts(), indent=2, ensure_ascii=False) + "\n")
    except (OSError, UnicodeEncodeError) as error:
        raise UsageError(name, f"the template cannot be kept ({error})", hint="llava config --path") from error
    return path


def find(name: str) -> Template:
    """Return the template called `name`; raise `UsageError` if there is none, or its file holds none."""
    path = _file(name)
    try:
        with path.open("rb") as file:
            facts = json.loads(file.read(_LONGEST))
        return _read(facts)
    except FileNotFoundError:
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]}?" if close else "llava template list shows those there are"
        raise UsageError(name, "there is no such template", hint=hint) from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        hint = f"mend the file, or remove it: llava template rm {name}"
        raise UsageError(str(path), f"the template cannot be read ({error})", hint=hint) from error


def names() -> list[str]:
    """Return the names of all templates."""
    try:
        return sorted(path.stem for path in _directory().glob("*.json") if _is_name(path.stem))
    except OSError:
        return []


def remove(name: str) -> None:
    """Remove a template; raise `UsageError` if there is none of that name."""
    path = _file(name)
    if not path.exists():
        find(name)
    try:
        path.unlink()
    except OSError as error:
        raise UsageError(name, f"the template cannot be removed ({error})") from error


def _read(facts: Any) -> Template:
    if not isinstance(facts, dict):
        raise TypeError("it is no JSON object")
    known = {field.name for field in fields(Template)}
    for key, value in facts.items():
        kinds = _KINDS.get(key, str)
        if key not in known or not isinstance(value, kinds) or (key != "schema" and isinstance(value, bool)):
            raise TypeError(f"{key}: {json.dumps(value)[:40]} makes no sense there")
    choices = facts.get("choices")
    return Template(**{**facts, **({} if choices is None else {"choices": tuple(map(str, choices))})})


_KINDS: dict[str, Any] = {
    "temperature": (int, float),
    "top_p": (int, float),
    "max_tokens": int,
    "seed": int,
    "schema": (dict, bool),
    "choices": list,
}
"""Of what type a value is in the file, if it is no text."""


def _directory() -> Path:
    return config_path().parent / "templates"


def _file(name: str) -> Path:
    if not _is_name(name):
        why = "a template's name has letters, digits, and - _ . inside, 64 at most"
        raise UsageError(name, why, hint="llava template list")
    return _directory() / f"{name}.json"


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[^\W_][\w.-]{0,63}", name) is not None
