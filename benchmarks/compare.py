"""Measure llava against what else runs LLaVA on llama.cpp, on one machine in one go.

    python -m benchmarks.build_peers /tmp/peers
    python -m benchmarks.make_random_llava /tmp/random-llava
    python -m benchmarks.compare /tmp/random-llava --peers /tmp/peers/bin --out /tmp/figures

Every round runs each program once, one after the other, on a picture none of them has seen, so that a machine that
slows down slows all of them down. Figures that OUT has already stay: rounds are added to them, `--parts` runs only
some of it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine, results
from benchmarks.limits import within_limits
from benchmarks.predictions import predictions
from benchmarks.programs import (
    BEST_FLAGS,
    OTHER,
    QUESTION,
    Setting,
    llama_bench_speed,
    llava_stats,
    own_environment,
    picture,
)
from benchmarks.watch import Run, bring_into_page_cache, watch

_FEW, _MANY = 16, 64
"""Tokens of an answer: where only its first is timed, and where the speed of writing is."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="directory with model.gguf and mmproj.gguf")
    parser.add_argument("--peers", type=Path, required=True, help="directory with llama-mtmd-cli and llama-bench")
    parser.add_argument("--out", type=Path, required=True, help="directory for figures.json and figures.md")
    parser.add_argument("--repeat", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--stock", type=int, help="rounds with the stock handler, the slowest of all (default: all)")
    parser.add_argument("--smaller", type=Path, nargs="*", default=[], help="more models, for the predictions")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--parts", default="rounds,limits,predictions")
    chosen = parser.parse_args()
    setting = Setting(chosen.model / "model.gguf", chosen.model / "mmproj.gguf", chosen.peers, chosen.threads)
    chosen.out.mkdir(parents=True, exist_ok=True)
    figures = Figures(chosen.out)
    parts: dict[str, Callable[[], None]] = {
        "rounds": lambda: rounds(
            setting, chosen.repeat, chosen.repeat if chosen.stock is None else chosen.stock, figures
        ),
        "limits": lambda: figures.put("limits", within_limits(setting)),
        "predictions": lambda: figures.put("predictions", predictions([chosen.model, *chosen.smaller], chosen.threads)),
    }
    for part in chosen.parts.split(","):
        parts[part]()
    print(figures.text())


class Figures:
    """What was measured, on disk after each step: a long run that is broken off keeps what it has."""

    def __init__(self, directory: Path) -> None:
        self._json, self._markdown = directory / "figures.json", directory / "figures.md"
        self._data: dict[str, Any] = json.loads(self._json.read_text()) if self._json.exists() else {}

    @property
    def samples(self) -> dict[str, list[float]]:
        """Return what was measured in rounds so far."""
        return dict(self._data.get("samples", {}))

    def put(self, key: str, value: Any) -> None:
        self._data |= {key: value, "date": datetime.now(UTC).date().isoformat(), "machine": machine.describe()}
        self._json.write_text(json.dumps(self._data, indent=1, ensure_ascii=False) + "\n")
        self._markdown.write_text(self.text())

    def text(self) -> str:
        """Return all of it for people, as Markdown."""
        said = [f"{self._data['date']}; " + "; ".join(f"{k}: {v}" for k, v in self._data["machine"].items()) + "\n"]
        said += [results.markdown(results.rows(self._data.get("samples", {})))]
        said += [f"- {line}\n" for key in ("limits", "predictions") for line in self._data.get(key, ())]
        if (bandwidth := self._data.get("bandwidth")) and (size := self._data.get("model bytes")):
            said.append(
                f"- memory is read at {bandwidth / 1e9:.1f} GB/s (all cores), so no program can write more than "
                f"{bandwidth / size:.1f} tokens/s with these weights\n"
            )
        return "\n".join(said)


def rounds(setting: Setting, repeat: int, stock: int, figures: Figures) -> None:
    """Run every program once a round, the stock handler in the first `stock` of them; add to what OUT has."""
    figures.put("bandwidth", machine.read_bandwidth())
    figures.put("model bytes", setting.model.stat().st_size)
    for path in (setting.model, setting.projector):
        bring_into_page_cache(path)
    samples = figures.samples
    with tempfile.TemporaryDirectory(prefix="llava-compare-") as name:
        home = Path(name)
        for number in range(repeat):
            for measured in one_round(setting, picture(home, number), home, with_stock=number < stock):
                for key, value in measured.items():
                    samples.setdefault(key, []).append(value)
                figures.put("samples", samples)
            print(f"round {number + 1} of {repeat}\n{figures.text()}", flush=True)


def one_round(setting: Setting, seen: Path, home: Path, *, with_stock: bool) -> Iterator[dict[str, float]]:
    """Run every program once on the picture `seen`, and yield what was measured."""
    ours = own_environment(home)
    run = must(setting.mtmd_cli(seen, _FEW))
    yield {"mtmd defaults": run.first_word, "mtmd peak": run.peak, "mtmd anonymous": run.peak_anonymous}
    run = must(setting.llava(seen, QUESTION, _FEW), ours)
    yield {"llava new": run.first_word, "llava peak": run.peak, "llava anonymous": run.peak_anonymous}
    run = must(setting.mtmd_cli(seen, _FEW, *BEST_FLAGS))
    yield {"mtmd best": run.first_word, "mtmd best peak": run.peak, "mtmd best anonymous": run.peak_anonymous}
    run = must(setting.llava(seen, OTHER, _MANY), ours)
    stats = llava_stats(run.stderr)
    yield {"llava known": run.first_word, "llava speed": stats.tokens_per_second}
    run = must(setting.llama_bench(stats.reused + stats.new, _MANY))
    yield {"bench speed": llama_bench_speed(run.stdout)}
    twice = json.loads(must(setting.ask_twice("llava", seen), ours).stdout)
    yield {"llava second": twice["second"]}
    if with_stock:
        twice = json.loads(must(setting.ask_twice("stock", seen)).stdout)
        yield {"stock first": twice["first"], "stock second": twice["second"]}


def must(command: list[str], environment: dict[str, str] | None = None) -> Run:
    """Run `command`, which must succeed and say something."""
    run = watch(command, environment)
    if run.code != 0 or not run.first_word:
        raise RuntimeError(f"{' '.join(command)}\nended with {run.code}: {run.stderr[-2000:]}")
    return run


if __name__ == "__main__":
    main()
