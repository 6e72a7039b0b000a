"""The reports of a server on itself: its models, whether it lives and can answer, and its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pydantic_core import to_json
from starlette.responses import Response

from llama4sdk.server.metrics import CONTENT_TYPE, load_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from llama4sdk.server.failures import ApiError, Failure
    from llama4sdk.server.serving import Serving

_JSON = "application/json"


class Reports:
    """The endpoints without a body.

    Args:
        serving: The server.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._begun = serving.begun

    async def models(self, request: Request) -> Response:
        """Answer with the list of models."""
        self._check_key(request)
        return _json({"object": "list", "data": [self._model(name) for name in self._serving.model_names]})

    async def model(self, request: Request) -> Response:
        """Answer with one model."""
        self._check_key(request)
        name = cast("str", request.path_params["model"])
        return _json(self._model(self._serving.named(name)))

    async def health(self, request: Request) -> Response:
        """Answer that the server lives."""
        del request
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Answer with status 200 once the model is loaded, and 503 before, and while the server shuts down."""
        del request
        if self._serving.admission.closing:
            return _json({"status": "shutting down"}, 503)
        load = load_of(self._serving.backend)
        if load is not None and not load.ready:
            return _json({"status": "loading"}, 503)
        return _json({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """Answer with the metrics in Prometheus' text form."""
        self._check_key(request)
        serving = self._serving
        body = serving.metrics.exposition(serving.backend, serving.admission.running, serving.llama.guard_counts)
        return Response(body, headers={"content-type": CONTENT_TYPE})

    def _model(self, name: str) -> dict[str, Any]:
        capabilities = self._serving.answers.capabilities
        return {
            "id": name,
            "object": "model",
            "created": self._begun,
            "owned_by": "llama4sdk.server",
            "max_model_len": capabilities.context,
            "max_images": capabilities.max_images,
            "guards": capabilities.guards,
        }

    def _check_key(self, request: Request) -> None:
        self._serving.keys.check(request.headers.get("authorization"))


def _json(value: object, status: int = 200) -> Response:
    return Response(to_json(value), status, media_type=_JSON)


async def on_api_error(request: Request, error: Exception) -> Response:
    """Answer an `ApiError` outside the endpoints with a body."""
    del request
    return failed(cast("ApiError", error).failure)


def failed(failure: Failure) -> Response:
    """Return the response that stands for a failure."""
    return Response(failure.body, failure.status, headers=dict(failure.headers), media_type=_JSON)
