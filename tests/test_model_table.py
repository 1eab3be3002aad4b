"""Facts about the user's own list of models."""

from __future__ import annotations

import pytest

from llava_cli import registry
from llava_cli.errors import UsageError
from llava_cli.model_table import faults_of_entry, table_of_llava
from tests.downloads import OWN_LIST, REPO, write_own_list
from tests.processes import llava


def test_a_model_of_the_users_own_is_known_by_its_name() -> None:
    write_own_list()
    spec = registry.find("tiny:f16")
    assert spec.model == registry.FileSpec(REPO, "model-f16.gguf")
    assert (spec.own, spec.quants, spec.projector) == (True, ("F32", "F16"), registry.FileSpec(REPO, "mmproj.gguf"))
    assert [one.name for one in registry.all_specs()][-1] == "tiny"
    assert "tiny" not in [one.name for one in registry.published_specs()]


def test_an_entry_takes_the_place_of_one_of_llavas() -> None:
    before = [one.name for one in registry.all_specs()]
    write_own_list(OWN_LIST.replace('id = "tiny"', 'id = "LLaVA-v1.5-7b"'))
    assert registry.find("llava-v1.5-7b:F32").model == registry.FileSpec(REPO, "model.gguf")
    assert [one.name.lower() for one in registry.all_specs()] == before


def test_what_is_not_said_has_defaults() -> None:
    write_own_list(
        '[[model]]\nid = "tiny"\nprompt = "phi3"\n[[model.file]]\nquant = "Q4_0"\nname = "a.gguf"\nhf_repo = "b/c"\n'
        '[model.mmproj]\nname = "d/e (1).gguf"\nhf_repo = "f/g"\n'
    )
    spec = registry.find("tiny")
    assert (spec.summary, spec.quant, spec.context, spec.licence) == ("of your own list", "Q4_0", None, None)
    assert spec.projector == registry.FileSpec("f/g", "d/e (1).gguf")


def test_an_empty_list_is_none() -> None:
    before = registry.all_specs()
    write_own_list("")
    assert registry.all_specs() == before


BAD = {
    "no TOML": ("= =", "your list of models cannot be read"),
    "not text": ("\xff", "your list of models cannot be read"),
    "another schema": (OWN_LIST.replace("schema = 1", "schema = 2"), "schema is 2; this llava reads 1"),
    "a key too many": (f"modl = 1\n{OWN_LIST}", "unknown key 'modl' at the top (did you mean model?)"),
    "one model": (OWN_LIST.replace("[[model]]", "[model]"), "model is not a list; an entry begins with [[model]]"),
    "no name": (OWN_LIST.replace('id = "tiny"\n', ""), "model 1: id is missing"),
    "a name with a space": (OWN_LIST.replace('"tiny"', '"my tiny"'), "id is 'my tiny', not a name of letters"),
    "a name with a colon": (OWN_LIST.replace('"tiny"', '"ti:ny"'), "id is 'ti:ny', not a name of letters"),
    "a name twice": (OWN_LIST + OWN_LIST.replace("schema = 1", "").replace("tiny", "Tiny"), "another of this name"),
    "no layout": (OWN_LIST.replace('prompt = "llava_v1"\n', ""), "model 'tiny': prompt is missing"),
    "an unknown layout": (OWN_LIST.replace("llava_v1", "vicuna"), "prompt is 'vicuna', not one of llava_v1"),
    "no file": (
        OWN_LIST.split("[[model.file]]", maxsplit=1)[0] + '[model.mmproj]\nname = "a.gguf"\n',
        "file is missing",
    ),
    "no projector": (OWN_LIST.split("[model.mmproj]", maxsplit=1)[0], "model 'tiny': mmproj is missing"),
    "a misspelt key": (OWN_LIST.replace("summary", "sumary"), "unknown key 'sumary' (did you mean summary?)"),
    "no repository": (OWN_LIST.replace(f'hf_repo = "{REPO}"\n', ""), "file 'F32': hf_repo is missing, here or"),
    "a repository elsewhere": (OWN_LIST.replace(REPO, "../../etc"), "hf_repo is '../../etc', not a repository"),
    "a file elsewhere": (OWN_LIST.replace("model.gguf", "../model.gguf"), "name is '../model.gguf', not the name of"),
    "a path of Windows": (OWN_LIST.replace("model.gguf", "..\\\\model.gguf"), "not the name of a .gguf file"),
    "a whole path": (OWN_LIST.replace("model.gguf", "/model.gguf"), "name is '/model.gguf', not the name of"),
    "no GGUF": (OWN_LIST.replace("mmproj.gguf", "mmproj.bin"), "mmproj: name is 'mmproj.bin', not the name of"),
    "a quant twice": (OWN_LIST.replace('"F16"', '"f32"'), "two files have the same quant"),
    "another default": (OWN_LIST.replace('default = "F32"', 'default = "Q4_0"'), "there are F32, F16"),
    "a size in words": (OWN_LIST + 'size = "4 GB"\n', "mmproj: size is '4 GB', not a whole number above 0"),
    "half a hash": (OWN_LIST + 'sha256 = "abc"\n', "sha256 is 'abc', not 64 hexadecimal digits"),
    "a branch": (OWN_LIST + 'revision = "main"\n', "revision is 'main', not a commit"),
    "true tokens": (OWN_LIST.replace("image_tokens = 16", "image_tokens = true"), "image_tokens is True, not a whole"),
    "bundled": (OWN_LIST.replace('id = "tiny"', 'id = "tiny"\nbundled = true'), "unknown key 'bundled'"),
    "control codes": (OWN_LIST.replace("for tests", "\\u001b[31m"), "summary is '\\x1b[31m', not a line of text"),
}


@pytest.mark.parametrize(("text", "words"), BAD.values(), ids=BAD)
def test_a_bad_entry_is_named_with_its_file_and_its_fault(text: str, words: str) -> None:
    path = write_own_list()
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError) as caught:
        registry.all_specs()
    assert words in caught.value.why
    assert (caught.value.exit_code, caught.value.what) == (2, str(path))
    assert str(path) in caught.value.hint


def test_the_command_shows_it_in_two_lines() -> None:
    path = write_own_list(OWN_LIST.replace("llava_v1", "vicuna"))
    done = llava("models")
    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.splitlines()[0].startswith(f"llava: {path}: model 'tiny': prompt is 'vicuna', not one of")
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("entry", table_of_llava(), ids=lambda entry: entry["id"])
def test_the_table_of_llava_keeps_its_own_rules(entry: dict[str, object]) -> None:
    own = {key: value for key, value in entry.items() if key != "bundled"}
    assert faults_of_entry({"hf_repo": "a/b", **own}) == []
