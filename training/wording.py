"""The ways in which people ask, as templates; `questions` fills them and knows the answers."""

from __future__ import annotations

import random

THINGS = ("shape", "shape", "shape", "thing", "object", "figure")

COLOR = (
    "What color is the {name}?",
    "What color is the {name}?",
    "What color is the {name} in the picture?",
    "What is the color of the {name}?",
    "Which color does the {name} have?",
    "Which color is the {name}?",
    "What color does the {name} have?",
    "Tell me the color of the {name}.",
    "The {name} is what color?",
    "Color of the {name}?",
)
SHAPE = (
    "What shape is {color}?",
    "Which shape is {color}?",
    "What shape is the {color} {thing}?",
    "What shape is the {color} {thing}?",
    "What shape is the {color} one?",
    "What is the {color} {thing}?",
    "What is the shape of the {color} {thing}?",
    "What kind of shape is the {color} {thing}?",
    "Which shape does the {color} {thing} have?",
    "What is the {color} thing in the picture?",
)
COUNT = (
    "How many shapes are there?",
    "How many {thing}s are there?",
    "How many {thing}s are in the picture?",
    "How many {thing}s do you see?",
    "How many {thing}s can you see?",
    "How many {thing}s are there in the picture?",
    "How many {thing}s does the picture show?",
    "Count the {thing}s.",
    "What is the number of {thing}s?",
    "Number of {thing}s?",
)
COUNT_OF = (
    "How many {what} are there?",
    "How many {what} are there?",
    "How many {what} are in the picture?",
    "How many {what} do you see?",
    "How many {what} can you see in the picture?",
    "Count the {what}.",
    "What is the number of {what}?",
)
EXISTS = (
    "Is there {what}?",
    "Is there {what}?",
    "Is there {what} in the picture?",
    "Do you see {what}?",
    "Can you see {what}?",
    "Can you see {what} in the picture?",
    "Does the picture show {what}?",
    "Is {what} in the picture?",
)
BACKGROUND = (
    "What color is the background?",
    "What color is the background?",
    "What color is the background of the picture?",
    "What is the background color?",
    "What is the color of the background?",
    "Which color does the background have?",
    "Which color is the background?",
    "Background color?",
    "Tell me the color of the background.",
    "What color is behind the shapes?",
)
SIDE_CHOICE = (
    "Is the {first} {one} or {two} of the {second}?",
    "Is the {first} to the {one} or to the {two} of the {second}?",
    "Is the {first} on the {one} or on the {two} of the {second}?",
)
LEVEL_CHOICE = ("Is the {first} {one} or {two} the {second}?",)
SIDES = ("{side} of", "to the {side} of", "on the {side} of")
PLACE = ("Is the {first} {place} the {second}?", "Is the {first} {place} the {second} in the picture?")
WHICH = ("Which is", "Which shape is", "What is", "Which one is")
LARGE_OR_SMALL = ("Is the {name} large or small?", "Is the {name} small or large?")
DESCRIBE = (
    "Describe this picture.",
    "Describe this picture.",
    "Describe the picture.",
    "What is in this picture?",
    "What is in the picture?",
    "What do you see?",
    "What can you see?",
    "What do you see in this picture?",
    "What is this?",
    "What does this picture show?",
    "What is shown in the picture?",
    "Please describe this picture.",
    "Can you describe this picture?",
    "Give a description of this picture.",
    "Which shapes are there?",
    "What shapes are in the picture?",
    "Tell me what you see.",
)
DESCRIBE_DOWN = (
    "Describe this picture from top to bottom.",
    "Describe the picture from top to bottom.",
    "List the shapes from top to bottom.",
    "What do you see from top to bottom?",
    "Name the shapes from top to bottom.",
)


def say(rng: random.Random, templates: tuple[str, ...], **words: str) -> str:
    """One of the templates, filled; `{thing}` becomes any word for a shape."""
    return rng.choice(templates).format(thing=rng.choice(THINGS), **words)


def vary(text: str, rng: random.Random, *, pictures: bool = True) -> str:
    """The spellings people use: colour, grey, photo, no capital, no question mark."""
    if rng.random() < 0.3:
        text = text.replace("color", "colour").replace("Color", "Colour")
    if rng.random() < 0.35:
        text = text.replace("gray", "grey")
    if pictures and rng.random() < 0.45:
        text = text.replace("picture", rng.choice(("image", "photo")))
    if pictures and rng.random() < 0.2:
        text = text.replace("this picture", "the picture")
    if rng.random() < 0.15:
        text = text.lower()
    if rng.random() < 0.15:
        text = text.rstrip("?.") or text
    return text


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(kind: str) -> str:
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"


def join(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
