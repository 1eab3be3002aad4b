"""Remembers how long loading, looking and reading took on this machine, to say how long they will take."""

from __future__ import annotations

import hashlib
import math
import time
from pathlib import Path
from typing import Any

from llava_cli import private_files
from llava_cli.settings import LoadOptions, cache_dir

_MOST = 60
"""Rates that are kept, the latest of use."""
_LEAST = {"loading": 1, "looking": 1, "reading": 48}
"""How much there must be to do for a rate to be learnt; a few cells take as long as one."""


class Amount(int):
    """How much there is to do, and how many seconds that should take; 0 if nobody knows."""

    seconds: float

    def __new__(cls, amount: int, seconds: float = 0.0) -> Amount:
        made = super().__new__(cls, amount)
        made.seconds = seconds
        return made


class Rates:
    """Seconds per load, per picture and per cell of one model, opened in one way."""

    def __init__(self, model: Path, projector: Path, options: LoadOptions, path: Path | None = None) -> None:
        self._path = path or cache_dir() / "rates.json"
        how = (options.threads, options.ubatch, options.flash_attention, options.repack, options.kv)
        self._keys = {
            "loading": _key(model, options.repack, options.context, options.kv),
            "looking": _key(projector, options.threads),
            "reading": _key(model, *how),
        }
        self._known = _read(self._path)
        self._learnt: dict[str, dict[str, float]] = {}

    def expected(self, stage: str, amount: int = 1) -> float:
        """Return the seconds a stage should take, 0 if that is not known; `amount` is of pictures, or cells to read."""
        rate = self._known.get(self._keys.get(stage, ""))
        return rate["seconds"] * amount if rate else 0.0

    def learn(self, stage: str, amount: int, seconds: float) -> None:
        """Note what a stage took, for the next time."""
        if amount < _LEAST[stage] or seconds <= 0:
            return
        key, each = self._keys[stage], seconds / amount
        before = self._known.get(key)
        # Machines are busy now and then: half of what was known stays.
        value = each if before is None else (each + before["seconds"]) / 2
        self._known[key] = self._learnt[key] = {"seconds": value, "used": time.time()}

    def save(self) -> None:
        """Write down what was learnt since, beside what other processes have; nothing here ever fails an answer."""
        if not self._learnt:
            return
        rates = {**_read(self._path), **self._learnt}
        latest = sorted(rates.items(), key=lambda item: item[1]["used"], reverse=True)[:_MOST]
        self._learnt = {}
        private_files.write_table(self._path, dict(latest))


def _key(path: Path, *how: object) -> str:
    try:
        status = path.stat()
        facts = (str(path.resolve()), status.st_size, status.st_mtime_ns, *how)
    except OSError:
        facts = (str(path), *how)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]


def _read(path: Path) -> dict[str, dict[str, float]]:
    """Return the rates in a file that may hold anything."""
    return {key: rate for key, rate in private_files.read_table(path).items() if _is_rate(rate)}


def _is_rate(rate: Any) -> bool:
    return (
        isinstance(rate, dict)
        and set(rate) == {"seconds", "used"}
        and all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in rate.values())
        and 0 < rate["seconds"] < 1e6
    )
