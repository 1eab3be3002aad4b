"""Facts about the models that are known by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llava_cli import registry
from llava_cli.errors import ModelMissing, UsageError
from llava_cli.model_table import table_of_llava
from llava_cli.prompts import LAYOUT_NAMES
from llava_cli.settings import DEFAULT_MODEL


def test_the_models_of_this_version() -> None:
    assert [spec.name for spec in registry.all_specs()] == [
        "shapes",
        "llava-v1.5-7b",
        "llava-v1.5-13b",
        "llava-v1.6-mistral-7b",
        "llava-v1.6-vicuna-7b",
        "llava-v1.6-vicuna-13b",
        "llava-v1.6-34b",
        "llava-llama-3-8b-v1_1",
        "llava-phi-3-mini",
    ]


@pytest.mark.parametrize("spec", registry.all_specs(), ids=lambda spec: spec.name)
def test_every_model_is_whole(spec: registry.ModelSpec) -> None:
    """Its layout exists, and its files have names, and sums where they have any."""
    assert spec.layout in LAYOUT_NAMES
    assert spec.summary
    assert spec.quant in spec.quants
    assert spec.model is not None
    assert spec.projector is not None
    for file in (spec.model, spec.projector):
        assert re.fullmatch(r"[\w.-]+\.gguf", file.name)
        assert spec.bundled == (file.repo == "")
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)


def test_the_default_model_is_found() -> None:
    spec = registry.find(DEFAULT_MODEL)
    assert (spec.layout, spec.context, spec.picture_tokens, spec.licence) == ("llava_v1", 4096, 576, "llama2")
    assert spec.model == registry.FileSpec(
        repo="second-state/Llava-v1.5-7B-GGUF",
        name="llava-v1.5-7b-Q4_K_M.gguf",
        sha256="2687b20ac8b7a23f6c70296d5b1e7f908fef2ce4769ecdebd1bb9503528a75bf",
        size_gb=4.08,
    )
    assert spec.projector is not None
    assert spec.projector.name == "llava-v1.5-7b-mmproj-model-f16.gguf"


def test_a_quant_is_asked_for_behind_a_colon() -> None:
    """Neither part minds capitals."""
    for name in ("llava-v1.5-7b:Q2_K", "LLaVA-v1.5-7B:q2_k"):
        spec = registry.find(name)
        assert spec.model is not None
        assert (spec.name, spec.quant, spec.model.name) == ("llava-v1.5-7b", "Q2_K", "llava-v1.5-7b-Q2_K.gguf")


def test_a_size_is_exact_or_rounded_or_unknown() -> None:
    sizes = {spec.name: spec.model.gigabytes for spec in registry.all_specs() if spec.model}
    assert sizes["llava-v1.5-13b"] == pytest.approx(7.365834720)
    assert sizes["llava-phi-3-mini"] == 2.32
    assert sizes["llava-llama-3-8b-v1_1"] is None


def test_the_large_models_do_not_fit_8_gb() -> None:
    large = [spec.name for spec in registry.all_specs() if not spec.fits_8gb]
    assert large == ["llava-v1.5-13b", "llava-v1.6-vicuna-13b", "llava-v1.6-34b"]


def test_llava_1_6_has_the_layout_of_its_language_model_and_up_to_2928_tokens_a_picture() -> None:
    tiled = {spec.name: spec for spec in registry.all_specs() if "v1.6" in spec.name}
    assert {name: spec.layout for name, spec in tiled.items()} == {
        "llava-v1.6-mistral-7b": "mistral_instruct",
        "llava-v1.6-vicuna-7b": "llava_v1",
        "llava-v1.6-vicuna-13b": "llava_v1",
        "llava-v1.6-34b": "chatml_direct",
    }
    assert {spec.picture_tokens for spec in tiled.values()} == {2928}


ALL = ", ".join(spec.name for spec in registry.all_specs())


@pytest.mark.parametrize(
    ("name", "why", "hint"),
    [
        ("shape", "there is no model of this name", f"did you mean shapes? There are {ALL}"),
        ("lava-1.5-7b", "there is no model of this name", f"did you mean llava-v1.5-7b? There are {ALL}"),
        ("gpt", "there is no model of this name", f"there are {ALL}"),
        ("", "there is no model of this name", f"there are {ALL}"),
        ("a.gguf", "there is no model of this name", "a file is given with --model-path and --projector-path"),
        ("./a", "there is no model of this name", "a file is given with --model-path and --projector-path"),
        ("shapes:Q9", "shapes is not published as Q9", "there are shapes:f16"),
    ],
)
def test_an_unknown_name_is_refused_with_those_there_are(name: str, why: str, hint: str) -> None:
    with pytest.raises(ModelMissing) as caught:
        registry.find(name)
    assert (caught.value.exit_code, caught.value.what, caught.value.why) == (4, name or "--model", why)
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("short", "name"),
    [
        ("7b", "llava-v1.5-7b"),
        ("1.5-7B", "llava-v1.5-7b"),
        ("13b", "llava-v1.5-13b"),
        ("v1.5-13b", "llava-v1.5-13b"),
        ("phi", "llava-phi-3-mini"),
        ("llama-3", "llava-llama-3-8b-v1_1"),
        ("mini", "llava-phi-3-mini"),
    ],
)
def test_whole_words_of_a_name_are_enough_if_no_other_has_them(
    short: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "shapes", "llava-v1.5-7b", "llava-v1.5-13b", "llava-llama-3-8b-v1_1", "llava-phi-3-mini"
    monkeypatch.setattr(
        registry, "read_tables", lambda _: [entry for entry in table_of_llava() if entry["id"] in names]
    )
    assert (name, name) == (registry.find(short).name, registry.find_quants(short)[0].name)


@pytest.mark.parametrize("part", ["shape", "hapes", "5-7b", "phi-", "."])
def test_parts_of_words_are_not(part: str) -> None:
    with pytest.raises(ModelMissing, match="there is no model of this name"):
        registry.find(part)


def test_words_that_several_names_have_are_refused() -> None:
    with pytest.raises(ModelMissing, match=r"this could be llava-v1\.5-7b, llava-v1\.5-13b,? .*or ") as caught:
        registry.find("llava")
    assert caught.value.hint == "give more of the name"


def test_a_quant_is_suggested() -> None:
    with pytest.raises(ModelMissing) as caught:
        registry.find("llava-v1.5-7b:Q4_K")
    assert caught.value.hint.startswith("did you mean llava-v1.5-7b:Q4_K_")


def test_all_quants_of_a_model_or_the_one_asked_for() -> None:
    assert [spec.quant for spec in registry.find_quants("llava-phi-3-mini")] == ["int4", "f16"]
    assert [spec.quant for spec in registry.find_quants("llava-phi-3-mini:F16")] == ["f16"]


def test_files_of_ones_own_make_a_spec() -> None:
    spec = registry.from_files(Path("a.gguf"), Path("b.gguf"), "phi3")
    assert (spec.name, spec.layout, spec.local) == ("a", "phi3", (Path("a.gguf"), Path("b.gguf")))


def test_an_unknown_layout_is_a_mistake_in_the_command() -> None:
    with pytest.raises(UsageError, match="unknown layout 'vicuna'") as caught:
        registry.from_files(Path("a.gguf"), Path("b.gguf"), "vicuna")
    assert all(name in caught.value.hint for name in LAYOUT_NAMES)


def test_the_table_stands_at_the_top_of_the_repository() -> None:
    """There is one source; a wheel carries it inside the package (pyproject.toml, force-include)."""
    top = Path(registry.__file__).parent.parent
    assert (top / "models.toml").is_file()
    assert '"models.toml" = "llava_cli/models.toml"' in (top / "pyproject.toml").read_text()
