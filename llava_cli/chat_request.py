"""Reads what a program asks of the server, in OpenAI's words; what this model cannot do is refused, never ignored.

Only the server imports this room: pydantic comes with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llava_cli.errors import UnreadablePicture, UsageError
from llava_cli.fetching import fetch, is_address, public_name
from llava_cli.pictures import SentPicture, open_data_url, open_picture
from llava_cli.schemas import AnswerSchema
from llava_cli.settings import Detail, Sampling

_SEEDS = 2**32 - 1
_MOST_PICTURES = 32
_MOST_PARTS = 2000
_MOST_ALTERNATIVES = 50
_NOTHING: tuple[object, ...] = (None, [], {}, "", False)


def _is_text(value: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _require_text(self) -> Self:
        # JSON can write half a character, which no tokenizer, file or answer could take.
        if not all(value.isascii() or _is_text(value) for value in vars(self).values() if isinstance(value, str)):
            raise ValueError("half a character (a lone surrogate)")
        return self


class Text(_Said):
    type: Literal["text"]
    text: str


class ImageUrl(_Said):
    url: str = Field(description="A data: URL; http(s) only if the server was started with --allow-url-images.")
    detail: Literal["auto", "low", "high"] | None = None


class Image(_Said):
    type: Literal["image_url"]
    image_url: ImageUrl | str


class SystemMessage(_Said):
    role: Literal["system", "developer"]
    content: str | list[Text]
    name: str | None = None


class UserMessage(_Said):
    role: Literal["user"]
    content: str | list[Annotated[Text | Image, Field(discriminator="type")]]
    name: str | None = None


class AssistantMessage(_Said):
    role: Literal["assistant"]
    content: str | list[Text] | None = None
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_what_is_empty(cls, data: Any) -> Any:
        # An answer that a client sends back has keys for what this model never does.
        return _without(data, ("refusal", "annotations", "audio", "function_call", "tool_calls"))


class JsonSchema(_Said):
    name: str
    json_schema: dict[str, Any] | bool = Field(alias="schema")
    description: str | None = None
    strict: bool | None = Field(None, description="The answer satisfies the schema in any case.")


class AnyText(_Said):
    type: Literal["text"]


class AnyObject(_Said):
    type: Literal["json_object"]


class BySchema(_Said):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class StreamOptions(_Said):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(_Said):
    """A question, with what was said before it."""

    model: str
    messages: list[
        Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]
    ] = Field(min_length=1)  # fmt: skip
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000, description="Not OpenAI's; 0 is all tokens.")
    min_p: float | None = Field(None, ge=0, le=1, description="Not OpenAI's.")
    repeat_penalty: float | None = Field(None, gt=0, le=10, description="Not OpenAI's.")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    n: Literal[1] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: Annotated[AnyText | AnyObject | BySchema, Field(discriminator="type")] | None = None
    user: str | None = Field(None, description="Who asks: users of one program get their answers in fair order.")
    safety_identifier: str | None = Field(None, description="The same as user.")
    prompt_cache_key: str | None = Field(None, description="Not needed: what was read is always used again.")
    metadata: dict[str, str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_what_is_empty(cls, data: Any) -> Any:
        # Clients name what they do not want, too. What they do want is refused by its name.
        unwanted = (
            "tools", "functions", "function_call", "logit_bias", "audio", "prediction", "store", "web_search_options",
            "parallel_tool_calls", "service_tier", "reasoning_effort", "verbosity", "prompt_cache_retention",
        )  # fmt: skip
        data = _without(data, unwanted)
        data = _without(data, ("tool_choice",), (None, "none", "auto"))
        return _without(data, ("modalities",), (None, ["text"]))

    @property
    def names_addresses(self) -> bool:
        """Tell whether there is something to fetch, which may be slow."""
        parts = [part for message in self.messages if isinstance(message.content, list) for part in message.content]
        urls = [part.image_url for part in parts if isinstance(part, Image)]
        return any(is_address(url if isinstance(url, str) else url.url) for url in urls)

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options go with stream: true")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs go with logprobs: true")
        return self


def _without(data: Any, names: Sequence[str], empty: Sequence[object] = _NOTHING) -> Any:
    if not isinstance(data, dict):
        return data
    return {key: value for key, value in data.items() if key not in names or value not in empty}


@dataclass(frozen=True)
class Question:
    """What a request comes to: what `Model.reply` takes."""

    messages: list[dict[str, Any]]
    pictures: tuple[SentPicture, ...]
    sampling: Sampling
    schema: AnswerSchema | None
    how: Mapping[str, Any]
    """What else `Model.reply` is told about writing."""

    @property
    def text(self) -> str:
        """Return what was asked last."""
        last = next(message for message in reversed(self.messages) if message["role"] == "user")
        return "\n".join(part["text"] for part in last["content"] if part["type"] == "text")

    @property
    def system(self) -> str | None:
        """Return what was said about how to answer."""
        said = [message["content"] for message in self.messages if message["role"] == "system"]
        return "\n".join(said) if said else None


def read_request(
    request: ChatRequest, defaults: Sampling, *, system: str | None = None, allow_addresses: bool = False
) -> Question:
    """Open the pictures of a request and bring it into our shape; `defaults` and `system` are for what it leaves out.

    Raise `UnreadablePicture` or `UsageError`. Pictures are looked at here, before the request waits for its turn.
    """
    pictures: list[SentPicture] = []

    def shown(image: Image) -> dict[str, Any]:
        if len(pictures) == _MOST_PICTURES:
            raise UsageError("messages", f"more than {_MOST_PICTURES} pictures")
        url = image.image_url if isinstance(image.image_url, ImageUrl) else ImageUrl(url=image.image_url)
        detail: Detail | None = None if url.detail in (None, "auto") else url.detail  # type: ignore[assignment]
        pictures.append(_open(url.url, f"picture {len(pictures) + 1}", detail, allow_addresses=allow_addresses))
        return {"type": "picture", "picture": pictures[-1]}

    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system is not None else []
    if any(message.role in ("system", "developer") for message in request.messages):
        messages = []
    for message in request.messages:
        content = [{"type": "text", "text": message.content}] if isinstance(message.content, str) else [
            {"type": "text", "text": part.text} if isinstance(part, Text) else shown(part)
            for part in message.content or []
        ]  # fmt: skip
        role = "system" if message.role == "developer" else message.role
        if role == "user" and messages and messages[-1]["role"] == "user":
            # Some programs send the picture and the question one after the other.
            messages[-1]["content"] += content
        elif role == "user":
            messages.append({"role": role, "content": content})
        else:
            messages.append({"role": role, "content": "\n".join(part["text"] for part in content)})
    if not any(message["role"] == "user" for message in messages):
        raise UsageError("messages", "there is no question among them")
    return Question(messages, tuple(pictures), _sampling(request, defaults), _schema(request), _how(request))


def _open(url: str, name: str, detail: Detail | None, *, allow_addresses: bool) -> SentPicture:
    file: str | bytes = url
    if is_address(url):
        if not allow_addresses:
            hint = "send it as a data: URL, or start the server with --allow-url-images"
            raise UnreadablePicture(public_name(url), "this server fetches no pictures", hint=hint)
        name, file = public_name(url), fetch(url, public_only=True)
        picture = open_picture(file, name=name, detail=detail)
    else:
        # Whatever is no data URL, such as a path, is refused there.
        picture = open_data_url(url, name=name, detail=detail)
    return SentPicture(picture.sha256, picture.name, picture.width, picture.height, detail, file=file)


def _sampling(request: ChatRequest, defaults: Sampling) -> Sampling:
    longest = [n for n in (request.max_tokens, request.max_completion_tokens) if n is not None]
    given: dict[str, Any] = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "repeat_penalty": request.repeat_penalty,
        "seed": None if request.seed is None else request.seed % _SEEDS,
        "max_tokens": min(longest, default=None),
    }
    if request.top_p == 0:
        # Ours is never 0; what OpenAI means by it is the likeliest token.
        given |= {"top_p": None, "top_k": 1}
    return replace(defaults, **{name: value for name, value in given.items() if value is not None})


def _schema(request: ChatRequest) -> AnswerSchema | None:
    wanted = request.response_format
    if isinstance(wanted, BySchema):
        _require_harmless(wanted.json_schema.json_schema)
        return AnswerSchema(wanted.json_schema.json_schema)
    return AnswerSchema({"type": "object"}) if isinstance(wanted, AnyObject) else None


def _require_harmless(schema: Any) -> None:
    """Refuse what would cost the server more than an answer, or lead it elsewhere, while the schema is only read."""
    parts, seen = [schema], 0
    while parts:
        part = parts.pop()
        seen += 1
        if isinstance(part, list):
            parts += part
        if not isinstance(part, dict):
            continue
        parts += part.values()
        for name in ("$ref", "$dynamicRef"):
            if isinstance(part.get(name), str) and not part[name].startswith("#"):
                raise UsageError("schema", f"{name} leads out of it")
        # Matching may take for ever, and no grammar can hold them anyway. A property may have such a name.
        for name, kind in (("pattern", str), ("patternProperties", dict)):
            if isinstance(part.get(name), kind):
                raise UsageError("schema", f"a model cannot be held to it: {name}")
        if isinstance(part.get("oneOf"), list) and len(part["oneOf"]) > _MOST_ALTERNATIVES:
            raise UsageError("schema", f"more than {_MOST_ALTERNATIVES} alternatives in oneOf (anyOf would do)")
    if seen > _MOST_PARTS:
        raise UsageError("schema", f"it has more than {_MOST_PARTS} parts")


def _how(request: ChatRequest) -> dict[str, Any]:
    given = {
        "stop": [request.stop] if isinstance(request.stop, str) else request.stop,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "logprobs": request.logprobs,
        "top_logprobs": request.top_logprobs,
    }
    return {name: value for name, value in given.items() if value}
