"""Fits a model to this machine: makes every choice, predicts the memory, and names what would fit if it does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

from llava_cli import inventory, machine, memory, policy, registry
from llava_cli.errors import NotEnoughRoom
from llava_cli.gguf_file import read_header
from llava_cli.gguf_format import GgufHeader
from llava_cli.inventory import Holding
from llava_cli.machine import Limit
from llava_cli.memory import MemoryPlan
from llava_cli.registry import ModelSpec
from llava_cli.settings import LoadOptions
from llava_cli.vision import TowerFacts
from llava_cli.weights import Weights


@dataclass(frozen=True)
class Fit:
    """How a model would be opened here, and what that takes."""

    spec: ModelSpec
    options: LoadOptions
    """With every choice made."""
    plan: MemoryPlan
    limits: tuple[Limit, ...]
    _headers: tuple[GgufHeader, GgufHeader]
    _types: tuple[str, ...]
    _picture: int
    """Cells of the largest picture."""

    @property
    def shortages(self) -> list[tuple[Limit, int]]:
        """Return the limits that are too tight, each with the bytes it would take."""
        return memory.shortages(self.plan, self.limits)

    @property
    def repackable(self) -> bool:
        """Tell whether llama.cpp would copy any of the weights on this processor."""
        return memory.plan(*self._headers, replace(self.options, repack=True), self._types, self._picture).repacked > 0

    def holds(self, options: LoadOptions) -> bool:
        """Tell whether the model fits if it is opened by `options`, all choices made."""
        return not memory.shortages(memory.plan(*self._headers, options, self._types, self._picture), self.limits)

    def refusal(self) -> NotEnoughRoom | None:
        """Return why it does not fit, and what would; None if it does."""
        short = self.shortages
        if not short:
            return None
        hints = [*self._advice(), "--no-memory-check tries it all the same"]
        return memory.refusal(self.spec.name, short[0], self.plan, hint="; ".join(hints))

    def _advice(self) -> Iterator[str]:
        """Name what would fit: other options, a smaller quant, another model, the least change first."""
        less = memory.smaller(*self._headers, self.options, self._types, self._picture, self.limits)
        if less is not None:
            flags = [f"--kv {less.kv}"] if less.kv != self.options.kv else []
            flags += [f"--context {less.context}"] if less.context != self.options.context else []
            yield f"it fits with {' '.join(flags) or '--no-repack'}"
        if quant := self._smaller_quant():
            yield f"a smaller quant fits: -m {self.spec.name}:{quant}"
        elif self.spec.local:
            yield "a smaller quantisation of the same model takes less"
        if other := self._other_model():
            yield f"a smaller model fits: -m {other}"
        limit, needed = self.shortages[0]
        if limit.of == "memory" and needed < 0.9 * limit.total:
            yield "or close other programs"

    def _smaller_quant(self) -> str:
        """Return the largest published quant of the model that fits as it was asked for."""
        if self.spec.local or self.spec.bundled:
            return ""
        sizes = {one.spec.quant: _model_size(one) for one in inventory.all_quants(self.spec)}
        fitting = {quant: size for quant, size in sizes.items() if 0 < size < self.plan.weights and self._fits(size)}
        return max(fitting, key=lambda quant: fitting[quant], default="")

    def _fits(self, weights: int) -> bool:
        return not memory.shortages(replace(self.plan, weights=weights, repacked=0), self.limits)

    def _other_model(self) -> str:
        room = min(limit.room for limit in self.limits)
        for spec in registry.all_specs():
            held = inventory.look_up(spec)
            needed = inventory.needed_memory(held)
            if not spec.bundled and _model_size(held) < self.plan.weights and needed is not None and needed <= room:
                return spec.name
        return ""


def _model_size(holding: Holding) -> int:
    """Return the bytes of a model's weights; 0 if they are not known."""
    file = holding.spec.model
    return (inventory.size_of(file, holding.model) or 0) if file is not None else 0


def fit(spec: ModelSpec, weights: Weights, options: LoadOptions) -> Fit:
    """Make every choice that `options` leaves open, and look whether the model then fits.

    Raise `UsageError` for options that this model cannot be opened with.
    """
    headers, facts = (read_header(weights.model), read_header(weights.projector)), TowerFacts.read(weights.projector)
    found = policy.choose(options, facts.square_tokens, policy.recall(weights.model))
    trained = cast(int, headers[0].metadata[f"{headers[0].metadata['general.architecture']}.context_length"])
    chosen = replace(found, context=facts.window(options, trained))
    memory.require_options(headers[0], chosen)
    limits, types = tuple(machine.limits()), policy.repacked_types(policy.cpu_features())
    picture = facts.most_tokens(options.detail)
    wanted = Fit(spec, chosen, memory.plan(*headers, chosen, types, picture), limits, headers, types, picture)
    if options.repack is None and chosen.repack and wanted.shortages:
        # Nobody asked for the second copy.
        plain = replace(chosen, repack=False)
        return replace(wanted, options=plain, plan=memory.plan(*headers, plain, types, picture))
    return wanted


def require_fit(spec: ModelSpec, weights: Weights, options: LoadOptions) -> LoadOptions:
    """Return `options` with every choice made; raise `NotEnoughRoom` if the model does not fit and that was asked."""
    fitted = fit(spec, weights, options)
    if options.memory_check and (refusal := fitted.refusal()) is not None:
        raise refusal
    return fitted.options
