"""LLaVA-1.5, only small: a CLIP tower, a two-layer projector and a LLaMA, in plain PyTorch.

Names and sizes follow what llama.cpp expects, so that `training.export` copies tensors without rearranging
them: the rotary embedding turns neighbouring pairs, as llama.cpp's `llama` architecture does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Config:
    """All sizes of both halves."""

    side: int = 140
    patch: int = 14
    tower_width: int = 160
    tower_layers: int = 5
    tower_heads: int = 5
    tower_hidden: int = 640
    width: int = 256
    layers: int = 5
    heads: int = 4
    hidden: int = 640
    vocabulary: int = 768
    context: int = 2048
    rope_base: float = 10000.0
    rms_eps: float = 1e-5
    norm_eps: float = 1e-5

    @property
    def patches(self) -> int:
        return (self.side // self.patch) ** 2

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 (n, side, side, 3) to the CLIP-normalised float tensor (n, 3, side, side)."""
    scaled = pixels.float() / 255
    return ((scaled - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2).contiguous()


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention spelled out: for short rows on a CPU its backward pass is much faster than the fused one."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask.to(scores.dtype)
    return scores.softmax(-1).to(value.dtype) @ value


class TowerBlock(nn.Module):
    """One pre-norm transformer layer of CLIP with the quick GELU."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.tower_width
        self.heads = config.tower_heads
        self.ln1 = nn.LayerNorm(width, config.norm_eps)
        self.attn_q = nn.Linear(width, width)
        self.attn_k = nn.Linear(width, width)
        self.attn_v = nn.Linear(width, width)
        self.attn_out = nn.Linear(width, width)
        self.ln2 = nn.LayerNorm(width, config.norm_eps)
        self.ffn_up = nn.Linear(width, config.tower_hidden)
        self.ffn_down = nn.Linear(config.tower_hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        y = self.ln1(x)
        query, key, value = (
            layer(y).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.attn_q, self.attn_k, self.attn_v)
        )
        mixed = attend(query, key, value)
        x = x + self.attn_out(mixed.transpose(1, 2).reshape(batch, length, width))
        hidden = self.ffn_up(self.ln2(x))
        return x + self.ffn_down(hidden * torch.sigmoid(1.702 * hidden))


class Tower(nn.Module):
    """The CLIP vision transformer up to the layer LLaVA reads: no post-norm, class token dropped at the end.

    Like LLaVA's own projector files it holds only the layers that are used; CLIP itself would have one more.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, patch = config.tower_width, config.patch
        self.patch_embd = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embd = nn.Parameter(torch.randn(width) * 0.02)
        self.position_embd = nn.Parameter(torch.randn(config.patches + 1, width) * 0.05)
        self.pre_ln = nn.LayerNorm(width, config.norm_eps)
        self.blocks = nn.ModuleList(TowerBlock(config) for _ in range(config.tower_layers))
        self.apply(start_small)

    def forward(self, pictures: Tensor) -> Tensor:
        patches = self.patch_embd(pictures).flatten(2).transpose(1, 2)
        first = self.class_embd.to(patches.dtype).expand(patches.shape[0], 1, -1)
        x = self.pre_ln(torch.cat([first, patches], 1) + self.position_embd)
        for block in self.blocks:
            x = block(x)
        return x[:, 1:]


class Projector(nn.Module):
    """Linear, exact GELU, linear: from the tower's width to the language model's."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.first = nn.Linear(config.tower_width, config.width)
        self.second = nn.Linear(config.width, config.width)
        self.apply(start_small)

    def forward(self, features: Tensor) -> Tensor:
        return self.second(functional.gelu(self.first(features)))


class LlamaBlock(nn.Module):
    """RMSNorm, rotary attention, RMSNorm, SwiGLU."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attn_norm = nn.RMSNorm(width, config.rms_eps)
        self.attn_q = nn.Linear(width, width, bias=False)
        self.attn_k = nn.Linear(width, width, bias=False)
        self.attn_v = nn.Linear(width, width, bias=False)
        self.attn_output = nn.Linear(width, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, config.rms_eps)
        self.ffn_gate = nn.Linear(width, config.hidden, bias=False)
        self.ffn_up = nn.Linear(width, config.hidden, bias=False)
        self.ffn_down = nn.Linear(config.hidden, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = x.shape
        y = self.attn_norm(x)
        query, key, value = (
            layer(y).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.attn_q, self.attn_k, self.attn_v)
        )
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        mixed = attend(query, key, value, mask)
        x = x + self.attn_output(mixed.transpose(1, 2).reshape(batch, length, width))
        y = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(y)) * self.ffn_up(y))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding over neighbouring pairs (2i, 2i + 1)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1)
    return turned.flatten(-2).to(x.dtype)


class Llama(nn.Module):
    """The language model; it reads embeddings, so that the picture's features can stand between the words."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.token_embd = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(LlamaBlock(config) for _ in range(config.layers))
        self.output_norm = nn.RMSNorm(config.width, config.rms_eps)
        self.output = nn.Linear(config.width, config.vocabulary, bias=False)
        self.apply(start_small)
        half = config.width // config.heads // 2
        speeds = config.rope_base ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(config.context, dtype=torch.float64)[:, None] * speeds
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def hidden(self, embeddings: Tensor) -> Tensor:
        length = embeddings.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        mask = torch.full((length, length), float("-inf")).triu(1)
        x = embeddings
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        return self.output_norm(x)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.output(self.hidden(embeddings))


def start_small(module: nn.Module) -> None:
    """Initial weights as LLaMA and CLIP use them: normal, 0.02 or a little more for such narrow layers."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=min(0.06, 0.6 * module.in_features**-0.5))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.05)
    elif isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.04)
