"""Facts about copies of GGUF files and repaired projectors."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from llava_cli import gguf_file
from llava_cli.errors import NotEnoughRoom
from llava_cli.gguf_copy import GgufCopy
from llava_cli.gguf_file import read_header, repaired_copies, repaired_projector, write_copy
from llava_cli.gguf_format import GgufArray
from llava_cli.gguf_projector import grid_sizes, reference_layer
from llava_cli.settings import PROJECTOR_QUANTS
from tests.gguf_draft import Draft, opens, refusal, tensor_data
from tests.tiny_model import write_tiny_projector

VISION = "clip.vision."


def test_a_sound_projector_is_used_as_it_is(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    repaired = repaired_projector(tiny_pair[1], tmp_path / "cache")
    assert (repaired.path, repaired.repairs) == (tiny_pair[1], ())
    assert not (tmp_path / "cache").exists()


def test_a_projector_without_its_type_is_repaired(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """llama.cpp refuses the original and opens the copy; the tensors are the same bytes."""
    original = write_tiny_projector(tmp_path / "old.gguf", projector_type=None)
    repaired = repaired_projector(original, tmp_path / "cache")
    before, after = read_header(original), read_header(repaired.path)
    assert after.metadata.keys() == {*before.metadata, "clip.projector_type"}
    assert after.tensors == before.tensors
    assert repaired.path.read_bytes()[after.data_start :] == original.read_bytes()[before.data_start :]
    assert 'clip.projector_type = "mlp"' in repaired.repairs[0]
    assert (opens(tiny_pair[0], original), opens(tiny_pair[0], repaired.path)) == (False, True)
    assert repaired_projector(repaired.path, tmp_path / "cache").repairs == ()


@pytest.mark.parametrize(
    ("layer", "changes"),
    [
        (23, {}),
        (23, {"block_count": 24}),
        (None, {"block_count": 22}),
        (None, {"embedding_length": 1152}),
        (None, {"patch_size": 16}),
        (None, {"attention.head_count": 8}),
    ],
)
def test_the_tower_of_llava_is_known(tiny_pair: tuple[Path, Path], layer: int | None, changes: dict[str, int]) -> None:
    """CLIP ViT-L/14 has 24 layers and LLaVA reads the last but one; of other towers nothing is claimed."""
    clip = {"embedding_length": 1024, "attention.head_count": 16, "patch_size": 14, "block_count": 23} | changes
    header = read_header(tiny_pair[1])
    large = replace(header, metadata={**header.metadata, **{VISION + key: number for key, number in clip.items()}})
    assert reference_layer(large) == layer
    # Towers of other makers have the same sizes, but not its activation, or not its class token.
    assert reference_layer(replace(large, metadata={**large.metadata, "clip.use_gelu": True})) is None
    assert reference_layer(replace(large, metadata={**large.metadata, "clip.use_silu": True})) is None
    assert reference_layer(replace(large, tensors={})) is None


def test_the_feature_layer_is_written_for_a_known_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "reference_layer", lambda header: 2)
    original = write_tiny_projector(tmp_path / "old.gguf", feature_layer=None)
    repaired = repaired_projector(original, tmp_path / "cache")
    header = read_header(repaired.path)
    layers = header.metadata["clip.vision.feature_layer"]
    assert isinstance(layers, GgufArray)
    assert (header.types["clip.vision.feature_layer"], layers.values()) == ("i32[]", (2,))
    assert repaired.repairs == ("picture features are read after layer 2, as LLaVA's authors do",)


def test_an_unknown_tower_is_left_as_it_is_and_said_so(tmp_path: Path) -> None:
    original = write_tiny_projector(tmp_path / "old.gguf", feature_layer=None)
    repaired = repaired_projector(original, tmp_path / "cache")
    assert repaired.path == original
    assert repaired.repairs == ("unknown vision tower: feature layer left to llama.cpp",)


def test_a_copy_is_written_once(tmp_path: Path) -> None:
    original = write_tiny_projector(tmp_path / "old.gguf", projector_type=None)
    first = repaired_projector(original, tmp_path / "cache")
    written = first.path.stat()
    second = repaired_projector(original, tmp_path / "cache")
    assert (first.fresh, second.fresh) == (True, False)
    assert second.path.stat().st_ino == written.st_ino
    assert list((tmp_path / "cache" / "projectors").iterdir()) == [first.path]


def test_the_copies_of_a_file_are_found_again(tmp_path: Path) -> None:
    original, cache = write_tiny_projector(tmp_path / "old.gguf", projector_type=None), tmp_path / "cache"
    assert [] == repaired_copies(original, cache)
    written = [repaired_projector(original, cache, quant=quant).path for quant in PROJECTOR_QUANTS]
    assert written == repaired_copies(original, cache)
    assert [] == repaired_copies(tmp_path / "nothing.gguf", cache)


@pytest.mark.parametrize("damage", ["cut", "longer", "header", "empty", "gone"])
def test_a_damaged_copy_is_written_again(tmp_path: Path, damage: str) -> None:
    original = write_tiny_projector(tmp_path / "old.gguf", projector_type=None)
    copy = repaired_projector(original, tmp_path / "cache").path
    whole = copy.read_bytes()
    broken = {
        "cut": whole[:-1], "longer": whole + b"x", "header": whole[:40] + b"?" + whole[41:], "empty": b"",
    }  # fmt: skip
    copy.unlink()
    if damage in broken:
        copy.write_bytes(broken[damage])
    assert repaired_projector(original, tmp_path / "cache").fresh
    assert copy.read_bytes() == whole


def test_another_file_of_the_same_name_gets_another_copy(tmp_path: Path) -> None:
    """Fine-tunes differ in tensor data only: same name, same header, same size."""
    original = write_tiny_projector(tmp_path / "old.gguf", projector_type=None, seed=1)
    first = repaired_projector(original, tmp_path / "cache").path
    write_tiny_projector(original, projector_type=None, seed=2)
    second = repaired_projector(original, tmp_path / "cache").path
    assert read_header(first).raw == read_header(second).raw
    assert _digest(first) != _digest(second)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_copies_are_private_under_any_umask(tmp_path: Path) -> None:
    original = write_tiny_projector(tmp_path / "old.gguf", projector_type=None)
    for umask in (0, 0o777):
        before = os.umask(umask)
        try:
            copy = repaired_projector(original, tmp_path / f"cache{umask}").path
        finally:
            os.umask(before)
        assert tuple(stat.S_IMODE(path.stat().st_mode) for path in (copy, copy.parent)) == (0o600, 0o700)


def test_llama_cpp_does_not_see_that_pictures_are_cut(tmp_path: Path) -> None:
    """It would do so itself; in the copy the sizes stand under a name that only llava reads. That is no repair."""
    original = write_tiny_projector(tmp_path / "anyres.gguf", pinpoints=(56, 112))
    copy = repaired_projector(original, tmp_path / "cache")
    assert copy.repairs == ()
    before, after = read_header(original), read_header(copy.path)
    assert before.metadata.keys() - after.metadata.keys() == {f"{VISION}image_grid_pinpoints"}
    assert after.metadata.keys() - before.metadata.keys() == {"llava.image_grid_pinpoints"}
    assert grid_sizes(before) == grid_sizes(after) == ((56, 112),)
    assert repaired_projector(copy.path, tmp_path / "cache").path == copy.path


def test_a_full_disk_is_noticed_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = write_tiny_projector(tmp_path / "old.gguf", projector_type=None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(NotEnoughRoom, match="its repaired copy takes 0 MB") as caught:
        repaired_projector(original, tmp_path / "cache")
    assert "LLAVA_CACHE" in caught.value.hint


def test_a_failed_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up while writing."""
    original = write_tiny_projector(tmp_path / "old.gguf", projector_type=None)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotEnoughRoom, match="no space left on device"):
        repaired_projector(original, tmp_path / "cache")
    assert list((tmp_path / "cache" / "projectors").iterdir()) == []


def test_a_file_that_is_exchanged_while_it_is_copied_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy may hold bytes of both."""
    original = write_tiny_projector(tmp_path / "old.gguf", projector_type=None)

    write = GgufCopy.write

    def meddle(copy: GgufCopy, target: Path) -> None:
        write(copy, target)
        os.utime(original, (0, 0))

    monkeypatch.setattr(GgufCopy, "write", meddle)
    error = refusal(lambda: repaired_projector(original, tmp_path / "cache"))
    assert error.why == "the file was changed while it was copied"
    assert list((tmp_path / "cache" / "projectors").iterdir()) == []


def test_a_file_that_is_cut_while_it_is_copied_is_refused(tmp_path: Path) -> None:
    original = write_tiny_projector(tmp_path / "old.gguf")
    header = read_header(original)
    os.truncate(original, header.data_start + 100)
    error = refusal(lambda: write_copy(header, tmp_path / "copy.gguf"))
    assert error.why == "the file became shorter while it was copied"
    assert list(tmp_path.iterdir()) == [original]


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    original = write_tiny_projector(tmp_path / "old.gguf", projector_type=None)
    directory = tmp_path / "cache" / "projectors"
    directory.mkdir(parents=True)
    old, new = directory / ".a.part", directory / ".b.part"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    copy = repaired_projector(original, tmp_path / "cache").path
    assert set(directory.iterdir()) == {copy, new}


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    original = write_tiny_projector(tmp_path / "old.gguf", projector_type=None)
    (tmp_path / "cache").write_text("in the way")
    error = refusal(lambda: repaired_projector(original, tmp_path / "cache"))
    assert "its repaired copy cannot be written to" in error.why
    assert "LLAVA_CACHE" in error.hint


def test_tensors_of_any_length_keep_their_values(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Behind one whose length is no multiple of the alignment, the next begins at one all the same."""
    draft = Draft(tiny_pair[1]).add("odd", (3,)).drop("clip.projector_type")
    draft.tensors.insert(1, draft.tensors.pop())
    original = draft.write(tmp_path / "old.gguf")
    copy = repaired_projector(original, tmp_path / "cache").path
    before, after = read_header(original), read_header(copy)
    assert before.tensors == after.tensors
    for name, tensor in before.tensors.items():
        data = [tensor_data(path.read_bytes(), header, tensor) for path, header in ((original, before), (copy, after))]
        assert data[0] == data[1], name


def test_a_copy_can_leave_keys_out_and_replace_them(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    header = read_header(tiny_pair[1])
    copy = tmp_path / "copy.gguf"
    write_copy(header, copy, add={"general.name": ("str", "other")}, drop=["clip.vision.feature_layer"])
    changed = read_header(copy)
    assert "clip.vision.feature_layer" not in changed.metadata
    assert changed.metadata["general.name"] == "other"
    assert changed.tensors == header.tensors
    assert opens(tiny_pair[0], copy)
