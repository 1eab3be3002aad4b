"""Facts about the user's own list of models."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from llava_cli import registry
from llava_cli.errors import UsageError
from llava_cli.own_models import save
from llava_cli.registry import FileSpec, ModelSpec, user_file


def spec(name: str = "toy", summary: str = "a toy", projector_repo: str = "me/toy") -> ModelSpec:
    return ModelSpec(
        name, summary, "phi3", 16, 2048, quant="Q4_0", quants=("Q4_0",),
        model=FileSpec("me/toy", "toy-Q4_0.gguf", 7, "1" * 64, "2" * 40),
        projector=FileSpec(projector_repo, "mmproj.gguf", 5, "3" * 64, "4" * 40),
    )  # fmt: skip


def test_what_is_saved_is_found_by_its_name() -> None:
    assert save(spec()) == user_file()
    assert registry.find("toy").model == spec().model
    assert registry.find("toy").projector == spec().projector
    assert registry.find("toy").layout == "phi3"


def test_a_projector_may_come_from_elsewhere() -> None:
    save(spec(projector_repo="another/place"))
    assert registry.find("toy").projector == spec(projector_repo="another/place").projector


@pytest.mark.parametrize(
    "summary", ['say "hi"', "back\\slash", "line\nbreak", "[[model]]", "naïve 漢字 👩", "\x1b[31m\x7f"]
)
def test_any_text_survives(summary: str) -> None:
    save(spec(summary=summary))
    assert tomllib.loads(user_file().read_text())["model"][0]["summary"] == summary


def test_everything_else_stays_as_it_is() -> None:
    save(spec("one"))
    path = user_file()
    path.write_text(f"# mine\n{path.read_text()}\n# about two\n")
    save(spec("two"))
    save(spec("one", summary="new"))
    text = path.read_text()
    assert [(entry["id"], entry["summary"]) for entry in tomllib.loads(text)["model"]] == [
        ("two", "a toy"),
        ("one", "new"),
    ]
    assert "# mine" in text
    assert text.index("# about two") < text.index('id = "two"')


def test_a_list_that_cannot_be_read_is_left_alone() -> None:
    path = user_file()
    path.parent.mkdir(parents=True)
    path.write_text("[[model]\n")
    with pytest.raises(UsageError, match="the list of your own models cannot be changed"):
        save(spec())
    assert path.read_text() == "[[model]\n"


def test_a_list_that_is_a_link_stays_one(tmp_path: Path) -> None:
    path = user_file()
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "dotfiles.toml")
    save(spec())
    assert path.is_symlink()
    assert "toy" in (tmp_path / "dotfiles.toml").read_text()
