"""The lines that loading and requests leave in the log."""

from __future__ import annotations

import logging

import pytest

from llama4sdk import Llama4


async def test_loading_and_requests_are_logged_without_their_content(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "llama4_local")
    caplog.set_level(logging.DEBUG, "llama4sdk")
    async with Llama4("local", device="cpu") as llama:
        await llama.ready()
        reply = await llama.chat("What is 17 + 25?")
    lines = [record.getMessage() for record in caplog.records]
    assert any("on cpu in" in line and "bfloat16" in line for line in lines)
    assert any("reference functions: the device is no GPU" in line for line in lines)
    assert any(line.startswith("The cache is") for line in lines)
    assert sum(reply.request_id in line for line in lines) == 1
    assert not any("17 + 25" in line for line in lines)
