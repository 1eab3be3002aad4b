"""Facts about tensors: what we read and pack is what the `gguf` package reads and packs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llava_cli.errors import ModelUnusable
from llava_cli.gguf_file import read_header
from llava_cli.gguf_tensors import pack_q8_0, read_tensor
from tests.gguf_draft import TYPE_NUMBERS, Draft

HALVES = np.array([127, *np.arange(-7.5, 8), *np.arange(-7, 8)])
"""With a scale of 1, so that some lie just between two whole numbers."""
VALUES = np.random.default_rng(1).standard_normal((3, 512)).astype(np.float32)


def raw_values(kind: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return `VALUES` packed as `kind`; for Q6_K, which gguf cannot pack, bytes drawn by chance."""
    if kind != "Q6_K":
        packed = gguf.quants.quantize(VALUES, gguf.GGMLQuantizationType[kind])
        return np.ascontiguousarray(packed).view(np.uint8).reshape(3, -1)
    raw = np.random.default_rng(2).integers(0, 256, (3, 2 * 210), dtype=np.uint8)
    raw.reshape(-1, 210)[:, 208:] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    return raw


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_every_type_is_read_as_gguf_reads_it(tiny_pair: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    raw = raw_values(kind)
    draft = Draft(tiny_pair[1]).add("wide", (512, 3), kind)
    header = read_header(draft.change("wide", data=raw.tobytes()).write(tmp_path / "a.gguf"))
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(TYPE_NUMBERS[kind]))
    assert np.array_equal(expected, read_tensor(header, "wide"))


def test_a_type_that_is_not_read_is_named(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    header = read_header(Draft(tiny_pair[1]).add("wide", (512, 3), "IQ4_XS").write(tmp_path / "a.gguf"))
    with pytest.raises(ModelUnusable, match="wide is IQ4_XS"):
        read_tensor(header, "wide")


@pytest.mark.parametrize("values", [VALUES, np.zeros((1, 32), np.float32), 1e-30 * VALUES, HALVES])
def test_q8_0_is_packed_as_gguf_packs_it(values: Any) -> None:
    values = values.astype(np.float32)
    assert gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0).tobytes() == pack_q8_0(values)
