"""Facts about LLaVA-1.6: tiles and feature sequences equal those of the authors' code (tests/reference)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from llava_cli.handler import LlavaChatHandler
from llava_cli.pictures import Picture, open_picture
from llava_cli.tiles import Tiling
from tests.reference.recipe import TEXTS, TOWERS, require, text_weights, tower_weights, write_model, write_projector
from tests.reference.scenes import ANYRES_SHAPES, ANYRES_TILE, paint

REFERENCE = Path(__file__).parent / "reference"
EXPECTED = np.load(REFERENCE / "anyres_expected.npz")
SIZES = tuple((int(width), int(height)) for width, height in EXPECTED["pinpoints"])
LLAVA = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""The sizes of the published LLaVA-1.6 models."""
LEAST = 0.9999
SHAPES = [f"{width}x{height}" for width, height in ANYRES_SHAPES]

Array = NDArray[np.float32]


def expected(what: str, shape: str) -> NDArray[Any]:
    """Return an array of the reference: the authors' own where transformers takes another grid than they do."""
    own = f"authors_{what}_{shape}"
    array: NDArray[Any] = EXPECTED[own if own in EXPECTED else f"{what}_{shape}"]
    return array


def painted(shape: str) -> Picture:
    width, height = map(int, shape.split("x"))
    return open_picture(paint(width, height))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LlavaChatHandler, Any]]:
    """Open the reference's tower as a LLaVA-1.6, before a language model of its width."""
    directory = tmp_path_factory.mktemp("models")
    text, tower = TEXTS["llama"], TOWERS["plain"]
    vocabulary = json.loads((REFERENCE / "expected" / "prompts.json").read_text())["vocabularies"]["llama"]
    sums = json.loads((REFERENCE / "expected" / "towers.json").read_text())
    model = write_model(directory / "m.gguf", text, text_weights(text, len(vocabulary["tokens"])), vocabulary)
    weights = require(tower_weights(tower), sums["plain"])
    pinpoints = EXPECTED["pinpoints"].ravel().tolist()
    projector = write_projector(directory / "p.gguf", tower, weights, pinpoints=pinpoints)
    llama = llama_cpp.Llama(str(model), n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False)
    yield LlavaChatHandler(projector), llama
    llama.close()


@pytest.fixture(scope="module")
def features(engine: tuple[LlavaChatHandler, Any]) -> dict[str, Array]:
    """Return what the language model receives of each picture."""
    handler, llama = engine
    return {shape: handler.embed(llama, painted(shape)) for shape in SHAPES}


def cosines(one: Array, other: Array) -> Array:
    assert one.shape == other.shape
    cosine: Array = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return cosine


@pytest.mark.parametrize("shape", SHAPES)
def test_the_tiles_are_pixel_by_pixel_those_of_the_authors(shape: str) -> None:
    tiling, picture = Tiling(SIZES, ANYRES_TILE, 4, b""), painted(shape)
    tiles = [tiling.overview(picture), *tiling.cut(picture)]
    assert expected("tiles", shape).tobytes() == b"".join(tiles)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_token_is_that_of_the_reference(features: dict[str, Array], shape: str) -> None:
    """The same number of them, in the same order: overview, then row by row with a newline behind each."""
    assert cosines(expected("features", shape), features[shape]).min() >= LEAST


@pytest.mark.parametrize("shape", SHAPES)
def test_the_lengths_are_those_of_the_reference_too(features: dict[str, Array], shape: str) -> None:
    """A cosine does not see a wrong scale."""
    wanted = expected("features", shape)
    assert abs(wanted - features[shape]).max() < 0.01 * wanted.std()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_quick_look_is_the_overview_alone(
    engine: tuple[LlavaChatHandler, Any], features: dict[str, Array], shape: str
) -> None:
    handler, llama = engine
    quick = handler.embed(llama, open_picture(painted(shape), detail="low"))
    assert np.array_equal(features[shape][: TOWERS["plain"].tokens], quick)


@pytest.mark.parametrize(("width", "height", "tokens"), EXPECTED["counts336"].tolist())
def test_a_published_model_spends_as_many_tokens_as_in_transformers(width: int, height: int, tokens: int) -> None:
    assert tokens == Tiling(LLAVA, 336, 24, b"").token_count((width, height))


def test_a_picture_takes_2928_tokens_at_most() -> None:
    """Two by two tiles that are wholly covered: 576 + 48 rows of 48 and a newline."""
    assert 2928 == Tiling(LLAVA, 336, 24, b"").most_tokens == 576 + 48 * 49
