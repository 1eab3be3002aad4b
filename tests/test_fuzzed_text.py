"""Facts about text that Hypothesis makes up: what reaches a terminal, and how tokens become an answer."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_cli.answer_text import PieceDecoder
from llava_cli.pictures import shown
from llava_cli.sanitiser import sanitise
from tests.fuzzing import cut, examples
from tests.hostile import HOSTILE, answered, is_obeyed, without_drawing

TEXT = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(HOSTILE),
        st.sampled_from([chr(n) for n in (*range(32), *range(127, 160), *range(0x2028, 0x2070))]),
        st.sampled_from(
            ["```\n", "\n\n", "| a | b |\n|---|---|\n", "> ", "1. ", "# ", "~~~", "    ", "[/", "]", "*", "`"]
        ),
    ),
    max_size=12,
).map("".join)


@given(TEXT)
@examples(200)
def test_exactly_what_is_obeyed_is_dropped(text: str) -> None:
    assert "".join(letter for letter in text if not is_obeyed(letter)) == sanitise(text)


@given(TEXT.flatmap(cut))
@examples(200)
def test_what_is_split_over_tokens_is_as_harmless_as_in_one_piece(pieces: list[str]) -> None:
    assert sanitise("".join(pieces)) == "".join(map(sanitise, pieces))


def strings(count: int) -> list[str]:
    """Draw strings of pieces of hostile ones, of controls, and of letters of all planes."""
    draw = random.Random(count)
    fragments = [part for text in HOSTILE for part in (text, text[: len(text) // 2], text[len(text) // 2 :])]
    drawn = []
    for _ in range(count):
        letters = [chr(draw.choice((draw.randrange(160), draw.randrange(0x3000), draw.randrange(0x110000))))
                   for _ in range(draw.randrange(8))]  # fmt: skip
        drawn.append("".join(draw.choices([*letters, *draw.choices(fragments, k=2)], k=draw.randrange(1, 9))))
    return drawn


def survivors(texts: list[str]) -> set[str]:
    return {letter for text in texts for letter in sanitise(text) if is_obeyed(letter)}


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_of_many_strings_nothing_is_obeyed(count: int) -> None:
    texts = strings(count)
    assert set() == survivors(texts)
    assert len({letter for text in texts for letter in text if is_obeyed(letter)}) > 80


@given(TEXT)
@examples(40)
def test_an_answer_on_a_terminal_is_harmless(text: str) -> None:
    drawn = answered(text)
    assert [] == [letter for letter in without_drawing(drawn) if is_obeyed(letter)]


@given(TEXT)
@examples(200)
def test_a_name_is_one_line_of_letters_that_print(name: str) -> None:
    assert shown(name).isprintable()
    assert 0 < len(shown(name)) < 3200


# Tokens.

ANSWER = st.lists(
    st.one_of(
        st.binary(max_size=4), st.text(max_size=6).map(str.encode), st.sampled_from([b"</s>", b"<|im_end|>", b"STOP"]),
        st.sampled_from([b" ", b"\n", b"</", b"<|im", b"ST", b"\xe2\x82", b"\xf0\x9f", "é".encode()]),
    ),
    max_size=10,
).map(b"".join)  # fmt: skip
STOPS = st.lists(st.sampled_from(["</s>", "<|im_end|>", "STOP", "TO", "é", " ", ""]), max_size=3)


def decoded(pieces: list[bytes], stop: list[str], **options: bool) -> tuple[list[str], bool]:
    """Return the pieces of text of an answer, and whether a stop string ended it."""
    decoder = PieceDecoder(stop, **options)
    text = [one for piece in pieces for one in decoder.feed(piece)]
    return [*text, *decoder.finish()], decoder.stopped


def as_a_whole(data: bytes, stop: list[str], *, is_begun: bool) -> str:
    """Decode an answer that is there as a whole: it ends before the stop string that is complete first."""
    text = data.decode("utf-8", "replace")
    cuts = [(text.index(one) + len(one), text.index(one)) for one in stop if one and one in text]
    text = text[: min(cuts, default=(0, len(text)))[1]].rstrip()
    return text if is_begun else text.lstrip()


@given(ANSWER.flatmap(cut), STOPS, st.booleans())
@examples(300)
def test_tokens_give_the_same_answer_wherever_they_split_it(pieces: list[bytes], stop: list[str], begun: bool) -> None:
    text, stopped = decoded(pieces, stop, is_begun=begun)
    whole = as_a_whole(b"".join(pieces), stop, is_begun=begun)
    assert whole == "".join(text)
    assert "" not in text
    assert stopped == any(one and one in b"".join(pieces).decode("utf-8", "replace") for one in stop)
