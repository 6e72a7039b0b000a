"""Recordings: event by event for any backend, byte by byte for HTTP, and without secrets."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from llama4_http import HttpBackend
from llama4_http.recording import Injected, RecordingTransport, ReplayTransport
from llama4sdk.backend import Backend
from llama4sdk.errors import DeadlineExceeded, InvalidRequest, StreamInterrupted
from llama4sdk.events import Done, Event, Started, TextDelta, TokenLogprob, ToolCallReady, Usage
from llama4sdk.messages import Image, ToolCall, UserMessage, conversation
from llama4sdk.request import Deadlines, Request, Sampling
from llama4sdk.testing.faults import FaultServer
from llama4sdk.testing.recording import Recorder, Replay, request_digest
from llama4sdk.testing.scripted import ScriptedBackend

SECRET = "nvapi-CANARYKEY"
PROMPT = "CANARYPROMPT tell me"


async def events_of(backend: Backend, request: Request) -> list[Event]:
    async with backend.open(request) as events:
        return [event async for event in events]


async def test_a_replay_gives_the_recorded_events(tmp_path: Path) -> None:
    logprob = TokenLogprob("x", -0.25, 7, (TokenLogprob("y", -2.0),))
    steps = ["Hello there", TextDelta("x", (logprob,)), ToolCallReady(0, ToolCall("f", {"a": [1, None]}, "id"))]
    request = Request(conversation("Hi"))
    recorder = Recorder(ScriptedBackend(steps), tmp_path)
    await recorder.start()
    recorded = await events_of(recorder, request)
    await recorder.aclose()
    assert await events_of(Replay(tmp_path), request) == recorded
    assert Replay(tmp_path).capabilities == recorder.capabilities


async def test_a_replay_raises_the_recorded_error(tmp_path: Path) -> None:
    error = DeadlineExceeded("too slow", phase="idle", backend="scripted", request_id="old")
    recorder = Recorder(ScriptedBackend(["partly", error]), tmp_path)
    await recorder.start()
    request = Request(conversation("Hi"))
    with pytest.raises(DeadlineExceeded):
        await events_of(recorder, request)
    with pytest.raises(DeadlineExceeded, match="too slow") as caught:
        await events_of(Replay(tmp_path), request)
    assert (caught.value.phase, caught.value.request_id) == ("idle", request.request_id)


async def test_the_same_question_gets_its_answers_in_order_and_then_the_last(tmp_path: Path) -> None:
    recorder = Recorder(ScriptedBackend("one", "two"), tmp_path)
    await recorder.start()
    for _ in range(2):
        await events_of(recorder, Request(conversation("Hi")))
    replay = Replay(tmp_path)
    answers = [await events_of(replay, Request(conversation("Hi"))) for _ in range(3)]
    assert [events[1] for events in answers] == [TextDelta("one"), TextDelta("two"), TextDelta("two")]


async def test_a_replay_refuses_what_was_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no recording"):
        Replay(tmp_path)
    recorder = Recorder(ScriptedBackend("one"), tmp_path)
    await recorder.start()
    with pytest.raises(InvalidRequest, match="not recorded"):
        await events_of(Replay(tmp_path), Request(conversation("Hi")))


def test_the_digest_sees_what_is_asked_and_nothing_else() -> None:
    image = (UserMessage([Image(b"\x89PNG"), "Hi"]),)
    base = Request(conversation("Hi"))
    assert request_digest(base) == request_digest(
        Request(conversation("Hi"), deadlines=Deadlines(total=1), priority=3, request_id="x")
    )
    others = [Request(conversation("Ho")), Request(image), Request(base.messages, sampling=Sampling(seed=1))]
    assert len({request_digest(request) for request in [base, *others]}) == 4


def contents(folder: Path) -> list[str]:
    return [file.read_text("utf-8") for file in folder.iterdir()]


async def test_no_secret_gets_into_a_recording(tmp_path: Path) -> None:
    async with FaultServer() as server:
        request = Request(conversation(PROMPT), sampling=Sampling(max_tokens=3))
        async with httpx.AsyncClient(transport=RecordingTransport(tmp_path)) as client:
            recorder = Recorder(HttpBackend(server.url, api_key=SECRET, client=client), tmp_path)
            await recorder.start()
            assert (await events_of(recorder, request))[-1] == Done("length", Usage(4, 3))
            await recorder.aclose()
        assert server.received[-1].headers["authorization"] == f"Bearer {SECRET}"
    texts = contents(tmp_path)
    assert len(texts) >= 3
    for text in texts:
        assert SECRET not in text
        assert "CANARYPROMPT" not in text
        assert "127.0.0.1" not in text


async def record(folder: Path) -> tuple[list[Event], Request]:
    request = Request(conversation("Count from 1 to 20."), request_id="r")
    async with FaultServer() as server, httpx.AsyncClient(transport=RecordingTransport(folder)) as client:
        backend = HttpBackend(server.url, model="faults", profile="vllm", client=client)
        events = await events_of(backend, request)
        await backend.aclose()
    return events, request


async def replayed(transport: httpx.AsyncBaseTransport, request: Request) -> list[Event]:
    async with httpx.AsyncClient(transport=transport) as client:
        backend = HttpBackend("http://recorded.invalid/v1", model="faults", profile="vllm", client=client)
        try:
            return await events_of(backend, request)
        finally:
            await backend.aclose()


@pytest.mark.parametrize("read_size", [None, 1, 7, 100_000])
async def test_http_is_replayed_byte_for_byte_however_it_is_cut(tmp_path: Path, read_size: int | None) -> None:
    recorded, request = await record(tmp_path)
    assert isinstance(recorded[0], Started)
    assert await replayed(ReplayTransport(tmp_path, read_size=read_size), request) == recorded
    assert await replayed(ReplayTransport(tmp_path, timing=True), request) == recorded


@pytest.mark.parametrize("kind", ["reset", "end"])
async def test_a_fault_can_be_injected_into_a_replay(tmp_path: Path, kind: str) -> None:
    _, request = await record(tmp_path)
    fault = Injected(900, kind)  # type: ignore[arg-type]
    with pytest.raises(Exception, match=r"broke|finish reason|valid JSON") as caught:
        await replayed(ReplayTransport(tmp_path, injected=fault), request)
    if kind == "reset":
        assert isinstance(caught.value, StreamInterrupted)


async def test_a_stall_injected_into_a_replay_meets_the_deadline(tmp_path: Path) -> None:
    _, request = await record(tmp_path)
    slow = Request(request.messages, deadlines=Deadlines(idle=0.05))
    with pytest.raises(DeadlineExceeded):
        await replayed(ReplayTransport(tmp_path, injected=Injected(900, "stall")), slow)
