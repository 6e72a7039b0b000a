"""Servers over real sockets, for tests of whatever speaks to them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Unpack

import httpx
from PIL import Image, ImageDraw

from llama4sdk import Llama4
from llama4sdk.server import create_app, running

if TYPE_CHECKING:
    from llama4sdk.backend import Backend
    from llama4sdk.server.options import ServerKeywords
    from llama4sdk.telemetry import Telemetry

PATIENCE = 120.0


@asynccontextmanager
async def serving(
    backend: Backend | str = "local",
    *,
    key: str = "",
    telemetry: Telemetry | None = None,
    **options: Unpack[ServerKeywords],
) -> AsyncGenerator[httpx.AsyncClient]:
    """Yield a client of a server in front of a backend."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with (
        Llama4(backend, telemetry=telemetry) as llama,
        running(create_app(llama, **options), shutdown_seconds=5) as server,
        httpx.AsyncClient(base_url=server.url, headers=headers, timeout=PATIENCE, trust_env=False) as client,
    ):
        yield client


def asking(text: str = "Hello!", **fields: Any) -> dict[str, Any]:
    """Return the body of a chat request whose answer does not depend on chance."""
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


def chunks_of(text: str) -> list[dict[str, Any]]:
    """Return the chunks of a stream, which ends as it should."""
    events = [event for event in text.split("\n\n") if event and not event.startswith(":")]
    assert events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error of a response, which has OpenAI's form."""
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def red_circle() -> str:
    """Return the data: URL of an image that nano can describe."""
    image = Image.new("RGB", (336, 336), "white")
    ImageDraw.Draw(image).ellipse((100, 100, 230, 230), fill="red")
    data = io.BytesIO()
    image.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
