"""Measure the model through the product (GGUF, llama.cpp): `python -m training.evaluate --scenes 2000`.

The scenes have seeds that training never used and the full range of picture sizes; questions out of scope
come from templates kept from training.  Greedy; an answer is right only if it is equal as a whole.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import random
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.questions import WEIGHTS, Question, ask
from training.scenes import COLOR_NAMES, Scene, draw, make_scene

FIRST_SEED = 10_000_000
TURNS = 5
KINDS = tuple(sorted(kind for kind in WEIGHTS if kind != "top_down"))  # that one only helps the training
Score = dict[str, list[float]]


def questions_for(scene: Scene, turns: int = TURNS) -> list[Question]:
    """Questions of different kinds, every kind equally often wherever the scene allows it."""
    rng = random.Random(f"evaluate {scene.seed}")
    kinds = rng.sample(KINDS, len(KINDS))
    made = (ask(scene, kind, rng, held_out=True) for kind in kinds)
    return [question for question in made if question is not None][:turns]


def attributes(text: str) -> list[str]:
    """What a description says, in order: size, colour and kind of each shape, then the background."""
    head, _, tail = text.lower().partition(" on a")
    shapes = re.findall(r"(small|large) (\w+) (\w+)", head)
    parts = [f"{place} {word}" for place, shape in enumerate(shapes) for word in shape]
    colors = [word for word in re.findall(r"\w+", tail.removeprefix("n")) if word in COLOR_NAMES]
    return parts + [f"background {place} {word}" for place, word in enumerate(colors)]


def attribute_score(answer: str, truth: str) -> float:
    """Share of the attributes that are right; missing and invented ones count against it."""
    said, true = attributes(answer), attributes(truth)
    return len(set(said) & set(true)) / max(len(said), len(true))


def picture_bytes(scene: Scene) -> bytes:
    buffer = io.BytesIO()
    draw(scene).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def record(score: Score, way: str, scene: Scene, question: Question, answer: str) -> None:
    right = float(answer.strip() == question.answer)
    names = ["all", question.kind, f"{len(scene.shapes)} shapes", f"{scene.background} background"]
    if way == "single":
        names.append("long side up to 320 px" if scene.long_side <= 320 else "long side over 320 px")
    for name in names:
        score[f"{way}/{name}"].append(right)
    if question.kind == "describe":
        score[f"{way}/attributes"].append(attribute_score(answer, question.answer))


def run(model: Any, seeds: range, single: int) -> Iterator[tuple[str, Scene, Question, str]]:
    """Ask each question by itself (`single` of them per scene), then all of them in one chat."""
    for seed in seeds:
        scene = make_scene(seed)
        questions, picture = questions_for(scene), picture_bytes(scene)
        first = seed % TURNS  # rotate, so that each place in the chat is asked alone as often
        for question in (questions[first:] + questions[:first])[:single]:
            yield "single", scene, question, str(model.ask(picture, question.text, temperature=0))
        chat = model.chat()
        for number, question in enumerate(questions):
            answer = str(chat.send(question.text, picture=picture if number == 0 else None, temperature=0))
            yield "multi", scene, question, answer


def table(score: Score) -> str:
    names = list(dict.fromkeys(name.split("/")[1] for name in score))
    order = [*WEIGHTS, "attributes", "all"]
    names = [n for n in order if n in names] + sorted(n for n in names if n not in order)
    lines = [f"{'':28} {'single':>8} {'(n)':>6} {'multi':>8} {'(n)':>6}"]
    for name in names:
        cells = []
        for way in ("single", "multi"):
            hits = score.get(f"{way}/{name}", [])
            cells.append(f"{sum(hits) / len(hits):8.1%} {len(hits):6}" if hits else f"{'':8} {0:6}")
        lines.append(f"{name:28} {' '.join(cells)}")
    return "\n".join(lines)


def measure(files: Path | None, seeds: range, single: int, errors: int, threads: int) -> Score:
    """Ask everything about the scenes of these seeds; prints up to `errors` wrong answers."""
    from llava_cli import LoadOptions, load

    model_path = projector_path = None
    if files:
        model_path, projector_path = files / "shapes-model-f16.gguf", files / "shapes-mmproj-f16.gguf"
    score: Score = defaultdict(list)
    options = LoadOptions(threads=threads, cache_size=0)
    with load("shapes", model_path=model_path, projector_path=projector_path, options=options) as model:
        for way, scene, question, answer in run(model, seeds, single):
            record(score, way, scene, question, answer)
            if errors and answer.strip() != question.answer:
                errors -= 1
                print(f"{scene.seed} {way} {question.kind}: {question.text!r}")
                print(f"  {answer!r}\n  not {question.answer!r}")
    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--first", type=int, default=FIRST_SEED)
    parser.add_argument("--single", type=int, default=TURNS, help="questions per scene asked alone")
    parser.add_argument("--files", type=Path, help="folder with the two GGUF files, if not the bundled ones")
    parser.add_argument("--errors", type=int, default=0, help="print so many wrong answers per process")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    last, step = options.first + options.scenes, options.processes
    jobs = [
        (options.files, range(start, last, step), options.single, options.errors, 1 if step > 1 else 0)
        for start in range(options.first, options.first + step)
    ]
    score: Score = defaultdict(list)
    # Fresh interpreters: llama.cpp does not like to be forked.
    with multiprocessing.get_context("spawn").Pool(step) as pool:
        for part in pool.starmap(measure, jobs):
            for name, hits in part.items():
                score[name] += hits
    print(table(score))
    print(f"{options.scenes} scenes, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
