"""Says how probable a model found a token before it was drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TokenOdds(NamedTuple):
    """A token of an answer, and the likeliest ones in its place. Natural logarithms of probabilities."""

    data: bytes
    """What it writes; a letter may be split over tokens."""
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()
    """The likeliest first."""


def token_odds(logits: NDArray[np.float32], token: int, top: int, piece: Callable[[int], bytes]) -> TokenOdds:
    """Say it of `token` and the `top` likeliest, by the model alone: before temperature, top-p and grammar."""
    import numpy as np

    exact = logits.astype(np.float64)
    exact -= exact.max()
    exact -= np.log(np.exp(exact).sum())
    best = np.argsort(-exact, kind="stable")[:top]
    return TokenOdds(piece(token), float(exact[token]), tuple((piece(int(one)), float(exact[one])) for one in best))
