"""The pages of the server, as OpenAI's API has them.

llama-cpp-python has a server, too. This one is our own, because there a second request ends the answer to the first, or
both wait in no order; who leaves before the end stops nothing; `image_url` opens files and addresses of any kind;
pages of every site may ask; and what it does not know in a request it drops without a word (0.3.36, `server/app.py`).

Only the server imports this room: FastAPI comes with it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from llava_cli import __version__
from llava_cli.chat_request import ChatRequest, Question, read_request
from llava_cli.engine import Began, End, Engine, Event, Job, Piece, Stage
from llava_cli.errors import LlavaError, Stopped
from llava_cli.model import Model
from llava_cli.openai_shapes import chunks, completion
from llava_cli.refusals import Refused, as_refusal, refusal_of_body
from llava_cli.reply import Reply

_HEARTBEAT = 10.0
"""Seconds of silence after which a stream says that it still lives: a 7B model may read for a minute."""

_DECODING = 2
"""Requests whose pictures are opened at the same time; each may hold 120 MB of pixels meanwhile."""


@dataclass(frozen=True)
class Service:
    """What is served, and how requests are read."""

    engine: Engine
    names: tuple[str, ...]
    """What clients may call the model; the first is its own name."""
    created: int
    """When its file was written, seconds since the epoch."""
    system: str | None = None
    allow_addresses: bool = False
    record: Callable[[Reply, Question], None] | None = None
    """Writes a turn down; None if nobody asked for that."""

    def read(self, request: ChatRequest) -> Question:
        """Open the pictures of a request, and make sure that it fits; all that can be refused is, here."""
        model = self.engine.model
        question = read_request(request, model.sampling, system=self.system, allow_addresses=self.allow_addresses)
        model.require_room(question.messages)
        return question


class Error(BaseModel):
    """What is wrong with a request."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: Error


class ModelCard(BaseModel):
    id: str
    object: str = "model"
    created: int
    owned_by: str = "llava"


class ModelCards(BaseModel):
    object: str = "list"
    data: list[ModelCard]


class Health(BaseModel):
    status: str = "ok"
    running: int
    waiting: int


def make_app(service: Service) -> FastAPI:
    """Make the application that answers for `service`."""
    # The pages on which FastAPI documents itself load scripts from another site.
    app = FastAPI(
        title="llava",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        exception_handlers=_HANDLERS,
        responses={"4XX": {"model": ErrorBody, "description": "Refused"}},
    )
    # What is fetched may be slow, and must not keep those waiting who bring their pictures along.
    decoding, fetching = anyio.CapacityLimiter(_DECODING), anyio.CapacityLimiter(_DECODING)
    cards = [ModelCard(id=name, created=service.created) for name in service.names]

    @app.get("/health")
    async def health() -> Health:
        """Tell whether the server lives, and how much it has to do."""
        return Health(running=int(service.engine.is_running), waiting=service.engine.waiting)

    @app.get("/v1/models")
    async def models() -> ModelCards:
        """List the model, by each of its names."""
        return ModelCards(data=cards)

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> ModelCard:
        """Tell about the model."""
        return next((card for card in cards if card.id == name), None) or _unknown(name, service.names)

    @app.post("/v1/chat/completions", response_class=JSONResponse, responses={200: {"content": _ANSWERS}})
    async def chat(request: Request, body: ChatRequest) -> Response:
        """Answer a question about pictures; as server-sent events if `stream` is true."""
        if body.model not in service.names:
            _unknown(body.model, service.names)
        limiter = fetching if service.allow_addresses and body.names_addresses else decoding
        question = await anyio.to_thread.run_sync(service.read, body, limiter=limiter)
        facts: list[str] = request.scope["state"]["facts"]
        if question.pictures:
            facts.append(f"{len(question.pictures)} picture{'s' if len(question.pictures) > 1 else ''}")
        ear = _Ear()
        work = partial(_answer, question=question, asked=body, service=service, facts=facts)
        job = service.engine.submit(work, ear, client=_client(request, body))
        if body.stream:
            headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
            return StreamingResponse(_stream(job, ear, facts), media_type="text/event-stream", headers=headers)
        return await _whole(request, job, ear, facts)

    return app


def _unknown(name: str, names: Sequence[str]) -> ModelCard:
    why = f"there is no model {name!r} here; this server has {' and '.join(names)}"
    raise Refused(404, why, code="model_not_found", param="model")


def _client(request: Request, body: ChatRequest) -> str:
    """Tell clients apart: who speaks for several users may say for which, and programs of one computer have names."""
    address = request.client.host if request.client else ""
    return "\n".join((address, request.headers.get("user-agent", ""), body.user or body.safety_identifier or ""))


# In the engine's thread.


def _answer(
    model: Model, *, question: Question, asked: ChatRequest, service: Service, facts: list[str]
) -> Iterator[dict[str, Any]]:
    """Write the answer, in OpenAI's shapes."""
    reply = model.reply(question.messages, question.sampling, lambda _text: None, question.schema, question.how)
    try:
        if asked.stream:
            with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
            yield from chunks(_whole_pieces(reply), reply.reading, asked.model, with_usage=with_usage)
        else:
            yield completion(_whole_pieces(reply), reply.reading, asked.model)
    finally:
        reply.close()
        took = reply.usage
        facts.append(f"{took.prompt_cells} cells, {took.reused_cells} of them reused · {took.answer_tokens} tokens")
        if service.record is not None:
            service.record(reply, question)


def _whole_pieces(reply: Reply) -> Iterator[str]:
    """Yield the answer, and raise `Stopped` if it is only a part: no client shall take it for the whole."""
    yield from reply
    if reply.finish_reason == "stopped":
        raise Stopped("answer", "it was stopped")


# In the loop of the server.


class _Ear:
    """Hears in the engine's thread, and tells in the loop of the server."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heard: asyncio.Queue[Event] = asyncio.Queue()
        self._has_ended = False

    def __call__(self, event: Event) -> None:
        # A loop that has ended wants to hear no more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._heard.put_nowait, event)

    async def next(self) -> Event:
        event = await self._heard.get()
        self._has_ended = isinstance(event, End)
        return event

    async def rest(self) -> None:
        """Wait for the end, whoever else wants to end meanwhile."""
        with anyio.CancelScope(shield=True):
            while not self._has_ended:
                await self.next()


async def _whole(request: Request, job: Job, ear: _Ear, facts: list[str]) -> Response:
    """Wait for the whole answer; a client that leaves meanwhile stops it."""
    has_left = asyncio.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue
        has_left.set()
        job.stop()

    watcher = asyncio.create_task(watch())
    answer: dict[str, Any] = {}
    try:
        while not isinstance(event := await ear.next(), End):
            if isinstance(event, Piece):
                answer = event.value
    finally:
        watcher.cancel()
        job.stop()
    if has_left.is_set():
        facts.append("the client has left")
        return Response(status_code=499)  # nobody reads it; nginx calls it that, too
    if event.error is not None:
        raise event.error
    return JSONResponse(answer)


async def _stream(job: Job, ear: _Ear, facts: list[str]) -> AsyncIterator[str]:
    """Yield server-sent events; closing this stops the answer."""
    doing = "waiting"
    try:
        while True:
            try:
                event = await asyncio.wait_for(ear.next(), _HEARTBEAT)
            except TimeoutError:
                # A comment: clients drop it, and neither they nor a proxy give up.
                yield f": {doing}{f', {job.ahead} before this one' if doing == 'waiting' else ''}\n\n"
                continue
            match event:
                case Piece(value):
                    yield f"data: {json.dumps(value)}\n\n"
                case Stage(name):
                    doing = name
                case End(None):
                    yield "data: [DONE]\n\n"
                    return
                case End(error):
                    refusal = as_refusal(error)
                    facts.append(f"{refusal.status}")
                    yield f"data: {json.dumps(refusal.body)}\n\n"
                    return
                case Began():
                    doing = "reading"
    except (asyncio.CancelledError, GeneratorExit):
        job.stop()
        # What is written down about this request is how far it came.
        await ear.rest()
        facts.append("the client has left")
        raise
    finally:
        job.stop()


# What goes wrong.


async def _refuse(_request: Request, error: Exception) -> Response:
    refusal = as_refusal(error)
    return JSONResponse(refusal.body, refusal.status, dict(refusal.headers))


async def _refuse_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    why = _PAGES.get(error.status_code, str(error.detail))
    return await _refuse(request, Refused(error.status_code, why, headers=error.headers))


async def _refuse_body(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if not isinstance(error.body, dict) and "json" not in request.headers.get("content-type", ""):
        return await _refuse(request, Refused(415, "send it as JSON, with Content-Type: application/json"))
    return await _refuse(request, refusal_of_body(error.body, error.errors()))


_PAGES = {
    404: "there is no such page; there are /v1/chat/completions, /v1/models, /health and /openapi.json",
    405: "that page does not take this method",
}
_HANDLERS: Any = {
    Refused: _refuse,
    LlavaError: _refuse,
    Exception: _refuse,
    HTTPException: _refuse_page,
    RequestValidationError: _refuse_body,
}
_ANSWERS: Mapping[str, Any] = {
    "application/json": {"schema": {"type": "object"}},
    "text/event-stream": {"schema": {"type": "string"}},
}
