"""Answers by choice: how probable each of a few answers is to the model itself, without letting it write.

The probability of a choice is that of all its tokens in a row and then of the end of the answer, so that `red` does
not win for being the beginning of `reddish`. Choices of more tokens would lose for being longer: each counts by its
mean log probability per token, times the mean number of tokens of all choices. Between choices of equal length that
changes nothing. The probabilities of the choices add up to 1, whatever else the model would rather have said;
temperature and the like have no part in it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava_cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llava_cli.timeline import KvCache


@dataclass(frozen=True)
class Choice:
    """One possible answer."""

    text: str
    probability: float
    """Among the choices."""
    log_probability: float
    """Of exactly this answer among all there could be: the sum over its tokens, natural logarithm."""
    tokens: int
    """How many those are, the end of the answer among them."""


def read_choices(text: str) -> tuple[str, ...]:
    """Read `yes,no`: two choices or more, with commas between; one that holds a comma stands in double quotes."""
    rows = list(csv.reader([text], skipinitialspace=True))
    return checked([word.strip() for row in rows for word in row])


def checked(choices: Sequence[str]) -> tuple[str, ...]:
    """Return the choices if they can be told apart; raise `UsageError` otherwise."""
    hint = "give at least two different ones: --choices yes,no"
    if len(choices) < 2 or not all(choice.strip() for choice in choices):
        raise UsageError("choices", "there are fewer than two, or one is empty", hint=hint)
    if twice := [choice for at, choice in enumerate(choices) if choice in choices[:at]]:
        raise UsageError("choices", f"{twice[0]} is there twice", hint=hint)
    return tuple(choices)


def weigh(
    cache: KvCache, first: NDArray[np.float32], answers: Sequence[Sequence[Any]], ends: Sequence[int]
) -> list[tuple[float, int]]:
    """Return the log probability of each answer behind what `cache` holds, and of how many tokens it is the sum.

    `first` are the logits of the first token, `ends` the tokens that end an answer.
    """
    import numpy as np

    before, found = first.astype(np.float64), []
    for tokens in answers:
        rows = np.vstack([before, cache.logits_behind(tokens)])
        rows -= np.logaddexp.reduce(rows, axis=1, keepdims=True)
        said = rows[range(len(tokens)), tokens].sum() + np.logaddexp.reduce(rows[-1, ends])
        found.append((float(said), len(tokens) + 1))
    return found


def compared(texts: Sequence[str], weights: Sequence[tuple[float, int]]) -> tuple[Choice, ...]:
    """Return the choices, in the order given, with the probabilities that `weights` gives them."""
    mean = sum(tokens for _, tokens in weights) / len(weights)
    scores = [said / tokens * mean for said, tokens in weights]
    shares = [math.exp(score - max(scores)) for score in scores]
    return tuple(
        Choice(text, share / sum(shares), said, tokens)
        for text, share, (said, tokens) in zip(texts, shares, weights, strict=True)
    )
