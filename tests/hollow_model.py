"""Writes LLaVA pairs in real shapes whose tensors are holes in the file: all zeros, and no room on disk.

>>> model, projector = write_hollow_pair(tmp_path, LLAVA_7B)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from tests.tiny_model import CLIP_MEAN, CLIP_STD, tiny_vocabulary


@dataclass(frozen=True)
class HollowShape:
    """The sizes of both halves of a pair, and how the language model's matrices are stored."""

    width: int = 512
    layers: int = 8
    heads: int = 8
    kv_heads: int = 8
    hidden: int = 1408
    tokens: int = 32000
    kind: Kind = Kind.Q4_0
    vision_width: int = 256
    vision_layers: int = 4
    vision_heads: int = 4
    vision_hidden: int = 1024
    image_size: int = 224


LLAVA_7B = HollowShape(
    width=4096, layers=32, heads=32, kv_heads=32, hidden=11008, kind=Kind.Q4_K,
    vision_width=1024, vision_layers=23, vision_heads=16, vision_hidden=4096, image_size=336,
)  # fmt: skip


def write_hollow_pair(directory: Path, shape: HollowShape = HollowShape()) -> tuple[Path, Path]:
    """Write `model.gguf` and `mmproj.gguf` of that shape."""
    directory.mkdir(exist_ok=True)
    return _model(directory / "model.gguf", shape), _projector(directory / "mmproj.gguf", shape)


def _model(path: Path, shape: HollowShape) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    vocabulary = tiny_vocabulary()
    vocabulary += [(b"word%d" % n, -1000.0 - n, 1) for n in range(shape.tokens - len(vocabulary))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _, _ in vocabulary])
    writer.add_token_scores([score for _, score, _ in vocabulary])
    writer.add_token_types([kind for _, _, kind in vocabulary])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    wide, hidden, tokens = shape.width, shape.hidden, len(vocabulary)
    narrow = wide // shape.heads * shape.kv_heads
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (tokens, wide), "output.weight": (tokens, wide), "output_norm.weight": (wide,)
    }  # fmt: skip
    for block in (f"blk.{n}." for n in range(shape.layers)):
        tensors |= {f"{block}attn_{name}.weight": (wide, wide) for name in ("q", "output")}
        tensors |= {f"{block}attn_{name}.weight": (narrow, wide) for name in ("k", "v")}
        tensors |= {f"{block}{name}.weight": (wide,) for name in ("attn_norm", "ffn_norm")}
        tensors |= {f"{block}ffn_{name}.weight": (hidden, wide) for name in ("gate", "up")}
        tensors[f"{block}ffn_down.weight"] = (wide, hidden)
    return _write(writer, path, tensors, shape.kind)


def _projector(path: Path, shape: HollowShape) -> Path:
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_bool("clip.use_gelu", False)
    writer.add_string("clip.projector_type", "mlp")
    for key, number in (
        ("image_size", shape.image_size), ("patch_size", 14), ("embedding_length", shape.vision_width),
        ("feed_forward_length", shape.vision_hidden), ("projection_dim", shape.width),
        ("attention.head_count", shape.vision_heads), ("block_count", shape.vision_layers),
    ):  # fmt: skip
        writer.add_uint32(f"clip.vision.{key}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", CLIP_MEAN)
    writer.add_array("clip.vision.image_std", CLIP_STD)
    writer.add_array("clip.vision.feature_layer", [shape.vision_layers])
    wide, hidden, out, patches = shape.vision_width, shape.vision_hidden, shape.width, (shape.image_size // 14) ** 2
    tensors: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (wide, 3, 14, 14), "v.position_embd.weight": (patches + 1, wide),
        "v.class_embd": (wide,), "v.pre_ln.weight": (wide,), "v.pre_ln.bias": (wide,),
        "mm.0.weight": (out, wide), "mm.0.bias": (out,), "mm.2.weight": (out, out), "mm.2.bias": (out,),
    }  # fmt: skip
    for block in (f"v.blk.{n}." for n in range(shape.vision_layers)):
        for name, rows, columns in (
            *((f"attn_{part}", wide, wide) for part in ("q", "k", "v", "out")),
            ("ffn_up", hidden, wide),
            ("ffn_down", wide, hidden),
        ):
            tensors |= {f"{block}{name}.weight": (rows, columns), f"{block}{name}.bias": (rows,)}
        for name in ("ln1", "ln2"):
            tensors |= {f"{block}{name}.weight": (wide,), f"{block}{name}.bias": (wide,)}
    return _write(writer, path, tensors, Kind.F16)


def _write(writer: gguf.GGUFWriter, path: Path, tensors: dict[str, tuple[int, ...]], kind: Kind) -> Path:
    """Write everything but the tensors, and make the file as long as if they were there."""
    length = 0
    for name, shape in tensors.items():
        stored = kind if len(shape) > 1 else Kind.F32
        block, size = gguf.GGML_QUANT_SIZES[stored]
        nbytes = int(np.prod(shape)) // block * size
        quantised = stored not in (Kind.F32, Kind.F16)
        told = gguf.quant_shape_to_byte_shape(shape, stored) if quantised else shape
        dtype = np.dtype(np.uint8 if quantised else np.float32 if stored is Kind.F32 else np.float16)
        writer.add_tensor_info(name, told, dtype, nbytes, raw_dtype=stored)
        length += -(-nbytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, -(-path.stat().st_size // 32) * 32 + length)
    return path
