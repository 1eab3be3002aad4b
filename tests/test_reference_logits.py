"""Facts about whole prompts: the same next tokens, and nearly the same logits, as transformers (tests/reference)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from llava_cli.handler import LlavaChatHandler
from llava_cli.pictures import open_picture
from tests.reference import scenes
from tests.reference.recipe import (
    PAIRS,
    TEXTS,
    TOWERS,
    require,
    text_weights,
    tower_weights,
    write_model,
    write_projector,
)

EXPECTED = Path(__file__).parent / "reference" / "expected"
LOGITS = np.load(EXPECTED / "logits.npz")
FACTS = json.loads((EXPECTED / "logits.json").read_text())
PROMPTS = json.loads((EXPECTED / "prompts.json").read_text())
CHECKSUMS = json.loads((EXPECTED / "towers.json").read_text())


@dataclass(frozen=True)
class Answer:
    """What our engine wrote greedily, and the logits each token was chosen by."""

    tokens: list[int]
    logits: NDArray[np.float32]


def answer(directory: Path, name: str) -> Answer:
    """Ask a pair of the reference its question, through `Llama` and our chat handler."""
    text, tower = TEXTS[name], TOWERS[PAIRS[name]]
    vocabulary = PROMPTS["vocabularies"][text.vocabulary]
    weights = require(text_weights(text, len(vocabulary["tokens"])), FACTS[name]["weights"])
    model = write_model(directory / "model.gguf", text, weights, vocabulary)
    weights = require(tower_weights(tower), CHECKSUMS[PAIRS[name]])
    projector = write_projector(directory / "mmproj.gguf", tower, weights)
    chat = FACTS[name]["chat"]
    [[question, _, _]] = chat["turns"]
    picture = open_picture(scenes.paint(*scenes.SHAPES["portrait"]))
    content = [{"type": "picture", "picture": picture}, {"type": "text", "text": question}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if chat["system"] is not None:
        messages.insert(0, {"role": "system", "content": chat["system"]})
    seen: list[NDArray[np.float32]] = []

    def look(_tokens: object, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(scores.copy())
        return scores

    handler = LlavaChatHandler(projector, layout=text.layout)
    llama = llama_cpp.Llama(str(model), chat_handler=handler, n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
    try:
        llama.create_chat_completion(
            messages=messages, max_tokens=len(FACTS[name]["answer"]), temperature=0, logits_processor=[look]
        )
    finally:
        llama.close()
    logits = np.stack(seen)
    return Answer(logits.argmax(axis=1).tolist(), logits)


@pytest.fixture(scope="module", params=TEXTS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Answer]:
    """Answer with a Llama, and with a Mistral (grouped key heads, another rope)."""
    return request.param, answer(tmp_path_factory.mktemp(request.param), request.param)


def test_the_greedy_answer_is_token_by_token_that_of_the_reference(pair: tuple[str, Answer]) -> None:
    name, ours = pair
    assert FACTS[name]["answer"] == ours.tokens


def test_the_logits_are_within_a_hundredth_of_their_spread(pair: tuple[str, Answer]) -> None:
    name, ours = pair
    assert abs(LOGITS[name] - ours.logits).mean() <= 0.01 * LOGITS[name].std()
