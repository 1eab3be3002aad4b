"""Knows how GGUF stores things: the types of values and tensors, and the records a header is read into."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCALARS = {
    0: "u8", 1: "i8", 2: "u16", 3: "i16", 4: "u32", 5: "i32", 6: "f32", 7: "bool", 10: "u64", 11: "i64", 12: "f64",
}  # fmt: skip
FORMATS = {
    "u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "b",
    "u64": "Q", "i64": "q", "f64": "d",
}  # fmt: skip
STRING, ARRAY = 8, 9

TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip
"""ggml's number of a tensor type → its name, elements per block, bytes per block."""


@dataclass(frozen=True)
class GgufArray:
    """An array of the metadata, decoded only when asked for."""

    item_type: str
    length: int
    _raw: memoryview = field(repr=False)

    def values(self) -> tuple[Any, ...]:
        """Decode every item; strings stay bytes, since nobody promises that a token is UTF-8."""
        if self.item_type != "str":
            return struct.unpack(f"<{self.length}{FORMATS[self.item_type]}", self._raw)
        raw, position, items = bytes(self._raw), 0, []
        for _ in range(self.length):
            start = position + 8
            position = start + int.from_bytes(raw[position:start], "little")
            items.append(raw[start:position])
        return tuple(items)


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is and how it is stored. `shape` has the fastest axis first; `offset` counts from `data_start`."""

    shape: tuple[int, ...]
    type: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class GgufHeader:
    """Everything a GGUF file says about itself."""

    path: Path
    version: int
    metadata: Mapping[str, str | int | float | bool | GgufArray]
    types: Mapping[str, str]
    """Type of each metadata value: `u32`, `f32`, `bool`, `str` …, and `i32[]` for an array."""
    tensors: Mapping[str, TensorInfo]
    alignment: int
    data_start: int
    file_size: int
    raw: bytes = field(repr=False)
    """The bytes of the header: everything before the padding that leads to `data_start`."""
    spans: Mapping[str, tuple[int, int]] = field(repr=False)
    """Where in `raw` each key with its value lies; the tensor list begins where the last one ends."""

    @property
    def name(self) -> str:
        return self.path.name


def pack_value(key: str, kind: str, value: Any) -> bytes:
    """Return the bytes of one metadata entry, `kind` as in `GgufHeader.types`."""
    codes = {name: code for code, name in SCALARS.items()} | {"str": STRING}
    item = kind.removesuffix("[]")

    def text(string: str | bytes) -> bytes:
        raw = string.encode() if isinstance(string, str) else string
        return struct.pack("<Q", len(raw)) + raw

    items = value if kind.endswith("[]") else [value]
    packed = b"".join(text(one) if item == "str" else struct.pack(f"<{FORMATS[item]}", one) for one in items)
    start = struct.pack("<I", codes[item])
    if kind.endswith("[]"):
        start = struct.pack("<IIQ", ARRAY, codes[item], len(items))
    return text(key) + start + packed


def pack_tensor(name: str, tensor: TensorInfo) -> bytes:
    """Return the bytes of one entry of the tensor list."""
    number = next(number for number, (kind, _, _) in TENSOR_TYPES.items() if kind == tensor.type)
    raw, axes = name.encode(), len(tensor.shape)
    return struct.pack(f"<Q{len(raw)}sI{axes}qIQ", len(raw), raw, axes, *tensor.shape, number, tensor.offset)
