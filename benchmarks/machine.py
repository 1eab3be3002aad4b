"""Says what machine this is, as far as figures depend on it, and measures how fast it reads memory."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import numpy as np

_ARRAY = 1 << 30
"""Bytes: no cache holds that much."""


def describe() -> dict[str, str]:
    """Return processor, cores, memory, llama.cpp's build flags and versions. No names of hosts or people."""
    import llama_cpp

    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", info, flags=re.MULTILINE)
    flags = llama_cpp.llama_print_system_info().decode()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model[1] if model else os.uname().machine,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 2**30:.0f} GiB",
        "llama-cpp-python": llama_cpp.__version__,
        "llama.cpp on": ", ".join(re.findall(r"(\w+) = 1", flags)),
    }


def read_bandwidth(repeat: int = 5) -> float:
    """Return how many bytes per second all cores together read from memory: the best of some passes over 1 GiB.

    A token cannot be written faster than all weights are read once.
    """
    array = np.ones(_ARRAY // 4, dtype=np.float32)
    best = float("inf")
    for _ in range(repeat):
        begun = time.monotonic()
        np.dot(array, array)  # BLAS runs it on all cores, and it reads far more than it computes
        best = min(best, time.monotonic() - begun)
    return _ARRAY / best
