"""Facts about where the files of a model come from."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from llava_cli import gguf_file, registry
from llava_cli.errors import ModelMissing, ModelUnusable
from llava_cli.gguf_file import read_header
from llava_cli.registry import FileSpec, ModelSpec
from llava_cli.weights import Weights, find_weights, open_weights
from tests.downloads import MAIN, OLD, PINNED, REPO, in_cache, point_main_to
from tests.tiny_model import write_tiny_model, write_tiny_projector


@pytest.fixture
def hub(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty Hugging Face cache, with no tool of the hub around."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    return hub


SPEC = ModelSpec(
    name="tiny",
    summary="for tests",
    layout="llava_v1",
    model=FileSpec(REPO, "model.gguf", size=4_081_000_000, sha256="1" * 64),
    projector=FileSpec(REPO, "mmproj.gguf", size_gb=0.624),
)
COMMAND = "hf download someone/tiny-llava model.gguf mmproj.gguf"


# The Hugging Face cache


def test_files_are_found_in_the_revision_main_points_to(hub: Path) -> None:
    model, projector = (in_cache(hub, MAIN, name) for name in ("model.gguf", "mmproj.gguf"))
    in_cache(hub, OLD, "model.gguf")
    point_main_to(hub, MAIN)
    assert find_weights(SPEC) == Weights(model, projector)


def test_a_pinned_revision_goes_first(hub: Path) -> None:
    assert SPEC.model is not None
    in_cache(hub, MAIN, "model.gguf")
    expected = in_cache(hub, PINNED, "model.gguf")
    projector = in_cache(hub, MAIN, "mmproj.gguf")
    point_main_to(hub, MAIN)
    pinned = replace(SPEC, model=replace(SPEC.model, revision=PINNED))
    assert find_weights(pinned) == Weights(expected, projector)


@pytest.mark.parametrize("main", [None, OLD, "../../../etc", "", "\0"])
def test_any_snapshot_will_do(hub: Path, main: str | None) -> None:
    """`main` may be absent, point to a revision without the file, or be nonsense."""
    model, projector = (in_cache(hub, MAIN, name) for name in ("model.gguf", "mmproj.gguf"))
    if main is not None:
        point_main_to(hub, main)
    assert find_weights(SPEC) == Weights(model, projector)


def test_what_main_says_never_leads_out_of_the_snapshots(hub: Path) -> None:
    model, projector = (in_cache(hub, MAIN, name) for name in ("model.gguf", "mmproj.gguf"))
    in_cache(hub, "../elsewhere", "model.gguf")
    point_main_to(hub, "../elsewhere")
    assert find_weights(SPEC) == Weights(model, projector)


def test_a_link_to_nothing_is_not_a_file(hub: Path) -> None:
    in_cache(hub, MAIN, "mmproj.gguf")
    in_cache(hub, MAIN, "model.gguf").resolve().unlink()
    with pytest.raises(ModelMissing, match=r"tiny: model\.gguf: not on this computer"):
        find_weights(SPEC)


def test_a_model_that_is_not_there_says_both_ways_on(hub: Path) -> None:
    with pytest.raises(ModelMissing) as caught:
        find_weights(SPEC)
    assert caught.value.exit_code == 4
    assert str(caught.value) == "tiny: not on this computer"
    assert caught.value.hint == (
        f"download it (4.71 GB): {COMMAND}; or ask the built-in demo: llava ask PICTURE QUESTION -m shapes"
    )


def test_the_default_model_says_its_command(hub: Path) -> None:
    with pytest.raises(ModelMissing) as caught:
        find_weights(registry.find("llava-v1.5-7b"))
    command = (
        "hf download second-state/Llava-v1.5-7B-GGUF "
        "llava-v1.5-7b-Q4_K_M.gguf llava-v1.5-7b-mmproj-model-f16.gguf"
    )  # fmt: skip
    assert f"(4.70 GB): {command}; " in caught.value.hint


def test_a_model_too_large_for_8_gb_is_said_to_be(hub: Path) -> None:
    with pytest.raises(ModelMissing, match="and it needs more than 8 GB of memory"):
        find_weights(registry.find("llava-v1.5-13b"))


def test_only_what_is_missing_is_downloaded(hub: Path) -> None:
    in_cache(hub, MAIN, "model.gguf")
    with pytest.raises(ModelMissing) as caught:
        find_weights(SPEC)
    assert "(0.62 GB): hf download someone/tiny-llava mmproj.gguf; " in caught.value.hint


def test_pinned_files_are_downloaded_by_their_revision(hub: Path) -> None:
    assert SPEC.projector is not None
    pinned = replace(SPEC, projector=replace(SPEC.projector, revision=PINNED, repo="other/repo"))
    with pytest.raises(ModelMissing) as caught:
        find_weights(pinned)
    first, second = "hf download someone/tiny-llava model.gguf", "hf download other/repo mmproj.gguf"
    assert f": {first} && {second} --revision {PINNED}; " in caught.value.hint


def test_hf_is_named_by_its_place_if_it_is_not_on_the_path(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hf").touch(mode=0o755)
    with pytest.raises(ModelMissing) as caught:
        find_weights(SPEC)
    assert f": {tmp_path / COMMAND}; " in caught.value.hint
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelMissing) as caught:
        find_weights(SPEC)
    assert f": {COMMAND}; " in caught.value.hint


def test_a_file_the_registry_does_not_know_is_said_to_be_one(hub: Path) -> None:
    """The cache calls large files by their sha256, so this costs nothing."""
    known = in_cache(hub, MAIN, "model.gguf", blob="1" * 64)
    in_cache(hub, MAIN, "mmproj.gguf", blob="3" * 64)
    assert find_weights(SPEC).notes == ()
    known.unlink()
    in_cache(hub, MAIN, "model.gguf", blob="2" * 64)
    (note,) = find_weights(SPEC).notes
    assert "model.gguf: the file in the cache is not the one this list knows" in note
    assert "(sha256 222222222222… instead of 111111111111…)" in note


@pytest.mark.parametrize(("variable", "below"), [("HF_HOME", "hub"), ("HF_HUB_CACHE", "")])
def test_the_cache_is_where_the_environment_says(tmp_path: Path, variable: str, below: str) -> None:
    """It is found without network, and without loading the heavy parts of huggingface_hub."""
    for name in ("model.gguf", "mmproj.gguf"):
        in_cache(tmp_path / below / "models--someone--tiny-llava", MAIN, name)
    code = (
        "import sys\n"
        "def watch(event, _):\n"
        "    if event.startswith('socket.'): raise RuntimeError(event)\n"
        "sys.addaudithook(watch)\n"
        "from llava_cli.registry import FileSpec, ModelSpec\n"
        f"files = [FileSpec({REPO!r}, name) for name in ('model.gguf', 'mmproj.gguf')]\n"
        "from llava_cli.weights import find_weights\n"
        "weights = find_weights(ModelSpec('tiny', '', 'llava_v1', model=files[0], projector=files[1]))\n"
        "print(weights.model.is_file(), 'huggingface_hub.file_download' in sys.modules)\n"
    )
    environment = {**os.environ, variable: str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


# Files of the user's own, and those of the package


def local(*paths: Path) -> ModelSpec:
    return ModelSpec("mine", "files of your own", "llava_v1", local=(paths[0], paths[1]))


def test_files_of_ones_own_are_used_where_they_are(tiny_pair: tuple[Path, Path]) -> None:
    assert open_weights(local(*tiny_pair)) == Weights(*tiny_pair, layout="llava_v1")


def test_a_missing_file_gets_a_suggestion(tiny_pair: tuple[Path, Path]) -> None:
    typed = tiny_pair[0].with_name("modle.gguf")
    with pytest.raises(ModelMissing) as caught:
        find_weights(local(typed, tiny_pair[1]))
    assert (caught.value.what, caught.value.why) == (str(typed), "there is no such file")
    assert caught.value.hint == f"did you mean {tiny_pair[0]}?"


def test_a_missing_file_is_told_what_is_there(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    hints = []
    for typed in (tiny_pair[0].with_name("x"), tmp_path / "x.gguf", tmp_path / "none" / "x.gguf"):
        with pytest.raises(ModelMissing) as caught:
            find_weights(local(typed, tiny_pair[1]))
        hints.append(caught.value.hint)
    assert hints == [
        f"{tiny_pair[0].parent} holds mmproj.gguf, model.gguf",
        f"{tmp_path} holds no .gguf file",
        f"there is no directory {tmp_path / 'none'}, either",
    ]


def test_bundled_files_are_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "files", lambda package: tmp_path / package)
    directory = tmp_path / "llava_cli" / "data" / "shapes"
    directory.mkdir(parents=True)
    spec = registry.find("shapes")
    with pytest.raises(ModelMissing, match=r"shapes: shapes-model-f16\.gguf is not in this installation"):
        find_weights(spec)
    model, projector = directory / "shapes-model-f16.gguf", directory / "shapes-mmproj-f16.gguf"
    for path in (model, projector):
        path.touch()
    assert find_weights(spec) == Weights(model, projector)


def test_the_table_says_of_shapes_what_its_files_say() -> None:
    spec = registry.find("shapes")
    opened = open_weights(spec)
    model, projector = read_header(opened.model).metadata, read_header(opened.projector).metadata
    size, patch = projector["clip.vision.image_size"], projector["clip.vision.patch_size"]
    assert spec.context == model["llama.context_length"]
    assert spec.picture_tokens == (int(str(size)) // int(str(patch))) ** 2
    assert opened.notes == ()


# What is checked before llama.cpp sees them


def test_swapped_files_are_refused(tiny_pair: tuple[Path, Path]) -> None:
    with pytest.raises(ModelUnusable, match="that is the projector") as caught:
        open_weights(local(*reversed(tiny_pair)))
    assert caught.value.hint == "swap --model-path and --projector-path"


def test_an_old_projector_is_repaired_and_it_is_said_once(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    projector = write_tiny_projector(tmp_path / "old.gguf", projector_type=None)
    first, second = (open_weights(local(tiny_pair[0], projector)) for _ in range(2))
    assert first.projector == second.projector != projector
    assert [note.split(";")[0] for note in first.notes] == ["old.gguf: it does not say what it is"]
    assert second.notes == ()


def test_an_unknown_tower_is_said_every_time(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Nothing was mended, so the answers of every run may suffer."""
    projector = write_tiny_projector(tmp_path / "other.gguf", feature_layer=None)
    for _ in range(2):
        opened = open_weights(local(tiny_pair[0], projector))
        assert opened.notes == ("other.gguf: unknown vision tower: feature layer left to llama.cpp",)


def test_a_damaged_download_names_the_command_that_replaces_it(hub: Path, tmp_path: Path) -> None:
    """`hf download` alone would take the cached file for good."""
    in_cache(hub, MAIN, "mmproj.gguf", content=write_tiny_projector(tmp_path / "p.gguf").read_bytes())
    in_cache(hub, MAIN, "model.gguf", content=write_tiny_model(tmp_path / "m.gguf").read_bytes()[:-100])
    with pytest.raises(ModelUnusable, match="bytes are missing at its end") as caught:
        open_weights(SPEC)
    assert caught.value.hint == "hf download someone/tiny-llava model.gguf --force-download"


def test_other_faults_of_a_download_keep_their_own_hint(hub: Path, tmp_path: Path) -> None:
    """Downloading again would not make files fit that do not."""
    in_cache(hub, MAIN, "mmproj.gguf", content=write_tiny_projector(tmp_path / "p.gguf", out_width=96).read_bytes())
    in_cache(hub, MAIN, "model.gguf", content=write_tiny_model(tmp_path / "m.gguf").read_bytes())
    with pytest.raises(ModelUnusable, match="its picture embeddings are 96 wide") as caught:
        open_weights(SPEC)
    assert caught.value.hint == "use the projector (mmproj) that was published together with this model"


def test_a_damaged_file_of_ones_own_names_no_repository(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_pair[0].read_bytes()[:-100])
    with pytest.raises(ModelUnusable, match="bytes are missing at its end") as caught:
        open_weights(local(cut, tiny_pair[1]))
    assert caught.value.hint == "download it again: the file is damaged or not complete"


def test_the_front_room_offers_the_others() -> None:
    assert sorted(gguf_file.__all__) == gguf_file.__all__
    assert all(hasattr(gguf_file, name) for name in gguf_file.__all__)
