"""Reads tensors of a GGUF file as float32, and packs float32 as Q8_0."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llava_cli.errors import ModelUnusable
from llava_cli.gguf_format import GgufHeader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Bytes = NDArray[np.uint8]


def read_tensor(header: GgufHeader, name: str) -> Floats:
    """Return a tensor as float32, shaped as numpy does it: rows first.

    Raise `ModelUnusable` for a type that is not read here: projectors of LLaVA are published in those that are.
    """
    import numpy as np

    info = header.tensors[name]
    unpack = _UNPACKERS.get(info.type)
    if unpack is None:
        raise ModelUnusable(
            header.name,
            f"the tensor {name} is {info.type}; llava reads {', '.join(_UNPACKERS)} by itself",
            hint="an f16 or Q8_0 file of the same projector can be read",
        )
    raw = np.fromfile(header.path, np.uint8, info.nbytes, offset=header.data_start + info.offset)
    if len(raw) < info.nbytes:
        raise ModelUnusable(header.name, "the file became shorter while it was read", hint="try again")
    values: Floats = unpack(raw).reshape(info.shape[::-1])
    return values


def pack_q8_0(values: Floats) -> bytes:
    """Quantise as ggml's reference does: blocks of 32, each a float16 scale and 32 signed bytes."""
    import numpy as np

    blocks = values.reshape(-1, 32)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        inverse = np.where(scales == 0, 0, 1 / scales).astype(np.float32)
    scaled = blocks * inverse
    # C's roundf goes away from zero; numpy's round would go to the even neighbour.
    whole = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)
    packed = np.concatenate([scales.astype(np.float16).view(np.uint8), whole.view(np.uint8)], axis=1)
    return packed.tobytes()


def _f32(raw: Bytes) -> Floats:
    import numpy as np

    return raw.view(np.float32)


def _f16(raw: Bytes) -> Floats:
    import numpy as np

    return raw.view(np.float16).astype(np.float32)


def _bf16(raw: Bytes) -> Floats:
    import numpy as np

    return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _q8_0(raw: Bytes) -> Floats:
    import numpy as np

    blocks = raw.reshape(-1, 34)
    return _f16(blocks[:, :2].copy()) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _nibbles(raw: Bytes) -> Bytes:
    """Split bytes into the values of a block: first all lower halves, then all upper ones."""
    import numpy as np

    return np.concatenate([raw & 15, raw >> 4], axis=1)


def _fifth_bits(raw: Bytes) -> Bytes:
    """Return the 32 bits of 4 bytes, the lowest first, each worth 16."""
    import numpy as np

    return np.unpackbits(raw, axis=1, bitorder="little") * np.uint8(16)


def _with_offset(size: int, minimum: bool, fifth: bool) -> Callable[[Bytes], Floats]:
    """Read Q4_0, Q4_1, Q5_0 or Q5_1: scale, minimum, fifth bits, nibbles, as far as the type has them."""

    def unpack(raw: Bytes) -> Floats:
        import numpy as np

        blocks, start = raw.reshape(-1, size), 4 if minimum else 2
        values = _nibbles(blocks[:, start + 4 * fifth :])
        if fifth:
            values = values | _fifth_bits(blocks[:, start : start + 4])
        scale = _f16(blocks[:, :2].copy())
        if minimum:
            return scale * values.astype(np.float32) + _f16(blocks[:, 2:4].copy())
        return scale * (values.astype(np.float32) - (16 if fifth else 8))

    return unpack


def _q6_k(raw: Bytes) -> Floats:
    import numpy as np

    blocks = raw.reshape(-1, 210)
    low, high = blocks[:, :128].reshape(-1, 2, 1, 64), blocks[:, 128:192].reshape(-1, 2, 1, 32)
    four = (low >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)) & 15
    two = (high >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)) & 3
    values = (four.reshape(-1, 2, 4, 32) | (two << 4)).reshape(-1, 16, 16).astype(np.float32) - 32
    scales = _f16(blocks[:, 208:].copy()) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return scales.reshape(-1, 16, 1) * values


_UNPACKERS: dict[str, Callable[[Any], Any]] = {
    "F32": _f32, "F16": _f16, "BF16": _bf16, "Q8_0": _q8_0, "Q6_K": _q6_k,
    "Q5_1": _with_offset(24, True, True), "Q5_0": _with_offset(22, False, True),
    "Q4_1": _with_offset(20, True, False), "Q4_0": _with_offset(18, False, False),
}  # fmt: skip
