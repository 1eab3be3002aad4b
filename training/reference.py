"""What PyTorch answers, for a test that llama.cpp answers the same: `python -m training.reference --run DIR`.

Pictures go through the product's own scaling and padding; weights are rounded to f16 as in the GGUF files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from llava_cli.pictures import open_picture
from llava_cli.vision import square_pixels
from training.batches import Batch
from training.chats import PICTURE, Row
from training.evaluate import FIRST_SEED, picture_bytes, questions_for
from training.model import Config, normalise
from training.scenes import make_scene
from training.tokenizer import BEGIN, STOP, SYSTEM, Tokenizer
from training.train import Speaker

FIRST = FIRST_SEED + 7000
LONGEST_ANSWER = 64


def load_speaker(checkpoint: Path) -> Speaker:
    """The model with its matrices as exact as the files hold them."""
    model = Speaker(Config())
    model.load_state_dict(torch.load(checkpoint, map_location="cpu")["model"])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half().float())
    return model.eval()


@torch.no_grad()
def answer(model: Speaker, tokenizer: Tokenizer, features: torch.Tensor, question: str) -> str:
    """Greedy."""
    prompt = [BEGIN, *tokenizer.begin(f"{SYSTEM} USER: "), *[PICTURE] * features.shape[1]]
    prompt += tokenizer.begin(f"\n{question} ASSISTANT:")
    said: list[int] = []
    while len(said) < LONGEST_ANSWER:
        ids = prompt + said
        row = Row([*ids, STOP], [(len(ids), len(ids) + 1, "")])
        token = int(model(Batch([row], len(row.ids)), features).argmax())
        if token == STOP:
            break
        said.append(token)
    return tokenizer.decode(said).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("training/run"))
    parser.add_argument("--name", default="speaker", help="name of the checkpoint")
    parser.add_argument("--out", type=Path, default=Path("tests/shapes_pytorch.json"))
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_speaker(options.run / f"{options.name}.pt")
    tokenizer, side = Tokenizer(options.run / "tokenizer.model"), Config().side
    answers: dict[str, list[tuple[str, str]]] = {}
    right = total = 0
    for seed in range(FIRST, FIRST + options.scenes):
        scene = make_scene(seed)
        square = square_pixels(open_picture(picture_bytes(scene)), side)
        pixels = np.frombuffer(square, np.uint8).reshape(1, side, side, 3)
        with torch.no_grad():
            features = model.tower(normalise(torch.from_numpy(pixels.copy())))
        answers[str(seed)] = []
        for question in questions_for(scene):
            said = answer(model, tokenizer, features, question.text)
            answers[str(seed)].append((question.text, said))
            right, total = right + (said == question.answer), total + 1
    options.out.write_text(json.dumps({"answers": answers}, indent=1) + "\n", encoding="utf-8")
    print(f"{right} of {total} right")


if __name__ == "__main__":
    main()
