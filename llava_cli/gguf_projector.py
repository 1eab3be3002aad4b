"""Knows what a LLaVA projector file holds: a CLIP tower, then two linear layers; refuses what differs.

Keys, types and shapes are those that llama.cpp's `clip.cpp` and `models/llava.cpp` rely on. A wrong type there
ends the process, and so do most wrong shapes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, NoReturn

from llava_cli.errors import ModelUnusable
from llava_cli.gguf_format import TENSOR_TYPES, GgufArray, GgufHeader

_ANOTHER_FILE = "take the projector (mmproj) from another source, or convert it again with a newer llama.cpp"

FLOAT_TYPES = ("F32", "F16", "BF16")
MATRIX_TYPES = frozenset(name for name, _, _ in TENSOR_TYPES.values()) - {
    "I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K",
}  # fmt: skip
"""What llama.cpp can multiply with on a CPU."""

_REQUIRED = {
    "clip.has_vision_encoder": "bool",
    "clip.vision.embedding_length": "u32",
    "clip.vision.feed_forward_length": "u32",
    "clip.vision.block_count": "u32",
    "clip.vision.projection_dim": "u32",
    "clip.vision.attention.head_count": "u32",
    "clip.vision.attention.layer_norm_epsilon": "f32",
    "clip.vision.image_size": "u32",
    "clip.vision.patch_size": "u32",
    "clip.vision.image_mean": "f32[]",
    "clip.vision.image_std": "f32[]",
}
_OPTIONAL = {
    "general.name": "str",
    "general.description": "str",
    "clip.projector_type": "str",
    "clip.vision.projector_type": "str",
    "clip.vision.mm_patch_merge_type": "str",
    "clip.has_audio_encoder": "bool",
    "clip.has_gen_audio_encoder": "bool",
    "clip.use_gelu": "bool",
    "clip.use_silu": "bool",
    "clip.vision.attention.head_count_kv": "u32",
    "clip.vision.attention.head_dim": "u32",
    "clip.minicpmv_query_num": "u32",
    "clip.minicpmv_version": "i32",
    "clip.vision.image_grid_pinpoints": "i32[]",
    "llava.image_grid_pinpoints": "i32[]",
    "clip.vision.feature_layer": "i32[]",
}

PINPOINTS = "clip.vision.image_grid_pinpoints"
HIDDEN_PINPOINTS = "llava.image_grid_pinpoints"
"""The same in a repaired copy. Where llama.cpp sees them, it cuts pictures itself, and not as LLaVA's authors do."""

_MOST_TILES = 64


def check_projector(header: GgufHeader) -> None:
    """Raise `ModelUnusable` unless llama.cpp can safely run the file as the tower and projector of a LLaVA.

    A missing `clip.projector_type` passes if the tensors are those of a LLaVA projector: it can be added.
    """
    header = with_todays_names(header)
    _check_type(header)
    for key, kind in (_REQUIRED | _OPTIONAL).items():
        if key in _REQUIRED and key not in header.types:
            _refuse(header, f"the key {key} is missing")
        if header.types.get(key, kind) != kind:
            _refuse(header, f"the key {key} is of type {header.types[key]}, not {kind}")
        if kind == "u32" and int(header.metadata.get(key, 0)) > (1 << 31) - 1:  # type: ignore[arg-type]
            _refuse(header, f"{key} is {header.metadata[key]:,}, which is too much for llama.cpp")
    _check_numbers(header)
    for name, shape, types in _expected_tensors(header):
        tensor = header.tensors.get(name)
        if tensor is None:
            _refuse(header, f"the tensor {name} is missing")
        if _without_trailing_ones(tensor.shape) != shape:
            _refuse(header, f"the tensor {name} has the shape {tensor.shape}, not {shape}")
        if tensor.type not in types:
            _refuse(header, f"the tensor {name} is {tensor.type}; llama.cpp cannot use that there")


def embedding_width(header: GgufHeader) -> int:
    """Return how wide the picture embeddings of a checked projector are."""
    return with_todays_names(header).tensors["mm.2.weight"].shape[1]


_PROJECTOR_NAMES = re.compile(
    r"(?:model\.)?(?:mm_projector\.([02])|multi_modal_projector\.linear_([12]))\.(weight|bias)"
)
"""What LLaVA and transformers call the two layers of the projector."""


def todays_names(header: GgufHeader) -> dict[str, str]:
    """Return the names that llama.cpp looks for today of those tensors that have another one."""
    width = header.metadata.get("clip.vision.embedding_length")
    names: dict[str, str] = {}
    for name, tensor in header.tensors.items():
        if found := _PROJECTOR_NAMES.fullmatch(name):
            number = found[1] or (0 if found[2] == "1" else 2)
            names[name] = f"mm.{number}.{found[3]}"
        # Converters of 2023 gave the matrix that widens and the one that narrows each other's name.
        if re.fullmatch(r"v\.blk\.\d+\.ffn_down\.weight", name) and tensor.shape[0] == width != tensor.shape[-1]:
            block = name.removesuffix("ffn_down.weight")
            for part in ("weight", "bias"):
                names |= {f"{block}ffn_down.{part}": f"{block}ffn_up.{part}"}
                names |= {f"{block}ffn_up.{part}": f"{block}ffn_down.{part}"}
    kept = header.tensors.keys() - names.keys()
    return {old: new for old, new in names.items() if old in header.tensors and new not in kept}


def with_todays_names(header: GgufHeader) -> GgufHeader:
    """Return the header as if its tensors had the names of today; where they lie in the file stays true."""
    names = todays_names(header)
    return replace(header, tensors={names.get(name, name): tensor for name, tensor in header.tensors.items()})


def large_matrices(header: GgufHeader) -> tuple[str, ...]:
    """Return the tensors that may be stored as Q8_0: those of linear layers, in rows of whole blocks.

    Patches and positions are not multiplied with in that way, and small.
    """
    return tuple(
        name
        for name, tensor in header.tensors.items()
        if len(tensor.shape) == 2 and tensor.type in FLOAT_TYPES and tensor.shape[0] % 32 == 0 and "embd" not in name
    )


def is_siglip(header: GgufHeader) -> bool:
    """Tell whether the tower is SigLIP's: it has no class token."""
    return "v.class_embd" not in header.tensors


def projector_type(header: GgufHeader) -> str | None:
    """Return what kind of projector the file says it is; None if it says nothing, as the oldest files do."""
    # llama.cpp looks at the second key if the first is missing or empty.
    for key in ("clip.projector_type", "clip.vision.projector_type"):
        if value := header.metadata.get(key):
            return str(value)
    return None


def grid_sizes(header: GgufHeader) -> tuple[tuple[int, int], ...]:
    """Return the sizes (width, height) that LLaVA-1.6 brings pictures to before it cuts them; empty for LLaVA-1.5."""
    for key in (PINPOINTS, HIDDEN_PINPOINTS):
        array = header.metadata.get(key)
        if isinstance(array, GgufArray) and array.length:
            sides = array.values()
            return tuple(zip(sides[::2], sides[1::2], strict=True))
    return ()


def newline_tensor(header: GgufHeader) -> str:
    """Name the embedding that ends each row of tiles; old converters and new ones call it differently."""
    return "v.image_newline" if "v.image_newline" in header.tensors else "model.image_newline"


def reference_layer(header: GgufHeader) -> int | None:
    """Return the layer whose states LLaVA reads, if its projector has a tower that can be named."""
    get = header.metadata.get
    siglip_so400m_14 = (
        get("clip.vision.embedding_length") == 1152
        and get("clip.vision.attention.head_count") == 16
        and get("clip.vision.patch_size") == 14
        and is_siglip(header)
    )
    # It has 27 layers. A file with 26 leaves out the one that is not read; of one with 27 nobody can tell.
    if siglip_so400m_14 and get("clip.vision.block_count") == 26:
        return 26
    clip_vit_l_14 = (
        get("clip.vision.embedding_length") == 1024
        and get("clip.vision.attention.head_count") == 16
        and get("clip.vision.patch_size") == 14
        and get("clip.vision.block_count") in (23, 24)
        and not (get("clip.use_gelu") or get("clip.use_silu"))
        and "v.class_embd" in header.tensors
    )
    # It has 24 layers and LLaVA reads the last but one, however many of them the file counts or stores.
    return 23 if clip_vit_l_14 else None


def _refuse(header: GgufHeader, why: str) -> NoReturn:
    raise ModelUnusable(header.name, why, hint=_ANOTHER_FILE)


def _without_trailing_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _check_type(header: GgufHeader) -> None:
    kind = projector_type(header)
    layers = {name.split(".")[1] for name in header.tensors if name.startswith("mm.")}
    if kind not in ("mlp", None):
        _refuse(header, f"{kind}: not a LLaVA projector")
    if kind is None and layers != {"0", "2"}:
        _refuse(header, "it does not say what kind of projector it is, and it is not that of a LLaVA")
    # llama.cpp takes the third layer as the sign of another model and then misses its other tensors.
    if layers & {"1", "3", "4"}:
        _refuse(header, "a projector with norms (Yi-VL): not a LLaVA projector")
    if header.metadata.get("clip.has_audio_encoder") or header.metadata.get("clip.has_gen_audio_encoder"):
        _refuse(header, "it is for sound, too: not a LLaVA projector")


def _check_numbers(header: GgufHeader) -> None:
    get: Any = header.metadata.get
    if not get("clip.has_vision_encoder"):
        _refuse(header, "it has no vision tower (clip.has_vision_encoder is false)")
    if get("clip.use_gelu") and get("clip.use_silu"):
        _refuse(header, "clip.use_gelu and clip.use_silu are both true")
    width, heads = get("clip.vision.embedding_length"), get("clip.vision.attention.head_count")
    if not 0 < heads <= width <= 1 << 16 or width % heads:
        _refuse(header, f"a tower {width:,} wide cannot have {heads:,} heads")
    if get("clip.vision.attention.head_dim", width // heads) != width // heads:
        _refuse(header, "clip.vision.attention.head_dim contradicts its width and heads")
    patch, size = get("clip.vision.patch_size"), get("clip.vision.image_size")
    if not 0 < patch <= size <= 8192:
        _refuse(header, f"pictures of {size:,} pixels cannot be cut into patches of {patch:,}")
    blocks = get("clip.vision.block_count")
    if not 0 < blocks <= 512:
        _refuse(header, f"clip.vision.block_count is {blocks:,}; it must be from 1 to 512")
    epsilon = get("clip.vision.attention.layer_norm_epsilon")
    if not 0 <= epsilon < 1:
        _refuse(header, f"clip.vision.attention.layer_norm_epsilon is {epsilon}, not a small positive number")
    mean, std = _floats(header, "image_mean"), _floats(header, "image_std")
    if len(mean) < 3 or len(std) < 3 or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        _refuse(header, "its image_mean and image_std are not three numbers each, with no std of 0")
    for layer in feature_layers(header):
        if layer > blocks:
            _refuse(header, f"clip.vision.feature_layer asks for the layer {layer}; the tower has {blocks}")
    if is_siglip(header) and not feature_layers(header) and reference_layer(header) is None:
        _refuse(header, f"a SigLIP tower of {blocks} layers, and nothing tells which of them is read")
    _check_tiles(header, size)


def _check_tiles(header: GgufHeader, tile: int) -> None:
    get: Any = header.metadata.get
    if any(array.length % 2 for key in (PINPOINTS, HIDDEN_PINPOINTS) if (array := get(key)) is not None):
        _refuse(header, f"{PINPOINTS} is not a list of sizes")
    sizes = grid_sizes(header)
    joined = get("clip.vision.mm_patch_merge_type", "spatial_unpad" if sizes else "flat")
    if not sizes:
        if joined == "spatial_unpad":
            _refuse(header, f"it is that of a LLaVA-1.6, but does not say how pictures are cut ({PINPOINTS})")
        return
    if any(side < tile or side % tile for size in sizes for side in size):
        _refuse(header, f"{PINPOINTS} holds sizes that are not whole tiles of {tile:,} pixels")
    if any(width // tile * (height // tile) > _MOST_TILES for width, height in sizes):
        _refuse(header, f"{PINPOINTS} asks for more than {_MOST_TILES} tiles")
    if joined != "spatial_unpad" or get("clip.vision.image_aspect_ratio", "anyres") != "anyres":
        _refuse(header, "its pictures are cut and joined in another way than LLaVA-1.6 does it (anyres, spatial_unpad)")


def _floats(header: GgufHeader, name: str) -> tuple[float, ...]:
    array = header.metadata[f"clip.vision.{name}"]
    return array.values() if isinstance(array, GgufArray) else ()


def feature_layers(header: GgufHeader) -> tuple[int, ...]:
    """Return the layers whose states the projector reads; empty if that is left to llama.cpp."""
    array = header.metadata.get("clip.vision.feature_layer")
    return array.values() if isinstance(array, GgufArray) else ()


_Expected = tuple[str, tuple[int, ...], Collection[str]]
_VECTOR = ("F32",)
"""Norms, biases and the class token are added or multiplied as they are, and only float32 goes with float32."""


def _expected_tensors(header: GgufHeader) -> Iterator[_Expected]:
    numbers: Any = header.metadata
    width, patch = numbers["clip.vision.embedding_length"], numbers["clip.vision.patch_size"]
    patches = (numbers["clip.vision.image_size"] // patch) ** 2
    class_token = "v.class_embd" in header.tensors
    yield "v.patch_embd.weight", (patch, patch, 3, width), FLOAT_TYPES
    yield "v.position_embd.weight", (width, patches + class_token), MATRIX_TYPES
    if class_token:
        yield "v.class_embd", (width,), _VECTOR
    # SigLIP towers have neither class token nor first norm; CLIP towers have both.
    if class_token or "v.pre_ln.weight" in header.tensors:
        yield from _norm("v.pre_ln", width)
    if "v.post_ln.weight" in header.tensors:
        yield from _norm("v.post_ln", width)
    if "v.patch_embd.bias" in header.tensors:
        yield "v.patch_embd.bias", (width,), _VECTOR
    for block in (f"v.blk.{number}" for number in range(numbers["clip.vision.block_count"])):
        yield from _block(header, block, width)
    stacked = max(1, len({layer for layer in feature_layers(header) if layer >= 0}))
    middle = _rows(header, "mm.0.weight")
    yield from _linear("mm.0", width * stacked, middle)
    out = _rows(header, "mm.2.weight")
    yield from _linear("mm.2", middle, out)
    if grid_sizes(header):
        yield newline_tensor(header), (out,), _VECTOR


def _block(header: GgufHeader, block: str, width: int) -> Iterator[_Expected]:
    yield from _norm(f"{block}.ln1", width)
    yield from _norm(f"{block}.ln2", width)
    for part in ("q", "k", "v", "out"):
        yield from _linear(f"{block}.attn_{part}", width, width)
    if f"{block}.ffn_gate.weight" in header.tensors:
        _refuse(header, f"the tensor {block}.ffn_gate.weight does not belong into a CLIP tower")
    hidden = _rows(header, f"{block}.ffn_up.weight")
    if hidden == width:
        # Old converters exchanged the two names, which only shows where the shapes differ.
        _refuse(header, f"{block}.ffn_up and ffn_down have the same shape: nothing tells which comes first")
    yield from _linear(f"{block}.ffn_up", width, hidden)
    yield from _linear(f"{block}.ffn_down", hidden, width)


def _rows(header: GgufHeader, name: str) -> int:
    """Return the output width of a linear layer; 0 if there is no such matrix, which then is refused."""
    tensor = header.tensors.get(name)
    return tensor.shape[1] if tensor is not None and len(tensor.shape) > 1 else 0


def _norm(name: str, width: int) -> Iterator[_Expected]:
    yield f"{name}.weight", (width,), _VECTOR
    yield f"{name}.bias", (width,), _VECTOR


def _linear(name: str, columns: int, rows: int) -> Iterator[_Expected]:
    yield f"{name}.weight", (columns, rows), MATRIX_TYPES
    yield f"{name}.bias", (rows,), _VECTOR
