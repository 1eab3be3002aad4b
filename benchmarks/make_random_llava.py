"""Write a LLaVA-1.5-7B with random weights: `python -m benchmarks.make_random_llava DIR` (4.7 GB, a few minutes).

Sizes, shapes and quantised types are those of the published Q4_K_M file, so speed and memory are, too: neither
depends on the values. The same seed writes the same bytes. `--layers 4` makes a small one for trying things out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice, product
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.tiny_model import TinyShape, tiny_vocabulary, write_tiny_projector

Bytes = NDArray[np.uint8]

BLOCK = 256
"""Weights in one block of a K-quant."""

VOCABULARY = 32000
SPECIAL = 259
"""<unk>, <s>, </s> and the 256 bytes, which come first."""


@dataclass(frozen=True)
class Shape:
    """The sizes of LLaVA-1.5-7B."""

    layers: int = 32
    width: int = 4096
    heads: int = 32
    hidden: int = 11008
    context: int = 4096


def write_model(path: Path, shape: Shape, seed: int) -> None:
    """Write the language model, tensor by tensor: never more than one of them is in memory."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random weights in the shapes of LLaVA-1.5-7B")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = vocabulary()
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _, _ in tokens])
    writer.add_token_scores([score for _, score, _ in tokens])
    writer.add_token_types([kind for _, _, kind in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    tensors = list(tensors_of(shape))
    for name, (rows, columns), kind in tensors:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        dims = (rows, columns // block * size) if block > 1 else (columns,)
        dtype = np.dtype(np.uint8 if block > 1 else np.float32)
        nbytes = rows * columns // block * size
        writer.add_tensor_info(name, dims, dtype, nbytes, raw_dtype=kind if block > 1 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(seed)
    for name, (rows, columns), kind in tensors:
        if kind == gguf.GGMLQuantizationType.F32:
            writer.write_tensor_data(np.ones(columns, dtype=np.float32))
            continue
        draw = q4_k if kind == gguf.GGMLQuantizationType.Q4_K else q6_k
        blocks = draw(random, rows * columns // BLOCK, columns**-0.5)
        if name == "output.weight":
            # A logit of zero is never the largest of 32,000: no answer ends early or has bytes that are no text.
            blocks[: SPECIAL * columns // BLOCK] = 0
        writer.write_tensor_data(blocks)
    writer.close()


def tensors_of(shape: Shape) -> Iterator[tuple[str, tuple[int, int], gguf.GGMLQuantizationType]]:
    """Yield name, (rows, columns) and type of every tensor, as llama.cpp's Q4_K_M chooses the types."""
    kinds = gguf.GGMLQuantizationType
    wide, hidden, layers = shape.width, shape.hidden, shape.layers
    yield "token_embd.weight", (VOCABULARY, wide), kinds.Q4_K
    for layer in range(layers):
        # `use_more_bits` in llama-quant.cpp: an eighth at each end, and every third in between.
        more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
        finer = kinds.Q6_K if more else kinds.Q4_K
        block = f"blk.{layer}."
        yield f"{block}attn_norm.weight", (1, wide), kinds.F32
        for name in ("q", "k", "output"):
            yield f"{block}attn_{name}.weight", (wide, wide), kinds.Q4_K
        yield f"{block}attn_v.weight", (wide, wide), finer
        yield f"{block}ffn_norm.weight", (1, wide), kinds.F32
        for name in ("gate", "up"):
            yield f"{block}ffn_{name}.weight", (hidden, wide), kinds.Q4_K
        yield f"{block}ffn_down.weight", (wide, hidden), finer
    yield "output_norm.weight", (1, wide), kinds.F32
    yield "output.weight", (VOCABULARY, wide), kinds.Q6_K


def q4_k(random: np.random.Generator, blocks: int, spread: float) -> Bytes:
    """Draw `block_q4_K`s (ggml-common.h) of weights around zero with that standard deviation: uint8 (blocks, 144).

    A weight is d·s·q - dmin·m, q from 0 to 15. With m = s and dmin = 7.5 d its mean is zero.
    """
    out = np.empty((blocks, 144), dtype=np.uint8)
    root_mean_square = (63 * 127 / 6) ** 0.5 * 4.61  # of a scale from 0 to 63, times the deviation of q
    d = spread / root_mean_square * random.uniform(0.7, 1.3, blocks)
    out[:, :4] = np.stack([d, 7.5 * d], axis=1).astype(np.float16).view(np.uint8)
    # 8 scales and 8 minima of 6 bits in 12 bytes; pairs of equal bytes and nibbles make them equal.
    low = _bytes(random, blocks, 4)
    high = _bytes(random, blocks, 4) & 15
    out[:, 4:8] = out[:, 8:12] = low
    out[:, 12:16] = high * 17
    out[:, 16:] = _bytes(random, blocks, 128)
    return out


def q6_k(random: np.random.Generator, blocks: int, spread: float) -> Bytes:
    """Draw `block_q6_K`s (ggml-common.h) of weights around zero with that standard deviation: uint8 (blocks, 210).

    A weight is d·s·(q - 32), q from 0 to 63 and s from -128 to 127.
    """
    out = np.empty((blocks, 210), dtype=np.uint8)
    out[:, :208] = _bytes(random, blocks, 208)
    d = spread / (74 * 18.5) * random.uniform(0.7, 1.3, blocks)
    out[:, 208:] = d.astype(np.float16)[:, None].view(np.uint8)
    return out


def _bytes(random: np.random.Generator, blocks: int, size: int) -> Bytes:
    return np.frombuffer(random.bytes(blocks * size), dtype=np.uint8).reshape(blocks, size)


def vocabulary() -> list[tuple[bytes, float, int]]:
    """Return 32,000 tokens as (text, score, type): those of the tests' tiny models, then made-up words."""
    tokens = tiny_vocabulary()
    known = {text for text, _, _ in tokens}
    syllables = ["".join(pair) for pair in product("bdfghjklmnprstvwyz", "aeiou")]
    words = (f"▁{''.join(word)}".encode() for length in count(2) for word in product(syllables, repeat=length))
    new = islice((word for word in words if word not in known), VOCABULARY - len(tokens))
    return tokens + [(word, -float(len(tokens) + rank), int(gguf.TokenType.NORMAL)) for rank, word in enumerate(new)]


def write_projector(path: Path, shape: Shape, seed: int) -> None:
    """Write CLIP ViT-L/14 at 336 pixels and its projector in f16, 23 blocks as published files have them.

    It names the feature layer, as `llava` does in its repaired copy: then everybody can open the same file.
    """
    tower = TinyShape(
        width=shape.width, vision_width=1024, vision_heads=16, vision_layers=23, vision_hidden=4096,
        image_size=336, patch_size=14,
    )  # fmt: skip
    write_tiny_projector(path, tower, seed=seed, feature_layer=(23,), dtype=np.float16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, default=Shape.layers)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    chosen.directory.mkdir(parents=True, exist_ok=True)
    shape = Shape(layers=chosen.layers)
    for name, write, seed in (
        ("model.gguf", write_model, chosen.seed),
        ("mmproj.gguf", write_projector, chosen.seed + 1),
    ):
        path = chosen.directory / name
        unfinished = path.with_suffix(".unfinished")
        write(unfinished, shape, seed)
        unfinished.replace(path)
        print(f"{path}  {path.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    main()
