"""The public objects: `load` opens a `Model`, which answers with a `Reply`; a `Chat` remembers its turns."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_cli import engine_log, inventory
from llava_cli.errors import UsageError
from llava_cli.fitting import require_fit
from llava_cli.pictures import Picture, open_picture
from llava_cli.rates import Amount, Rates
from llava_cli.registry import ModelSpec
from llava_cli.settings import DEFAULT_MODEL, DEFAULT_QUESTION, LoadOptions, Sampling
from llava_cli.weights import Weights, open_weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llava_cli.handler import LlavaChatHandler, Reading, StageListener
    from llava_cli.prefix_cache import PrefixCache

PictureSource = str | os.PathLike[str] | bytes | Picture
"""A path, the bytes of a picture file, or a `Picture`."""


def load(
    name: str = DEFAULT_MODEL,
    *,
    model_path: str | os.PathLike[str] | None = None,
    projector_path: str | os.PathLike[str] | None = None,
    prompt_layout: str | None = None,
    options: LoadOptions | None = None,
    sampling: Sampling | None = None,
    on_stage: StageListener | None = None,
    cache: bool | PrefixCache = True,
) -> Model:
    """Open the model called `name`, or the pair of files given, and return it ready to answer.

    Of files given, `prompt_layout` says how the model was trained to be asked; None lets the file tell, if it can.
    Raise `ModelMissing` when it is unknown or not on disk, `ModelUnusable` when a file is wrong, `NotEnoughRoom`
    when it does not fit into memory, and `EngineFailed` when llama.cpp refuses it. `on_stage` hears `loading`,
    `looking`, `reading`, `writing` and `keeping`, each with an `Amount`: cells to read, and its `seconds`.
    With `cache`, a picture is read once in its life: what was read is kept on disk (`options.cache_size`), or in
    the `PrefixCache` that is given.
    """
    own, its_projector = (None if path is None else Path(path) for path in (model_path, projector_path))
    spec = inventory.spec_of(name, own, its_projector, prompt_layout)
    options = options or LoadOptions()
    weights = open_weights(spec, projector_quant=options.projector_quant)
    chosen = require_fit(spec, weights, options)
    return Model(replace(spec, layout=weights.layout), weights, chosen, sampling or Sampling(), on_stage, cache)


@dataclass(frozen=True)
class Usage:
    """What one reply took. Cells are tokens and picture tokens together; times are seconds."""

    prompt_cells: int
    picture_cells: int
    """Those of them that are of pictures."""
    reused_cells: int
    new_cells: int
    pictures_encoded: int
    answer_tokens: int
    look_seconds: float
    read_seconds: float
    first_token_seconds: float
    """From the question to the first piece of the answer."""
    write_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Return the speed of writing; the first token comes out of reading and does not count."""
        return (self.answer_tokens - 1) / self.write_seconds if self.write_seconds > 0 else 0.0


class Model:
    """A LLaVA that is loaded. Use it with `with`; one question at a time."""

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights,
        options: LoadOptions,
        sampling: Sampling,
        on_stage: StageListener | None,
        cache: bool | PrefixCache,
    ) -> None:
        from llava_cli.handler import LlavaChatHandler
        from llava_cli.opening import open_llama
        from llava_cli.prefix_cache import PrefixCache

        engine_log.silence()
        self.spec = spec
        self.options = options
        """How it was opened, every choice made."""
        self.sampling = sampling
        self._notes = weights.notes
        if isinstance(cache, bool):
            self._disk = PrefixCache(size=options.cache_size) if cache and options.cache_size else None
        else:
            self._disk = cache
        self._resources = ExitStack()
        self._handler: LlavaChatHandler = LlavaChatHandler(
            weights.projector, layout=spec.layout, detail=options.detail, on_stage=on_stage, cache=self._disk
        )
        rates = self._handler.rates = Rates(weights.model, weights.projector, options)
        if on_stage is not None:
            on_stage("loading", Amount(0, rates.expected("loading")))
        start = time.monotonic()
        self._llama = open_llama(weights.model, options, self._handler.stopped, self._handler)
        self._resources.callback(self._llama.close)
        rates.learn("loading", 1, time.monotonic() - start)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Keep what was read of pictures, and free the weights and the KV cache."""
        self._resources.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is worth saying once, such as a projector that had to be repaired; closing may add to it."""
        return self._notes if self._disk is None else (*self._notes, *self._disk.notes)

    def ask(
        self,
        picture: PictureSource | None,
        question: str = DEFAULT_QUESTION,
        *,
        system: str | None = None,
        **sampling: Any,
    ) -> Reply:
        """Ask one question about one picture; `sampling` are fields of `Sampling`, e.g. `temperature=0`."""
        return self.chat(system=system).send(question, picture=picture, **sampling)

    def chat(self, *, system: str | None = None) -> Chat:
        """Begin a chat; `system` takes the place of the layout's own system sentence."""
        return Chat(self, system)

    def embed(self, picture: PictureSource) -> NDArray[np.float32]:
        """Return the image features as the language model receives them, float32 `(n_tokens, n_embd)`."""
        return self._handler.embed(self._llama, open_picture(picture)).copy()

    def prepare(self, picture: PictureSource) -> None:
        """Begin to look at a picture that will be asked about, while its user still types; return at once.

        The next question with it waits for what is left of that; one without it, and `stop`, end it. Doing it twice
        does no harm, and what goes wrong shows when the picture is asked about.
        """
        self._handler.prepare(self._llama, open_picture(picture))

    def stop(self) -> None:
        """Stop whatever runs, from a signal handler or another thread; the text so far stays."""
        self._handler.stop()

    def _reply(self, messages: list[dict[str, Any]], sampling: Sampling, on_end: Callable[[str], None]) -> Reply:
        return Reply(self._llama, self._handler, messages, sampling, on_end)


class Chat:
    """Turns about pictures. Only what is new is read; a picture is read once."""

    def __init__(self, model: Model, system: str | None) -> None:
        self._model = model
        self._messages: list[dict[str, Any]] = []
        if system is not None:
            self._messages.append({"role": "system", "content": system})
        self._reply: Reply | None = None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Return the finished turns, OpenAI-shaped."""
        return list(self._messages)

    def send(
        self,
        text: str,
        *,
        picture: PictureSource | Sequence[PictureSource] | None = None,
        **sampling: Any,
    ) -> Reply:
        """Say `text`, with new pictures if any, and return the reply; an unfinished earlier one ends here."""
        if not text.strip():
            raise UsageError("question", "it is empty")
        if self._reply is not None:
            self._reply.close()
        question = {"role": "user", "content": [*_picture_parts(picture), {"type": "text", "text": text}]}

        def remember(answer: str) -> None:
            self._messages += [question, {"role": "assistant", "content": answer}]

        chosen = replace(self._model.sampling, **sampling)
        self._reply = self._model._reply([*self._messages, question], chosen, remember)
        return self._reply


class Reply:
    """An answer being written: iterate for its pieces, or take `text`, which waits for the end."""

    def __init__(
        self,
        llama: Any,
        handler: LlavaChatHandler,
        messages: list[dict[str, Any]],
        sampling: Sampling,
        on_end: Callable[[str], None],
    ) -> None:
        self.seed = random.randrange(2**32 - 1) if sampling.seed is None else sampling.seed
        """The seed this answer is written with."""
        self._asked = time.monotonic()
        self._first = 0.0
        self._last = 0.0
        self._text = ""
        self._on_end: Callable[[str], None] | None = on_end
        settings = {name: value for name, value in vars(sampling).items() if name != "seed"}
        self._chunks: Iterator[Any] = llama.create_chat_completion(
            messages=messages, stream=True, seed=self.seed, **settings
        )
        self._reading: Reading = handler.reading

    def __iter__(self) -> Iterator[str]:
        """Yield the answer piece by piece, as it is written."""
        for chunk in self._chunks:
            piece = chunk["choices"][0]["delta"].get("content", "")
            self._last = time.monotonic()
            if piece:
                self._first = self._first or self._last
                self._text += piece
                yield piece
        self.close()

    def __str__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        """Return the whole answer, waiting for it if need be."""
        for _ in self:
            continue
        return self._text

    @property
    def so_far(self) -> str:
        """Return what has been written up to now."""
        return self._text

    @property
    def finish_reason(self) -> str:
        """Return why it ended: `stop`, `length`, `context` or `stopped`; empty while it is being written."""
        return self._reading.finish_reason if self._on_end is None else ""

    @property
    def usage(self) -> Usage:
        """Return the numbers so far; final once the reply has ended."""
        reading, first = self._reading, self._first or self._last
        return Usage(
            prompt_cells=reading.reused + reading.new,
            picture_cells=reading.picture_cells,
            reused_cells=reading.reused,
            new_cells=reading.new,
            pictures_encoded=reading.pictures_encoded,
            answer_tokens=reading.answer_tokens,
            look_seconds=reading.look_seconds,
            read_seconds=reading.read_seconds,
            first_token_seconds=max(0.0, first - self._asked),
            write_seconds=max(0.0, self._last - first),
        )

    def close(self) -> None:
        """End the answer where it is; what was written stays in the chat."""
        if self._on_end is None:
            return
        self._chunks.close()  # type: ignore[attr-defined] # a generator
        remember, self._on_end = self._on_end, None
        remember(self._text)


def _picture_parts(source: PictureSource | Sequence[PictureSource] | None) -> list[dict[str, Any]]:
    if source is None:
        return []
    several = [source] if isinstance(source, str | os.PathLike | bytes | Picture) else source
    return [{"type": "picture", "picture": open_picture(one)} for one in several]
