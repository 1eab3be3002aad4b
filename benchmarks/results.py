"""Turns what was measured into the rows of the table: medians, ratios, targets met or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Samples = Mapping[str, Sequence[float]]
"""What was measured, one number per round: seconds, bytes or tokens per second."""


@dataclass(frozen=True)
class Row:
    """One row of the table: our figure, the one it is compared with, and what must be reached."""

    name: str
    ours: str
    theirs: str
    ratio: str
    target: str
    met: bool


@dataclass(frozen=True)
class _Comparison:
    name: str
    ours: str
    theirs: str
    unit: str
    target: float
    at_least: bool = False


_COMPARISONS = (
    _Comparison(
        "first token, new picture, from process start; `llama-mtmd-cli`, defaults",
        "llava new", "mtmd defaults", "s", 0.55,
    ),
    _Comparison("the same; its best flags", "llava new", "mtmd best", "s", 1.0),
    _Comparison(
        "first token of the second question, same process; stock `Llava15ChatHandler`",
        "llava second", "stock second", "s", 1 / 20,
    ),
    _Comparison(
        "first token of the second question, new process; `llama-mtmd-cli`, defaults",
        "llava known", "mtmd defaults", "s", 1 / 10,
    ),
    _Comparison("the same; its best flags", "llava known", "mtmd best", "s", 1 / 6),
    _Comparison(
        "writing; `llama-bench`, same depth and settings",
        "llava speed", "bench speed", "tokens/s", 0.97, at_least=True,
    ),
    _Comparison("most memory resident; `llama-mtmd-cli`, defaults", "llava peak", "mtmd peak", "GB", 0.6),
)  # fmt: skip


def rows(samples: Samples) -> list[Row]:
    """Return a row for each comparison whose two sides were measured, and for each bound on memory."""
    found = []
    for one in _COMPARISONS:
        if not (samples.get(one.ours) and samples.get(one.theirs)):
            continue
        ours, theirs = median(samples[one.ours]), median(samples[one.theirs])
        ratio = ours / theirs
        met = ratio >= one.target if one.at_least else ratio <= one.target
        found.append(
            Row(
                one.name, _spread(samples[one.ours], one.unit), _spread(samples[one.theirs], one.unit),
                _ratio(ratio), f"{'≥' if one.at_least else '≤'} {_ratio(one.target)}", met,
            )
        )  # fmt: skip
    for name, key, most in (
        ("most memory resident", "llava peak", 5.3e9),
        ("most of it anonymous", "llava anonymous", 2.0e9),
    ):
        if samples.get(key):
            met = median(samples[key]) <= most
            found.append(Row(name, _spread(samples[key], "GB"), "", "", f"≤ {most / 1e9:.1f} GB", met))
    return found


def _ratio(value: float) -> str:
    return f"1/{1 / value:.0f}" if value < 0.2 else f"{value:.2f}"


def _spread(values: Sequence[float], unit: str) -> str:
    """Write the median, and the smallest and largest behind it."""
    scale = 1e9 if unit == "GB" else 1.0
    low, middle, high = (f"{value / scale:.2f}" for value in (min(values), median(values), max(values)))
    return f"{middle} {unit}" if len(values) == 1 else f"{middle} {unit} ({low} to {high})"


def markdown(table: Iterable[Row]) -> str:
    """Write rows as a Markdown table."""
    lines = ["| what; against | llava | the other | ratio | must reach | |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.name} | {row.ours} | {row.theirs or '-'} | {row.ratio or '-'} | {row.target} "
        f"| {'reached' if row.met else '**missed**'} |"
        for row in table
    ]
    return "\n".join(lines) + "\n"
