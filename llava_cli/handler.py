"""The chat handler for llama-cpp-python: OpenAI-shaped messages in, text out, evaluating only what is new.

>>> llama = Llama("model.gguf", n_ctx=2048, chat_handler=LlavaChatHandler("mmproj.gguf"))
>>> llama.create_chat_completion(messages=[...], stream=True)
"""

from __future__ import annotations

import atexit
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cpp import llama_cpp as c
from llama_cpp.llama_chat_format import Llava15ChatHandler

from llava_cli import engine_log, last_words
from llava_cli.answer_text import PieceDecoder
from llava_cli.cells import WrittenAnswers, cells_of, piece_of
from llava_cli.choices import weigh
from llava_cli.errors import EngineFailed, UsageError
from llava_cli.gguf_file import repaired_projector
from llava_cli.loops import is_loop
from llava_cli.odds import logits_of, require_numbers, token_odds
from llava_cli.openai_shapes import chunks, completion, read_messages, refuse_unsupported
from llava_cli.picture_embeddings import PictureEmbeddings
from llava_cli.pictures import Picture, RememberedPicture
from llava_cli.prefix_cache import PrefixCache
from llava_cli.prompt_reader import PromptReader
from llava_cli.prompts import Message, Part, find_layout
from llava_cli.rates import Amount, Rates
from llava_cli.reply import Reading
from llava_cli.settings import Detail, LoadOptions, cache_dir, require_detail
from llava_cli.window import require_room

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

StageListener = Callable[[str, Amount], None]
"""Hears what begins: `looking`, `reading` (cells to read), `writing`, `keeping`; with the seconds it should take."""


class LlavaChatHandler(Llava15ChatHandler):  # type: ignore[misc] # llama-cpp-python ships no usable types
    """Run LLaVA as its authors do: their prompt, their image features, every picture read once.

    `clip_model_path` is the projector (mmproj) file; a repaired copy is made if it needs one. `layout` is a name
    of `llava_cli.prompts.LAYOUTS`. `detail` is how closely a LLaVA-1.6 looks at pictures that do not say. One
    handler serves one `Llama`. With a `cache` (`llava_cli.PrefixCache()`), what was read of a picture is kept on
    disk when the `Llama` is closed or turns to another picture.
    """

    def __init__(
        self,
        clip_model_path: str | Path,
        verbose: bool = False,
        *,
        layout: str = "llava_v1",
        detail: Detail = LoadOptions.detail,
        on_stage: StageListener | None = None,
        cache: PrefixCache | None = None,
    ) -> None:
        engine_log.silence()
        projector = repaired_projector(Path(clip_model_path), cache_dir()).path
        self._made_ns = time.time_ns()
        super().__init__(clip_model_path=str(projector), verbose=verbose)
        self.layout = find_layout(layout)
        require_detail(detail)
        self.on_stage = on_stage
        self.stopped = threading.Event()
        """Set by `stop`, and by Ctrl-C in the middle of llama.cpp; the next question clears it."""
        self.loop_guard = True
        """End answers that only repeat themselves."""
        self.reading = Reading()
        self.rates: Rates | None = None
        """Learns how long things take, if there is one."""
        self._projector = projector
        self._embeddings = PictureEmbeddings(
            projector,
            detail,
            self.stopped,
            on_look=lambda rows: self._tell("looking", 0, each=rows),
            on_looked=partial(self._learn, "looking"),
        )
        self.facts = self._embeddings.facts
        self._disk = cache
        self._written = WrittenAnswers()
        self._llama: Any = None
        self._reader: PromptReader
        """Of `_llama`, and there as long as that is."""
        self._replies = 0
        # llama.cpp keeps the bare pointer: the callback must live as long as the context.
        self._abort = c.ggml_abort_callback(self._should_abort)

    # What llama-cpp-python calls.

    def __call__(
        self,
        *,
        llama: Any,
        messages: Sequence[Any],
        stream: bool = False,
        temperature: float = 0.2,
        top_p: float = 0.95,
        top_k: int = 40,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | list[str] | None = None,
        max_tokens: int | None = None,
        logits_processor: Any = None,
        grammar: Any = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
        model: str | None = None,
        **others: Any,
    ) -> Any:
        """Read `messages` into the cache, then answer: an iterator of chunks if `stream`, else one object.

        If the last message is the assistant's, the answer goes on where that ends.
        """
        refuse_unsupported(others)
        if grammar is not None:
            _require_grammar(grammar)
        self.stopped.clear()
        self._adopt(llama)
        asked = read_messages(messages)
        self.reading = Reading()
        self._reader.read(asked, self.reading)
        require_numbers(llama)
        prompt: list[int] = llama.input_ids[: llama.n_tokens].tolist()
        limit = llama.n_ctx() - len(prompt)
        wanted = limit if max_tokens is None or max_tokens <= 0 else max_tokens
        llama.set_seed(random.randrange(2**32 - 1) if seed is None else seed)
        tokens = llama.generate(
            prompt,
            temp=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            typical_p=typical_p,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            repeat_penalty=repeat_penalty,
            logits_processor=logits_processor,
            grammar=grammar,
        )
        stops = [stop] if isinstance(stop, str) else list(stop or [])
        self.reading.odds = [] if logprobs else None
        self._replies += 1
        is_begun = asked[-1].role == "assistant" and bool(asked[-1].text)
        decoder = PieceDecoder([*stops, *self.layout.stop], is_begun=is_begun)
        parts = self.layout.render(asked)
        pieces = self._write(
            tokens, decoder, parts, min(wanted, limit), limit, top_logprobs or 0,
            reading=self.reading, reply=self._replies,
            # What a grammar lets repeat itself, it may want repeated.
            is_guarded=self.loop_guard and grammar is None,
        )  # fmt: skip
        name = model or llama.model_path
        return chunks(pieces, self.reading, name) if stream else completion(pieces, self.reading, name)

    # The parts of that walk.

    def count(self, llama: Any, messages: Sequence[Message]) -> int:
        """Return how many cells the prompt of `messages` takes."""
        return len(cells_of(self.layout.render(messages), llama, self._embeddings.view, self._written))

    def require_room(self, llama: Any, messages: Sequence[Message]) -> None:
        """Raise `ContextTooSmall` if the prompt of `messages` leaves no room for an answer. From any thread."""
        timeline = cells_of(self.layout.render(messages), llama, self._embeddings.view, self._written)
        require_room(timeline, llama, self.facts)

    def embed(self, llama: Any, picture: Picture | RememberedPicture) -> NDArray[np.float32]:
        """Return the image features of `picture` as the language model receives them, float32 `(n_tokens, n_embd)`."""
        self.stopped.clear()
        self._adopt(llama)
        rows = self._embeddings.rows(picture)
        self._embeddings.keep()
        return rows

    def prepare(self, llama: Any, picture: Picture) -> None:
        """Begin to look at `picture` in a thread and return at once; the question about it takes what there is then.

        A question that does not show it ends that, and so does `stop`. What goes wrong shows when it is asked about.
        """
        self._adopt(llama)
        self._embeddings.look_ahead(picture)

    def weigh(self, llama: Any, messages: Sequence[Any], texts: Sequence[str]) -> list[tuple[float, int]]:
        """Return the log probability of each text as the whole answer to `messages`, and how many tokens that is of.

        The end of the answer is one of them. What is read stays in the cache; the texts do not.
        """
        self.stopped.clear()
        self._adopt(llama)
        self._replies += 1
        asked = read_messages(messages)
        view, answers = self._embeddings.view, []
        prompt = cells_of(self.layout.render(asked), llama, view, self._written)
        for text in texts:
            parts = self.layout.render([*asked, Message("assistant", text)])
            # The model may have written it before, in tokens drawn by chance.
            answers.append(cells_of(parts, llama, view, self._written.without(parts[-1])))
        require_room(max(answers, key=len), llama, self.facts)
        self.reading = Reading()
        self._reader.read(asked, self.reading)
        require_numbers(llama)
        self._tell("weighing", 0)
        # The first letters of an answer may join what stands before it in one token.
        shared = min(map(self._reader.cache.shared, answers))
        ends = [token for token in range(llama.n_vocab()) if c.llama_vocab_is_eog(llama._model.vocab, token)]
        with self._reader.failures("choices", "stopped while weighing them", "it could not weigh the choices"):
            if shared < len(prompt):
                self._reader.sync(prompt[:shared], asked)
            weights = weigh(self._reader.cache, logits_of(llama), [answer[shared:] for answer in answers], ends)
        self._reader.is_answered = True
        return weights

    def rewind(self) -> None:
        """Forget the question and the answer, and keep the picture: the next one is read as in a new process."""
        if self._llama is not None:
            self._reader.cache.rewind()

    def stop(self) -> None:
        """Stop whatever runs, from a signal handler or another thread; the next question begins anew."""
        self.stopped.set()
        self._embeddings.stop()

    def keep(self) -> None:
        """Put on disk what was read of pictures and is not there; what stands behind the first one is forgotten."""
        if self._llama is not None:
            self._reader.keep()

    def _adopt(self, llama: Any) -> None:
        """Bind to `llama` when first called with it."""
        if self._llama is llama:
            return
        if self._llama is not None:
            raise UsageError("chat handler", "it belongs to another Llama", hint="make one LlavaChatHandler per Llama")
        c.llama_set_abort_callback(llama.ctx, self._abort, None)
        # `Llama` frees what is on this stack, the newest first, when it is closed.
        llama._stack.callback(self._release)
        shelf = None if self._disk is None else self._disk.shelf(llama, self._projector, self._made_ns)
        if shelf is not None:
            atexit.register(_keep_at_exit, weakref.ref(self))
        self._embeddings.open(llama, shelf)
        self._reader = PromptReader(
            llama, self.layout, self._embeddings, self._written, shelf, self.stopped, self._tell, self._learn
        )
        self._llama = llama

    def _release(self) -> None:
        """Let go of a `Llama` that is about to be closed."""
        self._embeddings.close()
        try:
            if not sys.is_finalizing():
                self.keep()
        finally:
            self._llama = None
            self._written = WrittenAnswers()  # the next one may have other tokens
            if self.rates is not None:
                self.rates.save()

    def _write(
        self,
        tokens: Iterator[int],
        decoder: PieceDecoder,
        parts: Sequence[Part],
        max_tokens: int,
        room: int,
        top: int,
        *,
        reading: Reading,
        reply: int,
        is_guarded: bool,
    ) -> Iterator[str]:
        """Yield the answer to the prompt `parts` as it is written; leave in `reading` why it ended."""
        llama, reader = self._llama, self._reader
        written: list[int] = []
        reading.finish_reason = "stopped"
        self._require_newest(reply)
        self._tell("writing", 0)
        try:
            while not self.stopped.is_set():
                self._require_newest(reply)
                token = next(tokens)
                if c.llama_vocab_is_eog(llama._model.vocab, token):
                    reading.finish_reason = "stop"
                    break
                reading.answer_tokens += 1
                written.append(token)
                if reading.odds is not None:
                    # What the token was drawn from is there until the next one is evaluated.
                    reading.odds.append(token_odds(logits_of(llama), token, top, partial(piece_of, llama=llama)))
                yield from decoder.feed(piece_of(token, llama))
                if decoder.stopped:
                    reading.finish_reason = "stop"
                    break
                if reading.answer_tokens >= max_tokens:
                    reading.finish_reason = "context" if max_tokens == room else "length"
                    break
                if is_guarded and is_loop(written):
                    reading.finish_reason = "loop"
                    break
        except RuntimeError as error:
            if not self.stopped.is_set():
                raise EngineFailed("llama.cpp", f"it could not go on writing ({error})") from error
        finally:
            self._written.add(parts, written, llama)
        reader.is_answered = reader.is_answered or reading.finish_reason != "stopped"
        last_words.say("stage", "")
        yield from decoder.finish()

    def _require_newest(self, reply: int) -> None:
        if reply != self._replies:
            raise EngineFailed("reply", "it was cut off by a newer question to the same model")

    def _should_abort(self, _data: object) -> bool:
        try:
            return self.stopped.is_set()
        except KeyboardInterrupt:
            # Ctrl-C lands in whatever Python is running; C code cannot pass an exception on.
            self.stopped.set()
            return True

    def _tell(self, stage: str, amount: int, *, each: int = 0) -> None:
        """Say what begins, with the cells there are to read, or how many of something else."""
        last_words.say("stage", stage)
        if self.on_stage is not None:
            seconds = self.rates.expected(stage, each or amount) if self.rates is not None else 0.0
            self.on_stage(stage, Amount(amount, seconds))

    def _learn(self, stage: str, amount: int, seconds: float) -> None:
        if self.rates is not None:
            self.rates.learn(stage, amount, seconds)


def _require_grammar(grammar: Any) -> None:
    """Raise `UsageError` for a grammar that llama.cpp cannot read; it would end the process later."""
    sampler = c.llama_sampler_init_grammar(None, grammar._grammar.encode(), grammar._root.encode())
    if not sampler:
        raise UsageError("grammar", "llama.cpp cannot read it", hint="a simpler schema has a simpler grammar")
    c.llama_sampler_free(sampler)


def _keep_at_exit(handler: weakref.ref[LlavaChatHandler]) -> None:
    # Scripts that never close their `Llama` come back for the second question, too.
    if (mine := handler()) is not None:
        mine.keep()
