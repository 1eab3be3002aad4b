"""A tokenised prompt as a list of cells, and the bookkeeping that keeps llama.cpp's KV cache equal to it."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from llava_cli.errors import EngineFailed
from llava_cli.prompts import Bare, Part, Special

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PLACEHOLDER = 0
"""Stands in `Llama.input_ids` where a picture is. That array cannot tell pictures apart; our cells can."""


class PictureCell(NamedTuple):
    """One of the cells a picture takes: whose, and which of its embeddings."""

    sha256: str
    row: int


Cell = int | PictureCell
"""A token, or one row of a picture."""


def cells_of(parts: Sequence[Part], llama: Any, picture_tokens: int) -> list[Cell]:
    """Tokenise `parts` as the authors' `tokenizer_image_token` does, BOS first if the model wants one."""
    cells: list[Cell] = [llama.token_bos()] if llama._model.add_bos_token() else []
    for part in parts:
        if isinstance(part, Special):
            cells.append(_special_token(part, llama))
        elif isinstance(part, str):
            cells.extend(_text_tokens(part, llama))
        else:
            cells.extend(PictureCell(part.sha256, row) for row in range(picture_tokens))
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


def _picture_of(cell: Cell) -> str:
    return cell.sha256 if isinstance(cell, PictureCell) else ""


class KvCache:
    """What is in the KV cache of one `Llama`, recorded after every decode, so that it is always true."""

    def __init__(self, llama: Any) -> None:
        self._llama = llama
        self._recorded: list[Cell] = []
        self.evaluated = 0
        """Cells evaluated so far, over the life of this object."""

    def cells(self) -> list[Cell]:
        """Return the cells the cache holds now, generated tokens too.

        Tokens come from `Llama.input_ids`, which whoever evaluates keeps true; only pictures need our record.
        """
        ids = self._llama.input_ids[: self._llama.n_tokens].tolist()
        held: list[Cell] = []
        for cell, token in zip(self._recorded, ids, strict=False):
            if (cell if isinstance(cell, int) else _PLACEHOLDER) != token:
                break  # somebody else has used this Llama
            held.append(cell)
        if len(held) == len(self._recorded):
            held.extend(ids[len(held) :])
        return held

    def sync(self, timeline: Sequence[Cell], embeddings: Callable[[str], NDArray[np.float32]]) -> tuple[int, int]:
        """Make the cache hold `timeline`, evaluating only what is new; return cells `(reused, new)`.

        `embeddings` gives the rows of a picture by its hash. The last cell is always evaluated: its logits
        pick the next token. Whatever stops this halfway, the record stays true.
        """
        reused = self._forget_all_but_prefix(timeline)
        for picture, run in groupby(timeline[reused:], key=_picture_of):
            cells = list(run)
            if picture:
                self._eval_rows(cells, embeddings(picture))
            else:
                self._llama.eval(cells)
                self._recorded.extend(cells)
            self.evaluated += len(cells)
        return reused, len(timeline) - reused

    def _forget_all_but_prefix(self, timeline: Sequence[Cell]) -> int:
        held = self.cells()
        common = 0
        limit = min(len(held), len(timeline) - 1)
        while common < limit and held[common] == timeline[common]:
            common += 1
        # A picture is one batch, now and later, so that answers do not depend on what was cached.
        while 0 < common < len(timeline) and isinstance(cell := timeline[common], PictureCell) and cell.row > 0:
            common -= 1
        llama = self._llama
        if not llama._ctx.kv_cache_seq_rm(-1, common, -1):
            # Some kinds of memory cannot forget a suffix.
            llama._ctx.kv_cache_clear()
            common = 0
        llama.n_tokens = common
        llama._requires_eval = True
        self._recorded = list(timeline[:common])
        return common

    def _eval_rows(self, cells: Sequence[Cell], rows: NDArray[np.float32]) -> None:
        """Evaluate embeddings, float32 `(n, n_embd)`, at the next positions and record them as `cells`."""
        from llama_cpp import llama_cpp as c

        llama, width = self._llama, rows.shape[1]
        for start in range(0, len(rows), llama.n_batch):
            part = rows[start : start + llama.n_batch]
            batch = c.llama_batch_init(len(part), width, 1)
            try:
                batch.n_tokens = len(part)
                ctypes.memmove(batch.embd, part.ctypes.data, part.nbytes)
                for i in range(len(part)):
                    batch.pos[i] = llama.n_tokens + i
                    batch.n_seq_id[i] = 1
                    batch.seq_id[i][0] = 0
                    batch.logits[i] = False
                status = c.llama_decode(llama.ctx, batch)
            finally:
                c.llama_batch_free(batch)
            if status != 0:
                raise RuntimeError(f"llama_decode returned {status}")
            llama.input_ids[llama.n_tokens : llama.n_tokens + len(part)] = _PLACEHOLDER
            llama.n_tokens += len(part)
            self._recorded.extend(cells[start : start + len(part)])
