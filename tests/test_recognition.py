"""Facts about prompt layouts of files of the user's own: recognised where certain, asked for otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_cli.errors import UsageError
from llava_cli.gguf_file import read_header
from llava_cli.prompts import LAYOUT_NAMES
from llava_cli.recognition import recognised_layout
from tests.gguf_draft import Draft
from tests.processes import SCENE, files_of, llava
from tests.tiny_model import tiny_vocabulary


def layout_of(draft: Draft, path: Path) -> str:
    layout, notes = recognised_layout(read_header(draft.write(path)))
    assert f"prompt layout {layout}, since" in notes[0]
    return layout


def with_token(draft: Draft, token: bytes, architecture: str = "llama") -> Draft:
    draft.set("general.architecture", "str", architecture)
    return draft.set("tokenizer.ggml.tokens", "str[]", [*(text for text, _, _ in tiny_vocabulary()), token])


def shared_heads(draft: Draft) -> Draft:
    return draft.set("llama.attention.head_count_kv", "u32", 2)


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("llama3", "llava-llama-3-8b-v1_1-int4.gguf"),
        ("phi3", "LLaVA-Phi-3-mini-f16.gguf"),
        ("llava_v1", "llava-v1.5-7b-Q4_K_S-imat.gguf"),
    ],
)
def test_a_published_name_tells(tiny_pair: tuple[Path, Path], tmp_path: Path, layout: str, name: str) -> None:
    assert layout == layout_of(shared_heads(Draft(tiny_pair[0])), tmp_path / name)


@pytest.mark.parametrize(
    ("layout", "token", "architecture"),
    [
        ("llama3", b"<|start_header_id|>", "llama"),
        ("chatml_direct", b"<|im_start|>", "llama"),
        ("phi3", b"<|assistant|>", "phi3"),
    ],
)
def test_the_vocabulary_tells(
    tiny_pair: tuple[Path, Path], tmp_path: Path, layout: str, token: bytes, architecture: str
) -> None:
    assert layout == layout_of(with_token(Draft(tiny_pair[0]), token, architecture), tmp_path / "model.gguf")


def test_the_shape_of_vicuna_tells(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert "llava_v1" == layout_of(Draft(tiny_pair[0]), tmp_path / "model.gguf")


UNKNOWN = {
    "Mistral or another": shared_heads,
    "ChatML on Qwen": lambda draft: with_token(draft, b"<|im_start|>", "qwen2"),
    "Phi without its tokens": lambda draft: draft.set("general.architecture", "str", "phi3").drop(
        "llama.attention.head_count"
    ),
}


@pytest.mark.parametrize("edit", UNKNOWN.values(), ids=UNKNOWN)
def test_what_could_be_one_or_another_is_asked_for(tiny_pair: tuple[Path, Path], tmp_path: Path, edit) -> None:
    with pytest.raises(UsageError, match=r"nothing in model\.gguf tells") as caught:
        layout_of(edit(Draft(tiny_pair[0])), tmp_path / "model.gguf")
    assert ", ".join(LAYOUT_NAMES) in caught.value.hint


def test_the_command_line_says_what_it_recognised_and_asks_otherwise(
    tiny_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    def ask(model: Path) -> tuple[int, str]:
        files = files_of((model, tiny_pair[1]))[:4]
        done = llava("ask", SCENE, "What?", "-n", "2", "--no-cache", *files)
        return done.returncode, done.stderr

    known, said = ask(tiny_pair[0])
    assert (0, True) == (known, said.startswith("note: model.gguf: prompt layout llava_v1, since"))
    unknown, said = ask(shared_heads(Draft(tiny_pair[0])).write(tmp_path / "model.gguf"))
    assert (2, True) == (unknown, "hint: say it with --prompt-layout, one of llava_v1" in said)
