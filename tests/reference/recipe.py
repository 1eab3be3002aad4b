"""Makes the tiny random models of the reference, twice the same: for transformers by name, for llama.cpp as GGUF.

Weights are drawn by numpy from a seed, so they need not be committed; their checksum is, because numpy promises the
stream of `standard_normal` only "in practice".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]
"""Arrays under the names that transformers 5 gives them in `LlavaForConditionalGeneration`."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Tower:
    """A CLIP tower and the projector behind it."""

    seed: int
    width: int
    heads: int
    layers: int
    """As trained; LLaVA reads the states after the last but one."""
    hidden: int
    image_size: int
    out: int
    """Width of the picture embeddings."""
    patch_size: int = 14
    alike: bool = False
    """All layers have the same matrices, so that a broad tower is drawn in a moment."""

    @property
    def tokens(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class Text:
    """A language model; `vocabulary` and `layout` are names in `prompts.json`."""

    seed: int
    width: int
    heads: int
    kv_heads: int
    layers: int
    hidden: int
    vocabulary: str
    layout: str
    rope_theta: float = 10000.0


TOWERS = {
    "plain": Tower(seed=11, width=64, heads=4, layers=4, hidden=128, image_size=56, out=64),
    "deep": Tower(seed=12, width=32, heads=2, layers=24, hidden=64, image_size=70, out=64),
    "broad": Tower(seed=13, width=96, heads=3, layers=3, hidden=256, image_size=112, out=96),
    "grid336": Tower(seed=14, width=64, heads=4, layers=3, hidden=96, image_size=336, out=64),
}
CLIP_VIT_L = Tower(seed=15, width=1024, heads=16, layers=24, hidden=64, image_size=28, out=64, alike=True)
"""The one tower that llava knows by its shape: LLaVA's CLIP ViT-L/14, but with thin middles and tiny pictures."""
TEXTS = {
    "llama": Text(115, width=64, heads=4, kv_heads=4, layers=3, hidden=128, vocabulary="llama", layout="llava_v1"),
    "mistral": Text(
        105, width=96, heads=6, kv_heads=2, layers=3, hidden=192, vocabulary="mistral", layout="mistral_instruct",
        rope_theta=1e6,
    ),
}  # fmt: skip
PAIRS = {"llama": "plain", "mistral": "broad"}
"""Which tower stands before which language model in the tests of whole prompts."""


class _Draw:
    """Draws weights of such a size that signals neither die out nor explode."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> NDArray[np.float32]:
        spread = 0.1 if len(shape) == 1 else float(np.prod(shape[1:])) ** -0.5
        return (self._generator.standard_normal(shape) * spread).astype(np.float32)

    def norm(self, width: int) -> NDArray[np.float32]:
        return 1 + self(width)


def tower_weights(tower: Tower) -> Weights:
    """Draw tower and projector; also the one layer that LLaVA never reads."""
    draw, wide = _Draw(tower.seed), tower.width
    root = "model.vision_tower."
    weights = {
        f"{root}embeddings.class_embedding": draw(wide),
        f"{root}embeddings.patch_embedding.weight": draw(wide, 3, tower.patch_size, tower.patch_size),
        f"{root}embeddings.position_embedding.weight": 5 * draw(tower.tokens + 1, wide),
        f"{root}pre_layrnorm.weight": draw.norm(wide),
        f"{root}pre_layrnorm.bias": draw(wide),
        f"{root}post_layernorm.weight": draw.norm(wide),
        f"{root}post_layernorm.bias": draw(wide),
        "model.multi_modal_projector.linear_1.weight": draw(tower.out, wide),
        "model.multi_modal_projector.linear_1.bias": draw(tower.out),
        "model.multi_modal_projector.linear_2.weight": draw(tower.out, tower.out),
        "model.multi_modal_projector.linear_2.bias": draw(tower.out),
    }
    for n in range(tower.layers):
        layer = f"{root}encoder.layers.{n}."
        for name, rows, columns in (
            *((f"self_attn.{part}_proj", wide, wide) for part in ("q", "k", "v", "out")),
            ("mlp.fc1", tower.hidden, wide),
            ("mlp.fc2", wide, tower.hidden),
        ):
            first = weights.get(f"{root}encoder.layers.0.{name}.weight") if tower.alike else None
            values = draw(rows, columns) if first is None else first
            if tower.alike and name in ("self_attn.out_proj", "mlp.fc2"):
                # Quite the same layers again and again would pull all tokens into one direction.
                values = np.roll(values, n, axis=0)
            # The last layers speak louder, so that one read too early or too late shows in any tower.
            loud = n >= tower.layers - 3 and name == "mlp.fc2"
            weights[f"{layer}{name}.weight"] = 4 * values if loud else values
            weights[f"{layer}{name}.bias"] = draw(rows)
        for name in ("layer_norm1", "layer_norm2"):
            weights |= {f"{layer}{name}.weight": draw.norm(wide), f"{layer}{name}.bias": draw(wide)}
    return weights


def text_weights(text: Text, n_vocab: int) -> Weights:
    """Draw a Llama or a Mistral: they differ only in how many key heads there are."""
    draw, wide, kv = _Draw(text.seed), text.width, text.width // text.heads * text.kv_heads
    root = "model.language_model."
    weights = {
        f"{root}embed_tokens.weight": draw(n_vocab, wide) * wide**0.5,
        f"{root}norm.weight": draw.norm(wide),
        "lm_head.weight": draw(n_vocab, wide),
    }
    for layer in (f"{root}layers.{n}." for n in range(text.layers)):
        for name, rows, columns in (
            ("self_attn.q_proj", wide, wide),
            ("self_attn.k_proj", kv, wide),
            ("self_attn.v_proj", kv, wide),
            ("self_attn.o_proj", wide, wide),
            ("mlp.gate_proj", text.hidden, wide),
            ("mlp.up_proj", text.hidden, wide),
            ("mlp.down_proj", wide, text.hidden),
        ):
            weights[f"{layer}{name}.weight"] = draw(rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{layer}{name}.weight"] = draw.norm(wide)
    return weights


def newline(tower: Tower) -> NDArray[np.float32]:
    """Draw the embedding that ends each row of tiles in LLaVA-1.6."""
    return 5 * _Draw(tower.seed + 1000)(tower.out)


def checksum(weights: Weights) -> str:
    """Identify drawn weights, whatever order they were drawn in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name], "<f4").tobytes())
    return digest.hexdigest()


def require(weights: Weights, expected: str) -> Weights:
    """Return `weights` if they are those the expected arrays were made with."""
    if checksum(weights) != expected:
        raise AssertionError(
            f"numpy {np.__version__} draws other weights than the numpy that made tests/reference/expected: "
            "run tests/reference/make_reference.py again"
        )
    return weights


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_projector(
    path: Path,
    tower: Tower,
    weights: Weights,
    *,
    dtype: str = "f32",
    blocks: int | None = None,
    old: bool = False,
    pinpoints: Sequence[int] = (),
) -> Path:
    """Write tower and projector as GGUF with the first `blocks` layers; None stores all, as trained.

    `old` writes what the converters of 2023 wrote: no projector type, and the two ffn matrices under each other's name.
    `pinpoints`, pairs of width and height, make it a LLaVA-1.6, as the converter of 2024 wrote it.
    """
    stored = tower.layers if blocks is None else blocks
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_bool("clip.use_gelu", False)
    if not old:
        writer.add_string("clip.projector_type", "mlp")
    for key, number in (
        ("image_size", tower.image_size),
        ("patch_size", tower.patch_size),
        ("embedding_length", tower.width),
        ("feed_forward_length", tower.hidden),
        ("projection_dim", tower.out),
        ("attention.head_count", tower.heads),
        ("block_count", stored),
    ):
        writer.add_uint32(f"clip.vision.{key}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", CLIP_MEAN)
    writer.add_array("clip.vision.image_std", CLIP_STD)
    if pinpoints:
        writer.add_array("clip.vision.image_grid_pinpoints", list(pinpoints))
        writer.add_string("clip.vision.image_aspect_ratio", "anyres")
        writer.add_string("clip.vision.mm_patch_merge_type", "spatial_unpad")
        writer.add_tensor("model.image_newline", newline(tower))
    root, projector = "model.vision_tower.", "model.multi_modal_projector."
    names = {
        "v.class_embd": f"{root}embeddings.class_embedding",
        "v.patch_embd.weight": f"{root}embeddings.patch_embedding.weight",
        "v.position_embd.weight": f"{root}embeddings.position_embedding.weight",
        "v.pre_ln.weight": f"{root}pre_layrnorm.weight",
        "v.pre_ln.bias": f"{root}pre_layrnorm.bias",
    }
    up, down = ("ffn_down", "ffn_up") if old else ("ffn_up", "ffn_down")
    parts = {f"attn_{part}": f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")}
    parts |= {"ln1": "layer_norm1", "ln2": "layer_norm2", up: "mlp.fc1", down: "mlp.fc2"}
    for n in range(stored):
        for ours, theirs in parts.items():
            names |= {f"v.blk.{n}.{ours}.{x}": f"{root}encoder.layers.{n}.{theirs}.{x}" for x in ("weight", "bias")}
    for ours, theirs in (("mm.0", "linear_1"), ("mm.2", "linear_2")):
        names |= {f"{ours}.{x}": f"{projector}{theirs}.{x}" for x in ("weight", "bias")}
    quantised: dict[int, NDArray[Any]] = {}
    for ours, theirs in names.items():
        values = weights[theirs]
        if dtype == "q8_0" and values.ndim > 1 and "embd" not in ours:
            # Towers of like layers have one array many times.
            if id(values) not in quantised:
                quantised[id(values)] = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(ours, quantised[id(values)], raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            # As converters do: what has one axis stays float32, and embeddings are never smaller than float16.
            kind = np.float32 if dtype == "f32" or values.ndim == 1 else np.float16
            writer.add_tensor(ours, values.astype(kind))
    _finish(writer)
    return path


def write_model(path: Path, text: Text, weights: Weights, vocabulary: dict[str, Any]) -> Path:
    """Write a language model as GGUF in float32; `vocabulary` as for `write_vocabulary`."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(text.width)
    writer.add_block_count(text.layers)
    writer.add_feed_forward_length(text.hidden)
    writer.add_head_count(text.heads)
    writer.add_head_count_kv(text.kv_heads)
    writer.add_rope_dimension_count(text.width // text.heads)
    writer.add_rope_freq_base(text.rope_theta)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_vocabulary(writer, vocabulary)
    root = "model.language_model."
    names = {
        "token_embd.weight": f"{root}embed_tokens.weight",
        "output_norm.weight": f"{root}norm.weight",
        "output.weight": "lm_head.weight",
    }
    parts = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    for n in range(text.layers):
        names |= {f"blk.{n}.{ours}.weight": f"{root}layers.{n}.{theirs}.weight" for ours, theirs in parts.items()}
    for ours, theirs in names.items():
        values = weights[theirs]
        if "attn_q" in ours or "attn_k" in ours:
            values = _rotary_pairs(values, text.heads if "attn_q" in ours else text.kv_heads)
        writer.add_tensor(ours, np.ascontiguousarray(values))
    _finish(writer)
    return path


def _rotary_pairs(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Put the rows that rotate together next to each other: transformers has them half a head apart."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_vocabulary(path: Path, vocabulary: dict[str, Any], **changes: Any) -> Path:
    """Write a GGUF that holds only a vocabulary: keys as in `prompts.json`, some of them changed.

    `model` ("llama" or "gpt2"), `pre`, `tokens`, `types`, `scores` or `merges`, `bos`, `eos`, `add_bos`, and
    `add_space_prefix` if the file says anything about it.
    """
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_vocabulary(writer, vocabulary | changes)
    _finish(writer)
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: dict[str, Any]) -> None:
    writer.add_tokenizer_model(vocabulary["model"])
    writer.add_tokenizer_pre(vocabulary["pre"])
    writer.add_token_list(vocabulary["tokens"])
    writer.add_token_types(vocabulary["types"])
    if vocabulary["model"] == "llama":
        writer.add_token_scores(vocabulary["scores"])
        writer.add_unk_token_id(0)
    else:
        writer.add_token_merges(vocabulary["merges"])
    writer.add_bos_token_id(vocabulary["bos"])
    writer.add_eos_token_id(vocabulary["eos"])
    writer.add_add_bos_token(vocabulary["add_bos"])
    if "add_space_prefix" in vocabulary:
        writer.add_add_space_prefix(vocabulary["add_space_prefix"])
