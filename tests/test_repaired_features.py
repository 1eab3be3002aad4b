"""Facts about repaired projectors: a fault is gone when the picture features are those of the file without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from llava_cli.errors import EngineFailed
from llava_cli.gguf_file import read_header, repaired_projector
from llava_cli.handler import LlavaChatHandler
from llava_cli.second_opinion import compare, paint_test_card, reference_features
from llava_cli.settings import cache_dir
from tests.gguf_draft import Draft
from tests.reference.recipe import TOWERS
from tests.test_reference_features import short, told_its_layer
from tests.test_reference_features import written as written_tower
from tests.tiny_model import write_tiny_model, write_tiny_projector

Array = NDArray[np.float32]
Embed = Callable[[Path], Array]


@pytest.fixture(scope="module")
def embed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embed]:
    """Give a function that encodes the test card with a projector file, through a real handler."""
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "model.gguf")
    llama: Any = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False)
    yield lambda projector: LlavaChatHandler(projector).embed(llama, paint_test_card())
    llama.close()


def exchanged(draft: Draft) -> Draft:
    """Give up and down each other's name, as converters of 2023 did."""
    for block in range(3):
        for part in ("weight", "bias"):
            up, down = f"v.blk.{block}.ffn_up.{part}", f"v.blk.{block}.ffn_down.{part}"
            draft.change(up, name="x").change(down, name=up).change("x", name=down)
    return draft


def renamed(first: str, second: str) -> Callable[[Draft], Draft]:
    def apply(draft: Draft) -> Draft:
        for part in ("weight", "bias"):
            draft.change(f"mm.0.{part}", name=f"{first}.{part}").change(f"mm.2.{part}", name=f"{second}.{part}")
        return draft

    return apply


def last_norm(draft: Draft) -> Draft:
    return draft.add("v.post_ln.weight", (32,)).add("v.post_ln.bias", (32,))


FAULTS = {
    "no type": lambda draft: draft.drop("clip.projector_type"),
    "up and down exchanged": exchanged,
    "LLaVA's names": renamed("model.mm_projector.0", "model.mm_projector.2"),
    "half of LLaVA's names": renamed("mm_projector.0", "mm_projector.2"),
    "transformers' names": renamed("multi_modal_projector.linear_1", "multi_modal_projector.linear_2"),
    "a last norm": last_norm,
    "all at once": lambda draft: last_norm(exchanged(draft)).drop("clip.projector_type"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_features_are_the_same_without_the_fault(
    tiny_pair: tuple[Path, Path], tmp_path: Path, embed: Embed, fault: Callable[[Draft], Draft]
) -> None:
    faulty = fault(Draft(tiny_pair[1])).write(tmp_path / "old.gguf")
    assert repaired_projector(faulty, cache_dir()).repairs
    assert np.array_equal(embed(tiny_pair[1]), embed(faulty))


def test_only_all_old_names_together_are_taken_for_the_projector(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """A second tensor of that meaning is left alone: the file has the one that llama.cpp looks for."""
    both = Draft(tiny_pair[1]).add("mm_projector.0.bias", (64,)).write(tmp_path / "p.gguf")
    assert repaired_projector(both, cache_dir()).path == both


def test_a_siglip_tower_with_a_known_layer_works(tmp_path: Path, embed: Embed) -> None:
    """Old converters did not know the name of its activation, and files say "not GELU"; there is no class token."""
    projector = write_tiny_projector(tmp_path / "p.gguf", class_token=False)
    expected = reference_features(projector, paint_test_card())
    assert compare(expected, embed(projector), projector).cosine >= 0.999999
    assert "SigLIP" in repaired_projector(projector, cache_dir()).repairs[0]


@pytest.mark.parametrize("name", [name for name, tower in TOWERS.items() if tower.out == 64])
def test_q8_0_copies_are_small_and_near(
    tmp_path: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The bound under which `projector_quant` is offered at all."""
    original = told_its_layer(short(tmp_path, name, dtype="f16"))
    small = repaired_projector(original, cache_dir(), quant="q8_0")
    assert compare(embed(original), embed(small.path), original).cosine >= 0.999
    assert "Q8_0" in small.repairs[-1]
    matrices = [t for n, t in read_header(small.path).tensors.items() if len(t.shape) == 2 and "embd" not in n]
    assert {"Q8_0"} == {tensor.type for tensor in matrices}
    assert repaired_projector(small.path, cache_dir(), quant="q8_0").path == small.path


def test_what_is_quantised_already_stays_as_it_is(tmp_path: Path) -> None:
    original = written_tower(tmp_path, "plain", dtype="q8_0")
    told_its_layer(original)
    assert repaired_projector(original, cache_dir(), quant="q8_0").path == original


def test_a_projector_with_numbers_that_are_none_is_noticed(
    tiny_pair: tuple[Path, Path], tmp_path: Path, embed: Embed
) -> None:
    """A damaged file that passes the gate, which looks at no weights."""
    bias = np.full(64, np.nan, np.float32).tobytes()
    damaged = Draft(tiny_pair[1]).change("mm.0.bias", data=bias).write(tmp_path / "p.gguf")
    with pytest.raises(EngineFailed, match="not numbers") as caught:
        embed(damaged)
    assert caught.value.exit_code == 7
