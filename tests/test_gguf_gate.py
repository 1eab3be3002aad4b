"""Facts about which models, projectors and pairs are refused."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_cli.gguf_file import check_model, check_pair, check_projector, read_header
from tests.gguf_draft import Draft, Edit, opens, refusal
from tests.tiny_model import TinyShape, tiny_vocabulary, write_tiny_model, write_tiny_projector


@pytest.mark.parametrize("class_token", [True, False], ids=["CLIP", "SigLIP"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_tiny_pairs_pass_and_llama_cpp_opens_them(tmp_path: Path, class_token: bool, dtype: Any) -> None:
    """The gate lets through what works."""
    shape = TinyShape(vision_layers=2)
    model = write_tiny_model(tmp_path / "m.gguf", shape, dtype=dtype)
    projector = write_tiny_projector(tmp_path / "p.gguf", shape, class_token=class_token, dtype=dtype)
    check_pair(read_header(model), read_header(projector))
    assert opens(model, projector)


def test_a_full_size_file_is_checked_in_a_second(tmp_path: Path) -> None:
    """32,000 tokens and 4 GB of tensor data: only the header is read."""
    tokens = tiny_vocabulary()
    tokens += [(f"word{number}".encode(), -1000.0, 1) for number in range(32_000 - len(tokens))]
    draft = Draft(write_tiny_model(tmp_path / "model.gguf", tokens=tokens))
    draft.tensors.append({"name": "rope_freqs.weight", "shape": (1 << 30,), "type": 0, "data": b""})
    path = draft.write(tmp_path / "large.gguf")
    os.truncate(path, path.stat().st_size + (4 << 30))
    start = time.process_time()
    check_model(read_header(path))
    assert time.process_time() - start < 1


# Language models


def _tokens(edit: Callable[[list[bytes]], object]) -> Edit:
    def apply(draft: Draft) -> None:
        tokens = [text for text, _, _ in tiny_vocabulary()]
        edit(tokens)
        draft.set("tokenizer.ggml.tokens", "str[]", tokens)

    return apply


def _put(place: int, text: bytes) -> Callable[[list[bytes]], object]:
    return lambda tokens: tokens.__setitem__(place, text)


def _experts(draft: Draft, count: int, used: int, groups: int, groups_used: int) -> Draft:
    for key, number in (("", count), ("used_", used), ("group_", groups), ("group_used_", groups_used)):
        draft.set(f"llama.expert_{key}count", "u32", number)
    return draft


NO_MODEL: dict[str, tuple[Edit, str]] = {
    "no architecture": (lambda d: d.drop("general.architecture"), "does not say what it is"),
    "empty architecture": (lambda d: d.set("general.architecture", "str", ""), "does not say what it is"),
    "another name": (lambda d: d.set("clip.has_vision_encoder", "bool", 1), "a projector (mmproj)"),
    "architecture type": (lambda d: d.set("general.architecture", "u32", 1), "does not say what it is"),
    "a projector": (lambda d: d.set("general.architecture", "str", "clip"), "a projector (mmproj)"),
    "split": (lambda d: d.set("split.count", "u16", 3), "one of 3 pieces of a split model"),
    "no width": (lambda d: d.drop("llama.embedding_length"), "llama.embedding_length is missing"),
    "width type": (lambda d: d.set("llama.embedding_length", "i32", 64), "is of type i32, not u32"),
    "no blocks": (lambda d: d.set("llama.block_count", "u32", 0), "llama.block_count is 0"),
    "600 blocks": (lambda d: d.set("llama.block_count", "u32", 600), "llama.block_count is 600"),
    "a block less": (lambda d: d.set("llama.block_count", "u32", 3), "the block 2 of 3 is missing"),
    "endless context": (lambda d: d.set("llama.context_length", "u32", 1 << 31), "it must be from 1 to 16,777,216"),
    "epsilon -1": (lambda d: d.set("llama.attention.layer_norm_rms_epsilon", "f32", -1.0), "is -1.0, not a small"),
    "epsilon nan": (lambda d: d.set("llama.attention.layer_norm_rms_epsilon", "f32", math.nan), "is nan, not a small"),
    "epsilon type": (lambda d: d.set("llama.attention.layer_norm_rms_epsilon", "f64", 1e-5), "not a small"),
    "rope scaling": (lambda d: d.set("llama.rope.scaling.type", "str", "ntk"), "is 'ntk'"),
    "next-n layers": (lambda d: d.set("llama.nextn_predict_layers", "u32", 5), "nextn_predict_layers is more"),
    "experts": (lambda d: d.set("llama.expert_count", "u32", 8), "numbers of experts contradict"),
    "experts used": (lambda d: d.set("llama.expert_used_count", "u32", 2), "numbers of experts contradict"),
    "expert groups": (lambda d: d.set("llama.expert_group_count", "u32", 2), "numbers of experts contradict"),
    "expert type": (lambda d: d.set("llama.expert_count", "str", "8"), "is of type str, not a whole number"),
    "3 groups of 8": (lambda d: _experts(d, 8, 2, 3, 1), "(2 of 8, 1 of 3)"),
    "8 groups of 8": (lambda d: _experts(d, 8, 2, 8, 1), "(2 of 8, 1 of 8)"),
    "no group used": (lambda d: _experts(d, 8, 2, 4, 0), "(2 of 8, 0 of 4)"),
    "all groups used": (lambda d: _experts(d, 8, 2, 4, 4), "(2 of 8, 4 of 4)"),
    "9 experts of 8": (lambda d: _experts(d, 8, 9, 0, 0), "(9 of 8, 0 of 0)"),
    "2000 experts": (lambda d: _experts(d, 2000, 2, 0, 0), "(2 of 2000, 0 of 0)"),
    "heads in words": (lambda d: d.set("llama.attention.head_count", "str", "8"), "head_count is no size"),
    "no number of heads": (lambda d: d.set("llama.attention.head_count_kv", "f32[]", [math.nan] * 2), "kv is no size"),
    "hidden below zero": (lambda d: d.set("llama.feed_forward_length", "i32", -1), "feed_forward_length is no size"),
    "a length for each block": (lambda d: d.set("llama.attention.key_length", "u32[]", [8]), "key_length is no size"),
    "no vocabulary": (lambda d: d.drop("tokenizer.ggml.model"), "it has no vocabulary"),
    "BERT's": (lambda d: d.set("tokenizer.ggml.model", "str", "bert"), "a vocabulary of the kind 'bert'"),
    "no merges": (lambda d: d.set("tokenizer.ggml.model", "str", "gpt2"), "merges is missing"),
    "no tokens": (lambda d: d.drop("tokenizer.ggml.tokens"), "the array tokenizer.ggml.tokens is missing"),
    "token numbers": (lambda d: d.set("tokenizer.ggml.tokens", "i32[]", [1] * 567), "is of type i32[], not str[]"),
    "few scores": (lambda d: d.set("tokenizer.ggml.scores", "f32[]", [0.0]), "scores is shorter than its"),
    "score type": (lambda d: d.set("tokenizer.ggml.scores", "f64[]", [0.0]), "is of type f64[]"),
    "few token types": (lambda d: d.set("tokenizer.ggml.token_type", "i32[]", [1]), "token_type is shorter"),
    "token twice": (_tokens(lambda t: t.__setitem__(300, t[301])), "is in its vocabulary twice"),
    "twice up to NUL": (_tokens(lambda t: t.__setitem__(300, t[301] + b"\0more")), "is in its vocabulary twice"),
    "twice by no name": (_tokens(lambda t: t.__setitem__(slice(300, 302), [b"", b"[EMPTY_300]"])), "vocabulary twice"),
    "a byte less": (_tokens(_put(258, b"<0xff>")), "no token for the byte 0xFF"),
    "fewer tokens": (_tokens(lambda t: t.pop()), "token_embd.weight has the shape (64, 567), not (64, 566)"),
    "no embeddings": (lambda d: d.drop("token_embd.weight"), "token_embd.weight is missing"),
    "no last norm": (lambda d: d.drop("output_norm.weight"), "output_norm.weight is missing"),
    "norm of F16": (lambda d: d.reshape("blk.0.attn_norm.weight", (64,), "F16"), "attn_norm.weight is F16"),
    "norm of blocks": (lambda d: d.reshape("blk.0.attn_norm.weight", (64, 1), "Q5_1"), "attn_norm.weight is Q5_1"),
    "bias of BF16": (lambda d: d.add("blk.0.attn_q.bias", (64,), "BF16"), "attn_q.bias is BF16"),
    "whole numbers": (lambda d: d.reshape("output.weight", (64, 567), "I32"), "output.weight is I32"),
    "doubles": (lambda d: d.reshape("blk.0.attn_q.weight", (64, 64), "F64"), "cannot multiply with"),
}


@pytest.mark.parametrize(("edit", "words"), NO_MODEL.values(), ids=NO_MODEL)
def test_unsound_models_are_refused(tiny_pair: tuple[Path, Path], tmp_path: Path, edit: Edit, words: str) -> None:
    draft = Draft(tiny_pair[0])
    edit(draft)
    path = draft.write(tmp_path / "model.gguf")
    error = refusal(lambda: check_model(read_header(path)))
    assert words in error.why
    assert error.hint


SOUND: dict[str, Edit] = {
    "as written": lambda d: d,
    "another architecture": lambda d: [
        d.set("general.architecture", "str", "phi9"),
        *(d.set(f"phi9.{key}", "u32", n) for key, n in (("embedding_length", 64), ("block_count", 2))),
        d.set("phi9.context_length", "u32", 4096),
    ],
    "experts": lambda d: _experts(d, 8, 2, 0, 0),
    "experts in groups": lambda d: _experts(d, 8, 2, 4, 2),
    "experts by layer": lambda d: _experts(d, 8, 2, 0, 0).set("llama.expert_used_count", "i32[]", [2, 4]),
    "no scores": lambda d: d.drop("tokenizer.ggml.scores"),
    "byte-level BPE": lambda d: d.set("tokenizer.ggml.model", "str", "gpt2").set(
        "tokenizer.ggml.merges", "str[]", ["a b"]
    ),
    "the only piece": lambda d: d.set("split.count", "u16", 1),
    "longrope": lambda d: d.set("llama.rope.scaling.type", "str", "longrope"),
    "biases": lambda d: d.add("blk.0.attn_q.bias", (64,)),
}


@pytest.mark.parametrize("edit", SOUND.values(), ids=SOUND)
def test_sound_models_pass(tiny_pair: tuple[Path, Path], tmp_path: Path, edit: Edit) -> None:
    draft = Draft(tiny_pair[0])
    edit(draft)
    check_model(read_header(draft.write(tmp_path / "model.gguf")))


def test_a_byte_may_be_a_token_of_its_own(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """llama.cpp looks for `<0x41>`, then for `A`."""
    draft = Draft(tiny_pair[0])
    _tokens(_put(3 + ord("A"), b"unused"))(draft)
    check_model(read_header(draft.write(tmp_path / "model.gguf")))


# Projectors

VISION = "clip.vision."


def _tiled(draft: Draft, *pinpoints: int, newline: str = "model.image_newline") -> Draft:
    """Make it the projector of a LLaVA-1.6."""
    draft.set(f"{VISION}image_grid_pinpoints", "i32[]", pinpoints or (56, 112))
    draft.set(f"{VISION}mm_patch_merge_type", "str", "spatial_unpad")
    return draft.add(newline, (64,))


NO_PROJECTOR: dict[str, tuple[Edit, str]] = {
    "Qwen2-VL": (
        lambda d: d.set("clip.projector_type", "str", "qwen2vl_merger"), "qwen2vl_merger: not a LLaVA projector",
    ),
    "Gemma 3": (lambda d: d.set("clip.projector_type", "str", "gemma3"), "gemma3: not a LLaVA projector"),
    "Idefics 3": (lambda d: d.set("clip.projector_type", "str", "idefics3"), "idefics3: not a LLaVA projector"),
    "Qwen2.5-Omni": (
        lambda d: d.drop("clip.projector_type").set("clip.vision.projector_type", "str", "qwen2.5vl_merger"),
        "qwen2.5vl_merger: not a LLaVA projector",
    ),
    "MobileVLM": (lambda d: d.set("clip.projector_type", "str", "ldpv2"), "ldpv2: not a LLaVA projector"),
    "unnamed": (lambda d: d.drop("clip.projector_type").drop("mm.2.weight").drop("mm.2.bias"), "not that of"),
    "Yi-VL": (lambda d: d.add("mm.3.weight", (64,)), "Yi-VL"),
    "sound": (lambda d: d.set("clip.has_audio_encoder", "bool", 1), "it is for sound"),
    "made sound": (lambda d: d.set("clip.has_gen_audio_encoder", "bool", 1), "it is for sound"),
    "no vision": (lambda d: d.set("clip.has_vision_encoder", "bool", 0), "it has no vision tower"),
    "vision type": (lambda d: d.set("clip.has_vision_encoder", "u8", 1), "is of type u8, not bool"),
    "name type": (lambda d: d.set("general.name", "u32", 1), "general.name is of type u32, not str"),
    "projector type type": (lambda d: d.set("clip.projector_type", "u32", 1), "not a LLaVA projector"),
    "heads type": (lambda d: d.set(f"{VISION}attention.head_count", "i32", 2), "is of type i32, not u32"),
    "mean type": (lambda d: d.set(f"{VISION}image_mean", "f64[]", [0.5] * 3), "is of type f64[], not f32[]"),
    "layer type": (lambda d: d.set(f"{VISION}feature_layer", "u32[]", [2]), "is of type u32[], not i32[]"),
    "no mean": (lambda d: d.drop(f"{VISION}image_mean"), "image_mean is missing"),
    "short mean": (lambda d: d.set(f"{VISION}image_mean", "f32[]", [0.5, 0.5]), "are not three numbers each"),
    "short std": (lambda d: d.set(f"{VISION}image_std", "f32[]", [0.5, 0.5]), "are not three numbers each"),
    "endless mean": (lambda d: d.set(f"{VISION}image_mean", "f32[]", [math.inf] * 3), "are not three numbers each"),
    "std of 0": (lambda d: d.set(f"{VISION}image_std", "f32[]", [0.0] * 3), "with no std of 0"),
    "no block count": (lambda d: d.drop(f"{VISION}block_count"), "block_count is missing"),
    "no blocks": (lambda d: d.set(f"{VISION}block_count", "u32", 0), "block_count is 0"),
    "a block more": (lambda d: d.set(f"{VISION}block_count", "u32", 4), "v.blk.3.ln1.weight is missing"),
    "endless blocks": (lambda d: d.set(f"{VISION}block_count", "u32", 10**9), "it must be from 1 to 512"),
    "too much": (lambda d: d.set(f"{VISION}feed_forward_length", "u32", 2**32 - 1), "too much for llama.cpp"),
    "3 heads": (lambda d: d.set(f"{VISION}attention.head_count", "u32", 3), "cannot have 3 heads"),
    "0 heads": (lambda d: d.set(f"{VISION}attention.head_count", "u32", 0), "cannot have 0 heads"),
    "head size": (lambda d: d.set(f"{VISION}attention.head_dim", "u32", 8), "head_dim contradicts"),
    "epsilon": (lambda d: d.set(f"{VISION}attention.layer_norm_epsilon", "f32", math.nan), "is nan, not a small"),
    "patch of 0": (lambda d: d.set(f"{VISION}patch_size", "u32", 0), "cannot be cut into patches of 0"),
    "patch too large": (lambda d: d.set(f"{VISION}image_size", "u32", 8), "pictures of 8 pixels"),
    "more patches": (lambda d: d.set(f"{VISION}image_size", "u32", 84), "has the shape (32, 17), not (32, 37)"),
    "layer 4 of 3": (lambda d: d.set(f"{VISION}feature_layer", "i32[]", [4]), "asks for the layer 4"),
    "two layers": (lambda d: d.set(f"{VISION}feature_layer", "i32[]", [1, 2]), "has the shape (32, 64), not (64, 64)"),
    "half a tile size": (lambda d: d.set(f"{VISION}image_grid_pinpoints", "i32[]", [336]), "is not a list of sizes"),
    "half a hidden one": (lambda d: d.set("llava.image_grid_pinpoints", "i32[]", [336]), "is not a list of sizes"),
    "size type": (lambda d: d.set(f"{VISION}image_grid_pinpoints", "u32[]", [56, 56]), "is of type u32[], not i32[]"),
    "tile of -56": (lambda d: _tiled(d, -56, 56), "not whole tiles of 56 pixels"),
    "no tile": (lambda d: _tiled(d, 0, 56), "not whole tiles of 56 pixels"),
    "half a tile": (lambda d: _tiled(d, 56, 84), "not whole tiles of 56 pixels"),
    "too many tiles": (lambda d: _tiled(d, 56, 56, 56 * 5, 56 * 13), "more than 64 tiles"),
    "no newline": (lambda d: _tiled(d).drop("model.image_newline"), "model.image_newline is missing"),
    "newline width": (lambda d: _tiled(d).reshape("model.image_newline", (63,)), "has the shape (63,), not (64,)"),
    "newline of F16": (lambda d: _tiled(d).reshape("model.image_newline", (64,), "F16"), "image_newline is F16"),
    "joined flat": (lambda d: _tiled(d).set(f"{VISION}mm_patch_merge_type", "str", "flat"), "in another way"),
    "other aspect": (lambda d: _tiled(d).set(f"{VISION}image_aspect_ratio", "str", "anyres_max_9"), "in another way"),
    "no sizes": (lambda d: _tiled(d).drop(f"{VISION}image_grid_pinpoints"), "does not say how pictures are cut"),
    "both GELU and SiLU": (
        lambda d: d.set("clip.use_gelu", "bool", 1).set("clip.use_silu", "bool", 1), "are both true",
    ),
    "no first norm": (lambda d: d.drop("v.pre_ln.weight").drop("v.pre_ln.bias"), "v.pre_ln.weight is missing"),
    "no positions": (lambda d: d.drop("v.position_embd.weight"), "v.position_embd.weight is missing"),
    "no patches": (lambda d: d.drop("v.patch_embd.weight"), "v.patch_embd.weight is missing"),
    "no query": (lambda d: d.drop("v.blk.0.attn_q.weight"), "v.blk.0.attn_q.weight is missing"),
    "no norm": (lambda d: d.drop("v.blk.1.ln2.bias"), "v.blk.1.ln2.bias is missing"),
    "no first layer": (lambda d: d.drop("mm.0.weight"), "mm.0.weight is missing"),
    "no second layer": (lambda d: d.drop("mm.2.weight"), "mm.2.weight is missing"),
    "no second bias": (lambda d: d.drop("mm.2.bias"), "mm.2.bias is missing"),
    "second layer": (lambda d: d.reshape("mm.2.weight", (32, 64)), "mm.2.weight has the shape (32, 64), not (64, 64)"),
    "no axes": (lambda d: d.reshape("v.class_embd", ()), "v.class_embd has the shape (1,)"),
    "flat layer": (lambda d: d.reshape("mm.0.weight", (32,)), "mm.0.weight has the shape (32,)"),
    "class token of F16": (lambda d: d.reshape("v.class_embd", (32,), "F16"), "v.class_embd is F16"),
    "class token": (lambda d: d.reshape("v.class_embd", (31,)), "v.class_embd has the shape (31,)"),
    "bias of F16": (lambda d: d.reshape("mm.0.bias", (64,), "F16"), "mm.0.bias is F16"),
    "positions of I32": (lambda d: d.reshape("v.position_embd.weight", (32, 17), "I32"), "position_embd.weight is I32"),
    "gate": (lambda d: d.add("v.blk.0.ffn_gate.weight", (32, 64)), "does not belong into a CLIP tower"),
    "last norm": (lambda d: d.add("v.post_ln.weight", (31,)), "v.post_ln.weight has the shape"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "words"), NO_PROJECTOR.values(), ids=NO_PROJECTOR)
def test_unsound_projectors_are_refused(tiny_pair: tuple[Path, Path], tmp_path: Path, edit: Edit, words: str) -> None:
    draft = Draft(tiny_pair[1])
    edit(draft)
    path = draft.write(tmp_path / "mmproj.gguf")
    error = refusal(lambda: check_projector(read_header(path)))
    assert words in error.why
    assert error.hint


@pytest.mark.parametrize("key", ["clip.use_gelu", "clip.use_silu"])
def test_other_activations_pass(tiny_pair: tuple[Path, Path], tmp_path: Path, key: str) -> None:
    check_projector(read_header(Draft(tiny_pair[1]).set(key, "bool", 1).write(tmp_path / "mmproj.gguf")))


@pytest.mark.parametrize("newline", ["model.image_newline", "v.image_newline"])
def test_projectors_of_llava_1_6_pass_and_llama_cpp_opens_them(
    tiny_pair: tuple[Path, Path], tmp_path: Path, newline: str
) -> None:
    path = _tiled(Draft(tiny_pair[1]), newline=newline).write(tmp_path / "mmproj.gguf")
    check_projector(read_header(path))
    assert opens(tiny_pair[0], path)


def test_square_matrices_between_which_nothing_tells_are_refused(tmp_path: Path) -> None:
    """Old converters exchanged the names of the two, and llama.cpp would exchange these back."""
    path = write_tiny_projector(tmp_path / "mmproj.gguf", TinyShape(vision_hidden=32))
    assert "nothing tells which comes first" in refusal(lambda: check_projector(read_header(path))).why


def test_a_siglip_tower_whose_layer_nobody_knows_is_refused_by_name(tmp_path: Path) -> None:
    path = write_tiny_projector(tmp_path / "mmproj.gguf", class_token=False, feature_layer=None)
    why = "a SigLIP tower of 3 layers, and nothing tells which of them is read"
    assert why == refusal(lambda: check_projector(read_header(path))).why


# Pairs


def test_swapped_files_are_told_apart(tiny_pair: tuple[Path, Path]) -> None:
    model, projector = (read_header(path) for path in tiny_pair)
    error = refusal(lambda: check_pair(projector, model))
    assert error.what == "mmproj.gguf"
    assert error.why == "that is the projector, and model.gguf is the model"
    assert error.hint == "swap --model-path and --projector-path"


def test_the_same_kind_twice_is_refused(tiny_pair: tuple[Path, Path]) -> None:
    model, projector = (read_header(path) for path in tiny_pair)
    assert "a language model, not a projector" in refusal(lambda: check_pair(model, model)).why
    assert "a projector (mmproj), not a language model" in refusal(lambda: check_pair(projector, projector)).why


def test_widths_that_differ_are_named(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_tiny_projector(tmp_path / "other.gguf", out_width=96)
    error = refusal(lambda: check_pair(read_header(tiny_pair[0]), read_header(other)))
    assert error.what == "other.gguf"
    assert error.why == "its picture embeddings are 96 wide, but model.gguf takes 64"
