"""The face: one object to start, ask and close."""

from __future__ import annotations

import anyio
import pytest

from llama4sdk import (
    BackendMissing,
    Image,
    InvalidRequest,
    Llama4,
    Sampling,
    ToolSpec,
    UserMessage,
)
from llama4sdk.registry import installed, open_backend
from llama4sdk.testing import ScriptedBackend

TOOL = {
    "type": "function",
    "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
}


async def test_vision_puts_the_images_before_the_question() -> None:
    backend = ScriptedBackend("A cat.")
    async with Llama4(backend) as llama:
        reply = await llama.vision("What is this?", b"png", Image("dog.png"))
    assert reply.text == "A cat."
    assert backend.requests[0].messages == (UserMessage([Image(b"png"), Image("dog.png"), "What is this?"]),)


async def test_vision_without_an_image_is_refused() -> None:
    async with Llama4(ScriptedBackend()) as llama:
        with pytest.raises(InvalidRequest, match="image"):
            await llama.vision("What is this?")


async def test_everything_asked_for_reaches_the_backend() -> None:
    backend = ScriptedBackend("x")
    async with Llama4(backend) as llama:
        await llama.chat("?", tools=[TOOL, ToolSpec("later")], tool_choice="now", sampling=Sampling(seed=3))
    request = backend.requests[0]
    assert [tool.name for tool in request.tools] == ["now", "later"]
    assert (request.tool_choice, request.sampling.seed) == ("now", 3)


async def test_what_cannot_be_asked_for_is_refused_before_it_is_sent() -> None:
    backend = ScriptedBackend()
    async with Llama4(backend) as llama:
        with pytest.raises(InvalidRequest, match="output is a type"):
            await llama.chat("?", output="int")
        with pytest.raises(InvalidRequest, match="no function"):
            await llama.run("?", tools=[ToolSpec("now")])
        with pytest.raises(InvalidRequest, match="no fixed name"):
            await llama.chat("?", tools=[len])
        with pytest.raises(InvalidRequest, match="repair"):
            await llama.chat("?", repair=-1)
    assert backend.requests == []


async def test_a_client_is_entered_before_it_is_used_and_not_after_it_is_closed() -> None:
    llama = Llama4(ScriptedBackend())
    with pytest.raises(InvalidRequest, match="Enter the client"):
        llama.stream("?")
    async with llama:
        pass
    with pytest.raises(InvalidRequest, match="closed"):
        await llama.chat("?")
    with pytest.raises(InvalidRequest, match="once"):
        async with llama:
            pass


async def test_rendering_without_a_tokenizer_says_what_to_do() -> None:
    async with Llama4(ScriptedBackend()) as llama:
        with pytest.raises(InvalidRequest, match="tokenizer"):
            llama.count("Hello")


def test_options_beside_a_ready_backend_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="quantize"):
        Llama4(ScriptedBackend(), quantize="int4")


def test_something_that_is_no_backend_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="Backend protocol"):
        Llama4(3)  # type: ignore[arg-type]


def test_an_unknown_backend_names_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendMissing, match=r"'loca'; installed: http, https, local, ray\."):
        open_backend("loca:/models/scout")
    monkeypatch.setenv("LLAMA4_BACKEND", "elsewhere")
    with pytest.raises(BackendMissing, match="elsewhere"):
        Llama4()
    assert installed() == ("http", "https", "local", "ray")


async def test_fault_61_a_client_dropped_without_closing_warns() -> None:
    llama = Llama4(ScriptedBackend())
    await llama.__aenter__()
    names = {"llama": llama}
    del llama
    with pytest.warns(ResourceWarning, match="async with"):
        names.clear()


async def test_eight_streams_run_at_once() -> None:
    texts: dict[int, str] = {}

    async def ask(llama: Llama4, number: int) -> None:
        texts[number] = (await llama.chat(f"number {number}")).text

    async with Llama4(ScriptedBackend(pause=0.001)) as llama, anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(ask, llama, number)
    assert texts == {number: f"number {number}" for number in range(8)}


def test_it_runs_under_trio_too() -> None:
    async def main() -> None:
        async with Llama4(ScriptedBackend("one two three", pause=0.001)) as llama:
            assert (await llama.chat("?")).text == "one two three"
            async with llama.stream("?") as stream:
                async for _ in stream.text():
                    break
                await stream.cancel()
                assert (await stream.result()).finish_reason == "cancelled"

    anyio.run(main, backend="trio")
