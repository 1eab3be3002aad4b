"""Compares the memory that llava predicts from two headers with what it then takes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmarks.programs import QUESTION, Setting, own_environment, picture
from benchmarks.watch import watch

CONTEXTS, KV_TYPES = (2048, 4096), ("f16", "q8_0")
ALLOWED = 0.1


def predictions(models: Sequence[Path], threads: int) -> list[str]:
    """Ask each model about a new picture with every context and KV type, and return a sentence about each."""
    said = []
    with tempfile.TemporaryDirectory(prefix="llava-predictions-") as name:
        for number, (model, context, kv) in enumerate(product(models, CONTEXTS, KV_TYPES)):
            setting = Setting(model / "model.gguf", model / "mmproj.gguf", Path(), threads)
            home = Path(name) / str(number)
            home.mkdir()
            options = ("--context", str(context), "--kv", kv)
            run = watch(setting.llava(picture(home, number), QUESTION, 8, *options), own_environment(home))
            if run.code != 0:
                raise RuntimeError(run.stderr)
            size = setting.model.stat().st_size
            what = sentence(predicted(setting, context, kv), run.peak)
            said.append(f"model of {size / 1e9:.1f} GB, context {context}, KV {kv}: {what}")
    return said


def predicted(setting: Setting, context: int, kv: str) -> int:
    """Return the peak that `llava doctor` tells of, in bytes."""
    from llava_cli import LoadOptions, registry
    from llava_cli.fitting import fit
    from llava_cli.weights import open_weights

    spec = registry.from_files(setting.model, setting.projector, "llava_v1")
    return fit(spec, open_weights(spec), LoadOptions(context=context, kv=kv)).plan.peak


def sentence(expected: int, measured: int) -> str:
    """Say how far a prediction is from what was measured."""
    off = expected / measured - 1
    verdict = "" if abs(off) <= ALLOWED else ", **too far**"
    return f"predicted {expected / 1e9:.2f} GB, measured {measured / 1e9:.2f} GB ({off:+.1%}{verdict})"
