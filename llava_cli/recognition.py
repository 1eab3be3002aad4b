"""Tells from a model file which prompt layout it was trained with, where that is certain.

The chat template in a file is never asked: it is somebody else's code, and mostly that of the text model alone.
"""

from __future__ import annotations

from typing import Any

from llava_cli.errors import UsageError
from llava_cli.gguf_format import GgufArray, GgufHeader
from llava_cli.prompts import LAYOUT_NAMES
from llava_cli.registry import all_specs

_TELLING_TOKENS = {
    "llama3": ("llama", b"<|start_header_id|>"),
    "chatml_direct": ("llama", b"<|im_start|>"),
    "phi3": ("phi3", b"<|assistant|>"),
}
"""Architecture and token by which a LLaVA of this layout is known; models on Qwen have the second one, too."""


def recognised_layout(model: GgufHeader) -> tuple[str, tuple[str, ...]]:
    """Return the prompt layout of a model file, and how that is known, for the user to read.

    Raise `UsageError`, naming the layouts there are, if it could be one or another.
    """
    found = _by_name(model) or _by_tokens(model) or _by_shape(model)
    if found is None:
        raise UsageError(
            "prompt layout",
            f"nothing in {model.name} tells how it was trained to be asked",
            hint=f"say it with --prompt-layout, one of {', '.join(LAYOUT_NAMES)}; its model card knows",
        )
    layout, reason = found
    return layout, (f"{model.name}: prompt layout {layout}, since {reason}; --prompt-layout takes another",)


def _by_name(model: GgufHeader) -> tuple[str, str] | None:
    name = model.name.casefold()
    specs = [spec for spec in all_specs() if name.startswith(spec.name.casefold())]
    best = max(specs, key=lambda spec: len(spec.name), default=None)
    return (best.layout, f"its name is that of {best.name}") if best else None


def _by_tokens(model: GgufHeader) -> tuple[str, str] | None:
    tokens = model.metadata.get("tokenizer.ggml.tokens")
    known = set(tokens.values()) if isinstance(tokens, GgufArray) else set()
    for layout, (architecture, token) in _TELLING_TOKENS.items():
        if model.metadata.get("general.architecture") == architecture and token in known:
            return layout, f"its vocabulary has {token.decode()}"
    return None


def _by_shape(model: GgufHeader) -> tuple[str, str] | None:
    """Know Vicuna: of all LLaVA models with a two-layer projector, it alone has LLaMA's words and no shared heads."""
    get: Any = model.metadata.get
    heads = get("llama.attention.head_count")
    is_llama = get("general.architecture") == get("tokenizer.ggml.model") == "llama"
    if is_llama and heads and get("llama.attention.head_count_kv", heads) == heads:
        return "llava_v1", "it has the shape of Vicuna"
    return None
