"""Computes picture features in plain NumPy, as LLaVA's authors define them: a second opinion about the fast path.

It shares nothing with that path but the file: no llama.cpp, no repaired copy, no moved class token, pictures squared
another way. One layer is in memory at a time, as float32: 190 MB and a few seconds for CLIP ViT-L/14.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_cli.errors import ModelUnusable
from llava_cli.gguf_file import read_header
from llava_cli.gguf_format import GgufHeader
from llava_cli.gguf_projector import FLOAT_TYPES, feature_layers, reference_layer, with_todays_names
from llava_cli.gguf_tensors import read_tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llava_cli.pictures import Picture

    Array = NDArray[np.float32]


def reference_features(projector: Path, picture: Picture) -> Array:
    """Return what `LlavaForConditionalGeneration.get_image_features` gives for one tile, float32 `(tokens, width)`.

    `projector` is the file as published, sound but not repaired.
    """
    header = with_todays_names(read_header(projector))
    layers = _layers_read(header)
    states = _embed_patches(header, picture)
    read = {0: states}
    for number in range(max(layers)):
        states = _run_layer(header, f"v.blk.{number}", states)
        if number + 1 in layers:
            read[number + 1] = states
    import numpy as np

    features = np.concatenate([read[layer] for layer in layers], axis=1)
    if "v.class_embd" in header.tensors:
        features = features[1:]
    return _linear(header, "mm.2", _gelu(_linear(header, "mm.0", features)))


def _layers_read(header: GgufHeader) -> tuple[int, ...]:
    """Return the layers whose states go to the projector; 0 would be the embeddings in front of the first."""
    named = tuple(layer for layer in feature_layers(header) if layer >= 0)
    layer = reference_layer(header)
    if not named and layer is None:
        raise ModelUnusable(
            header.name,
            "nothing tells after which layer of its vision tower LLaVA reads, so there is nothing to compare with",
            hint="a newer conversion of it says so in clip.vision.feature_layer",
        )
    return named or (layer or 0,)


def _embed_patches(header: GgufHeader, picture: Picture) -> Array:
    """Return the states in front of the first layer: class token first, positions added, first norm done."""
    import numpy as np

    number: Any = header.metadata.__getitem__
    size, patch = number("clip.vision.image_size"), number("clip.vision.patch_size")
    mean, std = (np.array(number(f"clip.vision.image_{what}").values()[:3], np.float32) for what in ("mean", "std"))
    pixels: Array = (_square(picture, size) / np.float32(255) - mean) / std
    side = size // patch
    grid = pixels[: side * patch, : side * patch].reshape(side, patch, side, patch, 3)
    patches = grid.transpose(0, 2, 4, 1, 3).reshape(side * side, -1)
    kernel = read_tensor(header, "v.patch_embd.weight")
    states: Array = patches @ kernel.reshape(-1, patches.shape[1]).T
    if "v.patch_embd.bias" in header.tensors:
        states += read_tensor(header, "v.patch_embd.bias")
    if "v.class_embd" in header.tensors:
        states = np.concatenate([read_tensor(header, "v.class_embd").reshape(1, -1), states])
    states += read_tensor(header, "v.position_embd.weight")
    return _norm(header, "v.pre_ln", states) if "v.pre_ln.weight" in header.tensors else states


def _square(picture: Picture, size: int) -> Array:
    """Do `expand2square` and the resize of `CLIPImageProcessor` word for word: `(size, size, 3)`, from 0 to 255."""
    import numpy as np
    from PIL import Image

    image = picture.image()
    side = max(image.size)
    square = Image.new("RGB", (side, side), (122, 116, 104))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), np.float32)


def _run_layer(header: GgufHeader, block: str, states: Array) -> Array:
    states = states + _attend(header, block, _norm(header, f"{block}.ln1", states))
    hidden = _linear(header, f"{block}.ffn_up", _norm(header, f"{block}.ln2", states))
    return states + _linear(header, f"{block}.ffn_down", _activate(header, hidden))


def _attend(header: GgufHeader, block: str, states: Array) -> Array:
    import numpy as np

    heads: Any = header.metadata["clip.vision.attention.head_count"]
    count, width = states.shape

    def split(part: str) -> Array:
        return _linear(header, f"{block}.attn_{part}", states).reshape(count, heads, width // heads).swapaxes(0, 1)

    scores = split("q") @ split("k").swapaxes(1, 2) / np.float32(math.sqrt(width // heads))
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    joined = (weights @ split("v")).swapaxes(0, 1).reshape(count, width)
    return _linear(header, f"{block}.attn_out", joined)


def _activate(header: GgufHeader, values: Array) -> Array:
    import numpy as np

    if "v.class_embd" not in header.tensors:
        # SigLIP: transformers calls it `gelu_pytorch_tanh`, a name that old converters did not know.
        cubic = values + np.float32(0.044715) * values**3
        tanh: Array = np.tanh(np.float32(math.sqrt(2 / math.pi)) * cubic)
        return np.float32(0.5) * values * (np.float32(1) + tanh)
    if header.metadata.get("clip.use_gelu"):
        return _gelu(values)
    # CLIP's own `quick_gelu`; SiLU is the same with another factor.
    factor = np.float32(1 if header.metadata.get("clip.use_silu") else 1.702)
    with np.errstate(over="ignore"):
        shrunk: Array = values / (1 + np.exp(-factor * values))
    return shrunk


def _gelu(values: Array) -> Array:
    """Compute the exact GELU of PyTorch, with the error function."""
    import numpy as np

    erf: Any = np.frompyfunc(math.erf, 1, 1)
    result: Array = values * (1 + erf(values / np.float32(math.sqrt(2))).astype(np.float32)) / 2
    return result


def _norm(header: GgufHeader, name: str, states: Array) -> Array:
    import numpy as np

    epsilon: Any = header.metadata["clip.vision.attention.layer_norm_epsilon"]
    centred = states - states.mean(axis=1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=1, keepdims=True) + np.float32(epsilon))
    result: Array = centred / spread * read_tensor(header, f"{name}.weight") + read_tensor(header, f"{name}.bias")
    return result


def _linear(header: GgufHeader, name: str, values: Array) -> Array:
    result: Array = values @ read_tensor(header, f"{name}.weight").T + read_tensor(header, f"{name}.bias")
    return result


@dataclass(frozen=True)
class Verdict:
    """What came out of a comparison."""

    cosine: float
    """Of the token that is worst."""
    needed: float
    tokens: int
    storage: str
    """How the projector's matrices are stored: the coarsest type among them."""

    @property
    def is_faithful(self) -> bool:
        # Written so that a cosine that is no number is not.
        return self.cosine >= self.needed


def compare(expected: Array, ours: Array, projector: Path) -> Verdict:
    """Compare features token by token; how near they must be depends on how the file is stored.

    llama.cpp rounds what it multiplies with to the type of the matrix: to float16, or to 8 bits for all quantised ones.
    """
    import numpy as np

    # LLaVA-1.6 puts the overview first, which is the one tile of 1.5; its other tiles are made in the same way.
    ours = ours[: len(expected)]
    if ours.shape != expected.shape:
        cosine = math.nan
    else:
        pair = [features.astype(np.float64) for features in (expected, ours)]
        first, second = (features / np.linalg.norm(features, axis=1, keepdims=True) for features in pair)
        cosine = float((first * second).sum(axis=1).min())
    types = {tensor.type for tensor in read_header(projector).tensors.values() if len(tensor.shape) == 2}
    storage = next((kind for kind in sorted(types) if kind not in FLOAT_TYPES), "")
    storage = storage or ("F32" if types == {"F32"} else "BF16" if "BF16" in types else "F16")
    return Verdict(cosine, {"F32": 0.9999, "F16": 0.999, "BF16": 0.999}.get(storage, 0.99), len(expected), storage)


def paint_test_card() -> Picture:
    """Paint a picture in which every patch differs from its neighbours. It is square, so that LLaVA-1.6's overview,
    which is stretched where 1.5 pads, is the same picture.
    """
    from PIL import Image, ImageDraw

    from llava_cli.pictures import open_picture

    side = 640
    red = Image.linear_gradient("L").resize((side, side))
    card = Image.merge("RGB", (red, red.rotate(90), Image.radial_gradient("L").resize((side, side))))
    draw = ImageDraw.Draw(card)
    for number in range(60):
        x, y, radius = number * 97 % side, number * 233 % side, 12 + number * 7 % 50
        colour = (number * 61 % 256, number * 151 % 256, number * 199 % 256)
        shape = draw.ellipse if number % 2 else draw.rectangle
        shape((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return open_picture(card, name="test card")
