"""A tokenised prompt as a list of cells: tokens, and pictures row by row."""

from __future__ import annotations

import ctypes
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from llava_cli.errors import EngineFailed
from llava_cli.prompts import Bare, Part, Special
from llava_cli.vision import View

if TYPE_CHECKING:
    from llava_cli.pictures import Picture, RememberedPicture

_ANSWERS_KNOWN = 64


class PictureCell(NamedTuple):
    """One of the cells a picture takes: whose, and which of its embeddings."""

    view: View
    row: int


Cell = int | PictureCell
"""A token, or one row of a picture."""


class WrittenAnswers:
    """The tokens that answers were written in, so that the cache knows them again in the prompt of the next question.

    A model may write a word in other tokens than its tokenizer cuts it into. Those would all be read anew.
    """

    def __init__(self) -> None:
        self._tokens: OrderedDict[tuple[bool, bytes], list[int]] = OrderedDict()

    def add(self, parts: Sequence[Part], written: Sequence[int], llama: Any) -> None:
        """Remember that the tokens `written` came behind the prompt `parts`."""
        before = parts[-1]
        text = before if isinstance(before, str) else ""
        tokens = [*(self.of(text, llama) if text else ()), *written]
        data = text.encode("utf-8", "replace") + b"".join(piece_of(token, llama) for token in written)
        # Behind a special token the answer is a text of its own, and the layout decides how it begins.
        for is_bare in {isinstance(text, Bare)} if text else (False, True):
            self._tokens[is_bare, data] = tokens
        while len(self._tokens) > _ANSWERS_KNOWN:
            self._tokens.popitem(last=False)

    def of(self, text: str, llama: Any) -> list[int]:
        """Tokenise a text of a prompt; one that ends with a known answer comes back as it was written."""
        known = self._tokens.get((isinstance(text, Bare), text.encode("utf-8", "replace")))
        return _text_tokens(text, llama) if known is None else known

    def without(self, text: Part) -> WrittenAnswers:
        """Return the same, but for one text of a prompt, which keeps the tokens of the tokenizer."""
        others = WrittenAnswers()
        key = (isinstance(text, Bare), text.encode("utf-8", "replace")) if isinstance(text, str) else None
        others._tokens.update((known, tokens) for known, tokens in self._tokens.items() if known != key)
        return others


def piece_of(token: int, llama: Any) -> bytes:
    """Return the bytes a token stands for."""
    from llama_cpp import llama_cpp as c

    buffer = ctypes.create_string_buffer(64)
    length = c.llama_token_to_piece(llama._model.vocab, token, buffer, len(buffer), 0, False)
    if length < 0:
        buffer = ctypes.create_string_buffer(-length)
        length = c.llama_token_to_piece(llama._model.vocab, token, buffer, len(buffer), 0, False)
    return buffer.raw[:length]


def cells_of(
    parts: Sequence[Part],
    llama: Any,
    view: Callable[[Picture | RememberedPicture], View],
    written: WrittenAnswers | None = None,
) -> list[Cell]:
    """Tokenise `parts` as the authors' `tokenizer_image_token` does, BOS first if the model wants one.

    `view` tells what the model's tower sees of a picture. Answers that were `written` here keep their tokens.
    """
    written = written or WrittenAnswers()
    cells: list[Cell] = [llama.token_bos()] if llama._model.add_bos_token() else []
    for part in parts:
        if isinstance(part, Special):
            cells.append(_special_token(part, llama))
        elif isinstance(part, str):
            cells.extend(written.of(part, llama))
        else:
            seen = view(part)
            cells.extend(PictureCell(seen, row) for row in range(seen.tokens))
    return cells


def _special_token(part: Special, llama: Any) -> int:
    tokens: list[int] = llama.tokenize(part.token.encode(), add_bos=False, special=True)
    if len(tokens) != 1:
        raise EngineFailed(
            "prompt layout",
            f"this model has no token {part.token}",
            hint="another layout fits it: see --prompt-layout in `llava ask --help`",
        )
    return tokens[0]


def _text_tokens(text: str, llama: Any) -> list[int]:
    data = text.encode("utf-8", "replace")
    tokens: list[int] = _joined_tokens(data, llama) if isinstance(text, Bare) else _tokens(data, llama)
    markers = _markers_among(tokens, llama)
    if not markers:
        return tokens
    # Cut through what only looks like a special token, so that it stays the text it is.
    cuts = [found.end() - 1 for found in re.finditer(b"|".join(map(re.escape, markers)), data)]
    first, *rest = [data[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    tokens = _joined_tokens(first, llama) if isinstance(text, Bare) else _tokens(first, llama)
    return tokens + [token for piece in rest for token in _joined_tokens(piece, llama)]


def _tokens(data: bytes, llama: Any) -> list[int]:
    return list(llama.tokenize(data, add_bos=False, special=False))


def _joined_tokens(data: bytes, llama: Any) -> list[int]:
    """Tokenise text that joins what stands before it, with no space between."""
    from llama_cpp import llama_cpp as c

    if c.llama_vocab_type(llama._model.vocab) != c.LLAMA_VOCAB_TYPE_SPM:
        return _tokens(data, llama)
    # llama.cpp always puts the space in front; behind a newline, which joins no other piece, there is none.
    return _tokens(b"\n" + data, llama)[len(_tokens(b"\n", llama)) :]


def _markers_among(tokens: Sequence[int], llama: Any) -> set[bytes]:
    """Find chat tokens that llama.cpp has seen in plain text, because the file calls them user-defined.

    Files of Phi-3 do so with `</s>`, older files with all that a converter found in `added_tokens.json`.
    """
    from llama_cpp import llama_cpp as c

    vocab = llama._model.vocab
    defined = {t for t in set(tokens) if c.llama_vocab_get_attr(vocab, t) & c.LLAMA_TOKEN_ATTR_USER_DEFINED}
    return {text for t in defined if re.fullmatch(rb"<.+>", text := c.llama_vocab_get_text(vocab, t))}


def view_of(cell: Cell) -> View | None:
    return cell.view if isinstance(cell, PictureCell) else None


def up_to_first_picture(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells up to and including the first picture; none if there is no picture."""
    for first, cell in enumerate(cells):
        if isinstance(cell, PictureCell):
            end = first
            while end < len(cells) and cells[end] == PictureCell(cell.view, end - first):
                end += 1
            return list(cells[:end]) if end > first else []
    return []


def picture_cells(cells: Sequence[Cell]) -> int:
    """Return how many of the cells are of pictures."""
    return sum(isinstance(cell, PictureCell) for cell in cells)


def opening_of(cells: Sequence[Cell]) -> list[Cell]:
    """Return the text in front of the first picture: the system prompt, the same for every picture."""
    prefix = up_to_first_picture(cells)
    return prefix[: runs_of(prefix)[0][1]] if prefix and isinstance(prefix[0], int) else []


def runs_of(cells: Sequence[Cell]) -> list[tuple[int, int]]:
    """Return how `sync` splits `cells` when nothing is in the cache: text, picture, text, each in one go."""
    lengths = [len(list(run)) for _, run in groupby(cells, key=view_of)]
    return [(sum(lengths[:i]), sum(lengths[: i + 1])) for i in range(len(lengths))]
