"""Guards in runs, maps and sessions: a blocked turn is in no history, and no tool runs before its verdict."""

from __future__ import annotations

import anyio
import pytest

from guards.guard_doubles import WordGuard
from llama4_local import LocalBackend
from llama4sdk import GuardBlocked, Llama4, Sampling, ToolCallReady
from llama4sdk.messages import ToolCall, ToolMessage
from llama4sdk.testing import ScriptedBackend

SHORT = Sampling(temperature=0, max_tokens=24)


def call(place: str) -> list[ToolCallReady]:
    return [ToolCallReady(0, ToolCall("visit", {"place": place}, "c1"))]


async def test_a_blocked_call_never_runs() -> None:
    visited: list[str] = []

    def visit(place: str) -> str:
        """Visit a place."""
        visited.append(place)
        return "nice"

    async with Llama4(ScriptedBackend(call("BOMB"), "done"), guards=[WordGuard()]) as llama:
        async with llama.run_stream("Go", tools=[visit]) as running:
            with pytest.raises(GuardBlocked):
                await running.result()
        assert [message.role for message in running.snapshot.messages] == ["user"]
    assert visited == []


@pytest.mark.parametrize(("decision", "runs"), [(True, True), (False, False), (None, False)])
async def test_a_guard_that_asks_goes_to_approve(decision: bool | None, runs: bool) -> None:
    visited: list[str] = []

    def visit(place: str) -> str:
        """Visit a place."""
        visited.append(place)
        return "nice"

    guard = WordGuard(action="ask", stages=["tool_call"])

    def decide(_: ToolCall) -> bool:
        return bool(decision)

    approve = None if decision is None else decide
    async with Llama4(ScriptedBackend(call("BOMB"), "done"), guards=[guard]) as llama:
        run = await llama.run("Go", tools=[visit], approve=approve)
    assert run.text == "done"
    assert bool(visited) is runs
    assert (run.calls[0].error is None) is runs


async def test_to_ask_where_nothing_can_be_approved_blocks() -> None:
    async with Llama4(ScriptedBackend("ok"), guards=[WordGuard(action="ask")]) as llama:
        with pytest.raises(GuardBlocked):
            await llama.chat("a BOMB")


async def test_a_tools_result_is_checked_before_the_model_reads_it() -> None:
    def visit(place: str) -> str:
        """Visit a place."""
        return "the page says BOMB"

    backend = ScriptedBackend(call("home"), "done")
    async with Llama4(backend, guards=[WordGuard(stages=["tool_result"])]) as llama:
        with pytest.raises(GuardBlocked) as caught:
            await llama.run("Go", tools=[visit])
    assert caught.value.stage == "tool_result"


async def test_a_replaced_result_stays_replaced_in_every_later_round() -> None:
    def visit(place: str) -> str:
        """Visit a place."""
        return "the secret is out" if place == "home" else "nothing"

    backend = ScriptedBackend(call("home"), call("work"), "done")
    async with Llama4(backend, guards=[WordGuard("secret", action="redact", stages=["tool_result"])]) as llama:
        assert (await llama.run("Go", tools=[visit])).text == "done"
    assert [len(request.messages) for request in backend.requests] == [1, 3, 5]
    results = [m.text for request in backend.requests for m in request.messages if isinstance(m, ToolMessage)]
    assert sum("***" in text for text in results) == 2
    assert not any("secret" in text for text in results)


async def test_a_blocked_final_answer_is_not_in_the_run() -> None:
    def visit(place: str) -> str:
        """Visit a place."""
        return "nice"

    async with Llama4(ScriptedBackend(call("home"), "a BOMB"), guards=[WordGuard()]) as llama:
        async with llama.run_stream("Go", tools=[visit]) as running:
            with pytest.raises(GuardBlocked):
                await running.result()
        assert [message.role for message in running.snapshot.messages] == ["user", "assistant", "tool"]


async def test_a_map_reports_a_block_as_an_outcome() -> None:
    llama = Llama4(ScriptedBackend(), guards=[WordGuard()])
    async with llama, llama.map(["fine", "a BOMB", "good"], ordered=True) as outcomes:
        errors = [type(outcome.error) async for outcome in outcomes]
    assert errors == [type(None), GuardBlocked, type(None)]


async def test_a_typed_answer_shows_nothing_before_its_verdict() -> None:
    backend = ScriptedBackend('{"word": "BOMB", "other": "x"}')
    async with Llama4(backend, guards=[WordGuard()]) as llama:
        with pytest.raises(GuardBlocked):
            async with llama.stream("Go", output={"type": "object"}) as stream:
                async for _ in stream:
                    assert stream.snapshot.output is None


async def test_a_session_is_as_it_was_after_a_blocked_turn() -> None:
    guard = WordGuard("", stages=["output"])  # catches every answer
    async with Llama4("local", guards=[guard]) as llama, await llama.session("You are here. Say hello.") as session:
        before = session.tokens
        with pytest.raises(GuardBlocked):
            await session.chat("What is 17 + 25?", sampling=SHORT)
        assert session.tokens == before


async def test_a_session_goes_on_after_a_blocked_turn_as_without_it() -> None:
    guard = WordGuard("BOMB")
    async with (
        Llama4("local", guards=[guard]) as llama,
        Llama4("local") as plain,
        await llama.session("Hello.") as guarded,
        await plain.session("Hello.") as other,
    ):
        with pytest.raises(GuardBlocked):
            await guarded.chat("A BOMB", sampling=SHORT)
        words = ["Hello."]
        for question in ("What is 17 + 25?", "What is the capital of France?"):
            one = await guarded.chat(question, sampling=SHORT)
            assert one.text == (await other.chat(question, sampling=SHORT)).text
            assert one.guards
            words += [question, one.text]
        assert guarded.tokens == other.tokens
        async with await guarded.fork() as twin:
            with pytest.raises(GuardBlocked):
                await twin.chat("A BOMB", sampling=SHORT)
    assert [message.text for message in guard.items[-1].messages] == [*words, "A BOMB"]  # all that was said before


async def test_the_opening_of_a_session_is_checked() -> None:
    async with Llama4("local", guards=[WordGuard()]) as llama:
        with pytest.raises(GuardBlocked):
            await llama.session("A BOMB")


async def test_a_blocked_turn_leaves_no_request_in_the_engine() -> None:
    async with Llama4("local", guards=[WordGuard("")]) as llama:
        with pytest.raises(GuardBlocked):
            await llama.chat("Tell me about yourself.", sampling=SHORT)
        assert isinstance(llama.backend, LocalBackend)
        with anyio.fail_after(30):
            while llama.backend.current_load.running + llama.backend.current_load.waiting:  # noqa: ASYNC110
                await anyio.sleep(0.01)
