"""Says whether a prompt fits into the context window, and what would help if it does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llava_cli.cells import Cell, PictureCell, picture_cells
from llava_cli.errors import ContextTooSmall
from llava_cli.vision import TowerFacts


def require_room(timeline: Sequence[Cell], llama: Any, tower: TowerFacts) -> None:
    """Raise `ContextTooSmall` if `timeline` leaves no room for an answer. From any thread."""
    taken, window, trained = len(timeline), llama.n_ctx(), llama._model.n_ctx_train()
    if taken < window:
        return
    larger = -(-(taken + 512) // 1024) * 1024  # a round number with room for an answer
    views = [cell.view for cell in timeline if isinstance(cell, PictureCell) and cell.row == 0]
    quick = taken - sum(view.tokens - tower.square_tokens for view in views)
    hints = [f"a larger window: --context {larger}"] if larger <= trained else []
    if quick < min(taken, window):
        hints.append(f"a quick look that leaves {quick} cells: --detail low")
    raise ContextTooSmall(
        "context",
        f"the prompt takes {taken} of {window} cells ({picture_cells(timeline)} of them pictures)"
        " and leaves no room for an answer",
        hint=", or ".join(hints) or f"ask with less text or fewer pictures: this model knows {trained} at most",
    )
