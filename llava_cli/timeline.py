"""A tokenised prompt as a list of cells, and the bookkeeping that keeps llama.cpp's KV cache equal to it."""

from __future__ import annotations

import ctypes
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import groupby, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from llava_cli.errors import EngineFailed
from llava_cli.prompts import Bare, Part, Special
from llava_cli.vision import View

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llava_cli.pictures import Picture, RememberedPicture

_PLACEHOLDER = 0
"""Stands in `Llama.input_ids` where a picture is. That array cannot tell pictures apart; our cells can."""

_ANSWERS_KNOWN = 64

_SHORT = 64
"""Cells that are cheap to read again, beside a picture; a system sentence has about 35."""


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


def _view_of(cell: Cell) -> View | None:
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


def opening_of(cells: Sequence[Cell]) -> list[Cell]:
    """Return the text in front of the first picture: the system prompt, the same for every picture."""
    prefix = up_to_first_picture(cells)
    return prefix[: _runs_of(prefix)[0][1]] if prefix and isinstance(prefix[0], int) else []


class KvCache:
    """What is in the KV cache of one `Llama`, recorded after every decode, so that it is always true."""

    def __init__(self, llama: Any) -> None:
        self._llama = llama
        self._recorded: list[Cell] = []
        self._runs: list[tuple[int, int]] = []
        """Which cells were evaluated together, from and to, as far as `sync` did it."""
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

    def shared(self, timeline: Sequence[Cell]) -> int:
        """Return with how many cells of `timeline` the cache begins."""
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self.cells(), timeline, strict=False)))

    def sync(self, timeline: Sequence[Cell], embeddings: Callable[[View], NDArray[np.float32]]) -> tuple[int, int]:
        """Make the cache hold `timeline`, evaluating only what is new; return cells `(reused, new)`.

        `embeddings` gives the rows of a picture. The last cell is always evaluated: its logits
        pick the next token. Whatever stops this halfway, the record stays true.
        """
        reused = self._forget_all_but_prefix(timeline)
        for view, run in groupby(timeline[reused:], key=_view_of):
            cells = list(run)
            if view is not None:
                self._eval_rows(cells, embeddings(view))
            else:
                self._llama.eval(cells)
                self._recorded.extend(cells)
            self._runs.append((len(self._recorded) - len(cells), len(self._recorded)))
            self.evaluated += len(cells)
        return reused, len(timeline) - reused

    def prefix(self) -> list[Cell]:
        """Return the cells up to and including the first picture, if they are as `sync` evaluates them from nothing.

        Cells that were evaluated in other company differ in their last bits, and so may an answer.
        """
        prefix = up_to_first_picture(self.cells())
        return prefix if prefix and self._runs[: len(_runs_of(prefix))] == _runs_of(prefix) else []

    def rewind(self) -> None:
        """Forget what stands behind the first picture: the next question is read as if it were the first."""
        self._forget_all_but(self.prefix())

    def save(self, prefix: Sequence[Cell]) -> bytearray:
        """Return llama.cpp's state of `prefix`, or its opening, of what `prefix()` gives; forget what stands behind."""
        from llama_cpp import llama_cpp as c

        context = self._llama.ctx
        self._forget_all_but(prefix)
        if self.cells() != list(prefix):
            return bytearray()
        state = bytearray(c.llama_state_seq_get_size(context, 0))
        written = c.llama_state_seq_get_data(context, _pointer_to(state), len(state), 0)
        return state if written == len(state) else bytearray()

    def restore(self, prefix: Sequence[Cell], state: bytearray | memoryview) -> bool:
        """Make the cache hold `prefix` and nothing else, from what `save` returned; False leaves it empty.

        llama.cpp trusts these bytes: whoever calls has made sure that they are what was saved.
        """
        from llama_cpp import llama_cpp as c

        llama = self._llama
        self._forget_all_but(())
        if c.llama_state_seq_set_data(llama.ctx, _pointer_to(state), len(state), 0) != len(state):
            llama._ctx.kv_cache_clear()
            return False
        llama.input_ids[: len(prefix)] = [cell if isinstance(cell, int) else _PLACEHOLDER for cell in prefix]
        llama.n_tokens = len(prefix)
        self._recorded, self._runs = list(prefix), _runs_of(prefix)
        return True

    def logits_behind(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits behind each of `tokens` if they came next, `(len(tokens), n_vocab)`; keep none of them."""
        import numpy as np
        from llama_cpp import llama_cpp as c

        llama, held, rows = self._llama, self.cells(), []
        try:
            for start in range(0, len(tokens), llama.n_batch):
                part = tokens[start : start + llama.n_batch]
                llama._batch.set_batch(batch=part, n_past=len(held) + start, logits_all=True)
                llama._ctx.decode(llama._batch)
                found = (c.llama_get_logits_ith(llama.ctx, i) for i in range(len(part)))
                rows += [np.ctypeslib.as_array(row, shape=(llama.n_vocab(),)).copy() for row in found]
        finally:
            kept = self._forget_all_but(held)
        if kept < len(held):
            raise RuntimeError("this model cannot take back what was only tried")
        return np.stack(rows)

    def _forget_all_but_prefix(self, timeline: Sequence[Cell]) -> int:
        common = min(self.shared(timeline), len(timeline) - 1)
        # A picture is one batch, now and later, so that answers do not depend on what was cached.
        while 0 < common < len(timeline) and isinstance(cell := timeline[common], PictureCell) and cell.row > 0:
            common -= 1
        # So is the text in front of the first one, if that is cheap: else nothing of both could go to disk.
        first = _runs_of(up_to_first_picture(timeline))
        begun = [run for run in first if run[0] < common]
        is_whole = not begun or (self._runs[: len(begun)] == begun and begun[-1][1] == common)
        if len(begun) < len(first) and common <= _SHORT and not is_whole:
            common = 0
        return self._forget_all_but(timeline[:common])

    def _forget_all_but(self, cells: Sequence[Cell]) -> int:
        """Keep `cells`, with which the cache begins, and forget the rest; return how many were kept."""
        llama = self._llama
        if not llama._ctx.kv_cache_seq_rm(-1, len(cells), -1):
            # Some kinds of memory cannot forget a suffix.
            llama._ctx.kv_cache_clear()
            cells = ()
        llama.n_tokens = len(cells)
        llama._requires_eval = True
        self._recorded = list(cells)
        self._runs = [run for run in self._runs if run[0] < len(cells)]
        return len(cells)

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


def _runs_of(cells: Sequence[Cell]) -> list[tuple[int, int]]:
    """Return how `sync` splits `cells` when nothing is in the cache: text, picture, text, each in one go."""
    lengths = [len(list(run)) for _, run in groupby(cells, key=_view_of)]
    return [(sum(lengths[:i]), sum(lengths[: i + 1])) for i in range(len(lengths))]


def _pointer_to(state: bytearray | memoryview) -> Any:
    return (ctypes.c_uint8 * len(state)).from_buffer(state)
