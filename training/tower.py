"""Stage 0: the tower learns to see from labels per patch: `python -m training.tower --run DIR --minutes 20`.

The labels hang on the layer LLaVA reads: kind, colour and size of what covers a patch, where its centre is
(both as an offset and absolutely) and its place in the order from left to right and from top
to bottom.  The heads are thrown away
afterwards.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.data import GRID, NAMES, PADDING, Rendered, load
from training.model import Config, Tower, normalise

HEADS = {
    "kind": 9,
    "color": PADDING + 1,
    "size": 2,
    "offset": 2,
    "centre": 2,
    "flag": 2,
    "rank": 5,
    "level": 5,
}


class Teacher(nn.Module):
    """The tower with one linear layer that reads all labels."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.tower = Tower(config)
        self.heads = nn.Linear(config.tower_width, sum(HEADS.values()))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        return self.read(self.tower(pictures))

    def read(self, features: Tensor) -> dict[str, Tensor]:
        out = self.heads(features).float()
        return dict(zip(HEADS, out.split(list(HEADS.values()), -1), strict=True))


def labels(data: Rendered, rows: np.ndarray) -> dict[str, Tensor]:
    owner = data.owner[rows].astype(np.int64)
    shapes = data.shapes[rows]
    covered = owner > 0
    number = np.maximum(owner - 1, 0)
    of_owner = np.take_along_axis(shapes, number[..., None].repeat(shapes.shape[-1], -1), 1).astype(np.float32)
    heights = np.where(shapes[..., 3] > 0, shapes[..., 4], 9999)
    levels = (heights[:, None, :] < heights[:, :, None]).sum(-1)
    grid = (np.stack(np.meshgrid(np.arange(GRID), np.arange(GRID)), -1).reshape(-1, 2) + 0.5) / GRID
    centre = of_owner[..., 3:5] / 1000
    offset = (centre - grid) * GRID
    return {
        "covered": torch.from_numpy(covered),
        "kind": torch.from_numpy(np.where(covered, of_owner[..., 0] + 1, 0).astype(np.int64)),
        "color": torch.from_numpy(np.where(covered, of_owner[..., 1], data.ground[rows]).astype(np.int64)),
        "size": torch.from_numpy(of_owner[..., 2].astype(np.int64)),
        "centre": torch.from_numpy(centre * 2 - 1).float(),
        "offset": torch.from_numpy(offset).float(),
        "flag": torch.from_numpy((np.abs(offset).max(-1) <= 0.5).astype(np.int64)),
        "rank": torch.from_numpy(number),
        "level": torch.from_numpy(np.take_along_axis(levels, number, 1)),
    }


def loss_of(out: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
    covered = truth["covered"]

    def choice(name: str, *, inside: bool) -> Tensor:
        if inside:
            return functional.cross_entropy(out[name][covered], truth[name][covered])
        every = functional.cross_entropy(out[name].flatten(0, 1), truth[name].flatten())
        return every + 0.5 * functional.cross_entropy(out[name][covered], truth[name][covered])

    total = choice("kind", inside=False) + choice("color", inside=False) + 0.5 * choice("size", inside=True)
    total = total + 0.2 * choice("flag", inside=True) + 0.3 * choice("rank", inside=True)
    total = total + 0.3 * choice("level", inside=True)
    total = total + 0.5 * functional.smooth_l1_loss(out["offset"][covered], truth["offset"][covered])
    return total + 4 * functional.smooth_l1_loss(out["centre"][covered], truth["centre"][covered], beta=0.1)


@torch.no_grad()
def accuracy(model: nn.Module, data: Rendered, rows: np.ndarray) -> dict[str, float]:
    """Shares of patches right (inside shapes, except `ground`), and the mean error of the centre."""
    totals: dict[str, list[float]] = {}
    for part in np.array_split(rows, max(1, len(rows) // 100)):
        truth = labels(data, part)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(normalise(torch.from_numpy(data.pixels[part])))
        covered = truth["covered"]
        for name in ("kind", "color", "size", "rank", "level", "flag"):
            right = (out[name].argmax(-1) == truth[name])[covered]
            totals.setdefault(name, []).append(right.float().mean().item())
        ground = (out["color"].argmax(-1) == truth["color"])[~covered]
        totals.setdefault("ground", []).append(ground.float().mean().item())
        error = (out["centre"] - truth["centre"])[covered].abs().mean().item() / 2
        totals.setdefault("centre_error", []).append(error)
    return {name: round(sum(values) / len(values), 4) for name, values in totals.items()}


def train(run: Path, minutes: float, batch: int, rate: float) -> None:
    torch.manual_seed(0)
    data = load(run)
    count = len(data.pixels) - 2000
    held_out = np.arange(count, count + 1000)
    model = Teacher(Config())
    compiled = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    step, spent, path = 0, 0.0, run / "tower.pt"
    if path.exists():
        saved = torch.load(path)
        model.load_state_dict(saved["model"])
        if "optimizer" in saved:
            optimizer.load_state_dict(saved["optimizer"])
            step, spent = saved["step"], saved["spent"]
    began = time.monotonic() - spent
    rng = np.random.default_rng(step)
    average = 0.0
    while (done := (time.monotonic() - began) / (minutes * 60)) < 1:
        rows = np.sort(rng.choice(count, batch, replace=False))
        now = rate * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = now
        truth = labels(data, rows)
        with torch.autocast("cpu", torch.bfloat16):
            out = compiled(normalise(torch.from_numpy(data.pixels[rows])))
        loss = loss_of(out, truth)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        average = loss.item() if step == 1 else 0.98 * average + 0.02 * loss.item()
        if step % 50 == 0:
            minute = (time.monotonic() - began) / 60
            print(f"step {step} minute {minute:.1f} rate {now:.5f} loss {average:.4f}", flush=True)
        if step % 300 == 0:
            print("held out", accuracy(model, data, held_out), flush=True)
            save(path, model, optimizer, step, time.monotonic() - began)
    print("held out", accuracy(model, data, held_out), flush=True)
    save(path, model, optimizer, step, time.monotonic() - began)


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, spent: float) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent": spent}
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("training/run"))
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if missing := [name for name in NAMES if not (options.run / f"{name}.npy").exists()]:
        parser.error(f"no {missing[0]}.npy in {options.run}: run training.data first")
    train(options.run, options.minutes, options.batch, options.rate)


if __name__ == "__main__":
    main()
