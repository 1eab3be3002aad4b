"""Measure answers by choice through the product: `python -m training.choices`.

Questions about scenes that training never used, whose answer is yes or no, or one of the twelve colours. Two things are
asked of the probabilities: that the most probable choice is what the model writes by itself (greedy), and that they
are true: of choices with a probability of 0.9, nine out of ten should be right. How far they are from that is the
expected calibration error: the distance between probability and share of right answers in ten bins, by their size.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from training.evaluate import FIRST_SEED, picture_bytes
from training.questions import Question, ask
from training.scenes import COLOR_NAMES, Scene, make_scene

START = FIRST_SEED + 20_000
YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Decided:
    """One question with choices, and what became of it."""

    kind: str
    greedy: str
    """What the model writes by itself."""
    chosen: str
    probability: float
    is_right: bool


def questions(count: int) -> Iterator[tuple[Scene, Question, tuple[str, ...]]]:
    """Yield questions with their choices, as many about colours as with yes or no."""
    seed = START
    for number in range(count):
        while True:
            scene = make_scene(seed)
            question = ask(scene, "color" if number % 2 else "exists", random.Random(f"choices {seed}"))
            seed += 1
            if question is not None:
                yield scene, question, tuple(COLOR_NAMES) if number % 2 else YES_NO
                break


def measure(model: Any, count: int) -> list[Decided]:
    """Ask `count` questions twice, by choice and freely."""
    found = []
    for scene, question, choices in questions(count):
        picture = picture_bytes(scene)
        best = model.choose(picture, question.text, choices).best
        greedy = model.ask(picture, question.text, temperature=0).text
        found.append(Decided(question.kind, greedy, best.text, best.probability, best.text == question.answer))
    return found


def calibration_error(found: Sequence[Decided], bins: int = 10) -> float:
    """Return the expected calibration error of the chosen answers."""
    error = 0.0
    for place in range(bins):
        those = [one for one in found if min(int(one.probability * bins), bins - 1) == place]
        error += abs(sum(one.is_right - one.probability for one in those))
    return error / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    options = parser.parse_args()
    from llava_cli import LoadOptions, load

    began = time.monotonic()
    with load("shapes", options=LoadOptions(cache_size=0)) as model:
        found = measure(model, options.count)
    print(f"{'':12} {'asked':>6} {'as written':>11} {'right':>7} {'mean p':>7} {'ECE':>7}")
    for kind in ("exists", "color", "all"):
        those = [one for one in found if kind in (one.kind, "all")]
        same, right = (
            sum(values) / len(those)
            for values in zip(*((one.chosen == one.greedy, one.is_right) for one in those), strict=True)
        )
        mean = sum(one.probability for one in those) / len(those)
        print(f"{kind:12} {len(those):6} {same:11.1%} {right:7.1%} {mean:7.3f} {calibration_error(those):7.3f}")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
