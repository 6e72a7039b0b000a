"""From a server's answer to the one error tree; pure.

A server's own words may repeat the prompt or the key, so no message here quotes them. What helps to find
the cause is kept: the status, the counts of an overflow, and a short error code when it looks like one
and stands nowhere in the request.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from llama4_http.retry import retry_after
from llama4sdk.errors import (
    BadKey,
    ContextOverflow,
    InvalidRequest,
    LlamaError,
    ModelRetired,
    Overloaded,
    ProtocolError,
    Rejected,
    ServerFault,
    StreamInterrupted,
    TooManyImages,
    Unreachable,
)

if TYPE_CHECKING:
    from llama4sdk.reply import Reply

MAX_ERROR_BODY = 64 * 1024  # bytes of an error answer that are looked at

_CODE = re.compile(r"[A-Za-z][A-Za-z_]{1,47}")
_OVERFLOW = re.compile(
    r"context[ _-]?(length|window|size)|max_model_len|maximum (model|context|input) length|prompt is too long"
    r"|input (is )?too long|exceeds? the (available )?context",
    re.IGNORECASE,
)
_IMAGES = re.compile(
    r"(too many|at most|maximum|limit)\b.{0,60}\b(image|picture)|image.{0,60}\b(limit|at most)",
    re.IGNORECASE | re.DOTALL,
)
_NUMBER = re.compile(r"\b\d{1,9}\b")


@dataclass(frozen=True, slots=True)
class Sent:
    """What is known of a request when its answer is judged.

    Args:
        request_id: The request's name.
        body: The bytes sent: nothing that stands in them is ever shown.
        key: The key sent, as little shown.
        backend: The backend's name.
    """

    request_id: str
    body: bytes = field(default=b"", repr=False)
    key: str = field(default="", repr=False)
    backend: str = "http"

    def hides(self, text: str) -> bool:
        """Return whether `text` stands in what was sent."""
        return text.encode() in self.body or text in self.key or (self.key != "" and self.key in text)


def error_for_status(status: int, headers: Mapping[str, str], body: bytes, sent: Sent) -> LlamaError:
    """Return the error that an answer other than 200 stands for.

    Args:
        status: The HTTP status.
        headers: The answer's headers, names in lower case.
        body: The beginning of the answer's body.
        sent: The request.
    """
    text, code = _told(body)
    message = _describe(status, code, sent)
    error = _error(status, text, code, message, retry_after(headers.get("retry-after")))
    return named(error, sent)


def error_in_stream(value: object, sent: Sent) -> LlamaError:
    """Return the error that an error object inside a 200 answer stands for."""
    text, code = _said(value)
    inner = value.get("code") if isinstance(value, Mapping) else None
    status = inner if type(inner) is int and 400 <= inner <= 599 else 500
    message = f"The server reported an error inside its answer{_shown_code(code, sent)}."
    return named(_error(status, text, code, message, None), sent)


def error_for_exception(error: BaseException, *, begun: bool) -> LlamaError:
    """Return the error that a failure of httpx or of the network stands for.

    Args:
        error: What was raised; its words are not repeated.
        begun: Whether the answer had begun to come.
    """
    if _is_about_certificates(error):
        return Unreachable(
            "The server's certificate is not valid for it: expired, for another host, or signed by nobody known here.",
            retryable=False,
        )
    kind = type(error).__name__
    if kind in ("LocalProtocolError", "UnsupportedProtocol", "InvalidURL"):
        return InvalidRequest(f"The request cannot be sent ({kind}); check base_url and headers.")
    if kind in _NO_CONNECTION:
        return Unreachable(f"No connection to the server ({kind}); is it running, and is base_url right?")
    if kind == "RemoteProtocolError" and not str(error).startswith(_CLOSED):
        return ProtocolError("The server's answer breaks the rules of HTTP.")
    if begun:
        return StreamInterrupted("The connection broke before the answer was complete.")
    return Unreachable(
        "The server closed the connection before it answered. Whether it began to work is not known, so this is "
        "sent again only with Retries(resend=True)."
    )


_NO_CONNECTION = frozenset({"ConnectError", "ConnectTimeout", "ProxyError", "PoolTimeout"})
# How httpcore words a connection that ended where more was due; all else is malformed HTTP.
_CLOSED = ("Server disconnected", "peer closed connection")


def _is_about_certificates(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def compressed(sent: Sent) -> LlamaError:
    """Return the error of an answer that is compressed although we take none that is."""
    return named(ProtocolError("The server compressed its answer although it was asked not to."), sent)


def keep_partial(error: LlamaError, partial: Reply) -> None:
    """Write into an error what had been answered by then."""
    if getattr(error, "partial", None) is None:
        vars(error)["partial"] = partial


def named(error: LlamaError, sent: Sent) -> LlamaError:
    """Write the backend and the request into an error that does not name them yet."""
    error.backend = error.backend or sent.backend
    error.request_id = error.request_id or sent.request_id
    return error


def _error(status: int, text: str, code: str, message: str, wait: float | None) -> LlamaError:
    if 300 <= status < 400:
        return ProtocolError(f"{message} Redirects are not followed; set base_url to where the server is now.")
    if status in (400, 413, 422) or (status == 500 and _OVERFLOW.search(text)):
        return _refused(text, code, message)
    if status in (401, 403):
        return BadKey(f"{message} Check api_key, and that it is entitled to the model.")
    if status == 410:
        return ModelRetired(f"{message} The model is no longer served there; choose another model or server.")
    if status == 404:
        return Rejected(f"{message} There is no such model or path: check model, and that base_url ends in /v1.")
    if status in (409, 429, 503):
        return Overloaded(f"{message} Try again later, or send fewer requests at once.", retry_after=wait)
    if status == 408 or status >= 500:
        return ServerFault(f"{message} Its own log says more.")
    if 400 <= status < 500:
        return Rejected(f"{message} The server refused the request.")
    return ProtocolError(f"{message} An answer was expected with status 200.")


def _refused(text: str, code: str, message: str) -> LlamaError:
    if _OVERFLOW.search(text) or _OVERFLOW.search(code):
        limit, prompt = _counts(text)
        return ContextOverflow(
            f"{message} The prompt is longer than the server's context"
            f"{f' of {limit} tokens' if limit else ''}; shorten the conversation.",
            prompt_tokens=prompt,
            limit=limit,
        )
    if _IMAGES.search(text):
        return TooManyImages(f"{message} The server takes fewer images in one request.")
    return InvalidRequest(f"{message} The server cannot serve this request as it stands.")


def _counts(text: str) -> tuple[int | None, int | None]:
    # "maximum context length is 8192 tokens … you requested 9000": the smaller is the limit.
    numbers = sorted({int(number) for number in _NUMBER.findall(text) if int(number) >= 16})
    return (numbers[0], numbers[-1]) if len(numbers) >= 2 else (None, None)


def _describe(status: int, code: str, sent: Sent) -> str:
    return f"The server answered with HTTP status {status}{_shown_code(code, sent)}."


def _shown_code(code: str, sent: Sent) -> str:
    return f" ({code})" if _CODE.fullmatch(code) and not sent.hides(code) else ""


def _told(body: bytes) -> tuple[str, str]:
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError:
        return body.decode("utf-8", "replace"), ""
    return _said(value)


def _said(value: Any) -> tuple[str, str]:
    """Return the words and the code of an error in any of the forms that servers use."""
    if not isinstance(value, Mapping):
        return str(value)[:MAX_ERROR_BODY], ""
    inner = value.get("error")
    if isinstance(inner, Mapping | str) and inner:
        return _said(inner) if isinstance(inner, Mapping) else (inner, "")
    words = " ".join(str(value[key]) for key in ("message", "detail", "title") if value.get(key))
    code = next((value[key] for key in ("code", "type") if isinstance(value.get(key), str)), "")
    return words[:MAX_ERROR_BODY], code
