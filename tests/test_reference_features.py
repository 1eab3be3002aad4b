"""Facts about picture features: what the language model receives equals `get_image_features` (tests/reference)."""

import ctypes
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from llava_cli import vision
from llava_cli.errors import EngineFailed
from llava_cli.gguf_file import read_header, write_copy
from llava_cli.handler import LlavaChatHandler
from llava_cli.pictures import open_picture
from llava_cli.settings import cache_dir
from tests.reference import recipe, scenes
from tests.reference.recipe import TEXTS, require, text_weights, tower_weights, write_model, write_projector

EXPECTED = Path(__file__).parent / "reference" / "expected"
TOWERS = recipe.TOWERS | {"clip_vit_l": recipe.CLIP_VIT_L}
FEATURES = np.load(EXPECTED / "features.npz")
CHECKSUMS = json.loads((EXPECTED / "towers.json").read_text())
PROMPTS = json.loads((EXPECTED / "prompts.json").read_text())
LEAST = {"f32": 0.9999, "f16": 0.999, "q8_0": 0.99}
"""The least cosine of any token, by how the projector is stored."""

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def embed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Array]]:
    """Give a function that encodes the reference's picture with a projector file, through a real handler."""
    directory = tmp_path_factory.mktemp("models")
    opened: dict[int, Any] = {}
    picture = open_picture(scenes.paint(*scenes.SHAPES["landscape"]))

    def embed(projector: Path) -> Array:
        width = TOWERS[projector.stem.split("-")[0]].out
        if width not in opened:
            text = next(text for text in TEXTS.values() if text.width == width)
            vocabulary = PROMPTS["vocabularies"][text.vocabulary]
            weights = text_weights(text, len(vocabulary["tokens"]))
            path = write_model(directory / f"{width}.gguf", text, weights, vocabulary)
            opened[width] = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False)
        features: Array = LlavaChatHandler(projector).embed(opened[width], picture)
        return features

    yield embed
    for llama in opened.values():
        llama.close()


def written(directory: Path, name: str, **storing: Any) -> Path:
    """Write the projector of a tower of the reference; `storing` as for `write_projector`."""
    weights = require(tower_weights(TOWERS[name]), CHECKSUMS[name])
    return write_projector(directory / f"{name}-mmproj.gguf", TOWERS[name], weights, **storing)


def short(directory: Path, name: str, **storing: Any) -> Path:
    """Write it as old converters did: without the layer that LLaVA does not read, counted as if it never was."""
    return written(directory, name, blocks=TOWERS[name].layers - 1, old=True, **storing)


def told_its_layer(projector: Path) -> Path:
    """Add what the repair adds to files whose tower it can name, with the same function."""
    header = read_header(projector)
    layer = TOWERS[projector.stem.split("-")[0]].layers - 1
    write_copy(header, projector, add={"clip.vision.feature_layer": ("i32[]", [layer])})
    return projector


def cosines(expected: Array, ours: Array) -> Array:
    """Return the cosine of each token with the one at the same place."""
    assert expected.shape == ours.shape
    cosine: Array = (expected * ours).sum(axis=1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(ours, axis=1)
    return cosine


@pytest.mark.parametrize("dtype", LEAST)
@pytest.mark.parametrize("name", recipe.TOWERS)
def test_every_token_is_that_of_the_reference_with_all_layers_stored(
    tmp_path: Path, embed: Callable[[Path], Array], name: str, dtype: str
) -> None:
    assert cosines(FEATURES[name], embed(written(tmp_path, name, dtype=dtype))).min() >= LEAST[dtype]


@pytest.mark.parametrize("dtype", LEAST)
@pytest.mark.parametrize("name", recipe.TOWERS)
def test_every_token_is_that_of_the_reference_in_a_file_of_the_old_style(
    tmp_path: Path, embed: Callable[[Path], Array], name: str, dtype: str
) -> None:
    projector = told_its_layer(short(tmp_path, name, dtype=dtype))
    assert cosines(FEATURES[name], embed(projector)).min() >= LEAST[dtype]


def test_the_lengths_are_those_of_the_reference_too(tmp_path: Path, embed: Callable[[Path], Array]) -> None:
    """A cosine does not see a wrong scale."""
    assert abs(embed(written(tmp_path, "plain")) - FEATURES["plain"]).max() < 0.01 * FEATURES["plain"].std()


@pytest.mark.parametrize("name", recipe.TOWERS)
def test_a_layer_that_is_counted_twice_is_seen_by_these_tests(
    tmp_path: Path, embed: Callable[[Path], Array], name: str
) -> None:
    """An old file that is not told its layer stops one too early (llama.cpp #25817), and no token is right."""
    assert cosines(FEATURES[name], embed(short(tmp_path, name))).max() < min(LEAST.values())


def test_the_repair_gives_an_old_file_of_llavas_own_tower_its_layer(
    tmp_path: Path, embed: Callable[[Path], Array]
) -> None:
    """The whole way of a file from 2023, with a tower in the shape of CLIP ViT-L/14; without the repair it is wrong."""
    projector = short(tmp_path, "clip_vit_l", dtype="q8_0")
    features = embed(projector)
    for file in (projector, *cache_dir().rglob("*.gguf")):
        file.unlink()  # 100 MB each, which pytest would keep for three runs
    assert cosines(FEATURES["clip_vit_l"], features).min() >= LEAST["q8_0"]


# Another llama.cpp.


def rolled(node: int, rows: int) -> None:
    """Roll the rows of a graph node, as a graph would that joins its parts in another order."""
    from llama_cpp._ggml import libggml

    size = libggml.ggml_nbytes(node)
    data = ctypes.create_string_buffer(size)
    libggml.ggml_backend_tensor_get(node, data, 0, size)
    count = TOWERS["plain"].tokens + 1
    moved = np.roll(np.frombuffer(data.raw, np.uint8).reshape(count, -1), rows, axis=0).tobytes()
    libggml.ggml_backend_tensor_set(node, moved, 0, size)


def another_graph(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Let llama.cpp's graph join the class token and the patches with the rows rolled by so many."""
    mend = vision._TokenOrder.mend

    def mend_another(order: Any, node: int) -> bool:
        if order.is_concat(node):
            rolled(node, rows)
        return mend(order, node)

    monkeypatch.setattr(vision._TokenOrder, "mend", mend_another)


def test_a_llama_cpp_with_the_class_token_in_front_gives_the_same_features(
    tmp_path: Path, embed: Callable[[Path], Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    another_graph(monkeypatch, rows=1)
    assert cosines(FEATURES["plain"], embed(written(tmp_path, "plain"))).min() >= LEAST["f32"]


def test_a_class_token_at_neither_end_is_an_error(
    tmp_path: Path, embed: Callable[[Path], Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    another_graph(monkeypatch, rows=5)
    with pytest.raises(EngineFailed, match="neither end"):
        embed(written(tmp_path, "plain"))


def test_a_graph_without_the_known_node_is_an_error(
    tmp_path: Path, embed: Callable[[Path], Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vision._TokenOrder, "is_concat", lambda _order, _node: False)
    with pytest.raises(EngineFailed, match="seen 0 times"):
        embed(written(tmp_path, "plain"))


def test_a_told_layer_holds_however_many_blocks_are_stored(tmp_path: Path, embed: Callable[[Path], Array]) -> None:
    """With all blocks in the file the told layer is the same: nothing depends on how llama.cpp counts them."""
    assert cosines(FEATURES["deep"], embed(told_its_layer(written(tmp_path, "deep")))).min() >= LEAST["f32"]
