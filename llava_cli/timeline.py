"""Keeps llama.cpp's KV cache equal to the cells of a prompt, evaluating only what is new."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from itertools import groupby, takewhile
from typing import TYPE_CHECKING, Any

from llava_cli.cells import Cell, PictureCell, runs_of, up_to_first_picture, view_of
from llava_cli.vision import View

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PLACEHOLDER = 0
"""Stands in `Llama.input_ids` where a picture is. That array cannot tell pictures apart; our cells can."""

_SHORT = 64
"""Cells that are cheap to read again, beside a picture; a system sentence has about 35."""


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
        for view, run in groupby(timeline[reused:], key=view_of):
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
        return prefix if prefix and self._runs[: len(runs_of(prefix))] == runs_of(prefix) else []

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
        self._recorded, self._runs = list(prefix), runs_of(prefix)
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
        first = runs_of(up_to_first_picture(timeline))
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


def _pointer_to(state: bytearray | memoryview) -> Any:
    return (ctypes.c_uint8 * len(state)).from_buffer(state)
