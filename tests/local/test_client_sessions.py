"""Sessions as an application has them: `llama.session`, `llama.restore`, over the local backend."""

from __future__ import annotations

import gc
import random
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel, Field

from llama4_local import LocalBackend
from llama4sdk import (
    AssistantMessage,
    CheckpointError,
    ContextOverflow,
    DeadlineExceeded,
    Deadlines,
    InvalidRequest,
    Llama4,
    Overloaded,
    Sampling,
    Session,
    SystemMessage,
    TextDelta,
    ToolMessage,
    UserMessage,
)
from llama4sdk.backend import KeepsSessions
from llama4sdk.messages import Message
from local.small_backends import chatting, saved_chat
from local.small_checkpoints import CHUNK

GREEDY = Sampling(temperature=0, max_tokens=12)
LONG = "hello world " * 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_chat(tmp_path_factory.mktemp("checkpoint"), chatting(stop_ids=()))


@pytest.fixture(scope="module")
def stopping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that names the tokens which end an answer."""
    return saved_chat(tmp_path_factory.mktemp("stopping"))


@asynccontextmanager
async def client(folder: Path, **options: Any) -> AsyncGenerator[Llama4]:
    with anyio.fail_after(120):
        async with Llama4(LocalBackend(folder, **options)) as llama:
            yield llama


async def held(llama: Llama4) -> int:
    """Pages that sessions hold."""
    assert isinstance(llama.backend, LocalBackend)
    worker, _ = llama.backend.running()
    return await worker.ask(lambda engine: engine.session_store.pages)


async def test_a_session_says_what_the_whole_conversation_says_and_computes_only_what_is_new(folder: Path) -> None:
    async with client(folder) as llama:
        whole = await llama.chat([UserMessage(LONG), UserMessage("more")], sampling=GREEDY)
        async with await llama.session(LONG, cache_salt="own") as session:
            opened = session.tokens
            async with session.stream("more", sampling=GREEDY) as stream:
                texts = [text async for text in stream.text()]
            assert "".join(texts) == whole.text == stream.snapshot.text
            assert stream.snapshot.usage.cached_tokens >= opened - CHUNK
            assert session.tokens == stream.snapshot.usage.total_tokens + 1  # and the end of the turn
        assert await held(llama) == 0


@pytest.mark.parametrize(
    "opening",
    [
        [SystemMessage("Be brief.")],
        [UserMessage(LONG), AssistantMessage("Yes.")],
        [SystemMessage("Be brief."), UserMessage("one"), AssistantMessage("two"), UserMessage("three")],
    ],
    ids=["system", "answered", "asked"],
)
async def test_a_session_begins_with_any_part_of_a_conversation(folder: Path, opening: list[Message]) -> None:
    async with client(folder) as llama:
        whole = await llama.chat([*opening, UserMessage("more")], sampling=GREEDY)
        async with await llama.session(opening) as session:
            assert (await session.chat("more", sampling=GREEDY)).text == whole.text


async def test_forks_go_their_own_ways(folder: Path) -> None:
    async with client(folder) as llama:
        async with await llama.session(LONG) as session, await session.fork() as twin:
            right = await twin.chat("right", sampling=GREEDY)
            left = await session.chat("left", sampling=GREEDY)
            again = await session.chat("again", sampling=GREEDY)
        async with await llama.session(LONG) as session:
            assert (await session.chat("left", sampling=GREEDY)).text == left.text != right.text
            assert (await session.chat("again", sampling=GREEDY)).text == again.text
        assert await held(llama) == 0


async def test_questions_at_the_same_time_need_forks(folder: Path) -> None:
    async with client(folder) as llama, await llama.session(LONG) as session:
        async with session.stream("one", sampling=GREEDY) as stream:
            await anext(stream)
            with pytest.raises(InvalidRequest, match="fork"):
                await session.chat("two")
            with pytest.raises(InvalidRequest, match="fork"):
                await session.save("nowhere")
        assert (await session.chat("three", sampling=GREEDY)).complete is False  # cut at max_tokens


async def test_a_cancelled_question_leaves_the_session_as_it_was(folder: Path) -> None:
    async with client(folder) as llama, await llama.session(LONG) as session, await session.fork() as twin:
        before = session.tokens
        async with session.stream("one", sampling=Sampling(temperature=0, max_tokens=200)) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    await stream.cancel()
            assert stream.snapshot.finish_reason == "cancelled"
        assert session.tokens == before
        answers = [(await one.chat("two", sampling=GREEDY)).text for one in (session, twin)]
        assert answers[0] == answers[1]


_CONTINUING = """
import asyncio, sys
from llama4sdk import Llama4, Sampling

async def main():
    async with Llama4("local:" + sys.argv[1]) as llama, await llama.restore(sys.argv[2]) as session:
        for question in ("more", "and more"):
            reply = await session.chat(question, sampling=Sampling(temperature=0, max_tokens=12))
            sys.stdout.buffer.write(f"{reply.usage.cached_tokens} {reply.text!r}\\n".encode())

asyncio.run(main())
"""


@pytest.mark.parametrize("beyond", [0, 5], ids=["at the edge", "beyond it"])
async def test_a_session_saved_at_a_chunk_edge_goes_on_in_a_new_process(
    folder: Path, tmp_path: Path, beyond: int
) -> None:
    async with client(folder) as llama:
        frame = llama.count([UserMessage("")]).total - len(_header(llama))
        words = ("x?" * 40)[: 6 * CHUNK + beyond - frame]
        async with await llama.session(words) as session:
            assert session.tokens == 6 * CHUNK + beyond
            await session.save(tmp_path / "saved.session")
            replies = [await session.chat(question, sampling=GREEDY) for question in ("more", "and more")]
    done = await anyio.run_process([sys.executable, "-c", _CONTINUING, str(folder), str(tmp_path / "saved.session")])
    lines = done.stdout.decode().splitlines()
    assert [line.partition(" ")[2] for line in lines] == [repr(reply.text) for reply in replies]
    assert int(lines[0].partition(" ")[0]) == 6 * CHUNK
    assert not done.stderr


def _header(llama: Llama4) -> list[int]:
    """The tokens that an answer begins with."""
    assert isinstance(llama.backend, LocalBackend)
    template = llama.backend.prompt_template
    bare, answered = (template.render("", answer=answer).token_ids for answer in (False, True))
    return answered[len(bare) :]


async def test_a_file_takes_a_quarter_of_a_full_cache_where_every_fourth_layer_is_global(
    folder: Path, tmp_path: Path
) -> None:
    async with client(folder) as llama, await llama.session("x?" * 200) as session:
        await session.save(tmp_path / "saved.session")
        assert isinstance(llama.backend, LocalBackend)
        text = llama.backend.running()[1].config.text
        tokens = session.tokens
    assert len(text.global_layers) * 4 == text.layers
    full = 2 * text.layers * text.kv_heads * text.head_dim * 4 * tokens
    ratio = (tmp_path / "saved.session").stat().st_size / full
    assert 0.24 < ratio <= 0.30


class Colour(BaseModel):
    name: str = Field(max_length=3)


async def test_a_session_gives_typed_answers(stopping: Path) -> None:
    async with client(stopping) as llama, await llama.session(LONG) as session:
        reply = await session.chat("Which colour?", output=Colour, sampling=Sampling(temperature=0, max_tokens=80))
        assert isinstance(reply.output, Colour)


def paint(colour: str) -> str:
    """Paint it."""
    return colour


async def test_tools_are_told_once_and_their_results_go_on(stopping: Path) -> None:
    hot = Sampling(temperature=1.5, seed=4, max_tokens=150)
    async with client(stopping) as llama, await llama.session("Hello.", tools=[paint]) as session:
        assert [tool.name for tool in session.tools] == ["paint"]
        reply = await session.chat("Paint it.", tool_choice="required", sampling=hot)
        assert reply.tool_calls
        before = session.tokens
        results = [ToolMessage("red", tool_call_id=call.id, name=call.name) for call in reply.tool_calls]
        answer = await session.chat(results, tool_choice="none", sampling=GREEDY)
        prompt = answer.usage.prompt_tokens
        plain = llama.count([UserMessage("x")]).total - llama.count([UserMessage("")]).total
        assert plain < prompt - before < 60 * len(results)  # what is new, and no declaration
        with pytest.raises(InvalidRequest, match="tool_choice"):
            await session.chat("?", tool_choice="carve")


@pytest.mark.parametrize("first", [SystemMessage("Be brief."), AssistantMessage("I said:")], ids=lambda m: m.role)
async def test_a_turn_begins_with_the_user_or_a_result(folder: Path, first: Message) -> None:
    async with client(folder) as llama, await llama.session("Hello.") as session:
        with pytest.raises(InvalidRequest, match="turn of a session"):
            session.stream([first, UserMessage("?")])


@pytest.mark.parametrize("seed", range(3))
async def test_fault_55_a_cache_full_of_sessions_queues_or_refuses_and_never_hangs(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    ends: Counter[str] = Counter()

    async def ask(source: Llama4 | Session) -> None:
        try:
            with anyio.fail_after(30):  # the watchdog
                reply = await source.chat("x?" * chance.randrange(1, 40), sampling=Sampling(max_tokens=20))
            ends[str(reply.finish_reason)] += 1
        except (Overloaded, ContextOverflow) as error:
            ends[type(error).__name__] += 1

    async with client(folder, context=200, max_sequences=2) as llama:
        sessions: list[Session] = []
        with pytest.raises(Overloaded):
            while True:  # until what sessions hold leaves no room for another
                sessions.append(await llama.session(f"{len(sessions)}" * chance.randrange(1, 120)))
        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(ask, sessions[number] if number < len(sessions) else llama)
        assert sum(ends.values()) == 40
        assert ends["Overloaded"]
        for session in sessions:
            await session.aclose()
        assert await held(llama) == 0
        before = ends["length"]
        for _ in range(3):
            await ask(llama)
        assert ends["length"] == before + 3


async def test_deadlines_hold_in_sessions(folder: Path) -> None:
    async with client(folder) as llama:
        with pytest.raises(DeadlineExceeded):
            await llama.session(LONG, deadlines=Deadlines(total=1e-6))
        async with await llama.session(LONG) as session:
            before = session.tokens
            with pytest.raises(DeadlineExceeded):
                await session.chat("?", deadlines=Deadlines(total=1e-6))
            assert session.tokens == before
        assert await held(llama) == 0


async def test_a_file_that_is_no_session_is_refused(folder: Path, tmp_path: Path) -> None:
    async with client(folder) as llama:
        with pytest.raises(CheckpointError):
            await llama.restore(tmp_path / "nothing")
        with pytest.raises(CheckpointError):
            await llama.restore(folder / "model.safetensors")


async def test_sessions_after_the_end_of_the_client(folder: Path) -> None:
    async with client(folder) as llama:
        session = await llama.session("Hello.")
    with pytest.raises(InvalidRequest, match="closed"):
        await session.chat("?")
    with pytest.raises(InvalidRequest, match="closed"):
        await llama.session("Hello.")
    with pytest.raises(InvalidRequest, match="closed"):
        await llama.restore("nowhere")
    await session.aclose()
    await session.aclose()


async def test_fault_61_a_session_dropped_without_closing_lets_go(folder: Path) -> None:
    async with client(folder) as llama:
        kept: list[Session] = [await llama.session(LONG)]
        with pytest.warns(ResourceWarning, match="without aclose"):
            _drop(kept)
        assert await held(llama) == 0


def _drop(kept: list[Session]) -> None:
    kept.clear()
    gc.collect()


def test_the_local_backend_keeps_the_protocol(folder: Path) -> None:
    backend: KeepsSessions = LocalBackend(folder)
    assert isinstance(backend, KeepsSessions)


def test_sessions_run_under_trio_too(folder: Path, tmp_path: Path) -> None:
    async def main() -> list[str]:
        async with client(folder) as llama, await llama.session(LONG) as session:
            await session.save(tmp_path / "saved.session")
            async with await llama.restore(tmp_path / "saved.session") as restored:
                return [(await one.chat("more", sampling=GREEDY)).text for one in (session, restored)]

    texts = anyio.run(main, backend="trio")
    assert texts == anyio.run(main, backend="asyncio")
    assert texts[0] == texts[1]
