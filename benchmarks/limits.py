"""Runs llava with less memory than this machine has: 8 and 6 GB must do for a 7B model, 4 GB be refused at once."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from benchmarks.programs import QUESTION, Setting, own_environment, picture
from benchmarks.watch import Run, drop_from_page_cache, memory_limit, watch

GB = 10**9
_NOT_ENOUGH = 6
"""llava's exit code for too little memory."""


def within_limits(setting: Setting) -> list[str]:
    """Ask about a new picture with 8, 6 and 4 GB of memory, and return a sentence about each."""
    said = []
    with tempfile.TemporaryDirectory(prefix="llava-limits-") as name:
        for gigabytes in (8, 6, 4):
            home = Path(name) / str(gigabytes)
            home.mkdir()
            for path in (setting.model, setting.projector):
                # Pages that are there already would be charged to nobody.
                drop_from_page_cache(path)
            with memory_limit(gigabytes * GB) as (kind, prefix):
                command = [*prefix, *setting.llava(picture(home, gigabytes), QUESTION, 16)]
                run = watch(command, own_environment(home))
            said.append(f"{gigabytes} GB ({kind}): {sentence(run)}")
    return said


def sentence(run: Run) -> str:
    """Say how a limited run ended."""
    said = re.sub(r" /sys/fs/cgroup\S*", "", " ".join(run.stderr.split()))
    if run.code == 0:
        return f"answered; first token after {run.first_word:.1f} s, the files read from disk"
    if run.code == _NOT_ENOUGH:
        return f"refused in {run.seconds:.2f} s: {said}"
    return f"**failed** with {run.code} after {run.seconds:.1f} s: {said[-300:]}"
