"""Makes turns as if a model had answered them."""

from __future__ import annotations

from llava_cli.history import Turn


def a_turn(question="What is this?", *, answer="A circle.", pictures=(), **facts):
    """Return a finished turn about `pictures`."""
    standard = {
        "time": 1_700_000_000.0, "finish_reason": "stop", "system": None, "model": "shapes", "own_files": False,
        "model_path": "/m.gguf", "projector_path": "/p.gguf", "model_bytes": 1, "projector_bytes": 2,
        "program": "llava 0", "layout": "llava_v1", "seed": 7,
        "parameters": {"temperature": 0.2, "max_tokens": 8}, "usage": {"answer_tokens": 3, "first_token_seconds": 0.5},
    }  # fmt: skip
    return Turn(
        question=question,
        answer=answer,
        pictures=tuple(one.remembered() for one in pictures),
        thumbnails={one.sha256: one.thumbnail() for one in pictures},
        **{**standard, **facts},
    )
