"""The SentencePiece tokenizer, LLaMA's kind: `python -m training.tokenizer --run DIR`.

BPE with byte fallback, single digits, no normalisation.  The corpus is what the model reads and writes, and
some plain English (the help texts that come with Python), so that any letters are split sensibly.
"""

from __future__ import annotations

import argparse
import pydoc_data.topics
import random
import re
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

from training.other import out_of_scope
from training.questions import chat
from training.scenes import make_scene

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
VOCABULARY = 768
PLAIN = re.compile(r"[A-Za-z][A-Za-z ,.;:'?!]*")
UNKNOWN, BEGIN, STOP = 0, 1, 2


def corpus(scenes: int = 8000) -> Iterator[str]:
    rng = random.Random(0)
    for seed in range(scenes):
        for question in chat(make_scene(seed), rng, 4):
            yield f"USER: {question.text} ASSISTANT: {question.answer}"
        if seed % 8 == 0:
            yield f"{SYSTEM} USER: "
        yield out_of_scope(rng)
        yield out_of_scope(rng)
    for text in pydoc_data.topics.topics.values():
        yield from (line for line in text.splitlines() if PLAIN.fullmatch(line))


def train(model: Path) -> None:
    model.parent.mkdir(parents=True, exist_ok=True)
    with model.open("wb") as sink:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=corpus(),
            model_writer=sink,
            model_type="bpe",
            vocab_size=VOCABULARY,
            byte_fallback=True,
            split_digits=True,
            add_dummy_prefix=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=False,
            character_coverage=1.0,
            unk_id=UNKNOWN,
            bos_id=BEGIN,
            eos_id=STOP,
            pad_id=-1,
            num_threads=2,
        )


class Tokenizer:
    """Text to ids, by the rules of LLaVA's `tokenizer_image_token` and Hugging Face's `legacy=False`."""

    def __init__(self, model: Path) -> None:
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(model))

    def begin(self, text: str) -> list[int]:
        """Text at the start or after a picture: with the dummy prefix space."""
        return list(self.processor.encode(text))

    def go_on(self, text: str) -> list[int]:
        """Text directly after `</s>`: without the dummy prefix space."""
        return list(self.processor.encode("\n" + text))[2:]

    def decode(self, ids: list[int]) -> str:
        return str(self.processor.decode(ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("training/run"))
    options = parser.parse_args()
    train(options.run / "tokenizer.model")


if __name__ == "__main__":
    main()
