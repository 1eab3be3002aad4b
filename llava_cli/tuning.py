"""Measures which way of opening a model is the fastest on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from llava_cli.fitting import Fit
from llava_cli.loading import open_llama
from llava_cli.machine import logical_cores
from llava_cli.settings import LoadOptions

_SECONDS = 110.0
"""How long it may take at most, all candidates together."""
_CELLS = 128
"""Cells that are read in one go while measuring; the rates of larger batches are in the same order."""


PICTURE_CELLS = 620
"""What a first question about a picture has to read."""


@dataclass(frozen=True)
class Trial:
    """One way of opening, and how it did."""

    options: LoadOptions
    load_seconds: float
    cells_per_second: float

    def seconds(self, cells: int) -> float:
        """Return how long loading and then reading so many cells takes."""
        return self.load_seconds + cells / self.cells_per_second


def candidates(fitted: Fit, asked: LoadOptions) -> list[LoadOptions]:
    """Return the ways worth trying, that of the table first; what was asked for is not varied."""
    table = fitted.options
    tries = [table]
    if asked.repack is None and fitted.repackable:
        tries.append(replace(table, repack=not table.repack))
    if asked.flash_attention is None and table.kv == "f16":
        tries.append(replace(table, flash_attention=False))
    if asked.threads == 0 and (logical := logical_cores()) > table.threads:
        tries.append(replace(table, threads=logical))
    return [one for one in tries if one == table or fitted.holds(one)]


def measure(path: Path, tries: list[LoadOptions], on_trial: Callable[[int, int], None] | None = None) -> list[Trial]:
    """Open the model in each way and read with it, within two minutes in all; the first is always measured."""
    end = time.monotonic() + _SECONDS
    trials: list[Trial] = []
    for number, options in enumerate(tries):
        # What comes takes about as long as what was.
        longest = max((trial.load_seconds + 2 * _CELLS / trial.cells_per_second for trial in trials), default=0.0)
        if trials and time.monotonic() + longest > end:
            break
        if on_trial is not None:
            on_trial(number + 1, len(tries))
        trials.append(_trial(path, options, (end - time.monotonic()) / (len(tries) - number)))
    return trials


def best(trials: list[Trial], cells: int) -> Trial:
    """Return the way that is soonest done with loading and reading a picture of `cells`; ties go to the table."""
    first = trials[0]
    winner = min(trials, key=lambda trial: trial.seconds(cells))
    # Less than a twentieth is noise.
    return winner if winner.seconds(cells) < 0.95 * first.seconds(cells) else first


def _trial(path: Path, options: LoadOptions, seconds: float) -> Trial:
    """Load, and read until `seconds` are over, at most three times."""
    start = time.monotonic()
    llama = open_llama(path, replace(options, context=max(512, 2 * _CELLS)), threading.Event())
    loaded = time.monotonic() - start
    tokens = [7 * n % llama.n_vocab() for n in range(_CELLS)]
    rates: list[float] = []
    try:
        while len(rates) < 3 and (not rates or time.monotonic() - start + _CELLS / rates[-1] < seconds):
            llama.reset()
            begun = time.monotonic()
            llama.eval(tokens)
            rates.append(_CELLS / (time.monotonic() - begun))
    finally:
        llama.close()
    return Trial(options, loaded, max(rates))
