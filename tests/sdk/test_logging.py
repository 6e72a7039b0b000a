"""The lines that loading and requests leave in the log."""

from __future__ import annotations

import logging

import pytest

from llama4sdk import ContextOverflow, InvalidRequest, Llama4, Sampling
from llama4sdk.testing import ScriptedBackend
from server_running import asking, serving


async def test_loading_and_requests_are_logged_without_their_content(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "llama4_local")
    caplog.set_level(logging.DEBUG, "llama4sdk")
    async with Llama4("local", device="cpu") as llama:
        await llama.ready()
        reply = await llama.chat("What is 17 + 25?")
        with pytest.raises(ContextOverflow):
            await llama.chat("17 + 25 " * 4000)
        with pytest.raises(InvalidRequest):
            await llama.complete((17, 25, 10**9), sampling=Sampling(max_tokens=1))
    lines = [record.getMessage() for record in caplog.records]
    refused = [record.getMessage() for record in caplog.records if "is refused" in record.getMessage()]
    assert len(refused) == 2
    assert "tokens" in refused[0]
    assert refused[1].endswith("InvalidRequest.")
    assert any("on cpu in" in line and "bfloat16" in line for line in lines)
    assert any("reference functions: the device is no GPU" in line for line in lines)
    assert any(line.startswith("The cache is") for line in lines)
    assert sum(reply.request_id in line for line in lines) == 1
    assert not any("17 + 25" in line for line in lines)


@pytest.mark.parametrize("streamed", [False, True])
async def test_each_request_of_the_server_has_a_line_with_its_phases(
    caplog: pytest.LogCaptureFixture, streamed: bool
) -> None:
    caplog.set_level(logging.DEBUG, "llama4sdk")
    async with serving(ScriptedBackend("Hello!")) as client:
        await client.post("/v1/chat/completions", json=asking("secret", stream=streamed))
    lines = [record.getMessage() for record in caplog.records if record.name == "llama4sdk"]
    assert len(lines) == 1
    assert "first_token=0." in lines[0]
    assert "secret" not in lines[0]
