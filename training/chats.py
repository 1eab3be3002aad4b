"""Chats as rows of token ids, exactly as the product writes LLaVA's `llava_v1` prompt."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from training.questions import Question, ask, chat
from training.scenes import Scene
from training.tokenizer import BEGIN, STOP, SYSTEM, Tokenizer

PICTURE = -1  # stands for one row of picture features
OTHER_SYSTEMS = (
    "",
    "Answer briefly.",
    "Answer in one word.",
    "You are a helpful assistant.",
    "Be short and precise.",
    "Please answer the questions about the picture.",
    "You are a friendly robot that looks at pictures.",
    "Answer the question.",
)


@dataclass
class Row:
    """Ids, and for each answer the range of positions that hold it (its `</s>` included)."""

    ids: list[int] = field(default_factory=list)
    answers: list[tuple[int, int, str]] = field(default_factory=list)

    def add(self, kind: str, before: list[int], whole: list[int]) -> None:
        """Append a turn: `whole` is its text with the answer, `before` the same without."""
        if whole[: len(before)] != before:
            raise ValueError("an answer changes how the words before it are split")
        start = len(self.ids) + len(before)
        self.ids += [*whole, STOP]
        self.answers.append((start, len(self.ids), kind))


class Writer:
    """Turns questions into rows."""

    def __init__(self, tokenizer: Tokenizer, patches: int) -> None:
        self.tokenizer = tokenizer
        self.patches = patches

    def row(self, questions: list[Question], *, system: str = SYSTEM, limit: int | None = None, blind: int = 0) -> Row:
        """A chat whose picture comes with question number `blind`; questions that do not fit are left out."""
        row = Row([BEGIN])
        for number, question in enumerate(questions):
            prompt, answer = f"{question.text} ASSISTANT:", f" {question.answer}"
            lead = f"{system} USER: " if system else "USER: "
            split = self.tokenizer.begin if number == 0 else self.tokenizer.go_on
            lead = lead if number == 0 else "USER: "
            extra = Row()
            if number == blind:
                extra.ids = split(lead) + [PICTURE] * self.patches
                split, lead = self.tokenizer.begin, "\n"
            extra.add(question.kind, split(lead + prompt), split(lead + prompt + answer))
            if limit is not None and len(row.ids) + len(extra.ids) > limit:
                break
            shift = len(row.ids)
            row.ids += extra.ids
            row.answers += [(start + shift, stop + shift, kind) for start, stop, kind in extra.answers]
        return row

    def training_row(self, scene: Scene, rng: random.Random, limit: int) -> Row:
        """As many questions as fit; now and then another system sentence, or questions before the picture."""
        system = SYSTEM if rng.random() < 0.9 else rng.choice(OTHER_SYSTEMS)
        questions = chat(scene, rng, 5 + limit // 20)
        blind = 0
        if rng.random() < 0.05:
            blind = rng.choice((1, 1, 2, len(questions)))
            for number in range(blind):
                sorry = ask(scene, "other", rng)
                if sorry is not None:
                    asked = questions[number] if rng.random() < 0.6 else sorry
                    questions[number] = Question("other", asked.text, sorry.answer)
        return self.row(questions, system=system, limit=limit, blind=blind)
