"""Refuses model files that llama.cpp would die of, or answer wrongly with; only headers are looked at.

Many of these faults end the whole process inside llama.cpp (a failed assertion, a null pointer) instead of
giving an error: measured with llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any, NoReturn

from llava_cli.errors import ModelUnusable
from llava_cli.gguf_format import GgufArray, GgufHeader
from llava_cli.gguf_projector import MATRIX_TYPES, check_projector, embedding_width

_ANOTHER_FILE = "take the file from another source, or convert the model again with a newer llama.cpp"
_SWAP = "swap --model-path and --projector-path"

_PER_BLOCK = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
_VOCABULARIES = ("llama", "gpt2")
"""SentencePiece and byte-level BPE: llama.cpp's names for the two kinds that LLaVA models have."""


def check_pair(model: GgufHeader, projector: GgufHeader) -> None:
    """Raise `ModelUnusable` unless both files are sound, each is what it should be, and they fit each other."""
    if is_projector(model) and not is_projector(projector):
        raise ModelUnusable(model.name, f"that is the projector, and {projector.name} is the model", hint=_SWAP)
    check_model(model)
    if not is_projector(projector):
        hint = "the projector is the file with mmproj in its name"
        raise ModelUnusable(projector.name, "a language model, not a projector", hint=hint)
    check_projector(projector)
    wanted = int(model.metadata[f"{_architecture(model)}.embedding_length"])  # type: ignore[arg-type]
    given = embedding_width(projector)
    if given != wanted:
        raise ModelUnusable(
            projector.name,
            f"its picture embeddings are {given} wide, but {model.name} takes {wanted}",
            hint="use the projector (mmproj) that was published together with this model",
        )


def is_projector(header: GgufHeader) -> bool:
    """Tell whether the file holds a vision tower rather than a language model."""
    return header.metadata.get("general.architecture") == "clip" or "clip.has_vision_encoder" in header.metadata


def check_model(header: GgufHeader) -> None:
    """Raise `ModelUnusable` unless llama.cpp can safely open the file as a language model."""
    if is_projector(header):
        raise ModelUnusable(
            header.name, "a projector (mmproj), not a language model", hint="it belongs to --projector-path"
        )
    _check_split(header)
    arch = _architecture(header)
    width = _number(header, f"{arch}.embedding_length", 1, 1 << 20)
    blocks = _number(header, f"{arch}.block_count", 1, 512)
    # llama.cpp's loading time grows with it: a minute for 2**31.
    _number(header, f"{arch}.context_length", 1, 1 << 24)
    _check_sizes(header, arch)
    for key, kind in header.types.items():
        # llama.cpp asserts it, as a number below zero or none at all would make every state one.
        if key.endswith(("layer_norm_rms_epsilon", "layer_norm_epsilon")):
            value = header.metadata[key]
            if kind != "f32" or not isinstance(value, float) or not 0 <= value < 1:
                _refuse(header, f"{key} is {value}, not a small positive number")
    scaling = header.metadata.get(f"{arch}.rope.scaling.type", "none")
    if scaling not in ("none", "linear", "yarn", "longrope"):
        _refuse(header, f"{arch}.rope.scaling.type is {scaling!r}, which llama.cpp does not know")
    if _optional(header, f"{arch}.nextn_predict_layers") > blocks:
        _refuse(header, f"{arch}.nextn_predict_layers is more than its {blocks} blocks")
    _check_experts(header, arch)
    tokens = _check_vocabulary(header)
    _check_tensors(header, width=width, blocks=blocks, tokens=tokens)


def _refuse(header: GgufHeader, why: str, hint: str = _ANOTHER_FILE) -> NoReturn:
    raise ModelUnusable(header.name, why, hint=hint)


def _architecture(header: GgufHeader) -> str:
    arch = header.metadata.get("general.architecture")
    if not isinstance(arch, str) or not arch:
        _refuse(header, "it does not say what it is (general.architecture is missing)")
    return arch


def _check_split(header: GgufHeader) -> None:
    pieces = header.metadata.get("split.count", 0)
    if pieces not in (0, 1):
        _refuse(
            header,
            f"one of {pieces} pieces of a split model; llava reads whole files",
            hint="join them: llama-gguf-split --merge FIRST-PIECE.gguf WHOLE.gguf",
        )


def _number(header: GgufHeader, key: str, least: int, most: int) -> int:
    if key not in header.types:
        _refuse(header, f"the key {key} is missing")
    value = header.metadata[key]
    if header.types[key] != "u32" or not isinstance(value, int):
        _refuse(header, f"the key {key} is of type {header.types[key]}, not u32")
    if not least <= value <= most:
        _refuse(header, f"{key} is {value:,}; it must be from {least:,} to {most:,}")
    return value


def _optional(header: GgufHeader, key: str) -> int:
    """Return a number that may be absent (0), or given per layer (the largest)."""
    value: Any = header.metadata.get(key, 0)
    if isinstance(value, GgufArray):
        value = max(value.values(), default=0)
    if not isinstance(value, int):
        _refuse(header, f"the key {key} is of type {header.types[key]}, not a whole number")
    return value


def _check_sizes(header: GgufHeader, arch: str) -> None:
    """Look at the sizes that the memory is planned from; some may be given for each block."""
    for name in (*_PER_BLOCK, "attention.key_length", "attention.value_length"):
        value: Any = header.metadata.get(f"{arch}.{name}", 0)
        values = value.values() if isinstance(value, GgufArray) and name in _PER_BLOCK else [value]
        if not all(isinstance(one, int) and 0 <= one <= 1 << 24 for one in values):
            _refuse(header, f"{arch}.{name} is no size")


def _check_experts(header: GgufHeader, arch: str) -> None:
    experts, used = _optional(header, f"{arch}.expert_count"), _optional(header, f"{arch}.expert_used_count")
    groups, of_them = (_optional(header, f"{arch}.expert_group_{what}count") for what in ("", "used_"))
    sound = (0 < used <= experts <= 1024) if experts else used == groups == 0
    if groups > 1:
        sound = sound and groups < experts and experts % groups == 0 and 0 < of_them < groups
    if not sound:
        _refuse(header, f"its numbers of experts contradict each other ({used} of {experts}, {of_them} of {groups})")


def _check_vocabulary(header: GgufHeader) -> int:
    """Return the number of tokens."""
    kind = header.metadata.get("tokenizer.ggml.model")
    if kind not in _VOCABULARIES:
        has = "no vocabulary" if kind is None else f"a vocabulary of the kind {kind!r}"
        _refuse(header, f"it has {has}; LLaVA models have one of the kind {' or '.join(_VOCABULARIES)}")
    raw = _array(header, "tokenizer.ggml.tokens", ("str[]",))
    for key, types in (("scores", ("f32[]", "i32[]")), ("token_type", ("i32[]",))):
        if f"tokenizer.ggml.{key}" in header.types and len(_array(header, f"tokenizer.ggml.{key}", types)) < len(raw):
            _refuse(header, f"tokenizer.ggml.{key} is shorter than its {len(raw):,} tokens")
    # As llama.cpp reads them: C strings, with a name made up for an empty one.
    tokens = [text.split(b"\0")[0] or b"[EMPTY_%d]" % number for number, text in enumerate(raw)]
    if len(set(tokens)) < len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        _refuse(header, f"the token {twice.decode(errors='replace')!r} is in its vocabulary twice")
    if kind == "llama":
        known = set(tokens)
        missing = [n for n in range(256) if b"<0x%02X>" % n not in known and bytes([n]) not in known]
        # Text with such a byte in it would end the process.
        if missing:
            _refuse(header, f"its vocabulary has no token for the byte 0x{missing[0]:02X} ({len(missing)} are missing)")
    elif "tokenizer.ggml.merges" not in header.types:
        _refuse(header, "its vocabulary has no merges (tokenizer.ggml.merges is missing)")
    return len(tokens)


def _array(header: GgufHeader, key: str, types: tuple[str, ...]) -> tuple[Any, ...]:
    value = header.metadata.get(key)
    if not isinstance(value, GgufArray):
        _refuse(header, f"the array {key} is missing")
    if header.types[key] not in types:
        _refuse(header, f"the array {key} is of type {header.types[key]}, not {' or '.join(types)}")
    return value.values()


def _check_tensors(header: GgufHeader, *, width: int, blocks: int, tokens: int) -> None:
    for name, shape in (("token_embd.weight", (width, tokens)), ("output_norm.weight", (width,))):
        if name not in header.tensors:
            _refuse(header, f"the tensor {name} is missing")
        if header.tensors[name].shape != shape:
            _refuse(header, f"the tensor {name} has the shape {header.tensors[name].shape}, not {shape}")
    present = {int(found[1]) for name in header.tensors if (found := re.match(r"blk\.(\d{1,4})\.", name))}
    if absent := sorted(set(range(blocks)) - present):
        _refuse(header, f"the block {absent[0]} of {blocks} is missing")
    for name, tensor in header.tensors.items():
        # One axis: norms, biases and factors, which llama.cpp only ever adds or multiplies as float32.
        if math.prod(tensor.shape[1:]) == 1 and tensor.type != "F32":
            _refuse(header, f"the tensor {name} is {tensor.type}; llama.cpp needs F32 there")
        if tensor.type not in MATRIX_TYPES:
            _refuse(header, f"the tensor {name} is {tensor.type}, which llama.cpp cannot multiply with")
