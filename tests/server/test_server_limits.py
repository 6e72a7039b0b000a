"""Limits of a server and of its keys, clients that leave, and its end."""

from __future__ import annotations

import gc
import logging
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import anyio
import httpx
import pytest

from llama4_local import LocalBackend
from llama4sdk import Deadlines, Llama4
from llama4sdk.server import KeyLimits, create_app, running
from llama4sdk.testing import ScriptedBackend
from long_runs import often
from server_running import PATIENCE, asking, chunks_of, error_of, serving

if TYPE_CHECKING:
    from llama4sdk.server.serving import Serving

CHAT = "/v1/chat/completions"
ENDLESS = ["word " * 20_000]


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


@asynccontextmanager
async def streaming(client: httpx.AsyncClient, **fields: object) -> AsyncGenerator[httpx.Response]:
    """Ask for a stream, and yield once its first chunk is there."""
    async with client.stream("POST", CHAT, json=asking("Count from 1 to 40.", stream=True, **fields)) as response:
        yield response


async def test_beyond_its_limit_a_server_says_when_to_come_back() -> None:
    script = ScriptedBackend(ENDLESS, pause=0.01)
    async with serving(script, max_running=2) as client:
        async with streaming(client) as first, streaming(client) as second:
            assert first.status_code == second.status_code == 200
            third = await client.post(CHAT, json=asking())
            assert third.status_code == 503
            assert error_of(third)["code"] == "overloaded"
            assert int(third.headers["retry-after"]) >= 1
        await until(lambda: not script.running)
        async with streaming(client) as again:
            assert again.status_code == 200


async def test_one_keys_limits_are_not_anothers() -> None:
    keys = {"one": KeyLimits(running=1), "few": KeyLimits(per_minute=2), "free": KeyLimits()}
    script = ScriptedBackend(ENDLESS, pause=0.01)

    def of(key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {key}"}

    async with serving(script, api_keys=keys) as client:
        async with client.stream("POST", CHAT, json=asking(stream=True), headers=of("one")) as held:
            assert held.status_code == 200
            refused = await client.post(CHAT, json=asking(), headers=of("one"))
            assert refused.status_code == 429
            assert error_of(refused)["code"] == "rate_limit_exceeded"
            async with client.stream("POST", CHAT, json=asking(stream=True), headers=of("free")) as other:
                assert other.status_code == 200
        for _ in range(2):
            assert (await client.post(CHAT, json=asking(max_tokens=1), headers=of("few"))).status_code == 200
        refused = await client.post(CHAT, json=asking(max_tokens=1), headers=of("few"))
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 30


async def test_many_streams_and_clients_that_leave_leave_nothing_behind() -> None:
    chance, staying = random.Random(5), often(30, 100)  # so many streams, and as many clients that leave
    texts: list[str] = []
    backend = LocalBackend()
    async with Llama4(backend) as llama, running(app := create_app(llama), shutdown_seconds=5) as server:
        serving_ = cast("Serving", app.state.serving)
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, limits=limits, trust_env=False) as client:

            async def stays() -> None:
                response = await client.post(CHAT, json=asking("What is 17 + 25?", stream=True))
                chunks = chunks_of(response.text)
                texts.append("".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks))

            async def leaves(after: int) -> None:
                async with streaming(client, max_tokens=200) as response:
                    async for _ in response.aiter_lines():
                        after -= 1
                        if after <= 0:
                            return

            async def hangs_up(after: float) -> None:
                with anyio.move_on_after(after):
                    await client.post(CHAT, json=asking("Count from 1 to 40."))

            async with anyio.create_task_group() as tasks:
                for _ in range(staying):
                    tasks.start_soon(stays)
                for _ in range(staying // 2):
                    tasks.start_soon(leaves, chance.randrange(1, 20))
                    tasks.start_soon(hangs_up, chance.random())
        await until(lambda: not backend.current_load.running and not backend.current_load.waiting)
        await until(lambda: not serving_.admission.running)
        assert not any(backend.current_load.pages.values())
    assert texts == ["17 + 25 = 42."] * staying


async def test_rounds_of_streams_that_are_left_keep_no_object(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "llama4sdk")  # pytest keeps records of lower levels, and what they are about
    script = ScriptedBackend(ENDLESS, pause=0.001)

    def objects() -> int:
        gc.collect()
        return sum(str(type(found).__module__).startswith("llama4sdk.") for found in gc.get_objects())

    async def one_round(client: httpx.AsyncClient) -> None:
        for _ in range(10):
            async with streaming(client) as response:
                async for _ in response.aiter_lines():
                    break
        await until(lambda: not script.running)
        script.requests.clear()

    async with serving(script) as client:
        await one_round(client)
        first = objects()
        while (later := objects()) < first:  # until the server's tasks of the last streams have ended
            first = later
            await anyio.sleep(0.2)
        for _ in range(4):
            await one_round(client)
        await until(lambda: objects() <= first + 5)  # what leaks never comes down


async def test_a_client_that_does_not_read_is_given_up_and_harms_no_other() -> None:
    big = ScriptedBackend(["x" * 4000 + " "] * 20_000)
    async with Llama4(big) as llama, running(create_app(llama, write_seconds=1.5), shutdown_seconds=5) as server:
        host, port = server.url.removeprefix("http://").split(":")
        body = b'{"messages": [{"role": "user", "content": "Hi"}], "stream": true}'
        head = f"POST {CHAT} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        async with await anyio.connect_tcp(host, int(port)) as lazy:
            await lazy.send(head.encode() + b"\r\n\r\n" + body)
            await until(lambda: bool(big.running))
            async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, trust_env=False) as client:
                assert (await client.post(CHAT, json=asking(max_tokens=3))).status_code == 200
            await until(lambda: not big.running)


async def test_a_client_that_leaves_while_it_sends_its_body_holds_no_place() -> None:
    script = ScriptedBackend("Hi")
    async with Llama4(script) as llama, running(app := create_app(llama), shutdown_seconds=5) as server:
        serving_ = cast("Serving", app.state.serving)
        host, port = server.url.removeprefix("http://").split(":")
        head = f"POST {CHAT} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n"
        async with await anyio.connect_tcp(host, int(port)) as leaving:
            await leaving.send(head.encode() + b'{"messages"')
            await until(lambda: bool(serving_.admission.running))
        await until(lambda: not serving_.admission.running)
    assert not script.requests


async def test_deadlines_hold_streamed_and_whole() -> None:
    script = ScriptedBackend([30.0, "too late"])
    async with serving(script, deadlines=Deadlines(first_token=0.2)) as client:
        for stream in (False, True):
            response = await client.post(CHAT, json=asking(stream=stream))
            assert response.status_code == 504
            assert error_of(response)["code"] == "deadline_exceeded"
    assert not script.running


async def test_a_server_that_ends_finishes_what_runs_and_takes_nothing_new() -> None:
    script = ScriptedBackend([0.5, "late but whole"])
    answers: list[httpx.Response] = []
    refused: list[httpx.Response] = []
    async with Llama4(script) as llama:
        app = create_app(llama)
        async with running(app, shutdown_seconds=30) as server:
            client = httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, trust_env=False)

            async def ask() -> None:
                answers.append(await client.post(CHAT, json=asking()))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await until(lambda: bool(script.running))
                cast("Serving", app.state.serving).admission.close()
                refused.append(await client.post(CHAT, json=asking()))
                refused.append(await client.get("/ready"))
        await client.aclose()
    assert answers[0].json()["choices"][0]["message"]["content"] == "late but whole"
    assert [response.status_code for response in refused] == [503, 503]
    assert error_of(refused[0])["code"] == "shutting_down"


async def test_a_server_that_must_end_cuts_streams_off_in_words() -> None:
    script = ScriptedBackend(ENDLESS, pause=0.01)
    cut: list[str] = []
    async with Llama4(script) as llama, anyio.create_task_group() as tasks:
        async with running(create_app(llama), shutdown_seconds=0.3) as server:
            client = httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, trust_env=False)

            async def ask() -> None:
                async with streaming(client) as response:
                    cut.append((await response.aread()).decode())

            tasks.start_soon(ask)
            await until(lambda: bool(script.running))
        await until(lambda: bool(cut))
        await client.aclose()
    assert chunks_of(cut[0])[-1]["error"]["code"] == "shutting_down"
    assert not script.running


async def test_metrics_count_requests_tokens_and_clients_that_left() -> None:
    script = ScriptedBackend("one two three", ENDLESS, pause=0.001)
    async with serving(script) as client:
        await client.post(CHAT, json=asking())
        async with streaming(client) as response:
            async for _ in response.aiter_lines():
                break
        await until(lambda: not script.running)
        await client.post(CHAT, json={})
        text = (await client.get("/metrics")).text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['llama4_requests_total{path="/v1/chat/completions",status="200"}'] == "1.0"
    assert lines['llama4_requests_total{path="/v1/chat/completions",status="400"}'] == "1.0"
    assert lines['llama4_tokens_total{kind="completion"}'] == "3.0"
    assert lines["llama4_clients_gone_total"] == "1.0"
    assert lines["llama4_first_token_seconds_count"] == "2.0"


async def test_the_local_backends_queue_and_pages_are_in_the_metrics_and_readiness_waits_for_the_model() -> None:
    async with serving() as client:
        with anyio.fail_after(PATIENCE):
            while (await client.get("/ready")).status_code != 200:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        text = (await client.get("/metrics")).text
    for name in ('engine_requests{state="waiting"} 0.0', 'cache_pages{pool="global"} 0.0', "ready 1.0"):
        assert f"llama4_{name}" in text
