"""The application inside other applications, and its own life."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

from llama4sdk import BackendMissing, InvalidRequest, Llama4
from llama4sdk.server import create_app, running, serve
from llama4sdk.testing import ScriptedBackend
from server_running import asking, chunks_of


async def test_it_mounts_into_fastapi_beside_other_routes_under_middleware() -> None:
    llama = Llama4(script := ScriptedBackend("one two three"))

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncGenerator[None]:
        async with llama:
            yield

    async def marked(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-marked"] = "yes"
        return response

    app = FastAPI(lifespan=life)
    app.mount("/llm", create_app(llama))
    app.add_middleware(BaseHTTPMiddleware, dispatch=marked)
    async with running(app) as server, httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        whole = await client.post("/llm/v1/chat/completions", json=asking())
        stream = await client.post("/llm/v1/chat/completions", json=asking(stream=True))
        missing = await client.get("/llm/v1/none")
    assert whole.json()["choices"][0]["message"]["content"] == "one two three"
    assert whole.headers["x-marked"] == "yes"
    assert len(chunks_of(stream.text)) == 5
    assert missing.json()["error"]["code"] == "unknown_url"
    assert not script.running


async def test_run_alone_it_enters_its_client_and_closes_it() -> None:
    llama = Llama4(ScriptedBackend("Hi"))
    async with running(create_app(llama)) as server, httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await client.post("/v1/chat/completions", json=asking())).status_code == 200
    with pytest.raises(InvalidRequest, match="closed"):
        await llama.chat("Hi")


async def test_an_error_inside_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with running(create_app(Llama4(ScriptedBackend("Hi")))):
            raise KeyError("mine")


async def test_an_address_that_is_taken_is_refused_in_words() -> None:
    async with running(create_app(Llama4(ScriptedBackend("Hi")))) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(InvalidRequest, match="another program uses it"):
            async with running(create_app(Llama4(ScriptedBackend("Hi"))), port=port):
                pass
    with pytest.raises(InvalidRequest, match="looked up"):
        async with running(create_app(Llama4(ScriptedBackend("Hi"))), host="no.such.host.invalid"):
            pass


def test_unknown_options_name_the_nearest() -> None:
    with pytest.raises(InvalidRequest, match="api_keys"):
        create_app(Llama4(ScriptedBackend("Hi")), api_key="x")  # type: ignore[call-arg]


def test_serve_refuses_a_backend_that_is_not_there() -> None:
    with pytest.raises(BackendMissing):
        serve("loca")


SERVE = """
import sys
from llama4sdk.server import serve
from llama4sdk.testing import ScriptedBackend
serve(ScriptedBackend("Hi"), port=0, announce=lambda url: print(url, flush=True))
print("ended", flush=True)
"""


async def test_serve_answers_until_a_signal_and_ends_by_itself() -> None:
    async with await anyio.open_process([sys.executable, "-c", SERVE], stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        url = (await process.stdout.receive()).decode().strip()
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            assert (await client.post("/v1/chat/completions", json=asking())).status_code == 200
            evil = await client.get("/health", headers={"host": "evil.example"})
            assert evil.status_code == 200  # tells nothing
            refused = await client.post("/v1/chat/completions", json=asking(), headers={"host": "evil.example"})
            assert refused.status_code == 421
        process.terminate()
        with anyio.fail_after(60):
            rest = b"".join([chunk async for chunk in process.stdout]).decode()
            assert await process.wait() == 0
    assert "ended" in rest
    assert "Traceback" not in rest
