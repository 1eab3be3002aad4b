"""Facts about how the bytes of tokens become an answer."""

import pytest

from llava_cli.answer_text import PieceDecoder


def decode(pieces, stop=()):
    """Return the pieces a user sees, the last one after the end."""
    decoder = PieceDecoder(stop)
    shown = [text for piece in pieces for text in decoder.feed(piece)]
    return [*shown, *decoder.finish()]


def test_a_character_split_over_tokens_appears_whole():
    assert decode([b"caf", b"\xc3", b"\xa9"]) == ["caf", "é"]


def test_bytes_that_are_no_text_become_the_replacement_character():
    assert decode([b"a\xff", b"b\xe2\x82"]) == ["a�", "b", "�"]


@pytest.mark.parametrize("pieces", [[b"red</s>x"], [b"red<", b"/s", b">x"], [b"red", b"</s>", b"x"]])
def test_a_stop_string_ends_the_answer_wherever_tokens_split_it(pieces):
    assert "".join(decode(pieces, ["</s>"])) == "red"


def test_what_only_looks_like_a_stop_string_is_kept():
    assert decode([b"a <", b"/b"], ["</s>"]) == ["a", " </b"]


def test_the_earliest_of_several_stop_strings_wins():
    assert "".join(decode([b"one END two STOP"], ["STOP", "END"])) == "one"


@pytest.mark.parametrize("pieces", [[b"one STOP"], [b"one STO", b"P"], [b"one S", b"T", b"OP"]])
def test_of_stop_strings_that_overlap_the_one_that_is_complete_first_wins(pieces):
    assert "".join(decode(pieces, ["STOP", "TO"])) == "one S"


def test_white_space_is_dropped_at_both_ends_and_kept_inside():
    assert "".join(decode([b" ", b"\n two", b"  words", b" \n", b"\n"])) == "two  words"


def test_nothing_comes_after_a_stop_string():
    decoder = PieceDecoder(["."])
    assert [*decoder.feed(b"yes."), *decoder.feed(b"more"), *decoder.finish()] == ["yes"]
    assert decoder.stopped


def test_an_answer_of_white_space_is_empty():
    assert decode([b" ", b"\n"]) == []


def test_an_answer_that_goes_on_keeps_the_space_in_front():
    decoder = PieceDecoder([], is_begun=True)
    assert " and a square" == "".join([*decoder.feed(b" and"), *decoder.feed(b" a square "), *decoder.finish()])
