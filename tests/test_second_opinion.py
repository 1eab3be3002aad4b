"""Facts about the second opinion: it is right by itself, and says so when the fast path is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_cli import vision
from llava_cli.commands.fidelity import check_fidelity
from llava_cli.errors import EngineFailed, ModelUnusable
from llava_cli.pictures import open_picture
from llava_cli.render import Output
from llava_cli.second_opinion import compare, paint_test_card, reference_features
from llava_cli.settings import LoadOptions
from tests.gguf_draft import Draft
from tests.processes import files_of, llava
from tests.reference import recipe, scenes
from tests.test_reference_features import FEATURES, short, told_its_layer, written
from tests.tiny_model import write_tiny_projector

OPTIONS = LoadOptions(context=256, threads=1)


@pytest.mark.parametrize("name", recipe.TOWERS)
def test_it_gives_the_features_of_the_reference(tmp_path: Path, name: str) -> None:
    projector = told_its_layer(short(tmp_path, name))
    picture = open_picture(scenes.paint(*scenes.SHAPES["landscape"]))
    assert compare(FEATURES[name], reference_features(projector, picture), projector).cosine >= 0.999999


@pytest.mark.parametrize("key", ["clip.use_gelu", "clip.use_silu"])
def test_both_agree_on_other_activations(
    tiny_pair: tuple[Path, Path], tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    projector = Draft(tiny_pair[1]).set(key, "bool", 1).write(tmp_path / "p.gguf")
    check_fidelity(Output(), "", OPTIONS, tiny_pair[0], projector)
    assert "verdict\tfaithful" in capsys.readouterr().out


def test_a_verdict_may_be_json(capsys: pytest.CaptureFixture[str], tiny_pair: tuple[Path, Path]) -> None:
    check_fidelity(Output(), "", OPTIONS, *tiny_pair, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert (True, tiny_pair[1].name, True) == (said["is_faithful"], said["projector"], said["cosine"] > said["needed"])


def test_both_agree_when_two_layers_are_read(
    tiny_pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Granite does; the states stand beside each other."""
    draft = Draft(write_tiny_projector(tmp_path / "p.gguf", feature_layer=(1, 3)))
    weights = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
    projector = draft.change("mm.0.weight", shape=(64, 64), data=weights.tobytes()).write(tmp_path / "q.gguf")
    check_fidelity(Output(), "", OPTIONS, tiny_pair[0], projector)
    assert "verdict\tfaithful" in capsys.readouterr().out


def test_the_overview_of_llava_1_6_is_what_is_compared(
    tiny_pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes first, and the test card is square: stretched as 1.6 does it, or padded as 1.5, it is the same."""
    projector = write_tiny_projector(tmp_path / "p.gguf", pinpoints=(56, 112, 112, 112))
    check_fidelity(Output(), "", OPTIONS, tiny_pair[0], projector)
    assert "verdict\tfaithful" in capsys.readouterr().out


def test_the_command_says_faithful_of_the_bundled_model() -> None:
    done = llava("doctor", "--fidelity", "-m", "shapes")
    assert 0 == done.returncode
    rows = dict(line.split("\t") for line in done.stdout.splitlines())
    assert ("shapes-mmproj-f16.gguf (F16)", "100", "faithful") == (
        rows["projector"],
        rows["picture tokens"],
        rows["verdict"],
    )
    assert float(rows["cosine of the worst token"]) > 0.9999


def test_the_command_takes_files(tiny_pair: tuple[Path, Path]) -> None:
    assert 0 == llava("doctor", "--fidelity", *files_of(tiny_pair)[:4]).returncode


@pytest.mark.parametrize("fault", ["order", "layer"])
def test_what_stock_llama_cpp_does_is_not_faithful(
    tiny_pair: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    """The class token behind the patches (#25814), one layer less (#25817): each alone is exit code 7."""
    if fault == "order":

        def leave(order: Any, node: int) -> bool:
            order.hits += order.is_concat(node)
            return True

        monkeypatch.setattr(vision._TokenOrder, "mend", leave)
    else:
        read = "llava_cli.second_opinion._layers_read"
        monkeypatch.setattr(read, lambda _header: (3,))
    with pytest.raises(EngineFailed, match="differ from the reference") as caught:
        check_fidelity(Output(), "", OPTIONS, *tiny_pair)
    assert caught.value.exit_code == 7
    assert "verdict\tnot faithful" in capsys.readouterr().out


def test_a_tower_that_nobody_knows_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    projector = write_tiny_projector(tmp_path / "p.gguf", feature_layer=None)
    with pytest.raises(ModelUnusable, match="nothing to compare with"):
        reference_features(projector, paint_test_card())


@pytest.mark.parametrize(("dtype", "needed"), [("f32", 0.9999), ("f16", 0.999), ("q8_0", 0.99)])
def test_how_near_is_near_enough_depends_on_the_file(tmp_path: Path, dtype: str, needed: float) -> None:
    projector = written(tmp_path, "plain", dtype=dtype)
    verdict = compare(FEATURES["plain"], FEATURES["plain"], projector)
    assert (dtype.upper(), needed, 16) == (verdict.storage, verdict.needed, verdict.tokens)


@pytest.mark.parametrize("ours", [np.nan * FEATURES["plain"], FEATURES["plain"][1:], FEATURES["plain"][::-1]])
def test_what_cannot_be_compared_is_not_faithful(tmp_path: Path, ours: Any) -> None:
    assert not compare(FEATURES["plain"], ours, written(tmp_path, "plain")).is_faithful
