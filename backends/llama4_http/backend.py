"""The remote backend: one server, its profile and its connections.

Only this file, `composing.py` (images and prompts), `exchange.py` (one request), `scoring.py` (one prompt that is
scored) and `network.py` (connections) await the network; everything else in this package is pure.
"""

from __future__ import annotations

import os
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import anyio
import httpx
from anyio.lowlevel import current_token

from llama4_http import proxies
from llama4_http.context import Context
from llama4_http.errors import Sent, error_for_status, named
from llama4_http.exchange import Exchange, OpenRequest
from llama4_http.network import Link, log
from llama4_http.outgoing import continues
from llama4_http.profiles import (
    Profile,
    context_of,
    detect,
    guards_of,
    json_object,
    of_release,
    only_model,
    profile_named,
)
from llama4_http.scoring import score
from llama4_http.server_load import MAX_METRICS, running_in
from llama4_http.settings import Choices, check_options, checked_url, key_for, server_of, settings_of
from llama4_http.transport import OneServer
from llama4sdk.backend import Capabilities
from llama4sdk.checks import check_kind, check_whole
from llama4sdk.errors import DeadlineExceeded, InvalidRequest, LlamaError, Overloaded, ServerFault, Unreachable
from llama4sdk.request import Request, raw_prompt
from llama4sdk.sampling import MOST_LOGPROBS
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from llama4_http.settings import Settings
    from llama4sdk.events import Event, TokenLogprob
    from llama4sdk.prompting import PromptTemplate, Tokenizer
    from llama4sdk.request import RawPrompt

_PROBE = 3.0  # seconds for a question about the server itself


class HttpBackend:
    """Llama 4 behind any server that speaks the OpenAI wire.

        async with Llama4(HttpBackend("http://127.0.0.1:8000/v1", model="llama-4-scout")) as llama: …

    Args:
        base_url: The server's address, as a rule ending in `/v1`.
        model: The model's name there; left out, the only one that the server lists.
        api_key: Sent as a bearer token to this server only. For NVIDIA's catalog, `NVIDIA_API_KEY` of the
            environment is taken when it is left out.
        profile: The server's kind: a name, a `Profile`, or `auto` to find out.
        max_connections: Most requests under way at once; others wait. With a client of your own, no
            more than its pool is wide.
        client: An `httpx.AsyncClient` to use, which stays yours to close. Redirects are never followed.
        tokenizer: The model's tokenizer or its file: for `prompt_mode="client"`, `verify_prompt`, and
            token counts where the server gives none.
        choices: The fields of `Settings`.

    Raises:
        InvalidRequest: For options that cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        profile: str | Profile = "auto",
        max_connections: int = 100,
        client: httpx.AsyncClient | None = None,
        tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
        **choices: Unpack[Choices],
    ) -> None:
        self._url = checked_url(base_url)
        self._key = key_for(self._url, api_key)
        self._settings = settings_of(choices)
        check_options(model, max_connections, tokenizer)
        if client is not None:
            check_kind("client", client, httpx.AsyncClient, "an httpx.AsyncClient")
        self._model = model
        self._profile = None if profile == "auto" else profile_named(profile)
        self._release_unknown = profile == "vllm"  # whose releases take a schema in different fields
        self._width = max_connections
        self._lent_client = client
        self._link: Link | None = None
        self._tokenizer = tokenizer
        self._template: PromptTemplate | None = None
        self._context: int | None = None
        self._guards: tuple[str, ...] | None = None
        self._prepared = self._closed = False
        self._home: tuple[int, object] | None = None  # process and event loop
        self._preparing = anyio.Lock()
        self._running: set[Exchange] = set()
        if (self._settings.prompt_mode == "client" or self._settings.verify_prompt) and tokenizer is None:
            raise InvalidRequest("prompt_mode='client' and verify_prompt=True need tokenizer=….")

    def __repr__(self) -> str:
        return f"HttpBackend({self._url!r}, model={self._model!r})"

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_home", None) is not None and not self._closed:
            warn(f"{self!r} was dropped without aclose().", ResourceWarning, source=self, stacklevel=2)

    @property
    def settings(self) -> Settings:
        """The choices that it was made with."""
        return self._settings

    @property
    def profile(self) -> Profile:
        """The profile of the server, as far as known now."""
        return self._profile or profile_named("openai-generic")

    @property
    def connections_held(self) -> int:
        """How many of the pool's places are taken by requests."""
        return self._link.held if self._link is not None else 0

    @property
    def capabilities(self) -> Capabilities:
        """The server's abilities; more is known after `start()`."""
        profile, settings = self.profile, self._settings
        by_messages = settings.prompt_mode == "server"
        return Capabilities(
            "http",
            self._model or "",
            context=self._context,
            max_images=profile.max_images if settings.max_images is None else settings.max_images,
            vision=by_messages,
            parses_tool_calls=by_messages and profile.tools,
            structured_output=profile.schema != "none",
            seed="seed" in profile.sampling,
            logprobs=profile.logprobs,
            raw_prompts=profile.completions != "none",
            continues=continues(profile, settings),
            server=server_of(self._url),
            guards=self._guards,
        )

    @property
    def prompt_template(self) -> PromptTemplate:
        """The template of the tokenizer that was given, which is read now if it was not before.

        Raises:
            InvalidRequest: When none was given.
            CheckpointError: When it cannot be read.
        """
        if self._template is None:
            from llama4sdk.prompting import PromptTemplate, Tokenizer

            given = self._tokenizer
            if given is None:
                raise InvalidRequest("This HttpBackend has no tokenizer; pass tokenizer=… to render and count prompts.")
            tokenizer = given if isinstance(given, Tokenizer) else Tokenizer.from_file(given)
            self._template = PromptTemplate(
                tokenizer,
                tile=self._settings.tile,
                max_tiles=self._settings.max_tiles,
                tools_in=self._settings.tools_in,
                image_limits=self._settings.image_limits,
            )
        return self._template

    async def start(self) -> None:
        """Read the tokenizer and find out the server's kind; an unreachable server is asked again later.

        Raises:
            LlamaError: When this backend can never serve.
        """
        try:
            await self._prepare()
        except (Unreachable, DeadlineExceeded, Overloaded) as error:
            log.debug("start: %s", type(error).__name__)

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Run one request; see `Backend.open`. It is sent when its first event is asked for."""
        exchange = Exchange(partial(self._request_context, request), self._sent(request.request_id), request)
        return OpenRequest(exchange, self._running)

    async def score_prompt(self, raw: RawPrompt, *, top: int = 0) -> tuple[TokenLogprob, ...]:
        """Return the log-probability of every token of a prompt; see `ScoresPrompts`.

        Token ids are known where the server lists them, as vLLM and the SDK's own server do.

        Raises:
            InvalidRequest: The server is not known to score prompts, or does not take this one.
            LlamaError: It fails.
        """
        check_whole("top", top, 0, MOST_LOGPROBS, optional=False)
        request = Request((), raw=raw_prompt(raw))
        return await score(await self._request_context(request), request, top, self._sent(request.request_id))

    async def aclose(self) -> None:
        """End the running requests, and close the connections; a client of the caller's own stays open."""
        self._closed = True
        for exchange in tuple(self._running):
            exchange.abort(self._unusable("is closed"))
        link, self._link = self._link, None
        if link is not None:
            await link.aclose()

    async def requests_running(self) -> int | None:
        """Return how many requests the server runs, by its `/metrics`; None where it has none that are known.

        Raises:
            LlamaError: It cannot be reached.
        """
        await self._prepare()
        url = f"{self._url.removesuffix('/v1')}/metrics"
        status, _, body = await self._open_link.fetch("GET", url, self._sent(""), most=MAX_METRICS)
        return running_in(body.decode("utf-8", "replace")) if status == 200 else None

    def _check_usable(self) -> None:
        """Refuse to work when closed, or in another process or event loop than before.

        Raises:
            ServerFault: Then.
        """
        here = (os.getpid(), current_token())
        self._home = self._home or here
        if self._closed:
            raise self._unusable("is closed")
        if self._home != here:
            raise self._unusable("belongs to another event loop or process")

    def _unusable(self, why: str) -> ServerFault:
        return ServerFault(f"This HttpBackend {why}; make another one here.", backend="http", retryable=False)

    async def _prepare(self) -> None:
        self._check_usable()
        if self._prepared:
            return
        async with self._preparing:
            if self._link is None:
                carrier = self._lent_client or await self._transport()
                self._link = Link(carrier, self._width, self._key, owned=self._lent_client is None)
            if self._tokenizer is not None and self._template is None:
                await run_in_daemon_thread(lambda: self.prompt_template)
            if self._profile is None or self._model is None:
                await self._ask_server()
            self._prepared = self._profile is not None

    async def _transport(self) -> OneServer | httpx.AsyncClient:
        if proxies.applies(self._url):
            return await run_in_daemon_thread(lambda: proxies.client(self._width))
        # Reading the certificates takes tens of milliseconds; where there is no TLS none are needed.
        if not self._url.startswith("https:"):
            return OneServer()
        return OneServer(await run_in_daemon_thread(httpx.create_ssl_context))

    async def _ask_server(self) -> None:
        """Find out profile and model; a server that names neither gets the profile `openai-generic`."""
        models, headers, failure = await self._probe(f"{self._url}/models")
        if self._model is None:
            if failure is not None:
                raise failure
            self._model = only_model(models)
        self._context = context_of(models, self._model)
        self._guards = guards_of(models, self._model)
        if self._profile is not None or isinstance(failure, Unreachable | DeadlineExceeded):
            return
        version = await self._version()
        self._profile = detect(self._url, models=models, headers=headers, version=version, model=self._model)
        log.debug("start: profile %s", self._profile.name)

    async def _version(self) -> Mapping[str, Any] | None:
        version, _, _ = await self._probe(f"{self._url.removesuffix('/v1')}/version")
        self._release_unknown = False
        return version

    async def _probe(self, url: str) -> tuple[Mapping[str, Any] | None, Mapping[str, str], LlamaError | None]:
        sent = self._sent("")
        with anyio.move_on_after(_PROBE):
            try:
                status, headers, body = await self._open_link.fetch("GET", url, sent)
            except LlamaError as error:
                return None, {}, error
            failure = None if status == 200 else error_for_status(status, headers, body, sent)
            return json_object(body), headers, failure
        return None, {}, named(DeadlineExceeded("The server did not list its models in time.", phase="connect"), sent)

    def _sent(self, request_id: str, body: bytes = b"") -> Sent:
        """Return a request's id, body and key, for errors that name the first and never show the others."""
        return Sent(request_id, body, self._key or "", address=self._url)

    async def _request_context(self, request: Request) -> Context:
        """Return the context of a request, once the server's kind is known; of a form also its release."""
        await self._prepare()
        if request.output is not None and self._release_unknown and self._profile is not None:
            self._profile = of_release(self._profile, await self._version())
        return Context(
            link=self._open_link,
            url=self._url,
            profile=self.profile,
            settings=self._settings,
            model=self._model or "",
            template=self._template,
        )

    @property
    def _open_link(self) -> Link:
        """The connections in use, once prepared."""
        self._check_usable()
        if self._link is None:
            raise ServerFault("This HttpBackend was not prepared.", backend="http", retryable=False)
        return self._link
