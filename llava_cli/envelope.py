"""Writes an answer down as the one JSON object that programs get: `--json`.

`answer`: the text. `parsed`: what it says, with `--schema`. `choices`: each with its probability, with `--choices`, in
the order given. `pictures`: those the answer is about, each with the sha256 of its pixels. `finish_reason`: `stop`,
`length` (cut at `max_tokens`), `context` (the window is full) or `stopped` (by Ctrl-C). `parameters`: all that shaped
the answer. `usage`: cells of the context window. `seconds`: how long it took. `time`: when it was asked, UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from llava_cli.pictures import Picture, RememberedPicture
from llava_cli.reply import Decision, Reply
from llava_cli.turns import Turn


def envelope(turn: Turn, reply: Reply | Decision, pictures: Sequence[Picture | RememberedPicture]) -> dict[str, Any]:
    """Return the object for an answer that has ended; raise `AnswerUnfit` if it does not satisfy its schema."""
    facts: dict[str, Any] = {"answer": turn.answer}
    if isinstance(reply, Decision):
        facts["choices"] = [asdict(choice) for choice in reply.choices]
    elif reply.schema is not None:
        facts["parsed"] = reply.parsed
    own_files = {"files": [turn.model_path, turn.projector_path]} if turn.own_files else {}
    times = {name: value for name, value in turn.usage.items() if name.endswith("_seconds")}
    return {
        **facts,
        "question": turn.question,
        "system": turn.system,
        "pictures": [{name: getattr(one, name) for name in ("name", "sha256", "width", "height")} for one in pictures],
        "model": {"name": turn.model, "layout": turn.layout, **own_files},
        "parameters": {name: value for name, value in turn.parameters.items() if name != "pictures"},
        "finish_reason": turn.finish_reason,
        "usage": {name: value for name, value in turn.usage.items() if name not in times},
        "seconds": {name.removesuffix("_seconds"): round(value, 4) for name, value in times.items()},
        "time": datetime.fromtimestamp(turn.time, UTC).isoformat(timespec="milliseconds"),
        "program": turn.program,
    }
