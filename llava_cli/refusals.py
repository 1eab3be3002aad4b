"""Says why the server refuses a request, in the numbers and shapes of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llava_cli.errors import Busy, ContextTooSmall, LlavaError, Stopped, UnreadablePicture, UsageError


def error_body(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Say what is wrong with a request as OpenAI does."""
    kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(status)
    kind = kind or ("invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Refused(Exception):
    """Carry the answer to a request that goes no further."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, message, code=code, param=param)
        self.headers = headers or {}


def as_refusal(error: BaseException | None) -> Refused:
    """Turn what was raised into the answer to the request."""
    if isinstance(error, Refused):
        return error
    if not isinstance(error, LlavaError):
        return Refused(500, "the server has made a mistake")
    # The hint of a wrong command line is no use here.
    hint = "" if isinstance(error, UsageError) or not error.hint else f" ({error.hint})"
    message = f"{error.what}: {error.why}{hint}"
    match error:
        case Busy():
            return Refused(429, message, code="rate_limit_exceeded", headers={"retry-after": str(error.seconds)})
        case ContextTooSmall():
            return Refused(400, message, code="context_length_exceeded", param="messages")
        case UnreadablePicture():
            return Refused(400, message, code="invalid_image", param="messages")
        case UsageError():
            return Refused(400, message)
        case Stopped():
            return Refused(503, "the server is shutting down", code="shutting_down")
        case _:
            return Refused(500, message, code="engine_failed")


def refusal_of_body(body: Any, faults: Sequence[Any]) -> Refused:
    """Turn what pydantic complains of into the answer to a request with this body."""
    # Of a union every branch complains; the one that came furthest knows best.
    worst = max(faults, key=lambda fault: len(fault["loc"]))
    place = _place(body, worst["loc"][1:])
    if worst["type"] == "extra_forbidden":
        return Refused(400, f"{place} is not supported by this server", code="unsupported_parameter", param=place)
    return Refused(400, f"{place or 'body'}: {worst['msg']}", code="invalid_value", param=place or None)


def _place(body: Any, steps: Sequence[str | int]) -> str:
    """Say where in a body something is wrong; `steps` hold names of our models, too, which mean nothing to others."""
    place: list[str] = []
    for number, step in enumerate(steps):
        if isinstance(body, Mapping) and (step in body or number == len(steps) - 1):
            body = body.get(str(step))
        elif isinstance(body, list) and isinstance(step, int) and step < len(body):
            body = body[step]
        else:
            continue
        place.append(str(step))
    return ".".join(place)
