"""Knows how the answers of a run are made, names each by a key of all that shapes it, and draws its seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava_cli.registry import ModelSpec
from llava_cli.settings import Settings
from llava_cli.weights import Weights

_NO_SEED = 2**32 - 1
"""One more than the largest seed."""


@dataclass(frozen=True)
class Recipe:
    """A model, a system prompt and parameters. Two runs with equal recipes give equal answers."""

    model: str
    model_bytes: int
    projector_bytes: int
    layout: str
    system: str | None
    schema: Mapping[str, Any] | bool | None
    """What answers are held to."""
    choices: tuple[str, ...] | None
    """What there is to choose from."""
    parameters: Mapping[str, Any]
    """What shapes an answer of `Sampling` and `LoadOptions`. What only shapes its last bits or its speed does not
    count: a run that goes on with other threads, or on another machine, is the same run."""

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        weights: Weights,
        chosen: Settings,
        *,
        schema: Mapping[str, Any] | bool | None = None,
        choices: tuple[str, ...] | None = None,
    ) -> Recipe:
        """Take it from what is known before a model is opened; `weights` are the files as they were published."""
        model_bytes, projector_bytes = weights.model.stat().st_size, weights.projector.stat().st_size
        load = {name: getattr(chosen.load, name) for name in ("detail", "kv", "projector_quant")}
        parameters = {**vars(chosen.sampling), **load}
        return cls(
            spec.full_name, model_bytes, projector_bytes, spec.layout, chosen.system, schema, choices, parameters
        )  # fmt: skip

    @classmethod
    def at(
        cls,
        endpoint: str,
        model: str,
        chosen: Settings,
        *,
        schema: Mapping[str, Any] | bool | None = None,
        choices: tuple[str, ...] | None = None,
    ) -> Recipe:
        """Take it for a model of the server at `endpoint`, of which nothing but its name is known."""
        parameters = {**vars(chosen.sampling), "detail": chosen.load.detail, "endpoint": endpoint}
        return cls(model, 0, 0, "", chosen.system, schema, choices, parameters)

    def key(self, picture: str, question: str) -> str:
        """Name the answer to a question about a picture, by its sha256; an empty one names that there is none."""
        whole = json.dumps({**vars(self), "picture": picture, "question": question}, sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:32]

    def seed(self, key: str) -> int:
        """Return the seed of an answer: the one that was given, or one that the same answer always has.

        So the dice fall alike in a run that is stopped and gone on with, and in every shard of it.
        """
        given = self.parameters["seed"]
        return int(hashlib.sha256(f"seed {key}".encode()).hexdigest()[:16], 16) % _NO_SEED if given is None else given
