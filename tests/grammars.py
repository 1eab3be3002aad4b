"""Asks llama.cpp what a grammar lets through, letter by letter, without a model that writes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp import llama_cpp as c

from llava_cli import engine_log


class Reader:
    """The vocabulary of a tiny model, which has a token for every byte, and llama.cpp's grammars on it."""

    def __init__(self, llama: Any) -> None:
        self._vocab = llama._model.vocab
        self._bytes = range(3, 259)  # as `tiny_vocabulary` lays it out
        self._end = llama.token_eos()

    def reads(self, grammar: str, text: str) -> bool:
        """Tell whether `text`, and then its end, is what the grammar describes."""
        sampler = c.llama_sampler_init_grammar(self._vocab, grammar.encode(), b"root")
        assert sampler, grammar
        try:
            for token in (*(self._bytes[byte] for byte in text.encode()), self._end):
                if not _allows(sampler, token):
                    return False
                c.llama_sampler_accept(sampler, token)
        finally:
            c.llama_sampler_free(sampler)
        return True


def _allows(sampler: Any, token: int) -> bool:
    data = (c.llama_token_data * 1)(c.llama_token_data(id=token, logit=1.0, p=0.0))
    c.llama_sampler_apply(sampler, ctypes.byref(c.llama_token_data_array(data=data, size=1, selected=-1, sorted=False)))
    return bool(data[0].logit == 1.0)


@contextmanager
def reader(model: Path) -> Iterator[Reader]:
    """Open the vocabulary of a model file alone."""
    engine_log.silence()
    llama = llama_cpp.Llama(str(model), vocab_only=True, verbose=False)
    try:
        yield Reader(llama)
    finally:
        llama.close()
