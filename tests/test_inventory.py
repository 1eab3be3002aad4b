"""Facts about which models are on this computer, and which quant is taken when none is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llava_cli import inventory, registry
from llava_cli.errors import ModelMissing
from llava_cli.inventory import Holding
from llava_cli.model import load
from llava_cli.registry import FileSpec, ModelSpec
from tests.downloads import MAIN, in_cache, write_own_list

GIB = 1024**3


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch):
    """Return what lets this computer have so many GiB."""
    return lambda size: monkeypatch.setattr(inventory, "total_memory", lambda: round(size * GIB))


def test_a_model_is_complete_with_both_files(hub: Path) -> None:
    write_own_list()
    assert inventory.look_up(registry.find("tiny")) == Holding(registry.find("tiny"), None, None)
    model = in_cache(hub, MAIN, "model.gguf", content=b"1234")
    half = inventory.look_up(registry.find("tiny"))
    assert (half.complete, half.model, half.size) == (False, model, None)
    in_cache(hub, MAIN, "mmproj.gguf", content=b"56")
    whole = inventory.look_up(registry.find("tiny"))
    assert (whole.complete, whole.size) == (True, 6)
    assert [one.complete for one in inventory.all_quants(whole.spec)] == [True, False]


def test_the_bundled_model_is_always_there() -> None:
    held = inventory.look_up(registry.find("shapes"))
    assert (held.complete, inventory.memory_class(held)) == (True, 1)


def test_the_names_on_disk_are_those_of_complete_models(hub: Path) -> None:
    write_own_list()
    in_cache(hub, MAIN, "model-f16.gguf")
    assert inventory.names_on_disk() == ["shapes"]
    in_cache(hub, MAIN, "mmproj.gguf")
    assert inventory.names_on_disk() == ["shapes", "tiny:F16"]


@pytest.mark.usefixtures("hub")
def test_without_a_quant_the_default_is_chosen() -> None:
    write_own_list()
    assert inventory.choose("tiny").spec.quant == "F32"
    assert inventory.choose("tiny:f16").spec.quant == "F16"
    with pytest.raises(ModelMissing):
        inventory.choose("tinny")


def test_a_quant_on_disk_goes_before_the_default(hub: Path) -> None:
    """Nobody who has a model should be asked to download another size of it."""
    write_own_list()
    in_cache(hub, MAIN, "model-f16.gguf")
    assert inventory.choose("tiny").spec.quant == "F16"
    in_cache(hub, MAIN, "mmproj.gguf")
    in_cache(hub, MAIN, "model.gguf")
    assert inventory.choose("tiny").spec.quant == "F32"
    assert inventory.choose("tiny:F16").spec.quant == "F16"


def test_what_is_asked_for_without_a_quant_is_what_is_on_disk(hub: Path, tiny_pair: tuple[Path, Path]) -> None:
    write_own_list()
    in_cache(hub, MAIN, "model-f16.gguf", content=tiny_pair[0].read_bytes())
    in_cache(hub, MAIN, "mmproj.gguf", content=tiny_pair[1].read_bytes())
    with load("tiny") as model:
        assert model.spec.quant == "F16"


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("size", "quant"), [(64, "Q4_K_M"), (7.8, "Q4_K_M"), (6, "Q3_K_M"), (5.3, "Q2_K"), (2, "Q4_K_M")]
)
def test_the_quant_that_fits_is_proposed(memory, size: float, quant: str) -> None:
    """The default if it does, else the largest that does; if none does, the default."""
    memory(size)
    assert inventory.choose("llava-v1.5-7b").spec.quant == quant


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("llava-v1.5-7b", 8),
        ("llava-v1.5-7b:Q8_0", 16),
        ("llava-v1.5-13b", 16),
        ("llava-phi-3-mini", 8),
        ("llava-v1.5-13b:F16", None),
        ("llava-llama-3-8b-v1_1", None),
    ],
)
def test_the_memory_a_computer_must_have(memory, name: str, least: int | None) -> None:
    """A 7B model at Q4_K_M with 2048 cells takes 5.8 GB and its buffers; an unpublished size stays unknown."""
    held = inventory.choose(name)
    assert inventory.memory_class(held) == least
    for size in (4, 8, 16):
        memory(size)
        known = least is None if name != "llava-v1.5-13b:F16" else size > 8
        assert inventory.fits(held) is (None if known else least is not None and least <= size)


def test_a_small_computer_does_not_get_what_needs_more_than_8_gb(memory) -> None:
    held = Holding(ModelSpec("a", "b", "llava_v1", model=FileSpec("c/d", "e"), fits_8gb=False), None, None)
    memory(7.8)
    assert inventory.fits(held) is False


def test_the_memory_of_this_computer_is_known() -> None:
    assert GIB // 8 < inventory.total_memory() < sys.maxsize
