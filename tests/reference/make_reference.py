# mypy: ignore-errors
# torch and transformers live in an environment of their own (requirements.txt).
"""Makes the expected arrays of the reference tests with torch and transformers; run it by hand.

    python3 -m venv /tmp/ref-venv && /tmp/ref-venv/bin/pip install -r tests/reference/requirements.txt
    /tmp/ref-venv/bin/python -m tests.reference.make_reference

It takes half a minute and writes `tests/reference/expected/`. The tests build the same models as GGUF (`recipe.py`)
and need neither torch nor transformers.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from tests.reference import recipe, scenes, vocabularies
from tests.reference.layouts import CHATS, LAYOUTS

EXPECTED = Path(__file__).parent / "expected"
NEW_TOKENS = 32
IMAGE_MEAN = recipe.CLIP_MEAN


# Pixels.


def on_white(image: Image.Image) -> Image.Image:
    """Give the RGB picture that a reader of the authors' code would be handed: transparency seen on white paper."""
    if image.mode in ("RGB", "L", "CMYK"):
        return image.convert("RGB")
    rgba = np.asarray(image.convert("RGBA")).astype(np.float64)
    alpha = rgba[..., 3:] / 255
    return Image.fromarray(np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8))


def expand2square(image: Image.Image) -> Image.Image:
    """Pad to a square in CLIP's mean colour: `expand2square` of LLaVA's `mm_utils.py`, in other words."""
    width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), tuple(int(level * 255) for level in IMAGE_MEAN))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def clip_processor(side: int, **options: Any) -> CLIPImageProcessorPil:
    size = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    return CLIPImageProcessorPil(**size, **options)


def square_pixels(image: Image.Image, side: int) -> np.ndarray:
    """Return what the processor makes of a picture before it scales to 0..1: uint8 (side, side, 3)."""
    processor = clip_processor(side, do_rescale=False, do_normalize=False)
    values = processor(expand2square(on_white(image)), return_tensors="np").pixel_values[0]
    return values.astype(np.uint8).transpose(1, 2, 0)


def pixel_values(image: Image.Image, side: int) -> torch.Tensor:
    return clip_processor(side)(expand2square(on_white(image)), return_tensors="pt").pixel_values


def make_pixels() -> None:
    arrays = {name: square_pixels(scenes.paint(*size), 336) for name, size in scenes.SHAPES.items()}
    for mode in scenes.MODES:
        arrays[f"mode_{mode}"] = square_pixels(scenes.paint(*scenes.MODE_SIZE, mode), scenes.MODE_SIDE)
    np.savez_compressed(EXPECTED / "pixels.npz", **arrays)


# Models.


def vision_config(tower: recipe.Tower) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=tower.width,
        intermediate_size=tower.hidden,
        num_hidden_layers=tower.layers,
        num_attention_heads=tower.heads,
        image_size=tower.image_size,
        patch_size=tower.patch_size,
        projection_dim=tower.out,
    )


def text_config(text: recipe.Text, n_vocab: int) -> LlamaConfig | MistralConfig:
    mistral = text.kv_heads != text.heads
    return (MistralConfig if mistral else LlamaConfig)(
        vocab_size=n_vocab,
        hidden_size=text.width,
        intermediate_size=text.hidden,
        num_hidden_layers=text.layers,
        num_attention_heads=text.heads,
        num_key_value_heads=text.kv_heads,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": text.rope_theta},
        tie_word_embeddings=False,
        **({"sliding_window": None} if mistral else {}),
    )


def load(model: torch.nn.Module, weights: recipe.Weights, *, also: tuple[str, ...] = ()) -> Any:
    """Put drawn weights into a model of transformers; every one must find its place, and every place its weight."""
    state = {name: torch.from_numpy(values) for name, values in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(name.startswith(also) for name in missing), missing
    return model.eval()


def dummy_text(tower: recipe.Tower) -> LlamaConfig:
    """Return the smallest language model that a tower can stand before."""
    return LlamaConfig(
        vocab_size=8, hidden_size=tower.out, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )


_TEXT = ("model.language_model.", "lm_head.")


@torch.no_grad()
def make_features() -> None:
    arrays: dict[str, np.ndarray] = {}
    sums: dict[str, str] = {}
    for name, tower in (recipe.TOWERS | {"clip_vit_l": recipe.CLIP_VIT_L}).items():
        weights = recipe.tower_weights(tower)
        config = LlavaConfig(vision_config=vision_config(tower), text_config=dummy_text(tower))
        assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-2, "default")
        model = load(LlavaForConditionalGeneration(config), weights, also=_TEXT)
        image = scenes.paint(*scenes.SHAPES["landscape"])
        pixels = pixel_values(image, tower.image_size)
        features = model.get_image_features(pixels).pooler_output
        assert len(features) == 1
        require_telling(features[0], model, pixels)
        arrays[name] = features[0].numpy()
        assert arrays[name].shape == (tower.tokens, tower.out)
        sums[name] = recipe.checksum(weights)
    np.savez_compressed(EXPECTED / "features.npz", **arrays)
    write_json("towers.json", sums)


def require_telling(features: torch.Tensor, model: Any, pixels: torch.Tensor) -> None:
    """Require that swapped tokens and neighbouring layers fall below the least cosine that any test allows."""
    cosine = torch.nn.functional.cosine_similarity
    among = cosine(features[:, None], features[None], dim=-1) - 2 * torch.eye(len(features))
    worst = [float(among.max())]
    for layer in (-1, -3):
        wrong = model.get_image_features(pixels, vision_feature_layer=layer).pooler_output[0]
        worst.append(float(cosine(features, wrong, dim=-1).max()))
    print("features: cosine of two tokens at most {:.3f}, of a layer too late {:.3f}, too early {:.3f}".format(*worst))
    assert max(worst) < 0.99


# Prompts.


def write_json(name: str, content: Any) -> None:
    (EXPECTED / name).write_text(json.dumps(content, indent=None, separators=(",", ":"), ensure_ascii=True) + "\n")


def make_prompts(families: dict[str, Any]) -> None:
    written: dict[str, Any] = {"chats": CHATS, "vocabularies": {}, "ids": {}}
    for family, (layout, tokenizer) in families.items():
        written["vocabularies"][family] = tokenizer.vocabulary
        written["ids"][layout] = {
            name: vocabularies.image_token_ids(LAYOUTS[layout](chat), tokenizer) for name, chat in CHATS.items()
        }
    write_json("prompts.json", written)


# Logits.

QUESTIONS = {
    "llama": {"system": None, "turns": [["What color is the circle?", 1, None]]},
    "mistral": {"system": "Be brief.", "turns": [["How many shapes are there?", 1, None]]},
}


@torch.no_grad()
def make_logits(families: dict[str, Any]) -> None:
    arrays: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {}
    for name, text in recipe.TEXTS.items():
        tower, tokenizer = recipe.TOWERS[recipe.PAIRS[name]], families[text.vocabulary][1]
        n_vocab = len(tokenizer.vocabulary["tokens"])
        weights = recipe.text_weights(text, n_vocab)
        config = LlavaConfig(vision_config=vision_config(tower), text_config=text_config(text, n_vocab))
        model = load(LlavaForConditionalGeneration(config), weights | recipe.tower_weights(tower))
        image = scenes.paint(*scenes.SHAPES["portrait"])
        picture = model.get_image_features(pixel_values(image, tower.image_size)).pooler_output[0]
        ids = vocabularies.image_token_ids(LAYOUTS[text.layout](QUESTIONS[name]), tokenizer)
        embed = model.get_input_embeddings()
        rows = [picture if number == -200 else embed(torch.tensor([number])) for number in ids]
        prompt = torch.cat(rows)[None]
        answer: list[int] = []
        for _ in range(NEW_TOKENS):
            written = torch.cat([prompt, embed(torch.tensor([answer], dtype=torch.long))], dim=1)
            answer.append(int(model(inputs_embeds=written).logits[0, -1].argmax()))
        written = torch.cat([prompt, embed(torch.tensor([answer]))], dim=1)
        logits = model(inputs_embeds=written).logits[0, -NEW_TOKENS - 1 : -1].numpy()
        assert logits.argmax(axis=1).tolist() == answer
        top = np.sort(logits, axis=1)
        margin, spread = float((top[:, -1] - top[:, -2]).min()), float(logits.std())
        print(f"{name}: smallest margin {margin:.3f}, spread {spread:.3f}, {len(set(answer))} different tokens")
        assert not {0, 1, 2} & set(answer), "it ends, or writes what cannot be written: choose another seed"
        assert len(set(answer)) >= 20, "it repeats itself: choose another seed"
        assert margin > 0.02 * spread, "two tokens are as good as each other: choose another seed"
        arrays[name] = logits
        facts[name] = {"chat": QUESTIONS[name], "answer": answer, "weights": recipe.checksum(weights)}
    np.savez_compressed(EXPECTED / "logits.npz", **arrays)
    write_json("logits.json", facts)


# LLaVA-1.6.


@torch.no_grad()
def make_anyres() -> None:
    """Write what `LlavaNext` makes of pictures of ten shapes, for a tower whose tile is 56 pixels wide.

    Where the authors choose another grid (`authors_tiles`), also what LlavaNext makes of that: arrays `authors_…`.
    """
    tower = recipe.TOWERS["plain"]
    side = tower.image_size
    assert side == scenes.ANYRES_TILE
    pinpoints = [[first * side, second * side] for first, second in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    arrays: dict[str, np.ndarray] = {"pinpoints": np.array(pinpoints), "newline": recipe.newline(tower)}
    for width, height in scenes.ANYRES_SHAPES:
        image, name = scenes.paint(width, height), f"{width}x{height}"
        grid, tiles, features = llava_next(image, pinpoints)
        arrays |= {f"grid_{name}": np.array(grid), f"tiles_{name}": tiles, f"features_{name}": features}
        authors, cut = authors_tiles(image, pinpoints)
        print(f"anyres {name}: {grid} tiles (authors {authors}), {len(features)} tokens")
        if authors != grid:
            grid, tiles, features = llava_next(image, [pinpoint[::-1] for pinpoint in pinpoints])
            arrays |= {f"authors_tiles_{name}": tiles, f"authors_features_{name}": features}
        assert (grid, 0) == (authors, abs(tiles.astype(int) - cut).max())
        arrays[f"authors_grid_{name}"] = np.array(authors)
    arrays["counts336"] = real_token_counts()
    np.savez_compressed(Path(__file__).parent / "anyres_expected.npz", **arrays)


def llava_next(image: Image.Image, pinpoints: list[list[int]]) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """Return the grid (columns, rows), the tiles as uint8 (n, side, side, 3), and the packed features."""
    tower = recipe.TOWERS["plain"]
    side = tower.image_size
    config = LlavaNextConfig(
        vision_config=vision_config(tower), text_config=dummy_text(tower), image_grid_pinpoints=pinpoints
    )
    weights = recipe.tower_weights(tower) | {"model.image_newline": recipe.newline(tower)}
    model = load(LlavaNextForConditionalGeneration(config), weights, also=_TEXT)
    options = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    options |= {"image_grid_pinpoints": pinpoints}
    raw = LlavaNextImageProcessorPil(**options, do_rescale=False, do_normalize=False)(image, return_tensors="np")
    inputs = LlavaNextImageProcessorPil(**options)(image, return_tensors="pt")
    features = model.get_image_features(inputs.pixel_values, inputs.image_sizes).pooler_output[0]
    rows, columns = get_anyres_image_grid_shape(image.size[::-1], pinpoints, side)
    return (columns, rows), raw.pixel_values[0].astype(np.uint8).transpose(0, 2, 3, 1), features.numpy()


def authors_tiles(image: Image.Image, pinpoints: list[list[int]]) -> tuple[tuple[int, int], np.ndarray]:
    """Cut as `process_anyres_image` of LLaVA's `mm_utils.py`: the grid (columns, rows), and the tiles.

    The authors read a pinpoint as (width, height), transformers as (height, width). The set is the same either way, but
    of two that fit equally well the first is taken: so pictures smaller than a tile get another grid.
    """
    side = scenes.ANYRES_TILE
    width, height = image.size

    def fit(pinpoint: list[int]) -> tuple[int, int]:
        scale = min(pinpoint[0] / width, pinpoint[1] / height)
        used = min(int(width * scale) * int(height * scale), width * height)
        return used, used - pinpoint[0] * pinpoint[1]

    best = max(pinpoints, key=fit)
    scale_x, scale_y = best[0] / width, best[1] / height
    if scale_x < scale_y:
        size = (best[0], min(math.ceil(height * scale_x), best[1]))
    else:
        size = (min(math.ceil(width * scale_y), best[0]), best[1])
    padded = Image.new("RGB", tuple(best))
    padded.paste(image.resize(size), ((best[0] - size[0]) // 2, (best[1] - size[1]) // 2))
    corners = [(x, y) for y in range(0, best[1], side) for x in range(0, best[0], side)]
    tiles = [image.resize((side, side)), *(padded.crop((x, y, x + side, y + side)) for x, y in corners)]
    return (best[0] // side, best[1] // side), np.stack([np.asarray(tile) for tile in tiles])


def real_token_counts() -> np.ndarray:
    """Count the tokens of the real LLaVA-1.6 (tiles of 336, 24 by 24 tokens): rows of width, height, tokens."""
    pinpoints = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(vocab_size=8, hidden_size=4, intermediate_size=8, num_attention_heads=1),
        image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    model = LlavaNextForConditionalGeneration(config).model
    sizes = [(336, 336), (672, 672), (640, 480), (480, 640), (1920, 1080), (1080, 1920), (4000, 3000), (1, 1)]
    sizes += [(100, 2000), (2000, 100), (337, 336), (800, 450), (500, 333), (333, 500), (1000, 999), (676, 671)]
    counts = []
    for width, height in sizes:
        rows, columns = get_anyres_image_grid_shape((height, width), pinpoints, 336)
        features = torch.zeros(rows * columns + 1, 576, 4)
        _, lengths = model.pack_image_features([features], [(height, width)], "default", model.image_newline)
        counts.append((width, height, int(lengths[0])))
    return np.array(counts)


def main() -> None:
    torch.set_num_threads(1)
    EXPECTED.mkdir(exist_ok=True)
    families = vocabularies.families()
    make_pixels()
    make_features()
    make_prompts(families)
    make_logits(families)
    make_anyres()
    written = [*sorted(EXPECTED.iterdir()), Path(__file__).parent / "anyres_expected.npz"]
    for path in written:
        print(f"{path.name}: {path.stat().st_size:,} bytes")
    assert sum(path.stat().st_size for path in written) < 3_000_000


if __name__ == "__main__":
    main()
