"""`load` opens a `Model`, which answers with a `Reply` or begins a `Chat`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_cli import __version__, engine_log, inventory, last_words
from llava_cli.chat import Chat, PictureSource, opened, question_of
from llava_cli.choices import checked, compared
from llava_cli.errors import UsageError
from llava_cli.fitting import require_fit
from llava_cli.openai_shapes import read_messages
from llava_cli.pictures import Picture
from llava_cli.rates import Amount, Rates
from llava_cli.registry import ModelSpec
from llava_cli.reply import Decision, Reading, Reply, usage_of
from llava_cli.schemas import AnswerSchema
from llava_cli.settings import DEFAULT_MODEL, DEFAULT_QUESTION, LoadOptions, Sampling
from llava_cli.weights import Weights, open_weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llava_cli.handler import LlavaChatHandler, StageListener
    from llava_cli.prefix_cache import PrefixCache


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
        from llava_cli.loading import open_llama
        from llava_cli.prefix_cache import PrefixCache

        engine_log.silence()
        self.spec = spec
        self.weights = weights
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
        last_words.say("stage", "loading")
        if on_stage is not None:
            on_stage("loading", Amount(0, rates.expected("loading")))
        start = time.monotonic()
        self._llama = open_llama(weights.model, options, self._handler.stopped, self._handler)
        self._resources.callback(self._llama.close)
        last_words.say("stage", "")
        rates.learn("loading", 1, time.monotonic() - start)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Keep what was read of pictures, and free the weights and the KV cache."""
        last_words.say("stage", "closing")
        self._resources.close()
        last_words.say("stage", "")

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is worth saying once, such as a projector that had to be repaired; closing may add to it."""
        return self._notes if self._disk is None else (*self._notes, *self._disk.notes)

    def ask(
        self,
        picture: PictureSource | Sequence[PictureSource] | None,
        question: str = DEFAULT_QUESTION,
        *,
        system: str | None = None,
        schema: AnswerSchema | Mapping[str, Any] | str | None = None,
        **sampling: Any,
    ) -> Reply:
        """Ask one question about one picture, or about several together.

        `sampling` are fields of `Sampling`, e.g. `temperature=0`; with a `schema` the answer is JSON that satisfies it.
        """
        return self.chat(system=system).send(question, picture=picture, schema=schema, **sampling)

    def choose(
        self,
        picture: PictureSource | Sequence[PictureSource] | None,
        question: str,
        choices: Sequence[str],
        *,
        system: str | None = None,
        after: Sequence[Mapping[str, Any]] = (),
    ) -> Decision:
        """Let the model choose between answers by how probable it finds each; `after` are turns before the question."""
        if not question.strip():
            raise UsageError("question", "it is empty")
        texts, asked_at, start = checked(choices), time.time(), time.monotonic()
        opening = [] if system is None else [{"role": "system", "content": system}]
        messages = [*opening, *after, question_of(question, picture)]
        weights = self._handler.weigh(self._llama, messages, texts)
        usage = usage_of(self._handler.reading, time.monotonic() - start, 0.0)
        return Decision(compared(texts, weights), usage, asked_at)

    def chat(self, *, system: str | None = None, messages: Sequence[Mapping[str, Any]] = ()) -> Chat:
        """Begin a chat, or go on after `messages`, finished turns as `Chat.messages` gives them.

        `system` takes the place of the layout's own system sentence.
        """
        return Chat(self, system, messages)

    def seen(self, picture: PictureSource) -> list[Picture]:
        """Return the squares exactly as the vision tower gets them: the whole picture, padded, then any tiles of it."""
        shown = opened(picture)
        pixels = shown if isinstance(shown, Picture) else shown.open()
        facts, options = self._handler.facts, self.options
        return [
            Picture(f"{shown.name}, as the model sees it", facts.image_size, facts.image_size, square)
            for square in facts.squares(pixels, options.detail)
        ]

    def embed(self, picture: PictureSource) -> NDArray[np.float32]:
        """Return the image features as the language model receives them, float32 `(n_tokens, n_embd)`."""
        return self._handler.embed(self._llama, opened(picture)).copy()

    def prepare(self, picture: PictureSource) -> None:
        """Begin to look at a picture that will be asked about, while its user still types; return at once.

        The next question with it waits for what is left of that; one without it, and `stop`, end it. Doing it twice
        does no harm, and what goes wrong shows when the picture is asked about.
        """
        shown = opened(picture)
        # One that is only remembered is known already, or opened when it is asked about.
        if isinstance(shown, Picture):
            self._handler.prepare(self._llama, shown)

    def rewind(self) -> None:
        """Make the next answer equal, to the byte, to that of a model which was asked nothing else before.

        What was read together differs in its last bits from what was read apart; the picture need not be read again.
        """
        self._handler.rewind()

    def hear(self, on_stage: StageListener | None) -> None:
        """Let `on_stage` hear what begins from now on, in place of the listener so far."""
        self._handler.on_stage = on_stage

    def stop(self) -> None:
        """Stop whatever runs, from a signal handler or another thread; the text so far stays."""
        self._handler.stop()

    @property
    def context(self) -> int:
        """Return the size of the context window, in cells."""
        return int(self._llama.n_ctx())

    def count(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """Return how many cells of the window OpenAI-shaped `messages` take."""
        return self._handler.count(self._llama, read_messages(messages))

    def facts(self) -> dict[str, Any]:
        """Return what the log keeps of the model, by the names of `Turn`."""
        import llama_cpp

        spec, weights = self.spec, self.weights
        projector = spec.local[1] if spec.local else weights.projector
        return {
            # A name that is published in several quants does not say by itself which of them answers.
            "model": f"{spec.name}:{spec.quant}" if len(spec.quants) > 1 else spec.name,
            "own_files": spec.local is not None,
            "model_path": str(weights.model.absolute()),
            "projector_path": str(projector.absolute()),
            "model_bytes": _size(weights.model),
            "projector_bytes": _size(projector),
            "program": f"llava {__version__}, llama-cpp-python {llama_cpp.__version__}",
            "layout": spec.layout,
            "parameters": vars(self.options),
        }

    def require_room(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Raise `ContextTooSmall` if OpenAI-shaped `messages` leave no room for an answer; from any thread."""
        self._handler.require_room(self._llama, read_messages(messages))

    def reply(
        self,
        messages: Sequence[Mapping[str, Any]],
        sampling: Sampling,
        on_end: Callable[[str], None],
        schema: AnswerSchema | None = None,
        how: Mapping[str, Any] | None = None,
    ) -> Reply:
        """Answer `messages`, or go on with the answer they end with; `on_end` hears the whole text.

        `how` is what else llama-cpp-python's `create_chat_completion` should know: `stop`, `logprobs` and the like.
        """
        from llama_cpp import LlamaGrammar

        settings = {name: value for name, value in vars(sampling).items() if name not in ("seed", "loop_guard")}
        settings |= how or {}
        if schema is not None:
            settings["grammar"] = LlamaGrammar.from_string(schema.grammar())

        def begin(seed: int) -> tuple[Iterator[str], Reading]:
            self._handler.loop_guard = sampling.loop_guard
            chunks = self._llama.create_chat_completion(messages=list(messages), stream=True, seed=seed, **settings)
            return _pieces(chunks), self._handler.reading

        return Reply(begin, sampling, on_end, schema)


def _pieces(chunks: Any) -> Iterator[str]:
    try:
        for chunk in chunks:
            yield chunk["choices"][0]["delta"].get("content", "")
    finally:
        chunks.close()


def _size(path: Path) -> int:
    # It may have been removed since it was opened; that must not cost an answer.
    with suppress(OSError):
        return path.stat().st_size
    return 0
