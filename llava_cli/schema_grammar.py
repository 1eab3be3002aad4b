"""Writes a JSON schema down as a grammar for llama.cpp, or says what of it no grammar can hold.

llama-cpp-python's own converter passes over what it does not know (`minimum`, `uniqueItems`, `not`, all that stands
beside `anyOf` or `$ref`), takes `oneOf` for `anyOf`, lets line breaks into strings and loses backslashes. Here nothing
is passed over: what the grammar lets through is valid, and what it cannot hold is refused. It may be stricter: at most
one space after a comma or a colon, no properties but those that are named, numbers without exponents.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any
from urllib.parse import unquote

from llava_cli.errors import UsageError
from llava_cli.schema_numbers import DIGITS, numerals

Schema = Mapping[str, Any]

_SILENT = {
    "title", "description", "default", "examples", "$comment", "$schema", "$defs", "definitions", "deprecated",
    "readOnly", "writeOnly", "discriminator",
}  # fmt: skip
"""Keywords that make no answer wrong. `discriminator` is OpenAPI's; it only helps to read alternatives."""

_HELD = {
    "string": {"minLength", "maxLength"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": {"minimum", "maximum"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
    "boolean": set(),
    "null": set(),
}
"""What a grammar can hold of each type."""
_ABOUT = {
    "string": {"pattern", "format", "contentEncoding", "contentMediaType"},
    "integer": {"multipleOf"},
    "number": {"exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "array": {"uniqueItems", "contains", "minContains", "maxContains", "additionalItems", "unevaluatedItems"},
    "object": {
        "patternProperties", "propertyNames", "minProperties", "maxProperties", "dependentRequired",
        "dependentSchemas", "dependencies", "unevaluatedProperties",
    },
}  # fmt: skip
"""What else is said about values of that type alone, so that values of other types need not care."""

_MOST = 2000
"""Repetitions that llama.cpp takes."""

_RULES = {
    "ws": '" "?',
    "char": r'[^"\\\x00-\x1F\x7F] | "\\" ["\\/bfnrt]',
    "string": r'"\"" char* "\""',
    "integer": f'"-"? ("0" | [1-9] [0-9]{{0,{DIGITS - 1}}})',
    "fraction": f'"." [0-9]{{1,{DIGITS}}}',
    "number": "integer fraction?",
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "member": 'string ":" ws value',
    "object": '"{" (member ("," ws member)*)? "}"',
    "array": '"[" (value ("," ws value)*)? "]"',
}
"""What needs no schema. A string has no `\\u`, so that a character is one for `maxLength`, too.

llama.cpp takes some bytes together for characters that are none. No trained model writes them; the check finds them."""


def grammar_of(schema: Schema | bool, fits: Callable[[Schema | bool, Any], bool]) -> str:
    """Return the grammar (GBNF) of a valid schema; raise `UsageError` for what it cannot hold.

    `fits` tells whether a value is valid for a part of the schema.
    """
    writer = _Writer(schema, fits)
    root = f'" "? {writer.value(schema, "")}'  # models begin an answer with a space
    return "".join(f"{name} ::= {rule}\n" for name, rule in {"root": root, **writer.rules}.items())


class _Writer:
    """Collects the rules of one schema. Its methods return what stands for a value in another rule."""

    def __init__(self, schema: Schema | bool, fits: Callable[[Schema | bool, Any], bool]) -> None:
        self.rules = dict(_RULES)
        self._top = schema
        self._fits = fits
        self._referred: dict[str, str] = {}
        self._open: frozenset[str] = frozenset()
        """References that led here without a letter on the way."""

    def value(self, schema: Schema | bool, where: str) -> str:
        if schema is False:
            raise _refused(where, "nothing is valid there")
        if not isinstance(schema, Mapping | bool):
            raise _refused(where, "no schema but something else (of items in a row, prefixItems tells)")
        said = dict(schema) if isinstance(schema, Mapping) else {}
        for name in _SILENT & said.keys():
            del said[name]
        if not where:
            said.pop("$id", None)
        if not said:
            return "value"
        if "enum" in said or "const" in said:
            return self._listed(said, where)
        ways: dict[str, Callable[[Any, str], str]] = {
            "$ref": self._reference,
            "anyOf": self._any,
            "oneOf": self._one,
            "allOf": self._all,
        }
        for name, write in ways.items():
            if name in said:
                _require_nothing_but({name}, said, where, f" beside {name}")
                return write(said[name], f"{where}/{name}")
        kinds = said.pop("type", None) or _kind_implied(said, where)
        if isinstance(kinds, str):
            return self._of_kind(kinds, said, where)
        return self._either([self._of_kind(kind, _without_other_kinds(said, kind), where) for kind in kinds])

    def _of_kind(self, kind: str, said: Schema, where: str) -> str:
        _require_nothing_but(_HELD[kind], said, where)
        match kind:
            case "string" if said:
                least, most = _range(said, "Length", where)
                return self._rule(rf'"\"" char{_times(least, most)} "\""')
            case "integer" | "number" if said:
                return self._number(kind, said, where)
            case "array":
                return self._array(said, where)
            case "object":
                return self._object(said, where)
        return kind

    def _listed(self, said: Schema, where: str) -> str:
        values = said["enum"] if "enum" in said else [said["const"]]
        # Of values that are known beforehand it is known, too, whether they fit all else that is said.
        fitting = [value for value in values if self._fits(said, value)]
        if not fitting:
            raise _refused(where, "none of its values fits what else it says")
        return self._either(list(dict.fromkeys(map(_literal, fitting))))

    def _any(self, schemas: Sequence[Schema | bool], where: str) -> str:
        return self._either([self.value(one, f"{where}/{number}") for number, one in enumerate(schemas)])

    def _one(self, schemas: Sequence[Schema | bool], where: str) -> str:
        if not all(self._are_apart(one, other) for one, other in combinations(schemas, 2)):
            raise _refused(where, "oneOf with alternatives that can be valid at once (anyOf would do)")
        return self._any(schemas, where)

    def _all(self, schemas: Sequence[Schema | bool], where: str) -> str:
        if len(schemas) > 1:
            raise _refused(where, "allOf of several schemas (one that says the same would do)")
        return self.value(schemas[0], where)

    def _reference(self, pointer: str, where: str) -> str:
        schema = self._at(pointer, where)
        if pointer in self._open:
            raise _refused(where, f"{pointer}, which leads back to itself")
        if pointer not in self._referred:
            self._referred[pointer] = name = f"reference-{len(self._referred) + 1}"
            before, self._open = self._open, self._open | {pointer}
            self.rules[name] = self.value(schema, pointer)
            self._open = before
        return self._referred[pointer]

    def _at(self, pointer: str, where: str) -> Schema | bool:
        """Return the part of the schema that `pointer` names."""
        if pointer != "#" and not pointer.startswith("#/"):
            raise _refused(where, f"{pointer}, which is not in the schema (nothing is fetched)")
        found: Any = self._top
        for step in pointer.split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(name) if isinstance(found, list) else name]
            except (LookupError, ValueError, TypeError):
                raise _refused(where, f"{pointer}, which leads nowhere") from None
        if not isinstance(found, Mapping | bool):
            raise _refused(where, f"{pointer}, which is no schema")
        return found

    def _number(self, kind: str, said: Schema, where: str) -> str:
        low, high = _bounds(kind, said, where)
        above = [] if high is not None and high < 0 else numerals(kind, max(low or 0, 0), high)
        # Below zero, the larger number has the smaller digits.
        least, most = max(-high, 0) if high is not None else 0, None if low is None else -low
        below = [] if low is not None and low >= 0 else [f'"-" {one}' for one in numerals(kind, least, most)]
        return self._either([*above, *below])

    def _array(self, said: Schema, where: str) -> str:
        least, most = _range(said, "Items", where)
        with self._letter_between():
            if "prefixItems" in said:
                items = [self.value(one, f"{where}/prefixItems/{n}") for n, one in enumerate(said["prefixItems"])]
                is_long_enough = least <= len(items) and (most is None or len(items) <= most)
                if said.get("items", False) is not False or not is_long_enough:
                    raise _refused(where, "prefixItems of an array of another length")
                return self._rule(' "," ws '.join(items).join(('"[" ', ' "]"')))
            if most == 0:
                return '"[]"'
            item = self.value(said.get("items", True), f"{where}/items")
        # Rules of their own: llama.cpp counts what is repeated inside of what is repeated, and sets a limit.
        another = self._rule(f'"," ws {item}')
        several = self._rule(f"{item} {another}{_times(max(least - 1, 0), most and most - 1)}")
        return self._rule(f'"[" {several}{"" if least else "?"} "]"')

    def _object(self, said: Schema, where: str) -> str:
        properties, required = said.get("properties", {}), said.get("required", [])
        if unknown := [name for name in required if name not in properties]:
            raise _refused(where, f"required {', '.join(unknown)}, of which the properties say nothing")
        others = said.get("additionalProperties", True)
        if properties and not isinstance(others, bool):
            raise _refused(where, "additionalProperties beside properties (they could have the same names)")
        with self._letter_between():
            if not properties:
                return self._map(others, where)
            members = [
                (self._member(_literal(name), one, f"{where}/properties/{name}"), name in required)
                for name, one in properties.items()
            ]
        needed = "" if any(is_needed for _, is_needed in members) else "?"
        return self._rule(f'"{{" {self._in_a_row(members)}{needed} "}}"')

    def _in_a_row(self, members: Sequence[tuple[str, bool]]) -> str:
        """Return a rule for one member or more, with commas between; each comes with whether it must be there."""
        first = rest = ""
        for member, is_needed in reversed(members):
            alone = f"{member} {rest}"
            first = self._rule(alone if is_needed or not first else f"{alone} | {first}")
            rest = self._rule(f'"," ws {alone}' if is_needed else f'("," ws {member})? {rest}')
        return first

    def _map(self, others: Schema | bool, where: str) -> str:
        if others is False:
            return '"{}"'
        member = self._member("string", others, f"{where}/additionalProperties")
        return self._rule(f'"{{" ({member} ("," ws {member})*)? "}}"')

    def _member(self, name: str, schema: Schema | bool, where: str) -> str:
        return self._rule(f'{name} ":" ws {self.value(schema, where)}')

    def _either(self, alternatives: Sequence[str]) -> str:
        return alternatives[0] if len(alternatives) == 1 else self._rule(" | ".join(alternatives))

    def _rule(self, text: str) -> str:
        name = f"rule-{len(self.rules)}"
        self.rules[name] = text
        return name

    @contextmanager
    def _letter_between(self) -> Iterator[None]:
        """Let references inside brackets lead back to what is around them."""
        before, self._open = self._open, frozenset()
        yield
        self._open = before

    def _are_apart(self, one: Schema | bool, other: Schema | bool) -> bool:
        """Tell whether it is certain that no value is valid for both."""
        one, other = self._followed(one), self._followed(other)
        for listed, wide in ((one, other), (other, one)):
            if "enum" in listed or "const" in listed:
                return not any(self._fits(wide, value) for value in listed.get("enum", [listed.get("const")]))
        if "type" in one and "type" in other and not _kinds(one) & _kinds(other):
            return True
        if not all(each.get("type", "object") == "object" for each in (one, other)):
            return False
        in_both = (set(each.get("required", ())) & set(each.get("properties", ())) for each in (one, other))
        return any(
            self._are_apart(one["properties"][name], other["properties"][name]) for name in set.intersection(*in_both)
        )

    def _followed(self, schema: Schema | bool) -> Schema:
        for _ in range(8):
            if isinstance(schema, Mapping) and "$ref" in schema:
                schema = self._at(schema["$ref"], "")
        return schema if isinstance(schema, Mapping) else {}


def _kinds(schema: Schema) -> set[str]:
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return {"number" if kind == "integer" else kind for kind in kinds}


def _kind_implied(said: Schema, where: str) -> str:
    """Return the type that a schema without one is about. What is of another type is valid, too, but never meant."""
    kinds = [kind for kind in ("object", "array") if _HELD[kind] & set(said)]
    if len(kinds) == 1:
        return kinds[0]
    unknown = sorted(name for name in said if all(name not in _HELD[kind] for kind in _HELD))
    raise _refused(where, unknown[0] if unknown else "values without a type")


def _without_other_kinds(said: Schema, kind: str) -> Schema:
    others = set().union(*(_HELD[other] | _ABOUT.get(other, set()) for other in _HELD))
    mine = _HELD[kind] | _ABOUT.get(kind, set())
    return {name: value for name, value in said.items() if name in mine or name not in others}


def _require_nothing_but(known: set[str], said: Schema, where: str, beside: str = "") -> None:
    unknown = [name for name, value in said.items() if name not in known and (name, value) != ("uniqueItems", False)]
    if unknown:
        raise _refused(where, unknown[0] + beside)


def _refused(where: str, what: str) -> UsageError:
    return UsageError(
        "schema",
        f"a model cannot be held to it: {what}" + (f", at {where}" if where else ""),
        hint="leave it out of the schema, and check the answer for it yourself",
    )


def _literal(value: Any) -> str:
    """Return the JSON of `value` as text of a grammar."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise _refused("", f"{value!r:.80}, which JSON does not have") from None
    # A half of a surrogate pair has no UTF-8.
    text = text if text.isprintable() else json.dumps(value)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _range(said: Schema, what: str, where: str) -> tuple[int, int | None]:
    least, most = int(said.get(f"min{what}", 0)), said.get(f"max{what}")
    if most is not None and most < least:
        raise _refused(where, f"max{what} below min{what}")
    if max(least, most or 0) > _MOST:
        raise _refused(where, f"more than {_MOST} in min{what} or max{what}")
    return least, None if most is None else int(most)


def _times(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


def _bounds(kind: str, said: Schema, where: str) -> tuple[int | None, int | None]:
    """Return the least and the greatest whole number that is allowed."""
    if any(isinstance(value, bool) for value in said.values()):
        raise _refused(where, "exclusive bounds as they were before draft 6")
    if not all(map(math.isfinite, said.values())):
        raise _refused(where, "bounds that are no numbers")
    if kind == "number" and any(value != math.floor(value) for value in said.values()):
        raise _refused(where, "bounds of a number that are not whole")
    lows = [math.ceil(said["minimum"])] if "minimum" in said else []
    lows += [math.floor(said["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in said else []
    highs = [math.floor(said["maximum"])] if "maximum" in said else []
    highs += [math.ceil(said["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in said else []
    low, high = max(lows, default=None), min(highs, default=None)
    if low is not None and high is not None and low > high:
        raise _refused(where, "a range with no number in it")
    if any(abs(bound) >= 10**DIGITS for bound in (low, high) if bound is not None):
        raise _refused(where, f"bounds of more than {DIGITS} digits")
    return low, high
