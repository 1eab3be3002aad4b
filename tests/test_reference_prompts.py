"""Facts about prompts: token by token the authors' layouts, as transformers tokenises them (tests/reference).

Expected ids were made from an independent writing of the layouts; -200 stands for a picture there, as in LLaVA.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from llava_cli.cells import cells_of
from llava_cli.pictures import Picture
from llava_cli.prompts import LAYOUTS, Message
from llava_cli.vision import View
from tests.reference.recipe import write_vocabulary

PROMPTS = json.loads((Path(__file__).parent / "reference" / "expected" / "prompts.json").read_text())
FAMILIES = {
    "llava_v1": "llama",
    "mistral_instruct": "mistral",
    "chatml_direct": "yi",
    "llama3": "llama3",
    "phi3": "phi3",
}
CONTROL, USER_DEFINED = 3, 4
PICTURE = -200

OpenAs = Callable[..., Any]
"""`open_as(layout, **changes)`: the vocabulary of the layout's family, with some keys of its file changed."""


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAs]:
    """Open each family's vocabulary without a model; also as other converters write it."""
    directory = tmp_path_factory.mktemp("vocabularies")
    opened: dict[str, Any] = {}

    def open_as(layout: str, **changes: Any) -> Any:
        key = repr((layout, changes))
        if key not in opened:
            path = write_vocabulary(
                directory / f"{len(opened)}.gguf", PROMPTS["vocabularies"][FAMILIES[layout]], **changes
            )
            opened[key] = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
        return opened[key]

    yield open_as
    for llama in opened.values():
        llama.close()


def messages_of(chat: dict[str, Any]) -> list[Message]:
    """Write a chat of the reference as our messages, each picture another one."""
    messages = [] if chat["system"] is None else [Message("system", chat["system"])]
    for turn, (question, pictures, answer) in enumerate(chat["turns"]):
        shown = tuple(Picture(f"{turn}.{n}", 1, 1, bytes([turn, n, 0])) for n in range(pictures))
        messages.append(Message("user", question, shown))
        if answer is not None:
            messages.append(Message("assistant", answer))
    return messages


def ids(layout: str, messages: Sequence[Message], llama: Any) -> list[int]:
    """Return the tokens of a prompt, each picture as one `PICTURE`."""
    cells = cells_of(LAYOUTS[layout].render(messages), llama, lambda picture: View(picture.sha256, "high", 1))
    return [cell if isinstance(cell, int) else PICTURE for cell in cells]


def texts(layout: str, tokens: Sequence[int]) -> list[str]:
    """Show tokens as their texts, which is what one wants to see when they differ."""
    names = PROMPTS["vocabularies"][FAMILIES[layout]]["tokens"]
    return [names[token] if token >= 0 else "PICTURE" for token in tokens]


@pytest.mark.parametrize("chat", PROMPTS["chats"])
@pytest.mark.parametrize("layout", FAMILIES)
def test_a_prompt_is_token_by_token_that_of_the_authors(vocabularies: OpenAs, layout: str, chat: str) -> None:
    expected = PROMPTS["ids"][layout][chat]
    ours = ids(layout, messages_of(PROMPTS["chats"][chat]), vocabularies(layout))
    assert texts(layout, expected) == texts(layout, ours)
    assert expected == ours


@pytest.mark.parametrize("chat", PROMPTS["chats"])
@pytest.mark.parametrize("add_space_prefix", [True, False])
def test_yi_has_no_dummy_space_whatever_the_file_says(vocabularies: OpenAs, chat: str, add_space_prefix: bool) -> None:
    """Converters did not write this key for Yi, and llama.cpp then takes true."""
    llama = vocabularies("chatml_direct", add_space_prefix=add_space_prefix)
    ours = ids("chatml_direct", messages_of(PROMPTS["chats"][chat]), llama)
    assert texts("chatml_direct", PROMPTS["ids"]["chatml_direct"][chat]) == texts("chatml_direct", ours)


@pytest.mark.parametrize("chat", [name for name in PROMPTS["chats"] if "special" in name])
@pytest.mark.parametrize("layout", ["llava_v1", "chatml_direct", "llama3", "phi3"])
def test_typed_special_tokens_stay_text_in_files_that_call_them_user_defined(
    vocabularies: OpenAs, layout: str, chat: str
) -> None:
    """llama.cpp finds user-defined tokens in any text; Phi-3 files have `</s>` so, older ones all their chat tokens."""
    vocabulary = PROMPTS["vocabularies"][FAMILIES[layout]]
    types = [USER_DEFINED if kind == CONTROL else kind for kind in vocabulary["types"]]
    ours = ids(layout, messages_of(PROMPTS["chats"][chat]), vocabularies(layout, types=types))
    assert texts(layout, PROMPTS["ids"][layout][chat]) == texts(layout, ours)


@pytest.mark.parametrize("layout", FAMILIES)
def test_the_beginning_of_a_prompt_is_marked_once_if_the_file_wants_it(vocabularies: OpenAs, layout: str) -> None:
    messages = messages_of(PROMPTS["chats"]["three turns"])
    bos = PROMPTS["vocabularies"][FAMILIES[layout]]["bos"]
    marked = ids(layout, messages, vocabularies(layout))
    assert (marked[0], marked.count(bos)) == (bos, 1)
    assert marked[1:] == ids(layout, messages, vocabularies(layout, add_bos=False))


@pytest.mark.parametrize(
    ("layout", "stop"),
    [
        ("llava_v1", "</s>"),
        ("mistral_instruct", "</s>"),
        ("chatml_direct", "<|im_end|>"),
        ("llama3", "<|eot_id|>"),
        ("phi3", "<|end|>"),
    ],
)
def test_an_answer_stops_where_the_layout_says(layout: str, stop: str) -> None:
    assert stop in LAYOUTS[layout].stop
