"""Reads the logits of a model: are they numbers, and how probable was a token before it was drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llava_cli.errors import EngineFailed

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


def logits_of(llama: Any) -> NDArray[np.float32]:
    """Return the logits behind the last cell that was evaluated, `(n_vocab,)`: a view that the next one changes."""
    import numpy as np
    from llama_cpp import llama_cpp as c

    return np.ctypeslib.as_array(c.llama_get_logits_ith(llama.ctx, -1), shape=(llama.n_vocab(),))


def require_numbers(llama: Any) -> None:
    """Raise `EngineFailed` if the logits are not numbers; llama.cpp would draw tokens from them all the same."""
    import numpy as np

    if not np.isfinite(logits_of(llama)).all():
        raise EngineFailed(
            Path(llama.model_path).name,
            "what it answers are not numbers, so the file must be damaged",
            hint="compare its sha256 with the published one, or download it again",
        )
