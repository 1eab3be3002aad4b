"""Facts about questions that are kept under a name."""

import json
import stat

import pytest

from llava_cli import settings, templates
from llava_cli.commands.completion import template_names
from llava_cli.errors import UsageError
from llava_cli.templates import Template
from tests.processes import SCENE

FULL = Template("What is it?", "Be brief.", "shapes", 0.0, 20, 7, 0.9, {"type": "integer"})


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setattr(templates, "config_path", lambda: tmp_path / "llava" / "config.toml")
    return tmp_path / "llava" / "templates"


@pytest.mark.parametrize("kept", [FULL, Template(choices=("yes", "no")), Template("größer?\n\x7f")])
def test_what_was_kept_comes_back(directory, kept):
    templates.save("alt-text", kept)
    assert (kept, ["alt-text"]) == (templates.find("alt-text"), templates.names())


def test_only_their_owner_can_read_them(directory):
    path = templates.save("mine", FULL)
    assert (0o600, 0o700) == (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(directory.stat().st_mode))


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a b", "-x", "a\n", "x" * 65, "a\0"])
def test_a_name_is_never_a_path(directory, name):
    for use in (templates.find, templates.remove, lambda name: templates.save(name, FULL)):
        with pytest.raises(UsageError):
            use(name)
    assert not directory.exists()


def test_a_name_that_is_not_there_is_answered_with_what_was_meant(directory):
    templates.save("alt-text", FULL)
    with pytest.raises(UsageError) as refusal:
        templates.find("alt-txt")
    assert "did you mean alt-text?" == refusal.value.hint
    with pytest.raises(UsageError, match="no such template"):
        templates.remove("other")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"questoin": "x"}',
        '{"seed": "7"}',
        '{"temperature": true}',
        '{"question": 1}',
        '{"choices": "yes"}',
    ],
)
def test_a_file_that_holds_no_template_is_said(directory, text):
    path = templates.save("mine", FULL)
    path.write_text(text)
    with pytest.raises(UsageError, match="cannot be read") as refusal:
        templates.find("mine")
    assert "llava template rm mine" in refusal.value.hint
    templates.remove("mine")


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0}, {"max_tokens": 0}, {"schema": {"not": {}}}, {"choices": ("yes",)},
        {"schema": True, "choices": ("yes", "no")},
    ],
)  # fmt: skip
def test_what_could_not_be_asked_is_not_kept(wrong):
    with pytest.raises(UsageError):
        Template("What?", **wrong)


def test_the_shell_offers_their_names(directory):
    templates.save("alt-text", FULL)
    templates.save("count", Template(choices=("1", "2")))
    (directory / "damaged.json").write_text("{")
    assert [("alt-text", "What is it?")] == template_names("a")
    assert ["alt-text", "count"] == [name for name, _ in template_names("")]


def test_a_template_is_saved_listed_shown_used_and_removed(here):
    how = ("-m", "shapes", "-t", "0", "--schema", "int")
    assert "saved count; ask with it: llava ask photo.jpg --template count\n" == here(
        "template", "save", "count", "How many shapes are there?", *how
    ).stdout  # fmt: skip
    expected = {
        "name": "count", "question": "How many shapes are there?", "model": "shapes", "temperature": 0.0,
        "schema": {"type": "integer"},
    }  # fmt: skip
    assert expected == json.loads(here("template", "show", "count", "--json").stdout)
    assert [expected] == json.loads(here("template", "list", "--json").stdout)
    done = here("ask", SCENE, "--template", "count")
    assert (0, "3\n", "") == (done.returncode, done.stdout, done.stderr)
    other = here("ask", SCENE, "What color is the circle?", "--template", "count", "--choices", "red,blue")
    assert (0, "red 1.00\n") == (other.returncode, other.stdout)
    assert "removed count\n" == here("template", "rm", "count").stdout
    gone = here("ask", SCENE, "--template", "count")
    assert (2, "") == (gone.returncode, gone.stdout)


def test_a_template_beats_the_config_file_and_flags_beat_it(monkeypatch):
    monkeypatch.setenv("LLAVA_TEMPERATURE", "1.5")
    kept = Template(temperature=0.5, max_tokens=9)
    chosen = settings.resolve(kept.settings() | {"max_tokens": 3})
    assert (0.5, 3) == (chosen.sampling.temperature, chosen.sampling.max_tokens)


def test_nothing_to_keep_is_a_usage_error(here):
    done = here("template", "save", "empty")
    assert (2, True) == (done.returncode, "nothing to keep" in done.stderr)
