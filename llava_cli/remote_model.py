"""A model that another server runs, asked in OpenAI's shapes: what a chat needs of a model, without one here.

>>> model = connect("http://localhost:8080")
>>> print(model.chat().send("What color is the circle?", picture="examples/scene.png"))
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llava_cli import __version__
from llava_cli.chat import Chat, PictureSource
from llava_cli.endpoint import Endpoint, find_endpoint, gave_up, not_a_server
from llava_cli.errors import LlavaError, ModelMissing, Stopped, UsageError
from llava_cli.exchange import PATIENCE, Exchange, Patience, Pause
from llava_cli.pictures import Picture
from llava_cli.rates import Amount
from llava_cli.reply import Decision, Reading, Reply
from llava_cli.schemas import AnswerSchema
from llava_cli.sent_messages import MessageWriter, sampled
from llava_cli.settings import Detail, Sampling

if TYPE_CHECKING:
    from llava_cli.handler import StageListener

_LEAST_TOKENS = 48
"""No model that sees makes fewer tokens of a question with a picture."""


def connect(
    address: str,
    name: str = "",
    *,
    api_key_env: str = "",
    sampling: Sampling | None = None,
    detail: Detail | None = None,
    on_stage: StageListener | None = None,
    patience: Patience = PATIENCE,
) -> RemoteModel:
    """Return the model called `name` of the server at `address`; without a name, the only one it has.

    `api_key_env` names the variable of the environment that holds the key. Raise `ServerFailed` when the server
    cannot be reached, `ModelMissing` when it has no such model. `on_stage` hears `asking`, `pausing` and `writing`.
    """
    model = RemoteModel(find_endpoint(address, api_key_env), name, sampling or Sampling(), detail, on_stage, patience)
    model.name = name or model.usual()
    return model


class RemoteModel:
    """A model of another server. Use it with `with`; one question at a time."""

    def __init__(
        self,
        endpoint: Endpoint,
        name: str,
        sampling: Sampling,
        detail: Detail | None,
        on_stage: StageListener | None,
        patience: Patience,
    ) -> None:
        import httpx2

        self.endpoint = endpoint
        self.name = name
        self.sampling = sampling
        self._detail = detail
        self._on_stage = on_stage
        self._patience = patience
        self._notes = list(endpoint.notes)
        self._client = httpx2.Client(
            headers=endpoint.headers(),
            timeout=httpx2.Timeout(patience.first, connect=patience.connect),
            # A connection of its own for each question, so that closing it is what stops the answer.
            limits=httpx2.Limits(max_keepalive_connections=0),
            # A key never goes where a redirect leads, and what stays on this computer passes no proxy.
            follow_redirects=False,
            trust_env=not endpoint.is_here,
        )
        self._exchange: Exchange | None = None
        self._is_stopped = False
        self._writer = MessageWriter(detail)
        self._counted = 0

    @property
    def options(self) -> None:
        """Return None: how the model is opened is the server's affair."""

    def __enter__(self) -> RemoteModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what is under way, and let go of the server."""
        if self._exchange is not None:
            self._exchange.stop()
        self._client.close()

    def stop(self) -> None:
        """Stop the answer and close the connection, from a signal handler or another thread; the text so far stays."""
        self._is_stopped = True
        if self._exchange is not None:
            self._exchange.stop()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is worth saying once, such as that a key goes unencrypted."""
        return tuple(self._notes)

    # Which models there are.

    def names(self) -> list[str]:
        """Return the names of the models that the server has, none if it does not tell."""
        exchange = self._ask("/models", None)
        for said in exchange.objects():
            if isinstance(said, Pause):
                self._tell("pausing", said.seconds)
                continue
            listed = said.get("data")
            if not isinstance(listed, list):
                raise not_a_server(self.endpoint)
            return [one["id"] for one in listed if isinstance(one, dict) and isinstance(one.get("id"), str)]
        if exchange.was_stopped:
            raise Stopped("models", "stopped before the server said which it has")
        return []

    def usual(self, preferred: str = "") -> str:
        """Return the only model of the server, or `preferred` if it is one of several; raise `ModelMissing`."""
        self._tell("asking")
        names = self.names()
        if preferred in names:
            return preferred
        if len(names) != 1:
            why = f"it has {len(names)} models" if names else "it does not say which models it has"
            hint = f"-m NAME takes one: {_listed(names)}" if names else "-m NAME takes one"
            raise ModelMissing(self.endpoint.host, why, hint=hint)
        return names[0]

    # What a chat needs.

    def chat(self, *, system: str | None = None, messages: Sequence[Mapping[str, Any]] = ()) -> Chat:
        """Begin a chat, or go on after `messages`, finished turns as `Chat.messages` gives them."""
        return Chat(self, system, messages)

    @property
    def context(self) -> int:
        """Return 0: how large its window is, a server does not say."""
        return 0

    def count(self, _messages: Sequence[Mapping[str, Any]]) -> int:
        """Return how many tokens the last question and its answer took, as the server counted; 0 if it did not."""
        return self._counted

    def rewind(self) -> None:
        """Do nothing: every question comes to a server as if alone."""

    def prepare(self, _picture: PictureSource) -> None:
        """Do nothing: a server looks at a picture when it is asked about it."""

    def seen(self, _picture: PictureSource) -> list[Picture]:
        """Raise `UsageError`: only the server knows."""
        why = f"only {self.endpoint.host} knows what its model sees of a picture"
        raise UsageError("model input", why, hint="a model on this computer shows it: leave --endpoint out")

    def facts(self) -> dict[str, Any]:
        """Return what the log keeps of the model, by the names of `Turn`."""
        where = {"endpoint": self.endpoint.url, "api_key_env": self.endpoint.key_name, "detail": self._detail}
        return {
            "model": self.name, "own_files": False, "model_path": self.endpoint.url, "projector_path": "",
            "model_bytes": 0, "projector_bytes": 0, "program": f"llava {__version__}", "layout": "",
            "parameters": {name: value for name, value in where.items() if value},
        }  # fmt: skip

    def choose(
        self,
        _picture: PictureSource | Sequence[PictureSource] | None,
        _question: str,
        _choices: Sequence[str],
        *,
        system: str | None = None,
        after: Sequence[Mapping[str, Any]] = (),
    ) -> Decision:
        """Raise `UsageError`: no such server says how probable a whole answer is that it did not write."""
        why = f"{self.endpoint.host} does not say how probable an answer is that it does not write"
        raise UsageError(
            "--choices", why, hint="--schema takes an enum: its answer is one of them, without probabilities"
        )

    def reply(
        self,
        messages: Sequence[Mapping[str, Any]],
        sampling: Sampling,
        on_end: Callable[[str], None],
        schema: AnswerSchema | None = None,
    ) -> Reply:
        """Answer `messages`, or go on with the answer they end with; `on_end` hears the whole text."""

        def begin(seed: int) -> tuple[Iterator[str], Reading]:
            self._is_stopped = False
            body = {"model": self.name, "messages": self._writer.write(messages), **sampled(sampling, seed)}
            if schema is not None:
                described = {"name": "answer", "strict": True, "schema": schema.schema}
                body["response_format"] = {"type": "json_schema", "json_schema": described}
            if messages[-1]["role"] == "assistant":
                body |= {"continue_final_message": True, "add_generation_prompt": False}
            if self._is_stopped:
                raise Stopped("answer", "stopped before it began")
            # As here: what is never heard to its end was stopped.
            reading = Reading(finish_reason="stopped")
            exchange = self._ask("/chat/completions", body)
            return self._pieces(exchange, reading, sum(map(_count_pictures, messages))), reading

        return Reply(begin, sampling, on_end, schema)

    def _pieces(self, exchange: Exchange, reading: Reading, pictures: int) -> Iterator[str]:
        """Yield the answer as it comes, and leave in `reading` what the server says of it."""
        self._tell("asking")
        try:
            yield from self._listen(exchange, reading)
        except LlavaError as error:
            reading.finish_reason = "stopped" if isinstance(error, Stopped) else "failed"
            raise self._named(error) from error
        finally:
            exchange.stop()
        self._counted = reading.reused + reading.new + reading.answer_tokens
        self._doubt(reading, pictures)

    def _listen(self, exchange: Exchange, reading: Reading) -> Iterator[str]:
        pieces, reason = 0, ""
        for said in exchange.objects():
            if isinstance(said, Pause):
                self._tell("pausing", said.seconds)
                continue
            text, ended = self._heard(said, reading)
            reason = ended or reason
            if text:
                if not pieces:
                    self._tell("writing")
                pieces += 1
                yield text
        # Servers that do not count write a token at a time.
        reading.answer_tokens = reading.answer_tokens or pieces
        if exchange.was_stopped:
            if not pieces:
                raise Stopped("answer", "stopped before it began")
            return
        if not reason and not exchange.is_done:
            raise gave_up(f"{self.endpoint.host} hung up")
        reading.finish_reason = reason or "stop"

    def _heard(self, said: Mapping[str, Any], reading: Reading) -> tuple[str, str]:
        """Return what an object adds to the answer, and why it ended if it did."""
        usage, choices = said.get("usage"), said.get("choices")
        if isinstance(usage, dict):
            details = usage.get("prompt_tokens_details")
            cached = _number(details.get("cached_tokens")) if isinstance(details, dict) else 0
            prompt = _number(usage.get("prompt_tokens"))
            reading.reused, reading.new = min(cached, prompt), prompt - min(cached, prompt)
            reading.answer_tokens = _number(usage.get("completion_tokens"))
        if choices is None and usage is None:
            raise not_a_server(self.endpoint)
        if not choices:
            return "", ""
        choice = choices[0] if isinstance(choices, list) else None
        if not isinstance(choice, dict):
            raise not_a_server(self.endpoint)
        message, reason = choice.get("delta") or choice.get("message") or {}, choice.get("finish_reason")
        text = message.get("content") if isinstance(message, dict) else None
        return text if isinstance(text, str) else "", reason if isinstance(reason, str) else ""

    def _doubt(self, reading: Reading, pictures: int) -> None:
        """Say so if the server counted fewer tokens than a picture alone takes."""
        counted = reading.reused + reading.new
        if 0 < counted < _LEAST_TOKENS * pictures:
            doubt = f"{self.endpoint.host} counted only {counted} tokens: does its model see pictures at all?"
            if doubt not in self._notes:
                self._notes.append(doubt)

    def _named(self, error: LlavaError) -> LlavaError:
        """Name the models there are, if the error is that there is none of this name."""
        if not isinstance(error, ModelMissing):
            return error
        names: list[str] = []
        with suppress(LlavaError):
            names = self.names()
        close = difflib.get_close_matches(self.name, names, n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        return ModelMissing(error.what, error.why, hint=f"{meant}it has {_listed(names)}" if names else error.hint)

    def _ask(self, path: str, body: Mapping[str, Any] | None) -> Exchange:
        self._exchange = Exchange(self._client, self.endpoint, path, body, self._patience)
        return self._exchange

    def _tell(self, stage: str, seconds: float = 0.0) -> None:
        if self._on_stage is not None:
            self._on_stage(stage, Amount(0, seconds))


def _count_pictures(message: Mapping[str, Any]) -> int:
    return 0 if isinstance(message["content"], str) else sum(part["type"] == "picture" for part in message["content"])


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else 0


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
