"""The choices of an `HttpBackend`, checked where they are made: pure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, TypedDict, cast
from urllib.parse import urlsplit

from pydantic_core import to_json

from llama4_http.answer import MAX_ANSWER
from llama4_http.profiles import NVIDIA_HOST
from llama4_http.retry import Retries
from llama4_http.sse import MAX_EVENT
from llama4sdk.checks import check_flag, check_kind, check_text, check_whole, shown
from llama4sdk.errors import InvalidRequest
from llama4sdk.image_limits import DEFAULT_LIMITS, ImageLimits
from llama4sdk.images.tiling import MAX_TILES, TILE, grid_for
from llama4sdk.keywords import check_keywords
from llama4sdk.prompting.tool_format import ToolsPlace, tools_place

_ENDPOINT = re.compile("(?:/chat)?/completions$|/models$")
_LABEL = re.compile(r"(?!-)[\w-]{1,63}(?<!-)")

PromptMode: TypeAlias = Literal["server", "client"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The choices that do not change while a backend lives.

    Args:
        retries: Which failures are sent again, and how often.
        prompt_mode: `server` sends messages; `client` sends the prompt as token ids, made here.
        verify_prompt: Compare the server's prompt with ours, token by token, where it returns it.
        tools_in: Whether declarations in the prompt go into the `system` message or into the first `user` message.
        show_schema: Whether the prompt shows the model the schema of a typed answer, also where the server has a field
            for it. A field keeps the answer to the schema; only the prompt shows the model its meaning.
        prefill: Words with which every answer begins; not repeated in the reply.
        tile: Side of the model's image tiles, in pixels.
        max_tiles: Most tiles of an image, the global one aside.
        fit_images: Scale images down to the size that the model sees before they are sent.
        max_images: Most images per request; None for the profile's own limit.
        image_limits: Which images are read at all.
        extra_body: Fields added to every request, over those made here.
        max_event_bytes: Most bytes of one event of an answer.
        max_answer_bytes: Most bytes of one answer.

    Raises:
        InvalidRequest: For choices that contradict each other.
    """

    retries: Retries = field(default_factory=Retries)
    prompt_mode: PromptMode = "server"
    verify_prompt: bool = False
    tools_in: ToolsPlace = "system"
    show_schema: bool = True
    prefill: str = ""
    tile: int = TILE
    max_tiles: int = MAX_TILES
    fit_images: bool = True
    max_images: int | None = None
    image_limits: ImageLimits = DEFAULT_LIMITS
    extra_body: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    max_event_bytes: int = MAX_EVENT
    max_answer_bytes: int = MAX_ANSWER

    def __post_init__(self) -> None:
        if self.prompt_mode not in ("server", "client"):
            raise InvalidRequest("prompt_mode is 'server' or 'client'.")
        for name in ("verify_prompt", "show_schema", "fit_images"):
            check_flag(name, getattr(self, name))
        for name in ("tile", "max_tiles", "max_event_bytes", "max_answer_bytes"):
            check_whole(name, getattr(self, name), 1, optional=False)
        check_whole("max_images", self.max_images, 0)
        check_text("prefill", self.prefill, MAX_ANSWER)
        check_kind("retries", self.retries, Retries, "Retries(times=…)")
        check_kind("image_limits", self.image_limits, ImageLimits, "ImageLimits(…)")
        tools_place(self.tools_in)
        grid_for(1, 1, self.tile, self.max_tiles)  # refuses sizes that cannot be used
        _check_fields(self.extra_body)


def _check_fields(fields: object) -> None:
    """Refuse fields of a body that are no JSON object, and several answers at once."""
    check_kind("extra_body", fields, Mapping, "a dict of the body's fields")
    named = cast("Mapping[object, object]", fields)
    try:
        if not all(isinstance(name, str) for name in named):
            raise ValueError  # noqa: TRY301 - one message for both
        to_json(named)
    except (ValueError, TypeError, RecursionError):
        raise InvalidRequest("extra_body holds a name or a value that JSON cannot.") from None
    if named.get("n", 1) != 1:
        raise InvalidRequest("extra_body cannot set 'n': one answer is read, and the others would be paid for.")


def check_options(model: object, max_connections: object, tokenizer: object) -> None:
    """Refuse options of `HttpBackend` of a wrong kind.

    Raises:
        InvalidRequest: With the option's name.
    """
    if model is not None:
        check_text("model", model, 1000)
        if not model:
            raise InvalidRequest("model is empty; leave it out to take the only one that the server lists.")
    check_whole("max_connections", max_connections, 1, optional=False)
    if not (tokenizer is None or isinstance(tokenizer, str | os.PathLike) or hasattr(tokenizer, "encode")):
        raise InvalidRequest(f"tokenizer is a Tokenizer or the path of its file; got {shown(tokenizer)}.")


def checked_url(base_url: str) -> str:
    """Return the address in one form: `/v1` added where it has no path, a repeated one and an endpoint's left out.

    Raises:
        InvalidRequest: For anything but a plain http(s) address.
    """
    wrong = "base_url is no valid address; it looks like http://127.0.0.1:8000/v1."
    if not isinstance(base_url, str) or not base_url.isprintable() or " " in base_url or "\\" in base_url:
        raise InvalidRequest(f"{wrong} It is a string without blanks, line feeds or backslashes.")
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InvalidRequest(wrong) from None
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidRequest("base_url begins with http:// or https:// and names a host.")
    if port == 0 or not _is_host(host):
        raise InvalidRequest(f"{wrong} Its host or port cannot exist.")
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest("base_url must hold no user or password; pass api_key, or a client of your own.")
    if parts.query or parts.fragment:
        raise InvalidRequest("base_url must hold no query and no fragment.")
    path = _ENDPOINT.sub("", re.sub("/{2,}", "/", parts.path).rstrip("/"))
    while path.endswith("/v1/v1"):
        path = path.removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def server_of(url: str) -> tuple[str, int]:
    """Return host and port of a checked address."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _is_host(host: str) -> bool:
    if ":" in host:  # an IPv6 address, which urlsplit has checked
        return True
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)


def key_for(base_url: str, api_key: str | None) -> str | None:
    """Return the key to send, taken from the environment only for the host that it belongs to.

    Raises:
        InvalidRequest: For a key that no header can carry.
    """
    if api_key is None and urlsplit(base_url).hostname == NVIDIA_HOST:
        api_key = os.environ.get("NVIDIA_API_KEY")
    if api_key is not None and not isinstance(api_key, str):
        raise InvalidRequest(f"api_key is a string, not {type(api_key).__name__}.")
    if api_key is not None and " " in api_key.strip():
        raise InvalidRequest("api_key holds a blank; pass the key alone, without 'Bearer'.")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key != ""):
        raise InvalidRequest("api_key holds characters that no key has; was a line feed copied with it?")
    return api_key


class Choices(TypedDict, total=False):
    """The fields of `Settings`, as keywords of `HttpBackend`."""

    retries: Retries
    prompt_mode: PromptMode
    verify_prompt: bool
    tools_in: ToolsPlace
    show_schema: bool
    prefill: str
    tile: int
    max_tiles: int
    fit_images: bool
    max_images: int | None
    image_limits: ImageLimits
    extra_body: Mapping[str, Any]
    max_event_bytes: int
    max_answer_bytes: int


_OWN_OPTIONS = ("model", "api_key", "profile", "max_connections", "client", "tokenizer")


def settings_of(choices: Choices) -> Settings:
    """Return the settings that keywords stand for, or raise `InvalidRequest` for an unknown one."""
    check_keywords(choices, [*_OWN_OPTIONS, *(field.name for field in fields(Settings))], "HttpBackend")
    return Settings(**choices)
