"""What an answer must look like: a JSON schema, from a file, as JSON or in short, and the answer checked against it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llava_cli.errors import AnswerUnfit, UsageError
from llava_cli.schema_grammar import grammar_of

_LARGEST = 1 << 20
_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_FORMS = "a file, a JSON schema, or fields in short, as 'color, shape, count int'"

_AGAIN = "ask again with another --seed, or a simpler schema"


@dataclass(frozen=True)
class AnswerSchema:
    """A JSON schema that a model can be held to, word by word."""

    schema: Mapping[str, Any] | bool

    def __post_init__(self) -> None:
        from jsonschema.exceptions import SchemaError
        from referencing.exceptions import Unresolvable

        said = self.schema.get("$schema", "") if isinstance(self.schema, Mapping) else ""
        if not isinstance(said, str):
            raise UsageError("schema", "its $schema is no address", hint="leave it out")
        if "/draft-03/" in said:
            raise UsageError(
                "schema", "JSON schemas of draft 3 are another language", hint="write it as draft 4 or later"
            )
        try:
            type(self._validator).check_schema(self.schema)
            self.grammar()
        except SchemaError as error:
            raise UsageError("schema", f"not a JSON schema: {_brief(error.message)}, at {error.json_path}") from error
        except Unresolvable as error:
            raise UsageError("schema", f"it refers to what is not in it: {_brief(error.ref)}") from error
        except RecursionError as error:
            raise UsageError("schema", "it is nested too deeply", hint="make it flatter") from error

    def grammar(self) -> str:
        """Return it as a grammar of llama.cpp (GBNF): what that lets through is valid."""
        return grammar_of(self.schema, lambda part, value: self._validator.evolve(schema=part).is_valid(value))

    def check(self, answer: str) -> Any:
        """Return what `answer` says as Python objects; raise `AnswerUnfit` unless it is JSON and valid."""
        from jsonschema.exceptions import best_match

        try:
            parsed = json.loads(answer, parse_constant=_no_json)
        except (ValueError, RecursionError) as error:
            raise AnswerUnfit("answer", f"it is not JSON ({error})", hint=_AGAIN) from error
        if fault := best_match(self._validator.iter_errors(parsed)):
            why = f"it does not satisfy the schema: {_brief(fault.message)}, at {fault.json_path}"
            raise AnswerUnfit("answer", why, hint=_AGAIN)
        return parsed

    @cached_property
    def _validator(self) -> Any:
        from jsonschema import Draft202012Validator
        from jsonschema.validators import validator_for
        from referencing import Registry

        # A registry of its own, and empty: the standard one fetches what a reference names from the network.
        return validator_for(self.schema, default=Draft202012Validator)(self.schema, registry=Registry())


def as_schema(schema: AnswerSchema | Mapping[str, Any] | str | None) -> AnswerSchema | None:
    """Take a schema as Python code has it: one, a JSON schema as a mapping, or what `read_schema` reads."""
    if isinstance(schema, str):
        return read_schema(schema)
    return AnswerSchema(schema) if isinstance(schema, Mapping) else schema


def read_schema(text: str) -> AnswerSchema:
    """Read what `--schema` names; raise `UsageError` for what is no schema, or one no model can be held to.

    It is JSON if it begins with a brace, the file if there is one of that name, else fields in short: a name each, and
    `int`, `float`, `bool`, or words to choose from (`color red|green`). Brackets around mean any number of such
    objects; a type alone (`int`, `red|green`) is the whole answer.
    """
    if text.lstrip().startswith("{"):
        return _from_json(text, "schema")
    path = Path(text)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):
        is_file = False
    if is_file:
        return _from_json(_read(path), text)
    if path.suffix or "/" in text:
        raise UsageError(text, "no such file", hint=f"--schema takes {_FORMS}")
    return AnswerSchema(_from_fields(text.strip()))


def _from_json(text: str, what: str) -> AnswerSchema:
    try:
        schema = json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        raise UsageError(what, f"not JSON ({error})", hint=f"--schema takes {_FORMS}") from error
    if not isinstance(schema, dict | bool):
        raise UsageError(what, "a JSON schema is an object", hint=f"--schema takes {_FORMS}")
    return AnswerSchema(schema)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise UsageError(str(path), "too large for a schema: more than 1 MiB")
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(str(path), f"the schema cannot be read ({error})") from error


def _from_fields(text: str) -> dict[str, Any]:
    if text.startswith("[") and text.endswith("]"):
        return {"type": "array", "items": _from_fields(text[1:-1].strip())}
    if "," not in text and (alone := _type_of(text)):
        return alone
    fields: dict[str, Any] = {}
    for field in text.split(","):
        name, _, kind = field.strip().partition(" ")
        said = _type_of(kind.strip() or "str")
        if not re.fullmatch(r"[^\W\d][\w-]*", name):
            raise UsageError("schema", f"{field.strip()!r} is not a field", hint=f"--schema takes {_FORMS}")
        if name in fields:
            raise UsageError("schema", f"{name} is there twice", hint="give each field its own name")
        if said is None:
            hint = f"types are {', '.join(_TYPES)}, or words to choose from: {name} red|green"
            raise UsageError("schema", f"{name}: {kind.strip()!r} is not a type", hint=hint)
        fields[name] = said
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _type_of(text: str) -> dict[str, Any] | None:
    words = [word.strip() for word in text.split("|")]
    if len(words) > 1 and all(words) and " " not in words[0]:
        return {"enum": words}
    return {"type": _TYPES[text]} if text in _TYPES else None


def _no_json(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _brief(message: str) -> str:
    return message if len(message) <= 200 else f"{message[:199]}…"
