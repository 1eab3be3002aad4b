"""Predicts from two headers what a model takes in memory, and refuses what this machine cannot hold.

The sizes are those of llama.cpp's buffers: `llama_kv_cache`, the graphs of `models/llama.cpp` and of `clip.cpp`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llava_cli.errors import NotEnoughRoom, UsageError
from llava_cli.gguf_format import GgufArray, GgufHeader
from llava_cli.machine import Limit
from llava_cli.settings import LoadOptions

KV_TYPES = {"f16": (1, 2), "q8_0": (32, 34)}
"""Elements and bytes of a block, by the name of `LoadOptions.kv`."""

_PROGRAM = 60_000_000
"""Python, the libraries and what they keep to themselves, measured after an answer."""
_PER_TOKEN, _PER_MERGE = 240, 130
"""Bytes that llama.cpp's vocabulary takes for each, measured with 32,000 and 128,256 tokens."""
_LIBRARIES = 360_000_000
"""Addresses that libraries, thread stacks and the heaps of threads reserve and hardly touch."""
_FIRST_WORDS = 300
"""Cells of a usual question and its answer."""
_ALIGNMENT = 256
"""llama.cpp rounds the context up to a multiple of it."""


@dataclass(frozen=True)
class MemoryPlan:
    """What a model takes, in bytes. What is used at different times does not add up: see `peak`."""

    weights: int
    """The model file. It is mapped: pages of it can go and come back, but every token reads them all."""
    repacked: int
    """A second copy of weights in another layout, if the options want it."""
    kv: int
    begun: int
    """What of it a first question and its answer fill; Linux takes the rest back until it is used."""
    program: int
    reading: int
    """Working memory while cells are evaluated."""
    looking: int
    """The vision tower with its working memory; it goes when the picture has been seen."""
    keeping: int
    """The cells of a picture on their way to disk."""
    untouched: int
    """What is reserved for the worst case and never written to; it only counts where addresses do."""

    @property
    def private(self) -> int:
        """Return what cannot be given up, at its highest: a chat may fill the context, and then show a picture."""
        return self.program + self.kv + self.repacked + max(self.looking, self.reading + self.keeping)

    @property
    def peak(self) -> int:
        """Return the highest resident memory of a first question, the mapped weights included."""
        looking = self.looking + (self.kv if self.begun == self.kv else 0)
        return (
            self.weights
            + self.program
            + self.repacked
            + max(self.kv, looking, self.begun + self.reading + self.keeping)
        )

    @property
    def steady(self) -> int:
        """Return what must stay in memory while an answer is written, or every token waits for the disk."""
        # What has been copied needs no place in the page cache any more.
        return self.weights + self.program + self.kv + self.reading

    @property
    def addresses(self) -> int:
        """Return how much address space it takes beside the program's own."""
        return self.weights + self.data + _LIBRARIES

    @property
    def data(self) -> int:
        """Return the private memory that is asked for, touched or not."""
        return self.kv + self.repacked + self.reading + self.untouched + max(self.looking, self.keeping)


def plan(
    model: GgufHeader, projector: GgufHeader, options: LoadOptions, repacked_types: Sequence[str], picture: int
) -> MemoryPlan:
    """Predict what a checked pair of files takes, opened by `options` whose choices have all been made.

    `repacked_types` are the tensor types that llama.cpp would copy on this processor, `picture` the cells of the
    largest picture.
    """
    shape = _Shape.of(model)
    context = _rounded(options.context)
    batch = min(context, options.ubatch)
    elements, size = KV_TYPES[options.kv]
    per_cell = shape.kv_elements * size / elements
    rows = picture * shape.width * 4
    logits = batch * shape.tokens * 4
    layer = batch * 4 * (3 * shape.hidden + 4 * shape.width)
    mask = batch * context * 2
    attention = 0 if options.flash_attention else batch * context * 4 * shape.heads
    return MemoryPlan(
        weights=model.file_size,
        repacked=_repacked(model, repacked_types) if options.repack else 0,
        kv=round(context * per_cell),
        begun=round((min(context, picture + _FIRST_WORDS) if sys.platform == "linux" else context) * per_cell),
        program=_PROGRAM + _PER_TOKEN * shape.tokens + _PER_MERGE * shape.merges,
        reading=layer + mask + attention + 2 * rows,
        looking=_looking(projector, shape.width) + 2 * rows,
        keeping=round(min(context, picture + 64) * per_cell) if options.cache_size else 0,
        # The logits of a whole batch, once for llama.cpp and once for llama-cpp-python: one row of them is used.
        untouched=2 * logits,
    )


def shortages(wanted: MemoryPlan, limits: Sequence[Limit]) -> list[tuple[Limit, int]]:
    """Return the limits that the plan does not keep, each with the bytes it would need of it."""
    needs = {
        # Not the peak: while the tower works, pages of the weights may go, and come back once.
        "memory": max(wanted.private, wanted.steady),
        "addresses": wanted.addresses,
        "data": wanted.data + _LIBRARIES // 4,
    }
    return [(limit, needs[limit.of]) for limit in limits if needs[limit.of] > limit.room]


def require_options(model: GgufHeader, options: LoadOptions) -> None:
    """Raise `UsageError` if this model cannot be opened by these options, whatever the machine."""
    if options.kv == "f16":
        return
    shape = _Shape.of(model)
    if any(size % KV_TYPES[options.kv][0] for size in shape.head_sizes):
        raise UsageError("kv", f"{model.name} has heads of {shape.head_sizes[0]} numbers, not a multiple of 32",
                         hint="this model needs --kv f16")  # fmt: skip
    if not options.flash_attention:
        raise UsageError("kv", f"{options.kv} needs flash attention", hint="add --flash-attention, or take --kv f16")


def smaller(
    model: GgufHeader,
    projector: GgufHeader,
    options: LoadOptions,
    types: Sequence[str],
    picture: int,
    limits: Sequence[Limit],
) -> LoadOptions | None:
    """Return the options nearest to `options` with which the same files fit; None if there are none."""
    least = _rounded(picture + 320)
    windows = [options.context, *(size for size in (4096, 3072, 2048, 1536, 1024, 768, 512) if size < options.context)]
    for context in (size for size in windows if size == options.context or size >= least):
        for kv in dict.fromkeys((options.kv, "q8_0")):
            attempt = replace(options, context=context, kv=kv, repack=False)
            try:
                require_options(model, attempt)
            except UsageError:
                continue
            if not shortages(plan(model, projector, attempt, types, picture), limits):
                return attempt
    return None


def refusal(name: str, short: tuple[Limit, int], wanted: MemoryPlan, hint: str) -> NotEnoughRoom:
    """Make the error that says what is missing where."""
    limit, needed = short
    crawls = limit.of == "memory" and wanted.private <= limit.room
    why = f"it needs {_gb(needed)}, and {_gb(limit.room)} are left of the {limit.name} ({_gb(limit.total)})"
    if crawls:
        why += "; it would read its weights from disk for every token"
    return NotEnoughRoom(name, why, hint=hint)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


@dataclass(frozen=True)
class _Shape:
    """The sizes of a language model."""

    width: int
    hidden: int
    heads: int
    kv_elements: int
    """Numbers that one cell takes in the KV cache, all layers together."""
    head_sizes: tuple[int, int]
    tokens: int
    merges: int

    @classmethod
    def of(cls, header: GgufHeader) -> _Shape:
        get: Any = header.metadata.get
        arch = get("general.architecture")
        width, blocks = int(get(f"{arch}.embedding_length")), int(get(f"{arch}.block_count"))
        heads = _each(get(f"{arch}.attention.head_count", 1), blocks)
        kv_heads = _each(get(f"{arch}.attention.head_count_kv", max(heads)), blocks)
        size = width // max(1, *heads)
        key, value = (int(get(f"{arch}.attention.{what}_length", size)) for what in ("key", "value"))
        tokens, merges = (get(f"tokenizer.ggml.{what}") for what in ("tokens", "merges"))
        return cls(
            width=width,
            hidden=max(_each(get(f"{arch}.feed_forward_length", 4 * width), blocks)),
            heads=max(heads),
            kv_elements=sum(kv_heads) * (key + value),
            head_sizes=(key, value),
            tokens=tokens.length if isinstance(tokens, GgufArray) else 0,
            merges=merges.length if isinstance(merges, GgufArray) else 0,
        )


def _each(value: Any, blocks: int) -> list[int]:
    """Return a number for each block: some files give one for all."""
    values = [int(one) for one in value.values()] if isinstance(value, GgufArray) else [int(value)] * blocks
    return values[:blocks] or [1]


def _rounded(context: int) -> int:
    return -(-context // _ALIGNMENT) * _ALIGNMENT


def _square_tokens(projector: GgufHeader) -> int:
    get: Any = projector.metadata.get
    return (int(get("clip.vision.image_size")) // int(get("clip.vision.patch_size"))) ** 2


def _repacked(model: GgufHeader, types: Sequence[str]) -> int:
    # llama.cpp copies matrices it multiplies with whose rows come in eights; the embedding table is only looked up in.
    return sum(
        tensor.nbytes
        for name, tensor in model.tensors.items()
        if tensor.type in types and len(tensor.shape) > 1 and tensor.shape[1] % 8 == 0 and name != "token_embd.weight"
    )


def _looking(projector: GgufHeader, out: int) -> int:
    """Return what the open tower takes: libmtmd copies its weights, and its graph uses flash attention."""
    get: Any = projector.metadata.get
    width, hidden = (int(get(f"clip.vision.{key}_length")) for key in ("embedding", "feed_forward"))
    weights = sum(tensor.nbytes for tensor in projector.tensors.values())
    places = _square_tokens(projector) + ("v.class_embd" in projector.tensors)
    return weights + math.ceil(places * 4 * max(hidden + 3.2 * width, 2 * out))
