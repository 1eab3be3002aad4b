"""Batches for stage 1: cached picture features and rows of ids, padded to one fixed length."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from training.chats import PICTURE, Row, Writer
from training.data import LONGEST, load
from training.model import Config, Tower, normalise
from training.scenes import make_scene


@torch.no_grad()
def cache_features(run: Path, config: Config) -> None:
    """Run the frozen tower over all pictures once; later steps then pay nothing for it."""
    path = run / "features.npy"
    pixels = load(run).pixels
    print("computing the features of all pictures", flush=True)
    tower = load_tower(run, config).eval()
    compiled = torch.compile(tower)
    shape = (len(pixels), config.patches, config.tower_width)
    out = open_memmap(path.with_suffix(".tmp"), mode="w+", dtype=np.float16, shape=shape)
    step = 100
    for start in range(0, len(pixels) - step + 1, step):
        part = normalise(torch.from_numpy(np.array(pixels[start : start + step])))
        with torch.autocast("cpu", torch.bfloat16):
            out[start : start + step] = compiled(part).to(torch.float16).numpy()
    out.flush()
    path.with_suffix(".tmp").replace(path)


def load_tower(run: Path, config: Config) -> Tower:
    tower = Tower(config)
    saved = torch.load(run / "tower.pt")["model"]
    tower.load_state_dict({name[6:]: value for name, value in saved.items() if name.startswith("tower.")})
    return tower


class Batch:
    """Ids with the places of the picture, and of each token of the answers its place, number and weight."""

    def __init__(self, rows: list[Row], length: int) -> None:
        ids = np.zeros((len(rows), length), np.int64)
        where: list[int] = []
        target: list[int] = []
        weight: list[float] = []
        answer: list[int] = []
        self.kinds: list[tuple[str, int]] = []
        for number, row in enumerate(rows):
            ids[number, : len(row.ids)] = row.ids
            for turn, (start, stop, kind) in enumerate(row.answers):
                where += range(number * length + start - 1, number * length + stop - 1)
                target += row.ids[start:stop]
                # Every answer counts, a long one more, but not by its whole length.
                weight += [(stop - start) ** -0.75] * (stop - start)
                answer += [len(self.kinds)] * (stop - start)
                self.kinds.append((kind, turn))
        self.ids = torch.from_numpy(ids)
        self.where, self.target = torch.tensor(where), torch.tensor(target)
        self.weight, self.answer = torch.tensor(weight), torch.tensor(answer)

    def embed(self, words: Tensor, features: Tensor) -> Tensor:
        """Word embeddings with the features put in their places."""
        places = (self.ids == PICTURE).flatten().nonzero()[:, 0]
        owners = (self.ids == PICTURE).any(1)
        flat = words.flatten(0, 1).index_copy(0, places, features[owners].flatten(0, 1).to(words.dtype))
        return flat.view_as(words)


def training_rows(writer: Writer, seeds: np.ndarray, rng: random.Random, length: int) -> list[Row]:
    return [writer.training_row(make_scene(int(seed), longest=LONGEST), rng, length) for seed in seeds]
