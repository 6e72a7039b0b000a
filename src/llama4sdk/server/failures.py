"""Failures in the form of OpenAI's API: a status, and a JSON object with message, type, param and code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from llama4sdk.errors import (
    BackendMissing,
    CheckpointError,
    ContextOverflow,
    DeadlineExceeded,
    GuardUnavailable,
    ImageError,
    InvalidRequest,
    LlamaError,
    OutputInvalid,
    Overloaded,
    ProtocolError,
    Rejected,
    ServerFault,
    StreamInterrupted,
    TooManyImages,
    Unreachable,
    UrlBlocked,
)
from llama4sdk.surrogates import mended

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationError

INVALID = "invalid_request_error"
_SERVER = "server_error"


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        failure: The answer.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it is answered.

    Args:
        status: HTTP status.
        message: What happened and what to do.
        type: Kind of error, in OpenAI's words.
        param: The field of the request that is wrong.
        code: A name for programs.
        headers: Further headers.
    """

    status: int
    message: str
    type: str = INVALID
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def body(self) -> bytes:
        """The JSON of the answer."""
        inner = {"message": mended(self.message), "type": self.type, "param": self.param, "code": self.code}
        return to_json({"error": inner})


def refused(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the error for a request that is wrong in one field."""
    return ApiError(Failure(400, message, param=param, code=code))


# By class of the error tree, nearest first: status, type and code.
_ANSWERS: Mapping[type[LlamaError], tuple[int, str, str | None]] = {
    ContextOverflow: (400, INVALID, "context_length_exceeded"),
    TooManyImages: (400, INVALID, "too_many_images"),
    UrlBlocked: (400, INVALID, "invalid_image_url"),
    ImageError: (400, INVALID, "invalid_image"),
    InvalidRequest: (400, INVALID, None),
    GuardUnavailable: (503, _SERVER, "guard_unavailable"),
    DeadlineExceeded: (504, _SERVER, "deadline_exceeded"),
    Overloaded: (503, _SERVER, "overloaded"),
    Unreachable: (502, _SERVER, "backend_unreachable"),
    Rejected: (502, _SERVER, "backend_refused"),
    ProtocolError: (502, _SERVER, "backend_protocol"),
    StreamInterrupted: (502, _SERVER, "backend_interrupted"),
    OutputInvalid: (502, _SERVER, "output_invalid"),
    CheckpointError: (503, _SERVER, "model_not_loaded"),
    BackendMissing: (503, _SERVER, "model_not_loaded"),
    ServerFault: (500, _SERVER, "backend_failed"),
    LlamaError: (500, _SERVER, None),
}
_PARAMS: Mapping[type[LlamaError], str] = {ContextOverflow: "messages", TooManyImages: "messages"}


def failure_of(error: LlamaError) -> Failure:
    """Return the answer that stands for an error of the SDK."""
    kind = next(kind for kind in type(error).__mro__ if kind in _ANSWERS)
    status, type_, code = _ANSWERS[kind]
    headers: dict[str, str] = {}
    if isinstance(error, Overloaded):
        headers["retry-after"] = str(max(1, round(error.retry_after or 1)))
    message = str(error)
    if isinstance(error, CheckpointError):
        message = "The model could not be loaded; the server's log has the reasons."  # paths stay here
    if isinstance(error, ContextOverflow) and error.limit is not None and error.prompt_tokens is not None:
        message = (
            f"This model's maximum context length is {error.limit} tokens. However, your messages resulted in "
            f"{error.prompt_tokens} tokens. Please shorten them."
        )
    return Failure(status, message, type_, _PARAMS.get(kind), code, headers)


UNEXPECTED = Failure(500, "The server had an error while processing your request.", _SERVER, code="internal_error")
_SOON = {"retry-after": "1"}
SHUTTING_DOWN = Failure(503, "The server is shutting down.", _SERVER, code="shutting_down", headers=_SOON)
TOO_BUSY = Failure(
    503, "The server runs as many requests as it takes; try again.", _SERVER, code="overloaded", headers=_SOON
)


def failure_of_body(error: ValidationError) -> Failure:
    """Return the answer to a body that does not fit, by its first problem."""
    problem: Mapping[str, Any] = error.errors(include_url=False, include_input=False)[0]
    kind, words = problem["type"], str(problem["msg"])
    if kind == "json_invalid":
        return Failure(400, f"We could not parse the JSON body of your request: {words}.")
    place = _place(problem["loc"])
    if kind == "extra_forbidden":  # the last step is the client's own word, which may be any
        above, field = _place(problem["loc"][:-1]), str(problem["loc"][-1])[:64]
        place = f"{above}.{field}" if above else field
        return Failure(400, f"Unknown parameter: '{place}'.", param=place, code="unknown_parameter")
    if kind == "missing":
        return Failure(400, f"Missing required parameter: '{place}'.", param=place, code="missing_required_parameter")
    if not place:
        return Failure(400, "The body of the request is a JSON object.")
    return Failure(400, f"Invalid value for '{place}': {words}.", param=place, code="invalid_value")


def _place(steps: tuple[int | str, ...]) -> str:
    """Return `messages[0].content` for a path; names of union members, which pydantic adds, are left out."""
    place = ""
    for step in steps[:12]:
        if isinstance(step, int):
            place += f"[{step}]"
        elif step.replace("_", "a").isalnum() and step.islower() and step not in _UNION_MEMBERS:
            place += f".{step[:64]}" if place else step[:64]
    return place


_UNION_MEMBERS = frozenset({"str", "int", "float", "bool", "list", "dict"})
