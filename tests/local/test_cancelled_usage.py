"""An answer that was cancelled or left reports the tokens that it cost."""

from __future__ import annotations

from llama4sdk import Llama4, Sampling, TextDelta


async def test_a_cancelled_answer_reports_its_tokens() -> None:
    async with Llama4("local") as llama:
        whole = await llama.chat("Tell me about yourself.", sampling=Sampling(temperature=0))
        async with llama.stream("Tell me about yourself.", sampling=Sampling(temperature=0)) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    await stream.cancel()
            reply = await stream.result()
        assert reply.finish_reason == "cancelled"
        assert reply.usage.prompt_tokens == whole.usage.prompt_tokens
        assert 1 <= reply.usage.completion_tokens <= whole.usage.completion_tokens


async def test_an_answer_that_was_left_reports_its_tokens() -> None:
    async with Llama4("local") as llama:
        async with llama.stream("Tell me about yourself.", sampling=Sampling(temperature=0)) as stream:
            async for _ in stream.text():
                break
        assert stream.snapshot.usage.prompt_tokens > 0
        assert stream.snapshot.usage.completion_tokens >= 1
