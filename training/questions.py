"""Questions about a scene and their one right answer.

Answers to short questions are lower-case and without a full stop, so that they can be scored as choices; only
the description and the sentence for everything out of scope are whole sentences.  A question is asked only if
its answer is beyond doubt: shapes are named by what makes them unique, and comparisons need a clear margin.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from training import wording
from training.other import SORRY, out_of_scope
from training.outlines import KINDS
from training.scenes import COLOR_NAMES, MIN_STEP, SIZES, Scene, Shape
from training.wording import join, plural, say, vary, with_article

CLEAR = 0.10  # smallest difference, in long sides, that we call left, right, above or below
Answered = tuple[str, str]


@dataclass(frozen=True)
class Question:
    """What is asked and what must be answered; `kind` is one of `WEIGHTS`."""

    kind: str
    text: str
    answer: str


def ask_color(scene: Scene, rng: random.Random) -> Answered | None:
    options = [(name, shape.color) for shape in scene.shapes if (name := colorless_name(scene, shape))]
    if len(scene.shapes) == 1:
        options += [(name, scene.shapes[0].color) for name in ("shape", "object")]
    if not options:
        return None
    name, color = rng.choice(options)
    return say(rng, wording.COLOR, name=name), color


def colorless_name(scene: Scene, shape: Shape) -> str | None:
    """A name for the shape that is unique and does not tell its colour."""
    if sum(other.kind == shape.kind for other in scene.shapes) == 1:
        return shape.kind
    if sum((other.kind, other.size) == (shape.kind, shape.size) for other in scene.shapes) == 1:
        return f"{shape.size} {shape.kind}"
    return None


def ask_shape(scene: Scene, rng: random.Random) -> Answered | None:
    colors = [shape.color for shape in scene.shapes]
    options = [shape for shape in scene.shapes if colors.count(shape.color) == 1]
    if not options:
        return None
    shape = rng.choice(options)
    return say(rng, wording.SHAPE, color=shape.color), shape.kind


def ask_count(scene: Scene, rng: random.Random) -> Answered:
    return say(rng, wording.COUNT), str(len(scene.shapes))


def ask_count_of(scene: Scene, rng: random.Random) -> Answered:
    some = rng.choice(scene.shapes)
    present = rng.random() < 0.75
    kind = some.kind if present else rng.choice(KINDS)
    color = some.color if present else rng.choice(COLOR_NAMES)
    size = rng.choice(SIZES)
    things = f"{rng.choice(wording.THINGS)}s"
    what, fits = rng.choices(
        (
            (plural(kind), lambda shape: shape.kind == kind),
            (f"{color} {things}", lambda shape: shape.color == color),
            (f"{color} {plural(kind)}", lambda shape: (shape.color, shape.kind) == (color, kind)),
            (f"{size} {things}", lambda shape: shape.size == size),
        ),
        (40, 35, 15, 10),
    )[0]
    return say(rng, wording.COUNT_OF, what=what), str(sum(map(fits, scene.shapes)))


def ask_exists(scene: Scene, rng: random.Random) -> Answered:
    wanted = rng.random() < 0.5
    way = rng.random()
    if way < 0.4:
        kinds = {shape.kind for shape in scene.shapes}
        what = rng.choice([kind for kind in KINDS if (kind in kinds) == wanted])
    elif way < 0.65:
        colors = {shape.color for shape in scene.shapes}
        color = rng.choice([name for name in COLOR_NAMES if (name in colors) == wanted])
        what = f"{color} {rng.choice(wording.THINGS)}"
    else:
        pairs = {(shape.color, shape.kind) for shape in scene.shapes}
        what = " ".join(rng.choice(sorted(pairs)) if wanted else missing_pair(rng, pairs))
    return say(rng, wording.EXISTS, what=with_article(what)), "yes" if wanted else "no"


def missing_pair(rng: random.Random, pairs: set[tuple[str, str]]) -> tuple[str, str]:
    """A colour and a kind that no shape has together; most often each of them is there: the hard case."""
    colors, kinds = sorted({color for color, _ in pairs}), sorted({kind for _, kind in pairs})
    for _ in range(20):
        color = rng.choice(colors if rng.random() < 0.7 else COLOR_NAMES)
        kind = rng.choice(kinds if rng.random() < 0.7 else KINDS)
        if (color, kind) not in pairs:
            return color, kind
    return rng.choice(colors), rng.choice([kind for kind in KINDS if kind not in kinds])


def ask_background(scene: Scene, rng: random.Random) -> Answered:
    return say(rng, wording.BACKGROUND), " and ".join(scene.background_colors)


def refer(scene: Scene, shape: Shape, rng: random.Random) -> str | None:
    """A name for exactly this shape, such as "red circle", "circle" or "red thing"."""
    options = []
    if sum((other.color, other.kind) == (shape.color, shape.kind) for other in scene.shapes) == 1:
        options += [f"{shape.color} {shape.kind}"] * 3
    if sum(other.kind == shape.kind for other in scene.shapes) == 1:
        options += [shape.kind] * 3
    if sum(other.color == shape.color for other in scene.shapes) == 1:
        options.append(f"{shape.color} {rng.choice(wording.THINGS)}")
    return rng.choice(options) if options else None


def pick_two(
    scene: Scene, rng: random.Random, fits: Callable[[Shape, Shape], bool]
) -> tuple[Shape, Shape, str, str] | None:
    """Two shapes that fit, and a name for each."""
    pairs = [(one, two) for one in scene.shapes for two in scene.shapes if one is not two and fits(one, two)]
    if not pairs:
        return None
    one, two = rng.choice(pairs)
    first, second = refer(scene, one, rng), refer(scene, two, rng)
    return (one, two, first, second) if first and second else None


def ask_relation(scene: Scene, rng: random.Random) -> Answered | None:
    axis = rng.choice(("x", "y", "y"))  # "above" is harder to learn than "left"

    def apart(one: Shape, two: Shape) -> float:
        return one.x - two.x if axis == "x" else one.y - two.y

    found = pick_two(scene, rng, lambda one, two: abs(apart(one, two)) >= CLEAR)
    if found is None:
        return None
    names = {"first": found[2], "second": found[3]}
    words = ("left", "right") if axis == "x" else ("above", "below")
    truth = words[apart(found[0], found[1]) > 0]
    if rng.random() < 0.45:
        one, two = words if rng.random() < 0.75 else words[::-1]
        forms = wording.SIDE_CHOICE if axis == "x" else wording.LEVEL_CHOICE
        return say(rng, forms, one=one, two=two, **names), truth
    asked = rng.choice(words)
    place = say(rng, wording.SIDES, side=asked) if axis == "x" else asked
    return say(rng, wording.PLACE, place=place, **names), "yes" if asked == truth else "no"


def ask_size(scene: Scene, rng: random.Random) -> Answered | None:
    if rng.random() < 0.3:
        shape = rng.choice(scene.shapes)
        name = refer(scene, shape, rng)
        if name is None:
            return None
        if rng.random() < 0.6:
            return say(rng, wording.LARGE_OR_SMALL, name=name), shape.size
        asked = rng.choice(SIZES)
        return f"Is the {name} {asked}?", "yes" if asked == shape.size else "no"
    found = pick_two(scene, rng, lambda one, two: one.size != two.size)
    if found is None:
        return None
    one, _, first, second = found
    words = (rng.choice(("larger", "larger", "bigger")), "smaller")
    truth = words[one.size == "small"]
    asked = rng.choice(words)
    way = rng.random()
    if way < 0.3:
        order = words if rng.random() < 0.75 else words[::-1]
        return f"Is the {first} {order[0]} or {order[1]} than the {second}?", truth
    if way < 0.6:
        answer = f"the {first if asked == truth else second}"
        return f"{rng.choice(wording.WHICH)} {asked}, the {first} or the {second}?", answer
    return f"Is the {first} {asked} than the {second}?", "yes" if asked == truth else "no"


def ask_description(scene: Scene, rng: random.Random) -> Answered:
    return say(rng, wording.DESCRIBE), description(scene)


def ask_top_down(scene: Scene, rng: random.Random) -> Answered | None:
    """The description in the other order, which teaches above and below as the usual one teaches left."""
    shapes = sorted(scene.shapes, key=lambda shape: shape.y)
    if len(shapes) < 2 or any(lower.y - upper.y < MIN_STEP for upper, lower in pairwise(shapes)):
        return None
    return say(rng, wording.DESCRIBE_DOWN), description(scene, shapes)


def description(scene: Scene, order: Sequence[Shape] | None = None) -> str:
    """One sentence, from left to right if no other order is given."""
    shapes = join([f"a {shape.size} {shape.color} {shape.kind}" for shape in order or scene.shapes])
    return f"A{shapes[1:]} on {with_article(' and '.join(scene.background_colors))} background."


def ask_absent(scene: Scene, rng: random.Random) -> Answered:
    """About a shape that is not there, as if it were."""
    if rng.random() < 0.6:
        kind = rng.choice([kind for kind in KINDS if all(shape.kind != kind for shape in scene.shapes)])
        return say(rng, wording.COLOR, name=kind), f"there is no {kind}"
    color = rng.choice([color for color in COLOR_NAMES if all(shape.color != color for shape in scene.shapes)])
    return say(rng, wording.SHAPE, color=color), f"there is no {color} shape"


MAKERS: dict[str, Callable[[Scene, random.Random], Answered | None]] = {
    "color": ask_color,
    "shape": ask_shape,
    "count": ask_count,
    "count_of": ask_count_of,
    "exists": ask_exists,
    "background": ask_background,
    "relation": ask_relation,
    "size": ask_size,
    "describe": ask_description,
    "top_down": ask_top_down,
    "absent": ask_absent,
}
# How often each kind is trained: what is hard to learn, and what teaches most, comes more often.
WEIGHTS = {
    "color": 9, "shape": 4, "count": 5, "count_of": 42, "exists": 9, "background": 3, "relation": 28,
    "size": 9, "describe": 14, "top_down": 8, "other": 4, "absent": 3,
}  # fmt: skip


def ask(scene: Scene, kind: str, rng: random.Random, *, held_out: bool = False) -> Question | None:
    """One question of this kind, or None if the scene allows none; `held_out`: unseen `other` templates."""
    if kind == "other":
        return Question(kind, vary(out_of_scope(rng, held_out=held_out), rng, pictures=False), SORRY)
    for _ in range(4):
        if made := MAKERS[kind](scene, rng):
            return Question(kind, vary(made[0], rng), made[1])
    return None


def chat(scene: Scene, rng: random.Random, turns: int) -> list[Question]:
    """Several different questions about one scene."""
    found: dict[str, Question] = {}
    while len(found) < turns:
        kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if (question := ask(scene, kind, rng)) and question.text not in found:
            found[question.text] = question
    return list(found.values())
