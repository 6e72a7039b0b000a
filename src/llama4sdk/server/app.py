"""The application: its routes, its middleware and its life."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Unpack, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from llama4sdk.keywords import check_keywords
from llama4sdk.server.chat import ChatEndpoint
from llama4sdk.server.chat_page import page_routes
from llama4sdk.server.completions import CompletionEndpoint
from llama4sdk.server.failures import UNEXPECTED, ApiError, Failure
from llama4sdk.server.options import ServerKeywords, ServerOptions
from llama4sdk.server.reports import Reports, failed, on_api_error
from llama4sdk.server.serving import Serving
from llama4sdk.server.tokens import DetokenizeEndpoint, TokenizeEndpoint

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from llama4sdk.client import Llama4


def create_app(llama: Llama4, **options: Unpack[ServerKeywords]) -> Starlette:
    """Return an ASGI application that serves a client's model over OpenAI's API.

        app = create_app(Llama4("local"))                  # uvicorn module:app
        fastapi_app.mount("/llm", create_app(llama))       # beside other routes; llama is entered there

    Run alone, it enters the client when it starts and closes it when it ends, unless the client was entered before.
    Mounted into another application, which does not pass its start on, the client must be entered there.

    Args:
        llama: The client in front of the model.
        options: See `ServerOptions`.

    Raises:
        InvalidRequest: For an option that does not exist or is out of range.
    """
    check_keywords(options, tuple(ServerOptions.__dataclass_fields__), "create_app()")
    serving = Serving(llama, ServerOptions(**options))
    app = Starlette(
        routes=_routes(serving),
        middleware=_middleware(serving.options),
        exception_handlers={ApiError: on_api_error, HTTPException: _on_http_error, Exception: _on_any_error},
        lifespan=lambda _: _life(llama),
    )
    app.router.redirect_slashes = False
    app.state.serving = serving
    return app


@asynccontextmanager
async def _life(llama: Llama4) -> AsyncGenerator[None]:
    if llama.started:
        yield
        return
    async with llama:
        yield


def _routes(serving: Serving) -> Sequence[BaseRoute]:
    reports = Reports(serving)
    endpoints = (
        ChatEndpoint(serving, "/v1/chat/completions"),
        CompletionEndpoint(serving, "/v1/completions"),
        TokenizeEndpoint(serving, "/tokenize"),
        DetokenizeEndpoint(serving, "/detokenize"),
    )
    return (
        # With a slash at the end too: a redirect, which Starlette has for it, names the address that Host gives.
        *(
            Route(endpoint.path + slash, endpoint, methods=list(endpoint.methods))
            for endpoint in endpoints
            for slash in ("", "/")
        ),
        *(Route("/v1/models" + slash, reports.models) for slash in ("", "/")),
        Route("/v1/models/{model:path}", reports.model),
        Route("/health", reports.health),
        Route("/ready", reports.ready),
        Route("/metrics", reports.metrics),
        *(page_routes() if serving.options.chat_page else ()),
    )


def _middleware(options: ServerOptions) -> Sequence[Middleware]:
    if not options.cors_origins:
        return ()
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(cast("Sequence[str]", options.cors_origins)),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id"],
    )
    return (cors,)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Answer for a path or a method that is not there."""
    status = cast("HTTPException", error).status_code
    url = f"{request.method[:16]} {request.url.path[:200]}"
    if status == 404:
        return failed(Failure(404, f"Unknown request URL: {url}.", code="unknown_url"))
    if status == 405:
        headers = dict(cast("HTTPException", error).headers or {})
        return failed(Failure(405, f"Not allowed: {url}.", code="method_not_supported", headers=headers))
    return failed(Failure(status, str(cast("HTTPException", error).detail)))


async def _on_any_error(request: Request, error: Exception) -> Response:
    del request, error
    return failed(UNEXPECTED)
