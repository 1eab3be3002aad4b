"""Decides how a model is opened on this machine: what was asked for, else what was measured here, else a table.

The table is from measurements of a 7B model (benchmarks): on x86 this llama.cpp reads prompts faster without repacked
weights; on ARM with dot products repacking makes reading about twice as fast, and loading slower by copying once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from llava_cli.gguf_format import GgufHeader
from llava_cli.machine import physical_cores
from llava_cli.settings import LoadOptions

_BATCH, _LARGEST_BATCH = 640, 1152
"""A picture of LLaVA-1.5 has 576 cells. Larger batches than these cost memory and save nothing."""
_BATCH_STEP = 64

CHOICES = ("threads", "ubatch", "repack", "flash_attention")
"""The options that are chosen here unless they were asked for."""


def choose(options: LoadOptions, projector: GgufHeader, measured: Mapping[str, Any] | None = None) -> LoadOptions:
    """Return `options` with every choice made."""
    unmade = {name: value for name, value in _table(projector).items() if _is_open(getattr(options, name))}
    found = {name: value for name, value in (measured or {}).items() if name in unmade}
    return replace(options, **{**unmade, **found})


def repacked_types(features: Collection[str]) -> tuple[str, ...]:
    """Return the tensor types llama.cpp repacks on a processor with `features` (`repack.cpp`)."""
    if "REPACK" not in features:
        return ()
    if "DOTPROD" in features or "MATMUL_INT8" in features:
        return "Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4"
    if "AVX2" in features:
        return "Q4_0", "Q4_K", "IQ4_NL", "MXFP4", *(("Q2_K",) if "AVX512" in features else ())
    return ()


def cpu_features() -> frozenset[str]:
    """Return what the installed llama.cpp was built with and finds here: `AVX2`, `NEON`, `DOTPROD`, `REPACK` …"""
    from llama_cpp import llama_cpp as c

    text = c.llama_print_system_info().decode("ascii", "replace")
    pairs = (part.rpartition(":")[2].partition("=") for part in text.split("|"))
    return frozenset(name.strip() for name, _, value in pairs if value.strip() not in ("", "0"))


def _table(projector: GgufHeader) -> dict[str, Any]:
    features = cpu_features()
    return {
        "threads": physical_cores(),
        "ubatch": _batch_for(projector),
        "repack": "AVX2" not in features and bool(repacked_types(features)),
        "flash_attention": True,
    }


def _batch_for(projector: GgufHeader) -> int:
    """Return a batch that takes a whole picture, if it is not larger than pays."""
    get: Any = projector.metadata.get
    tokens = (int(get("clip.vision.image_size")) // int(get("clip.vision.patch_size"))) ** 2
    wanted = -(-(tokens + 1) // _BATCH_STEP) * _BATCH_STEP
    return max(_BATCH, wanted) if wanted <= _LARGEST_BATCH else _BATCH


def _is_open(value: object) -> bool:
    return value is None or (value == 0 and value is not False)
