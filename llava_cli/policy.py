"""Decides how a model is opened on this machine: what was asked for, else what was measured here, else a table.

The table is from measurements of a 7B model (benchmarks): on x86 this llama.cpp reads prompts faster without repacked
weights; on ARM with dot products repacking makes reading about twice as fast, and loading slower by copying once.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava_cli import private_files
from llava_cli.gguf_file import file_identity
from llava_cli.machine import logical_cores, physical_cores, processor
from llava_cli.settings import LoadOptions, data_dir

_BATCH, _LARGEST_BATCH = 640, 1152
"""A picture of LLaVA-1.5 has 576 cells. Larger batches than these cost memory and save nothing."""
_BATCH_STEP = 64
_WINNERS_KEPT = 40

CHOICES = ("threads", "ubatch", "repack", "flash_attention")
"""The options that are chosen here unless they were asked for."""


def choose(options: LoadOptions, square: int, measured: Mapping[str, Any] | None = None) -> LoadOptions:
    """Return `options` with every choice of this room made; `square` is how many cells a square picture takes."""
    unmade = {name: value for name, value in _table(square).items() if _is_open(getattr(options, name))}
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


def remember(path: Path, winner: LoadOptions, asked: LoadOptions) -> bool:
    """Keep the choices that `asked` left open for this file, library and processor; False if they cannot be kept."""
    known = private_files.read_table(_winners())
    entry = {name: getattr(winner, name) for name in CHOICES if _is_open(getattr(asked, name))} | {"used": time.time()}
    table = sorted({**known, _key(path): entry}.items(), key=_when, reverse=True)[:_WINNERS_KEPT]
    return private_files.write_table(_winners(), dict(table))


def recall(path: Path) -> dict[str, Any]:
    """Return the choices that won for this file here; none if nothing was measured, or something has changed."""
    entry = private_files.read_table(_winners()).get(_key(path))
    return dict(_sound(entry)) if isinstance(entry, dict) else {}


def _sound(entry: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in entry.items():
        if name in ("repack", "flash_attention") and isinstance(value, bool):
            yield name, value
        if name == "threads" and type(value) is int and 1 <= value <= 4 * logical_cores():
            yield name, value
        if name == "ubatch" and type(value) is int and 32 <= value <= 4096:
            yield name, value


def _when(item: tuple[str, Any]) -> float:
    used = item[1].get("used") if isinstance(item[1], dict) else None
    return float(used) if isinstance(used, int | float) else 0.0


def _winners() -> Path:
    return data_dir() / "tuned.json"


def _key(path: Path) -> str:
    version = importlib.metadata.version("llama-cpp-python")
    facts = (file_identity(path, time.time_ns()), version, processor(), physical_cores())
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]


def _table(square: int) -> dict[str, Any]:
    features = cpu_features()
    return {
        "threads": physical_cores(),
        "ubatch": _batch_for(square),
        "repack": "AVX2" not in features and bool(repacked_types(features)),
        "flash_attention": True,
    }


def _batch_for(square: int) -> int:
    """Return a batch that takes a whole square, if that is not larger than pays."""
    wanted = -(-(square + 1) // _BATCH_STEP) * _BATCH_STEP
    return max(_BATCH, wanted) if wanted <= _LARGEST_BATCH else _BATCH


def _is_open(value: object) -> bool:
    return value is None or (value == 0 and value is not False)
