"""Facts about schemas: what is read as one, what its grammar lets through, what is refused, and what is checked."""

import itertools
import json
import math
import random
import socket

import jsonschema
import pytest

from llava_cli import LoadOptions, load
from llava_cli.errors import AnswerUnfit, UsageError
from llava_cli.schemas import AnswerSchema, read_schema
from tests.grammars import reader
from tests.processes import SCENE


@pytest.fixture(scope="module")
def reads(tiny_pair):
    """Return what tells whether the grammar of a schema lets a text through."""
    with reader(tiny_pair[0]) as letters:
        yield lambda schema, text: letters.reads(AnswerSchema(schema).grammar(), text)


@pytest.fixture(scope="module")
def model(tiny_pair):
    """Open a model that knows nothing, so that what it writes in a grammar is anything the grammar allows."""
    options = LoadOptions(context=1024, threads=1)
    with load(model_path=tiny_pair[0], projector_path=tiny_pair[1], options=options, cache=False) as model:
        yield model


def fields(*required, **properties):
    return {"type": "object", "properties": properties, "required": list(required)}


TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
TREE = {
    "$ref": "#/$defs/a~1node%20",
    "$defs": {"a/node ": fields("name", name={"type": "string", "maxLength": 3}, of={"items": {"$ref": "#"}})},
}
OBJECTS = [fields("kind", "n", kind={"const": kind}, n=WHOLE) for kind in ("a", "b")]

LET_THROUGH = {
    "anything": (True, ['{"a": [1, 2.5, null, "x"]}', "-0", ' "é\\n"'], ["", "[1,]", '"\n"', "01", "1e999", "nope"]),
    "a string": (TEXT, ['""', '"a\\"b\\\\c"', '"日本 🙂"'], ['"a"b"', '"\t"', '"\\x"', "a"]),
    "lengths of a string": ({**TEXT, "minLength": 1, "maxLength": 2}, ['"a"', '"🙂é"'], ['""', '"abc"']),
    "an integer": (WHOLE, ["0", "-7", " 12"], ["1.0", "007", "1 "]),
    "a number": ({"type": "number"}, ["0", "-1.50", "3"], [".5", "1.", "1e3"]),
    "yes or no": ({"type": "boolean"}, ["true", "false"], ["null", "True"]),
    "nothing": ({"type": "null"}, ["null"], ["true", '""']),
    "several types": ({"type": ["string", "null"], "maxLength": 1}, ['"a"', "null"], ['"ab"', "1"]),
    "listed": ({"enum": ['a"b\\c\n', 1, None, ["x"]]}, ['"a\\"b\\\\c\\n"', "1", "null", '["x"]'], ['"a"', "2"]),
    "listed, and more": ({"enum": ["ab", "a", 3], **TEXT, "pattern": "^.$"}, ['"a"'], ['"ab"', "3"]),
    "one value": ({"const": {"é": "\ud83d"}}, ['{"\\u00e9": "\\ud83d"}'], ['{"é": ""}']),
    "an object": (
        fields("b", a=TEXT, b=WHOLE, c=WHOLE) | {"additionalProperties": False},
        ['{"b": 1}', '{"a": "x","b":1}', '{"b": 1, "c": 2}', '{"a": "", "b": 1, "c": 2}'],
        ["{}", '{"a": "x"}', '{"b": 1,}', '{, "b": 1}', '{"b": "1"}', '{"b": 1, "d": 1}', '{"b": 1, "b": 2}'],
    ),
    "an object that may be empty": (fields(a=WHOLE, b=WHOLE), ["{}", '{"b": 1}', '{"a": 1, "b": 2}'], ['{"c": 1}']),
    "an odd name": (fields("", **{"": WHOLE, 'a"\\b': WHOLE}), ['{"": 1}', '{"": 1, "a\\"\\\\b": 2}'], ['{"a": 1}']),
    "any names": ({"type": "object", "additionalProperties": WHOLE}, ["{}", '{"x": 1, "y": 2}'], ['{"x": "y"}']),
    "no names": ({"type": "object", "additionalProperties": False}, ["{}"], ['{"x": 1}']),
    "an array": ({"items": WHOLE, "minItems": 1, "maxItems": 3}, ["[1]", "[1,2, 3]"], ["[]", "[1,2,3,4]", "[1,]"]),
    "an array of any length": ({"type": "array", "uniqueItems": False}, ["[]", "[1, 1]"], ["[", "[,]"]),
    "an empty array": ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
    "a pair": ({"prefixItems": [TEXT, WHOLE], "items": False}, ['["a", 1]'], ["[]", '["a"]', '[1, "a"]']),
    "one of two": ({"anyOf": [WHOLE, {"type": "null"}]}, ["1", "null"], ['"a"']),
    "one of two types": ({"oneOf": [WHOLE, TEXT]}, ["1", '"a"'], ["null"]),
    "one of two objects": ({"oneOf": OBJECTS}, ['{"kind": "b", "n": 1}'], ['{"kind": "c", "n": 1}', '{"kind": "a"}']),
    "all of one": ({"allOf": [{"$ref": "#/$defs/w"}], "$defs": {"w": WHOLE}, "title": "W"}, ["1"], ["null"]),
    "a tree": (TREE, ['{"name": "a"}', '{"name": "a", "of": [{"name": "b", "of": []}]}'], ['{"name": "long"}', "{}"]),
}  # fmt: skip


@pytest.mark.parametrize(("schema", "fit", "unfit"), LET_THROUGH.values(), ids=LET_THROUGH)
def test_a_grammar_lets_valid_answers_through_and_no_others(reads, schema, fit, unfit):
    assert (fit, []) == ([t for t in fit if reads(schema, t)], [t for t in unfit if reads(schema, t)])


BOUNDS = [
    (0, None),
    (1, None),
    (None, -1),
    (None, 7),
    (7, 7),
    (0, 255),
    (-13, 108),
    (99, 1000),
    (-250, -98),
    (1995, 2026),
]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_a_range_of_integers_is_exact(reads, low, high):
    schema = {"type": "integer"} | {name: at for name, at in (("minimum", low), ("maximum", high)) if at is not None}
    edges = {edge + near for edge in (low, high, 0, 10, 100, -100) if edge is not None for near in range(-12, 13)}
    numbers = sorted(edges | set(random.Random(1).sample(range(-3000, 3000), 40)))
    expected = [n for n in numbers if (low is None or n >= low) and (high is None or n <= high)]
    assert expected == [n for n in numbers if reads(schema, str(n))]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, None), (-1, 1), (-5, -2), (3, 12), (None, 0)])
def test_a_range_of_numbers_is_exact(reads, low, high):
    schema = {"type": "number"} | {name: at for name, at in (("minimum", low), ("maximum", high)) if at is not None}
    texts = [f"{sign}{whole}{rest}" for sign, whole, rest in itertools.product(("", "-"), range(14), ("", ".0", ".25"))]
    expected = [t for t in texts if (low is None or float(t) >= low) and (high is None or float(t) <= high)]
    read = [t for t in texts if reads(schema, t)]
    assert [t for t in expected if not (float(t) == 0 and t[0] == "-")] == [t for t in read if t not in ("-0", "-0.0")]
    assert set(read) <= set(expected)


def test_exclusive_bounds_of_integers_are_those_beside_them(reads):
    schema = {"type": "integer", "exclusiveMinimum": 2, "exclusiveMaximum": 5.5}
    assert ["3", "4", "5"] == [str(n) for n in range(10) if reads(schema, str(n))]


REFUSED = {
    "pattern": {**TEXT, "pattern": "^a$"},
    "format": {**TEXT, "format": "date"},
    "multipleOf": {**WHOLE, "multipleOf": 5},
    "exclusiveMinimum": {"type": "number", "exclusiveMinimum": 0},
    "bounds of a number that are not whole": {"type": "number", "maximum": 0.5},
    "a range with no number in it": {**WHOLE, "minimum": 3, "maximum": 2},
    "uniqueItems": {"items": WHOLE, "uniqueItems": True},
    "contains": {"type": "array", "contains": WHOLE},
    "maxItems below minItems": {"items": WHOLE, "minItems": 2, "maxItems": 1},
    "more than 2000": {**TEXT, "maxLength": 2001},
    "patternProperties": {"type": "object", "patternProperties": {"a": {}}},
    "propertyNames": {**fields(a=TEXT), "propertyNames": {}},
    "minProperties": {**fields(a=TEXT), "minProperties": 1},
    "dependentRequired": {**fields(a=TEXT), "dependentRequired": {"a": ["b"]}},
    "additionalProperties beside": {**fields(a=TEXT), "additionalProperties": WHOLE},
    "required b": fields("b", a=TEXT),
    "not": {"not": TEXT},
    "if": {"type": "string", "if": {}, "then": {}},
    "type beside anyOf": {"type": "string", "anyOf": [TEXT]},
    "minLength beside $ref": {"$ref": "#/$defs/a", "minLength": 2, "$defs": {"a": TEXT}},
    "can be valid at once": {"oneOf": [WHOLE, {"type": "number"}]},
    "at /oneOf": {"oneOf": [fields("a", a=TEXT), fields("b", b=TEXT)]},
    "allOf of several": {"allOf": [TEXT, {"maxLength": 2}]},
    "leads back to itself": {"anyOf": [{"$ref": "#"}, TEXT]},
    "leads nowhere": {"$ref": "#/$defs/a"},
    "nothing is fetched": {"$ref": "https://example.org/schema"},
    "$dynamicRef": {"$dynamicRef": "#a"},
    "none of its values fits": {**TEXT, "enum": [1, 2]},
    "nothing is valid there, at /properties/a": fields(a=False),
    "values without a type": {"minLength": 2},
    "propertes": {"type": "object", "propertes": {}},
    "prefixItems of an array of another length": {"prefixItems": [TEXT], "items": TEXT},
    "exclusive bounds as they were": {
        "$schema": "http://json-schema.org/draft-04/schema#", **WHOLE, "minimum": 1, "exclusiveMinimum": True,
    },
    "not a JSON schema": {"type": "strnig"},
    "no schema but something else": {
        "$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [TEXT],
    },
    "bounds that are no numbers": {**WHOLE, "maximum": math.inf},
    "which JSON does not have": {"enum": [math.inf]},
    "draft 3": {"$schema": "http://json-schema.org/draft-03/schema#", "type": "any"},
    "no address": {"$schema": 5},
}  # fmt: skip


@pytest.mark.parametrize(("why", "schema"), REFUSED.items(), ids=REFUSED)
def test_what_no_grammar_can_hold_is_refused_with_the_reason(why, schema):
    with pytest.raises(UsageError) as refusal:
        AnswerSchema(schema)
    assert (why in refusal.value.why, 2) == (True, refusal.value.exit_code)


def test_a_schema_that_is_nested_too_deeply_is_refused():
    schema = TEXT
    for _ in range(2000):
        schema = {"items": schema}
    with pytest.raises(UsageError, match="nested too deeply"):
        AnswerSchema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"items": {**TEXT, "minLength": 2000}, "minItems": 2000},
        fields(**{f"p{n}": {"items": {**TEXT, "maxLength": 2000}, "maxItems": 2000} for n in range(100)}),
        {"enum": [f"word {n}" for n in range(2000)]},
    ],
    ids=["nested repetitions", "many properties", "many words"],
)
def test_llama_cpp_takes_large_grammars(reads, schema):
    assert not reads(schema, "x")


IN_SHORT = {
    "color, shape, count int": fields("color", "shape", "count", color=TEXT, shape=TEXT, count=WHOLE),
    "color red|dark green,is_big bool": fields(
        "color", "is_big", color={"enum": ["red", "dark green"]}, is_big={"type": "boolean"}
    ),
    " größe float ": fields("größe", größe={"type": "number"}),
}


@pytest.mark.parametrize(("text", "schema"), IN_SHORT.items())
def test_fields_in_short_are_an_object_of_them_all(text, schema):
    assert {**schema, "additionalProperties": False} == read_schema(text).schema


def test_brackets_mean_any_number_and_a_type_alone_is_the_answer():
    assert {"type": "array", "items": read_schema("color").schema} == read_schema("[color]").schema
    assert ({"type": "integer"}, {"enum": ["a", "b"]}) == (read_schema("int").schema, read_schema("a|b").schema)


def test_a_schema_may_stand_in_a_file_or_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answer.json").write_text(json.dumps(WHOLE), encoding="utf-8")
    assert read_schema("answer.json") == read_schema(json.dumps(WHOLE)) == AnswerSchema(WHOLE)


NO_SCHEMA = {
    "no such file": "missing.json",
    "not JSON": '{"type": ',
    "is not a field": "color,",
    "is there twice": "color, color int",
    "is not a type": "count integer",
    "more than 1 MiB": "large.json",
    "cannot be read": "binary.json",
    "is an object": "list.json",
}


@pytest.mark.parametrize(("why", "text"), NO_SCHEMA.items())
def test_what_is_no_schema_is_said(why, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "large.json").write_bytes(b" " * (1 << 21))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UsageError) as refusal:
        read_schema(text)
    assert (True, True) == (why in refusal.value.why, bool(refusal.value.hint))


@pytest.mark.parametrize("answer", ['{"count": "3"}', '{"count": 3', "", '{"count": NaN}', "[" * 100_000])
def test_an_answer_that_is_not_valid_is_unfit(answer):
    with pytest.raises(AnswerUnfit):
        read_schema("count int").check(answer)


def test_whatever_a_model_writes_in_a_grammar_is_valid(model):
    """Its weights are random and it draws freely: any hole in a grammar would show.

    So do bytes that are no character, which llama.cpp lets through and only random weights write.
    """
    schemas = [
        {"items": fields("a", "b", a={**TEXT, "maxLength": 4}, b={"enum": ["x", "y\n"]}, c=WHOLE), "maxItems": 2},
        {"items": {"type": "number", "minimum": -3, "maximum": 20}, "minItems": 3, "maxItems": 6},
        fields("t", t={"items": {"anyOf": [{**TEXT, "maxLength": 2}, {"type": ["boolean", "null"]}]}, "maxItems": 3}),
    ]
    valid = 0
    for schema, seed in itertools.product(schemas, range(4)):
        reply = model.ask(SCENE, "What?", schema=schema, temperature=3.0, seed=seed, max_tokens=400)
        if "\ufffd" not in reply.text:
            jsonschema.validate(reply.parsed, schema)
            assert (json.loads(reply.text), "stop") == (reply.parsed, reply.finish_reason)
            valid += 1
    assert valid >= 8


def test_what_a_schema_wants_repeated_is_no_loop():
    """The bundled model writes it the same way each time; the one that knows nothing does not."""
    schema = {"type": "array", "items": {"const": 0}, "minItems": 100, "maxItems": 100}
    with load("shapes", options=LoadOptions(threads=1), cache=False) as model:
        reply = model.ask(SCENE, "?", schema=schema, max_tokens=400, temperature=0)
        assert (100, "stop") == (len(reply.parsed), reply.finish_reason)


def test_an_answer_that_is_cut_is_unfit_and_says_what_helps(model):
    reply = model.ask(SCENE, "What?", schema={**TEXT, "minLength": 50}, temperature=0, max_tokens=8)
    with pytest.raises(AnswerUnfit) as refusal:
        _ = reply.parsed
    assert ("length", True, 8) == (reply.finish_reason, "-n" in refusal.value.hint, refusal.value.exit_code)


def test_a_schema_holds_for_one_answer_and_the_chat_goes_on(model):
    chat = model.chat()
    first = chat.send("What?", picture=SCENE, schema="int", temperature=0, max_tokens=30)
    assert isinstance(first.parsed, int)
    plain = chat.send("And then?", temperature=0, max_tokens=8)
    assert plain.parsed == plain.text
    assert plain.usage.pictures_encoded == 0


def test_a_grammar_llama_cpp_cannot_read_is_an_error_and_no_crash(model):
    from llama_cpp import LlamaGrammar

    message = {"role": "user", "content": "What?"}
    with pytest.raises(UsageError, match="cannot read it"):
        model._llama.create_chat_completion([message], grammar=LlamaGrammar.from_string('root ::= "'))


def test_a_reference_to_elsewhere_is_refused_and_not_fetched(monkeypatch):
    def connect(*_):
        pytest.fail("it was fetched")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(UsageError, match="refers to what is not in it"):
        AnswerSchema({"enum": [1, 2], "$ref": "http://127.0.0.1:9/schema.json"})
