"""An answer that was cancelled or left reports the tokens that it cost, as far as the server told them."""

from __future__ import annotations

import pytest

from http_real_servers import remote
from llama4sdk import Llama4, TextDelta
from llama4sdk.testing.faults import FaultServer


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_left_answer_reports_the_pieces_that_came(cancelled: bool) -> None:
    async with FaultServer() as server, Llama4(remote(server.url_for("stall"))) as llama:
        async with llama.stream("Hello!") as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    break
            if cancelled:
                await stream.cancel()
                await stream.result()
        reply = stream.snapshot
        assert reply.finish_reason == ("cancelled" if cancelled else None)
        assert reply.usage.completion_tokens >= 1


async def test_counts_that_the_server_sent_are_reported() -> None:
    async with FaultServer() as server, Llama4(remote(server.url_for("usage_on_every_chunk"))) as llama:
        whole = await llama.chat("Hello!")
        async with llama.stream("Hello!") as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    break
        assert stream.snapshot.usage.prompt_tokens == whole.usage.prompt_tokens
        assert stream.snapshot.usage.completion_tokens >= 1
