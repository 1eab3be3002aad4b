"""Writes tiny random LLaVA pairs that llama.cpp really loads: for tests of the gate and of the engine.

>>> model, projector = write_tiny_pair(tmp_path)
>>> model, projector = write_tiny_pair(tmp_path, TinyShape(vision_layers=5), feature_layer=None)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_WORDS = (
    "USER ASSISTANT A chat between a curious human and an artificial intelligence assistant The gives helpful "
    "detailed polite answers to the human's questions What color is circle How many shapes are there Describe this "
    "picture red green blue square triangle large small left right of above below yes no"
)


@dataclass(frozen=True)
class TinyShape:
    """The sizes of both halves of a pair."""

    width: int = 64
    heads: int = 4
    layers: int = 2
    hidden: int = 128
    context: int = 2048
    vision_width: int = 32
    vision_heads: int = 2
    vision_layers: int = 3
    vision_hidden: int = 64
    image_size: int = 56
    patch_size: int = 14

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


def write_tiny_pair(
    directory: Path, shape: TinyShape = TinyShape(), *, seed: int = 0, **projector: Any
) -> tuple[Path, Path]:
    """Write `model.gguf` and `mmproj.gguf` that fit each other; `projector` as for `write_tiny_projector`."""
    model = write_tiny_model(directory / "model.gguf", shape, seed=seed)
    return model, write_tiny_projector(directory / "mmproj.gguf", shape, seed=seed + 1, **projector)


def write_tiny_model(
    path: Path,
    shape: TinyShape = TinyShape(),
    *,
    seed: int = 0,
    tokens: list[tuple[bytes, float, int]] | None = None,
    dtype: type[np.floating[Any]] = np.float32,
) -> Path:
    """Write a LLaMA with random weights and a SentencePiece vocabulary with byte tokens."""
    vocabulary = tokens if tokens is not None else tiny_vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny llama")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _, _ in vocabulary])
    writer.add_token_scores([score for _, score, _ in vocabulary])
    writer.add_token_types([kind for _, _, kind in vocabulary])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    draw = _Draw(seed)
    wide, hidden, names = shape.width, shape.hidden, ("attn_q", "attn_k", "attn_v", "attn_output")
    tensors = {"token_embd.weight": draw(len(vocabulary), wide), "output_norm.weight": draw.norm(wide)}
    tensors["output.weight"] = draw(len(vocabulary), wide)
    for block in (f"blk.{n}." for n in range(shape.layers)):
        tensors |= {f"{block}{name}.weight": draw(wide, wide) for name in names}
        tensors |= {f"{block}{name}.weight": draw.norm(wide) for name in ("attn_norm", "ffn_norm")}
        tensors |= {f"{block}{name}.weight": draw(hidden, wide) for name in ("ffn_gate", "ffn_up")}
        tensors[f"{block}ffn_down.weight"] = draw(wide, hidden)
    return _write(writer, path, tensors, dtype)


def write_tiny_projector(
    path: Path,
    shape: TinyShape = TinyShape(),
    *,
    seed: int = 1,
    projector_type: str | None = "mlp",
    feature_layer: tuple[int, ...] | None = (2,),
    class_token: bool = True,
    out_width: int | None = None,
    pinpoints: Sequence[int] = (),
    dtype: type[np.floating[Any]] = np.float32,
) -> Path:
    """Write a CLIP tower (SigLIP's kind without `class_token`) and a two-layer projector with random weights.

    `None` leaves a key out, as old files do. `out_width` makes a projector for another model than `shape`'s.
    `pinpoints`, pairs of width and height, make it a LLaVA-1.6.
    """
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_name("tiny clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_bool("clip.use_gelu", False)
    if projector_type is not None:
        writer.add_string("clip.projector_type", projector_type)
    for key, number in (
        ("image_size", shape.image_size),
        ("patch_size", shape.patch_size),
        ("embedding_length", shape.vision_width),
        ("feed_forward_length", shape.vision_hidden),
        ("projection_dim", shape.width),
        ("attention.head_count", shape.vision_heads),
        ("block_count", shape.vision_layers),
    ):
        writer.add_uint32(f"clip.vision.{key}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", CLIP_MEAN)
    writer.add_array("clip.vision.image_std", CLIP_STD)
    if feature_layer is not None:
        writer.add_array("clip.vision.feature_layer", list(feature_layer))
    if pinpoints:
        writer.add_array("clip.vision.image_grid_pinpoints", list(pinpoints))
        writer.add_string("clip.vision.image_aspect_ratio", "anyres")
        writer.add_string("clip.vision.mm_patch_merge_type", "spatial_unpad")
    draw = _Draw(seed)
    wide, hidden, patch = shape.vision_width, shape.vision_hidden, shape.patch_size
    out = shape.width if out_width is None else out_width
    tensors = {
        "v.patch_embd.weight": draw(wide, 3, patch, patch),
        "v.position_embd.weight": draw(shape.patches + class_token, wide),
        "mm.0.weight": draw(out, wide),
        "mm.0.bias": draw(out),
        "mm.2.weight": draw(out, out),
        "mm.2.bias": draw(out),
    }
    if class_token:
        tensors |= {"v.class_embd": draw(wide), "v.pre_ln.weight": draw.norm(wide), "v.pre_ln.bias": draw(wide)}
    else:
        tensors["v.patch_embd.bias"] = draw(wide)
    if pinpoints:
        tensors["model.image_newline"] = draw(out)
    for block in (f"v.blk.{n}." for n in range(shape.vision_layers)):
        for name, rows, columns in (
            *((name, wide, wide) for name in ("attn_q", "attn_k", "attn_v", "attn_out")),
            ("ffn_up", hidden, wide),
            ("ffn_down", wide, hidden),
        ):
            tensors |= {f"{block}{name}.weight": draw(rows, columns), f"{block}{name}.bias": draw(rows)}
        for name in ("ln1", "ln2"):
            tensors |= {f"{block}{name}.weight": draw.norm(wide), f"{block}{name}.bias": draw(wide)}
    return _write(writer, path, tensors, dtype)


def tiny_vocabulary() -> list[tuple[bytes, float, int]]:
    """Return (text, score, type) of each token: three special ones, 256 bytes, ASCII, and some whole words."""
    kind = gguf.TokenType
    special = [(b"<unk>", kind.UNKNOWN), (b"<s>", kind.CONTROL), (b"</s>", kind.CONTROL)]
    rows = [(text, 0.0, int(of)) for text, of in special]
    rows += [(f"<0x{byte:02X}>".encode(), 0.0, int(kind.BYTE)) for byte in range(256)]
    # Pieces are merged pair by pair, so every beginning of a word is a piece, too.
    pieces = dict.fromkeys(prefix for word in _WORDS.split() for prefix in _beginnings(f"▁{word}"))
    pieces |= dict.fromkeys(["▁", *(chr(code) for code in range(33, 127))])
    return rows + [(text.encode(), -float(rank), int(kind.NORMAL)) for rank, text in enumerate(pieces)]


def _beginnings(word: str) -> Iterator[str]:
    return (word[:length] for length in range(2, len(word) + 1))


class _Draw:
    """Draws weights as numpy shapes them: rows first."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> NDArray[np.float32]:
        # Of this size signals neither die out nor explode, so that any mistake in the input shows in the output.
        spread = 0.1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
        return (self._generator.standard_normal(shape) * spread).astype(np.float32)

    def norm(self, width: int) -> NDArray[np.float32]:
        return 1 + self(width)


def _write(
    writer: gguf.GGUFWriter, path: Path, tensors: dict[str, NDArray[np.float32]], dtype: type[np.floating[Any]]
) -> Path:
    for name, values in tensors.items():
        # As in converted files: whatever has one axis stays float32.
        writer.add_tensor(name, values.astype(dtype) if values.ndim > 1 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
