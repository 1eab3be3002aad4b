"""Facts about removing models: what goes, what stays, and what the cache looks like afterwards."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from llava_cli import PrefixCache, Sampling, hub_removal, registry
from llava_cli.errors import ModelMissing, ModelUnusable, UsageError
from llava_cli.gguf_file import repaired_projector
from llava_cli.hub_cache import find
from llava_cli.model import load
from llava_cli.removal import plan_removal, remove
from llava_cli.settings import cache_dir
from tests.downloads import MAIN, OLD, OWN_LIST, files_below, in_cache, point_main_to, write_own_list
from tests.processes import SCENE
from tests.tiny_model import write_tiny_projector

MODEL, HALF, PROJECTOR = "model.gguf", "model-f16.gguf", "mmproj.gguf"


@pytest.fixture(autouse=True)
def _own_list() -> None:
    write_own_list()


@pytest.fixture
def whole(hub: Path) -> Path:
    """Put both quants of a model and its projector into the cache: 100, 50 and 10 bytes."""
    for name, size in ((MODEL, 100), (HALF, 50), (PROJECTOR, 10)):
        in_cache(hub, MAIN, name, content=bytes(size))
    point_main_to(hub, MAIN)
    return hub


def disk_use(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def test_a_model_goes_with_all_its_quants_and_leaves_nothing(whole: Path) -> None:
    plan = plan_removal(["tiny"])
    assert (160, ()) == (plan.size, plan.kept)
    assert 160 == remove(plan)
    assert [] == list(whole.parent.iterdir())


def test_a_projector_that_another_quant_needs_stays(whole: Path) -> None:
    plan = plan_removal(["tiny:F32"])
    assert ((PROJECTOR, "tiny:F16 needs it"),) == plan.kept
    assert 100 == plan.size == remove(plan)
    assert disk_use(whole / "blobs") == 60
    assert 60 == remove(plan_removal(["tiny:F16"]))
    assert not whole.exists()


def test_both_quants_by_name_take_the_projector_along(whole: Path) -> None:
    assert 160 == remove(plan_removal(["tiny:F32", "tiny:F16"]))
    assert not whole.exists()


def test_what_another_model_needs_stays(whole: Path) -> None:
    """A second name for the same file is a second user of it."""
    other = OWN_LIST.partition("[[model]]")[2].replace('"tiny"', '"other"')
    write_own_list(f"{OWN_LIST}[[model]]{other}")
    plan = plan_removal(["tiny"])
    assert {MODEL: "other:F32 needs it", HALF: "other:F16 needs it", PROJECTOR: "other:F32 needs it"} == dict(plan.kept)
    assert 0 == plan.size == remove(plan)
    assert 160 == disk_use(whole / "blobs")
    assert 160 == remove(plan_removal(["tiny", "other"]))


def test_data_that_another_revision_links_to_stays(whole: Path) -> None:
    old = whole / "snapshots" / OLD / MODEL
    old.parent.mkdir()
    old.symlink_to((whole / "snapshots" / MAIN / MODEL).readlink())
    plan = plan_removal(["tiny"])
    assert ((MODEL, f"revision {OLD[:12]} has the same data as {MODEL}"),) == plan.kept
    assert 60 == plan.size == remove(plan)
    assert 100 == old.stat().st_size
    assert [f"snapshots/{OLD}/{MODEL}"] == [name for name in files_below(whole) if "blobs" not in name]


def test_a_file_of_another_revision_is_not_touched_unless_asked(whole: Path) -> None:
    in_cache(whole, OLD, MODEL, content=bytes(90))
    assert 160 == remove(plan_removal(["tiny"]))
    assert ["blobs/" + OLD + "-" + MODEL, f"snapshots/{OLD}/{MODEL}"] == files_below(whole)
    assert 90 == remove(plan_removal(["tiny"], all_revisions=True))
    assert not whole.exists()


def test_all_revisions_go_at_once_if_asked(whole: Path) -> None:
    in_cache(whole, OLD, MODEL, content=bytes(90))
    old = whole / "snapshots" / OLD / PROJECTOR
    old.symlink_to((whole / "snapshots" / MAIN / PROJECTOR).readlink())
    plan = plan_removal(["tiny"], all_revisions=True)
    assert 250 == plan.size == sum(size for _, size in plan.rows()) == remove(plan)
    assert not whole.exists()


def test_a_blob_that_lies_elsewhere_stays(whole: Path, tmp_path: Path) -> None:
    """Some keep large files on another disk and link to them."""
    elsewhere = tmp_path / "large.gguf"
    elsewhere.write_bytes(bytes(100))
    link = whole / "snapshots" / MAIN / MODEL
    link.unlink()
    link.symlink_to(elsewhere)
    plan = plan_removal(["tiny:F32"])
    assert (MODEL, f"its data is not in the cache but at {elsewhere}") in plan.kept
    assert 0 == remove(plan)
    assert 100 == elsewhere.stat().st_size
    assert not link.is_symlink()


def test_a_blob_with_a_second_name_frees_nothing(whole: Path, tmp_path: Path) -> None:
    os.link((whole / "snapshots" / MAIN / MODEL).resolve(), tmp_path / "second.gguf")
    assert 60 == plan_removal(["tiny"]).size
    assert 60 == remove(plan_removal(["tiny"]))
    assert 100 == (tmp_path / "second.gguf").stat().st_size


def test_a_cache_without_links_gives_back_as_much(hub: Path) -> None:
    """Where links are impossible, the files themselves stand in the snapshot."""
    for name, size in ((MODEL, 100), (PROJECTOR, 10)):
        place = hub / "snapshots" / MAIN / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(bytes(size))
    assert 110 == remove(plan_removal(["tiny"]))
    assert not hub.exists()


def test_other_files_of_the_repository_stay_and_the_cache_stays_sound(whole: Path) -> None:
    from huggingface_hub import scan_cache_dir

    in_cache(whole, MAIN, "README.md", content=b"hello")
    remove(plan_removal(["tiny"]))
    assert [f"blobs/{MAIN}-README.md", "refs/main", f"snapshots/{MAIN}/README.md"] == files_below(whole)
    found = scan_cache_dir(whole.parent)
    assert (5, []) == (found.size_on_disk, found.warnings)


def test_a_ref_to_a_revision_that_is_gone_goes_too(whole: Path) -> None:
    from huggingface_hub import scan_cache_dir

    in_cache(whole, OLD, "README.md", content=b"hello")
    remove(plan_removal(["tiny"]))
    assert [f"blobs/{OLD}-README.md", f"snapshots/{OLD}/README.md"] == files_below(whole)
    assert [] == scan_cache_dir(whole.parent).warnings


def test_half_a_model_can_be_removed(hub: Path) -> None:
    in_cache(hub, MAIN, PROJECTOR, content=bytes(10))
    assert 10 == remove(plan_removal(["tiny"]))
    assert not hub.exists()


def test_a_begun_download_goes_too(hub: Path) -> None:
    from llava_cli.hub_cache import part_path

    spec = registry.find("tiny").model
    assert spec is not None
    part = part_path(spec, "1" * 64)
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(30))
    plan = plan_removal(["tiny"])
    assert [(f"{part.name} (begun download)", 30)] == plan.rows()
    assert 30 == remove(plan)
    assert not hub.exists()


def test_a_download_that_goes_on_is_left_alone(hub: Path) -> None:
    from llava_cli.hub_cache import part_path

    spec = registry.find("tiny").model
    assert spec is not None
    part = part_path(spec, "1" * 64)
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(30))
    with part.open("rb") as written:
        fcntl.flock(written, fcntl.LOCK_EX)
        assert 0 == remove(plan_removal(["tiny"]))
    assert 30 == part.stat().st_size


def test_what_is_not_there_cannot_be_removed(hub: Path) -> None:
    with pytest.raises(ModelMissing, match="tiny: not on this computer"):
        plan_removal(["tiny"])
    in_cache(hub, MAIN, MODEL)
    with pytest.raises(ModelMissing, match=r"llava-v1\.5-7b: not on this computer"):
        plan_removal(["tiny", "llava-v1.5-7b"])
    assert find(registry.FileSpec("someone/tiny-llava", MODEL)) is not None


def test_the_bundled_model_stays() -> None:
    with pytest.raises(UsageError, match="shapes: it is part of llava and cannot be removed"):
        plan_removal(["shapes"])


def test_a_file_that_cannot_be_removed_is_an_error(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: the superuser may remove everything."""
    plan = plan_removal(["tiny"])

    def denied(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", denied)
    with pytest.raises(ModelUnusable, match=r"model\.gguf: it cannot be removed \(permission denied\)"):
        remove(plan)
    monkeypatch.undo()
    assert 160 == disk_use(whole / "blobs")


def test_an_interruption_leaves_no_name_without_data(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_removal(["tiny"])
    unlink = Path.unlink
    done: list[Path] = []

    def interrupted(path: Path, **options: bool) -> None:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(path)
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hub_removal.remove(plan.files)
    monkeypatch.undo()
    assert [path for path in whole.rglob("*") if path.is_symlink() and not path.exists()] == []


def test_the_repaired_copy_of_a_projector_whose_data_stays_stays_too(hub: Path, tmp_path: Path) -> None:
    old = write_tiny_projector(tmp_path / "old.gguf", projector_type=None)
    link = in_cache(hub, MAIN, PROJECTOR, content=old.read_bytes())
    other = hub / "snapshots" / OLD / PROJECTOR
    other.parent.mkdir()
    other.symlink_to(link.readlink())
    copy = repaired_projector(link, cache_dir()).path
    plan = plan_removal(["tiny"])
    assert (0, ()) == (plan.size, plan.copies)
    remove(plan)
    assert copy == repaired_projector(other, cache_dir()).path
    assert copy.exists()


def test_what_llava_made_of_it_goes_along(hub: Path, tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """The repaired projector, and what it read of pictures; what other models read stays."""
    old = write_tiny_projector(tmp_path / "old.gguf", projector_type=None)
    model = in_cache(hub, MAIN, MODEL, content=tiny_pair[0].read_bytes()).stat().st_size
    projector = in_cache(hub, MAIN, PROJECTOR, content=old.read_bytes()).stat().st_size
    greedy = Sampling(temperature=0, max_tokens=1)
    with load("tiny", sampling=greedy) as asked:
        _ = asked.ask(SCENE, "What?").text
    with load(model_path=tiny_pair[0], projector_path=tiny_pair[1], sampling=greedy) as other:
        _ = other.ask(SCENE, "What?").text
    (copy,) = (cache_dir() / "projectors").iterdir()
    copy_size = copy.stat().st_size
    (both,) = PrefixCache().pictures()
    plan = plan_removal(["tiny"])
    assert plan.pictures
    made = sum(entry.size for entry in plan.pictures)
    assert model + projector + copy_size + made == plan.size == remove(plan)
    assert not copy.exists()
    (left,) = PrefixCache().pictures()
    made_of_pictures = sum(entry.size for entry in plan.pictures if entry.kind != "opening")
    assert both.size - made_of_pictures == left.size > 0
