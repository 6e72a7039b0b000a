"""From an HTTP answer or a broken connection to the one error tree: pure.

A server's own words may repeat the prompt or the key, so no message here quotes them; they are on
`error.server_message` alone. Kept in the message are the status, the counts of an overflow, and a short error
code that stands nowhere in the request.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic_core import from_json

from llama4_http.overflow import overflow_of
from llama4_http.reported import status_in
from llama4_http.retry import asked_wait
from llama4sdk.errors import (
    BadKey,
    ContextOverflow,
    ImageError,
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
_TOO_MANY_IMAGES = re.compile(
    r"too many (image|picture|multimodal|multi-modal)|at most \d+ (image|picture)|limit[-_]mm[-_]per[-_]prompt"
    r"|(maximum|max|limit)( allowed)?( number| count)? (of |is )?(\d+ )?(images|pictures)|number of (images|pictures)"
    r"|images? (inputs? )?(may be|are|is)? ?(provided|allowed|supported|permitted)? ?(per|in one|in a single)"
    r" (prompt|request)"
    r"|(only|up to|more than) (one|\d+) (image|picture)|\d+ images? .{0,40}\b(limit|maximum|at most)",
    re.IGNORECASE | re.DOTALL,
)
_BAD_IMAGE = re.compile(
    r"image.{0,60}\b(size|pixels?|resolution|dimensions?|large|bytes|[KM]i?B)\b.{0,40}\b(exceed|limit|max|at most)"
    r"|image.{0,20}\b(is )?too (large|big)|cannot identify image"
    r"|(invalid|unsupported|failed to (load|decode)).{0,30}image",
    re.IGNORECASE | re.DOTALL,
)
_BAD_KEY = re.compile(
    r"(api|access)[ _]key.{0,20}(not valid|invalid|expired)|(invalid|incorrect) (api|access)[ _]key", re.IGNORECASE
)
_AUTO_TOOLS = re.compile(r"enable-auto-tool-choice|tool-call-parser|tool choice requires", re.IGNORECASE)
_NO_JINJA = re.compile(r"tools? (param )?requires? --jinja", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Sent:
    """The facts of a request that its errors need.

    Args:
        request_id: The request's name.
        body: The bytes sent: nothing that stands in them is ever shown.
        key: The key sent, as little shown.
        backend: The backend's name.
        address: The server's address.
    """

    request_id: str
    body: bytes = field(default=b"", repr=False)
    key: str = field(default="", repr=False)
    backend: str = "http"
    address: str = ""

    def hides(self, text: str) -> bool:
        """Return whether `text` stands in the request."""
        return text.encode() in self.body or text in self.key or (self.key != "" and self.key in text)


def error_for_status(status: int, headers: Mapping[str, str], body: bytes, sent: Sent) -> LlamaError:
    """Return the error that an answer other than 200 stands for.

    Args:
        status: The HTTP status.
        headers: The answer's headers, names in lower case.
        body: The beginning of the answer's body.
        sent: The request.
    """
    words = _words_in(body)
    message = f"The server answered with HTTP status {status}{_shown_code(words.code, sent)}."
    return named(_error(status, words, message, asked_wait(headers)), sent)


def error_in_stream(value: object, sent: Sent) -> LlamaError:
    """Return the error that an error object inside a 200 answer stands for."""
    words = _words(value)
    status = (status_in(value) if isinstance(value, Mapping) else None) or _status_of_code(words.code) or 500
    message = f"The server reported an error inside its answer{_shown_code(words.code, sent)}."
    return named(_error(status, words, message, None), sent)


def error_for_exception(error: BaseException, *, begun: bool, address: str = "") -> LlamaError:
    """Return the error that a failure of httpx or of the network stands for.

    Args:
        error: The exception; its words are not repeated.
        begun: Whether the answer had begun to come.
        address: The server's address.
    """
    if _is_about_certificates(error):
        return Unreachable(
            "The server's certificate is not valid for it: expired, for another host, or of an unknown signer.",
            retryable=False,
        )
    kind = type(error).__name__
    if kind in ("LocalProtocolError", "UnsupportedProtocol", "InvalidURL"):
        return InvalidRequest(f"The request cannot be sent ({kind}); check base_url and headers.")
    if kind in _NO_CONNECTION:
        return Unreachable(f"No connection to {_server_in(address)} ({kind}); is it running, and is base_url right?")
    if kind == "RemoteProtocolError" and not str(error).startswith(_CLOSED):
        return ProtocolError("The server's answer breaks the rules of HTTP.")
    if begun:
        return StreamInterrupted("The connection broke before the answer was complete.")
    return Unreachable(
        "The server closed the connection before it answered. Whether it began to work is not known, so this is "
        "sent again only with Retries(resend=True)."
    )


def _status_of_code(code: str) -> int | None:
    code = code.lower()
    return next((status for word, status in _STATUS_OF_CODES if word in code), None)


_STATUS_OF_CODES = (
    ("rate_limit", 429),
    ("overloaded", 503),
    ("unavailable", 503),
    ("resource_exhausted", 429),
    ("invalid_request", 400),
    ("badrequest", 400),
    ("authentication", 401),
    ("invalid_api_key", 401),
    ("permission", 403),
    ("not_found", 404),
    ("context_length_exceeded", 400),
)
_NO_CONNECTION = frozenset({"ConnectError", "ConnectTimeout", "ProxyError", "PoolTimeout"})
# How httpcore words a connection that ended where more was due; all else is malformed HTTP.
_CLOSED = ("Server disconnected", "peer closed connection")


def _server_in(address: str) -> str:
    """Return scheme, host and port of an address: its path may name an account."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else "the server"


def _is_about_certificates(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def compressed(sent: Sent) -> LlamaError:
    """Return the error of a compressed answer, which no request asks for."""
    return named(ProtocolError("The server compressed its answer although it was asked not to."), sent)


def keep_partial(error: LlamaError, partial: Reply) -> None:
    """Write the reply so far into an error."""
    if getattr(error, "partial", None) is None:
        vars(error)["partial"] = partial


def named(error: LlamaError, sent: Sent) -> LlamaError:
    """Write the backend and the request into an error that does not name them yet."""
    error.backend = error.backend or sent.backend
    error.request_id = error.request_id or sent.request_id
    return error


@dataclass(frozen=True, slots=True)
class _Words:
    """The text, code and fields of a server's error."""

    text: str
    code: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])


def _error(status: int, words: _Words, message: str, wait: float | None) -> LlamaError:
    error = _classified(status, words, message, wait)
    error.server_message = words.text or None
    return error


def _classified(status: int, words: _Words, message: str, wait: float | None) -> LlamaError:
    if 300 <= status < 400:
        return ProtocolError(f"{message} Redirects are not followed; set base_url to the server's address.")
    if status in (400, 413, 422):
        return _refused(words, message)
    if status >= 500:
        overflow = _overflow(words, message)
        if overflow is not None:
            return overflow
    if status in (401, 403):
        return BadKey(f"{message} Check api_key, and that it is entitled to the model.")
    if status == 410:
        return ModelRetired(f"{message} The model is no longer served there; use another model or server.")
    if status == 404:
        return Rejected(f"{message} There is no such model or path: check model, and that base_url ends in /v1.")
    if status in (409, 429, 503):
        return Overloaded(f"{message} Try again later, or send fewer requests at once.", retry_after=wait)
    if status in (408, 424) or status >= 500:  # 424: of TGI, for a failure while it generates
        return ServerFault(f"{message} The server's log has the cause.")
    if 400 <= status < 500:
        return Rejected(f"{message} The server refused the request.")
    return ProtocolError(f"{message} An answer was expected with status 200.")


def _refused(words: _Words, message: str) -> LlamaError:
    overflow = _overflow(words, message)
    if overflow is not None:
        return overflow
    if _AUTO_TOOLS.search(words.text):
        return InvalidRequest(
            f"{message} The server parses no tool calls as it was started. For vLLM start it with "
            "--enable-auto-tool-choice --tool-call-parser llama4_pythonic, or declare the tools in the prompt: "
            "HttpBackend(profile=dataclasses.replace(backend.profile, tools=False))."
        )
    if _NO_JINJA.search(words.text):
        return InvalidRequest(f"{message} The server takes tools only when it was started with --jinja.")
    if _TOO_MANY_IMAGES.search(words.text):
        return TooManyImages(f"{message} The server takes fewer images in one request.")
    if _BAD_IMAGE.search(words.text):
        return ImageError(f"{message} The server does not take an image of this size or kind; scale it down.")
    if _BAD_KEY.search(words.text):
        return BadKey(f"{message} Check api_key, and that it is entitled to the model.")
    if not words.text.strip() or words.text.lstrip().startswith("<"):  # of a proxy, not of the server
        return InvalidRequest(f"{message} The server or a proxy before it refuses the request, as of a size too large.")
    return InvalidRequest(
        f"{message} The server cannot serve this request as it stands; error.server_message has its words."
    )


def _overflow(words: _Words, message: str) -> ContextOverflow | None:
    overflow = overflow_of(words.text, words.code, words.fields)
    if overflow is None:
        return None
    return ContextOverflow(f"{message} {overflow.advice}", prompt_tokens=overflow.prompt, limit=overflow.limit)


def _shown_code(code: str, sent: Sent) -> str:
    return f" ({code})" if _CODE.fullmatch(code) and not sent.hides(code) else ""


def _words_in(body: bytes) -> _Words:
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError:
        return _Words(body.decode("utf-8", "replace"))
    return _words(value)


def _words(value: Any) -> _Words:
    """Return the words of an error in any of the forms that servers use."""
    if not isinstance(value, Mapping):
        return _Words(str(value)[:MAX_ERROR_BODY])
    inner = value.get("error")
    if isinstance(inner, Mapping) and inner:
        return _words(inner)
    if isinstance(inner, str) and inner:
        kind = value.get("error_type")  # of TGI
        return _Words(inner[:MAX_ERROR_BODY], kind if isinstance(kind, str) else "", value)
    text = " ".join(str(value[key]) for key in ("message", "detail", "title", "msg", "error_msg") if value.get(key))
    code = next((value[key] for key in ("code", "type", "status") if isinstance(value.get(key), str)), "")
    metadata = value.get("metadata")
    if isinstance(metadata, Mapping) and metadata.get("raw"):  # of OpenRouter: the words of the server behind it
        text = f"{text} {metadata['raw']}"
    return _Words(text[:MAX_ERROR_BODY], code, value)
