"""Stage 1: projector and language model learn to answer: `python -m training.train --run DIR --minutes 80`.

At first the tower is frozen and its features are computed once; for the last part of the time all parameters
learn together, the tower at a low rate.  Each row is a chat of many questions about one picture, so that the
system sentence and the picture are paid for once; the loss is on the answers and their `</s>` alone.
The learning rate follows the clock, so that training ends when it has to.
"""

from __future__ import annotations

import argparse
import math
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.batches import Batch, cache_features, training_rows
from training.chats import Row, Writer
from training.data import LONGEST, load
from training.model import Config, Llama, Projector, Tower, normalise
from training.questions import WEIGHTS, ask
from training.scenes import make_scene
from training.tokenizer import Tokenizer
from training.tower import Teacher, labels, loss_of

LENGTH, LONG_LENGTH = 288, 576
TEACHING = 0.3  # weight of the labels per patch beside the answers
TOWER_SHARE = 1.0  # of the learning rate, when the tower learns, too
HELD_OUT = 2000  # the last scenes are for watching only


class Speaker(nn.Module):
    """The whole model; the tower's features are an argument, since most of the time they come from a file."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.tower = Tower(config)
        self.projector = Projector(config)
        self.llama = Llama(config)

    def forward(self, batch: Batch, features: Tensor, hidden: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The logits that decide each token of the answers; `hidden` may be a compiled language model."""
        words = self.llama.token_embd(batch.ids.clamp(min=0))
        out = (hidden or self.llama.hidden)(batch.embed(words, self.projector(features)))
        logits: Tensor = self.llama.output(out.flatten(0, 1)[batch.where])
        return logits.float()


class Optimizers:
    """Muon for the matrices in the language model's blocks, AdamW for the rest; the tower learns slowly."""

    def __init__(self, model: Speaker, rate: float, *, muon: bool) -> None:
        inner = [p for name, p in model.llama.named_parameters() if p.ndim == 2 and "blocks." in name and muon]
        chosen = {id(p) for p in [*inner, *model.tower.parameters()]}
        outer = [p for p in model.parameters() if id(p) not in chosen]
        groups = [
            {"params": outer, "share": 1.0},
            {"params": list(model.tower.parameters()), "share": TOWER_SHARE},
        ]
        self.all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        ]
        if inner:
            self.all.append(
                torch.optim.Muon(inner, rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw", ns_steps=4)
            )

    def state(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self.all]

    def load(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self.all, states, strict=True):
            optimizer.load_state_dict(state)

    def step(self, rate: float) -> None:
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("share", 1.0)
            optimizer.step()
            optimizer.zero_grad()


def held_out_rows(writer: Writer, first: int, count: int) -> list[tuple[int, Row]]:
    """Chats of five questions, all kinds alike, on scenes that are not trained on."""
    rows = []
    for seed in range(first, first + count):
        rng = random.Random(f"watch {seed}")
        scene = make_scene(seed, longest=LONGEST)
        kinds = rng.sample(sorted(WEIGHTS), 8)
        questions = [q for kind in kinds if (q := ask(scene, kind, rng, held_out=True))]
        rows.append((seed, writer.row(questions[:5])))
    return rows


class Eyes:
    """Features of scenes: from the file while the tower is frozen, from the tower when it learns."""

    def __init__(self, run: Path, model: Speaker, *, frozen: bool) -> None:
        path = run / "features.npy"
        if frozen and not path.exists():
            cache_features(run, Config())
        self.features = np.load(path, mmap_mode="r") if frozen else None
        self.data = load(run)
        self.tower = model.tower
        self.frozen = frozen

    def __call__(self, seeds: np.ndarray) -> Tensor:
        if self.frozen and self.features is not None:
            return torch.from_numpy(self.features[seeds].astype(np.float32))
        features: Tensor = self.tower(normalise(torch.from_numpy(np.array(self.data.pixels[seeds]))))
        return features


@torch.no_grad()
def accuracy(model: Speaker, eyes: Eyes, rows: list[tuple[int, Row]]) -> dict[str, float]:
    """Share of whole answers that greedy decoding would give, by kind, and for first and later turns."""
    right: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(rows), 40):
        part = rows[start : start + 40]
        batch = Batch([row for _, row in part], max(len(row.ids) for _, row in part))
        with torch.autocast("cpu", torch.bfloat16):
            choice = model(batch, eyes(np.array([seed for seed, _ in part]))).argmax(-1)
        wrong = torch.zeros(len(batch.kinds)).index_add(0, batch.answer, (choice != batch.target).float())
        for (kind, turn), errors in zip(batch.kinds, wrong.tolist(), strict=True):
            for name in (kind, "all", "first turn" if turn == 0 else "later turns"):
                right[name].append(errors == 0)
    return {name: round(sum(hits) / len(hits), 3) for name, hits in sorted(right.items())}


@dataclass(frozen=True)
class Options:
    """The command line."""

    run: Path
    minutes: float
    batch: int
    rate: float
    adamw: bool
    together: float
    name: str
    threads: int


class Trainer:
    """Model, optimizers and clock; goes on from the checkpoint if there is one."""

    def __init__(self, options: Options) -> None:
        torch.manual_seed(1)
        config, run = Config(), options.run
        self.options = options
        self.writer = Writer(Tokenizer(run / "tokenizer.model"), config.patches)
        self.model = Speaker(config)
        self.teacher = Teacher(config)
        self.teacher.load_state_dict(torch.load(run / "tower.pt")["model"])
        self.teacher.heads.requires_grad_(requires_grad=False)
        self.model.tower = self.teacher.tower
        self.eyes = Eyes(run, self.model, frozen=options.together < 1)
        self.count = len(self.eyes.data.pixels) - HELD_OUT
        self.watched = held_out_rows(self.writer, self.count, 240)
        self.optimizers = Optimizers(self.model, options.rate, muon=not options.adamw)
        self.hidden = torch.compile(self.model.llama.hidden, dynamic=False)
        self.path = run / f"{options.name}.pt"
        self.step, spent = 0, 0.0
        if self.path.exists():
            saved = torch.load(self.path)
            # Files that `training.restore` wrote have no optimizers, and their tower is in `tower.pt`.
            self.model.load_state_dict(saved["model"], strict="optimizers" in saved)
            if "optimizers" in saved:
                self.optimizers.load(saved["optimizers"])
                self.step, spent = saved["step"], saved["spent"]
        self.began = time.monotonic() - spent
        self.rng, self.picks = random.Random(self.step), np.random.default_rng(self.step)

    def done(self) -> float:
        """Share of the time that is over."""
        return (time.monotonic() - self.began) / (self.options.minutes * 60)

    def rate(self) -> float:
        """Warm-up by steps, then a cosine that ends with the time."""
        warm = min(1, (self.step + 1) / 100)
        return self.options.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, self.done()))))

    def learn(self) -> float:
        """One step; returns its loss."""
        long = self.step % 10 == 9  # positions that only long chats reach
        length, size = (LONG_LENGTH, self.options.batch // 3) if long else (LENGTH, self.options.batch)
        seeds = np.sort(self.picks.choice(self.count, size, replace=False))
        batch = Batch(training_rows(self.writer, seeds, self.rng, length), length)
        self.eyes.frozen = self.done() < 1 - self.options.together
        with torch.autocast("cpu", torch.bfloat16):
            features = self.eyes(seeds)
            logits = self.model(batch, features, self.hidden)
        losses = functional.cross_entropy(logits, batch.target, reduction="none")
        loss = (losses * batch.weight).sum() / batch.weight.sum()
        total = loss
        if not self.eyes.frozen:  # the labels of stage 0 keep the tower from forgetting
            total = loss + TEACHING * loss_of(self.teacher.read(features), labels(self.eyes.data, seeds))
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizers.step(self.rate())
        self.step += 1
        return loss.item()

    def keep(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state(),
            "step": self.step,
            "spent": time.monotonic() - self.began,
        }
        torch.save(state, self.path.with_suffix(".tmp"))
        self.path.with_suffix(".tmp").replace(self.path)

    def watch(self) -> None:
        together = "" if self.eyes.frozen else "(all together)"
        print("held out", together, accuracy(self.model, self.eyes, self.watched), flush=True)


def train(options: Options) -> None:
    trainer = Trainer(options)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())  # keeps what was learnt
    average: float | None = None
    while trainer.done() < 1 and not stopped.is_set():
        loss = trainer.learn()
        average = loss if average is None else 0.97 * average + 0.03 * loss
        if trainer.step % 25 == 0:
            minute = (time.monotonic() - trainer.began) / 60
            rate = trainer.rate()
            print(f"step {trainer.step} minute {minute:.1f} rate {rate:.5f} loss {average:.4f}", flush=True)
        if trainer.step % 100 == 0:
            trainer.keep()
        if trainer.step % 250 == 0:
            trainer.watch()
    trainer.keep()
    trainer.watch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("training/run"))
    parser.add_argument("--minutes", type=float, default=80)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--adamw", action="store_true", help="AdamW for all parameters")
    parser.add_argument("--together", type=float, default=0.35, help="last share of the time: the tower learns")
    parser.add_argument("--name", default="speaker", help="name of the checkpoint")
    parser.add_argument("--threads", type=int, default=2)
    options = Options(**vars(parser.parse_args()))
    torch.set_num_threads(options.threads)
    train(options)


if __name__ == "__main__":
    main()
