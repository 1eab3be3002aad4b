"""Go on from the published files, without a checkpoint: `python -m training.restore --run DIR`.

Writes `tower.pt` (its heads are new: let `training.tower` train them first), `speaker.pt` and
`tokenizer.model`, from which `training.tower` and `training.train --together 1` go on with fresh optimizers.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import gguf
import torch
from torch import Tensor

from training.model import Config
from training.tower import Teacher

TOKENIZER = Path(__file__).with_name("tokenizer.model")


def tensors(path: Path) -> dict[str, Tensor]:
    reader = gguf.GGUFReader(path)
    return {tensor.name: torch.tensor(tensor.data).float() for tensor in reader.tensors}


def restore(files: Path, run: Path) -> None:
    speaker, tower = {}, {}
    for name, tensor in tensors(files / "shapes-model-f16.gguf").items():
        speaker[f"llama.{name.replace('blk.', 'blocks.')}"] = tensor
    for name, tensor in tensors(files / "shapes-mmproj-f16.gguf").items():
        if name.startswith("mm."):
            layer = {"0": "first", "2": "second"}[name.split(".")[1]]
            speaker[f"projector.{layer}.{name.split('.')[2]}"] = tensor
        else:
            plain = name.removeprefix("v.").replace("blk.", "blocks.")
            tower[plain.replace("position_embd.weight", "position_embd")] = tensor
    teacher = Teacher(Config())
    teacher.tower.load_state_dict(tower)
    run.mkdir(parents=True, exist_ok=True)
    torch.save({"model": teacher.state_dict()}, run / "tower.pt")
    torch.save({"model": speaker}, run / "speaker.pt")
    shutil.copyfile(TOKENIZER, run / "tokenizer.model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("training/run"))
    parser.add_argument("--files", type=Path, default=Path("llava_cli/data/shapes"))
    options = parser.parse_args()
    restore(options.files, options.run)


if __name__ == "__main__":
    main()
