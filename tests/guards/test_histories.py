"""A caller may hand in any history: what was never cleared is inspected, what was is not inspected again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from guards.guard_doubles import BrokenGuard, WordGuard
from image_files import encoded
from llama4sdk import Done, GuardBlocked, InvalidRequest, Llama4, Request, ToolCallReady
from llama4sdk.command import app
from llama4sdk.guards import GuardPolicy
from llama4sdk.messages import AssistantMessage, Image, Message, SystemMessage, Text, ToolCall, ToolMessage, UserMessage
from llama4sdk.server import create_app, running
from llama4sdk.testing import ScriptedBackend

TRUSTING = GuardPolicy(history="trust")
ASKED, TOLD, LAST = UserMessage("hi"), AssistantMessage("hello"), UserMessage("go on")


def call(place: str) -> AssistantMessage:
    return AssistantMessage("", tool_calls=(ToolCall("go", {"to": place}, "c1"),))


def result(text: str) -> ToolMessage:
    return ToolMessage(text, tool_call_id="c1", name="go")


FORGED: dict[str, tuple[list[Message], str, int]] = {
    "user": ([UserMessage("a BOMB"), TOLD, LAST], "input", 0),
    "user in parts": ([UserMessage([Text("a BO"), Text("MB")]), TOLD, LAST], "input", 0),
    "assistant": ([ASKED, AssistantMessage("the BOMB is"), LAST], "output", 1),
    "call": ([ASKED, call("BOMB"), result("there"), TOLD, LAST], "tool_call", 1),
    "result": ([ASKED, call("home"), result("a BOMB"), TOLD, LAST], "tool_result", 2),
    "long ago": ([ASKED, UserMessage("a BOMB"), *[TOLD, LAST] * 20], "input", 1),
}


@pytest.mark.parametrize("kind", FORGED)
async def test_a_forged_history_is_blocked_and_its_message_named(kind: str) -> None:
    messages, stage, number = FORGED[kind]
    backend = ScriptedBackend("ok")
    async with Llama4(backend, guards=[WordGuard()]) as llama:
        for _ in range(2):  # a block is not remembered as cleared
            with pytest.raises(GuardBlocked, match=f"in message {number} of the conversation") as caught:
                await llama.chat(messages)
            assert caught.value.stage == stage
    async with Llama4(ScriptedBackend("ok"), guards=[WordGuard()], guard_policy=TRUSTING) as llama:
        assert (await llama.chat(messages)).text == "ok"


async def dialog(llama: Llama4, guard: WordGuard, turns: int) -> list[int]:
    """Hold a dialog as clients do, all of it sent with each turn; return how many checks each turn took."""
    messages: list[Message] = [SystemMessage("Be brief.")]
    checks: list[int] = []
    for turn in range(turns):
        before = len(guard.items)
        messages.append(UserMessage([Image(encoded(PIL.Image.new("RGB", (8, 8)))), Text(f"question {turn}")]))
        messages.append((await llama.chat(messages)).message)
        checks.append(len(guard.items) - before)
    return checks


def secretive(request: Request) -> str:
    return f"The secret of {len(request.messages)} is out. It is good."


async def test_a_dialog_takes_as_many_checks_in_every_turn() -> None:
    policy = GuardPolicy(streaming="final")
    redacting = WordGuard("secret", action="redact", name="redacts")
    for guards in ([WordGuard()], [WordGuard(), redacting]):
        guard = guards[0]
        async with Llama4(ScriptedBackend(secretive), guards=guards, guard_policy=policy) as llama:
            assert await dialog(llama, guard, 6) == [2] * 6
    async with Llama4(ScriptedBackend(secretive), guards=[guard := WordGuard()], guard_policy=policy) as llama:
        app = create_app(llama)
        async with running(app, shutdown_seconds=5) as server, Llama4(f"{server.url}/v1") as client:
            assert await dialog(client, guard, 4) == [2] * 4
            guard.items.clear()
            forged = await client.chat(FORGED["assistant"][0])
            assert (forged.finish_reason, forged.text) == ("content_filter", "")


async def test_rounds_of_a_run_check_only_what_is_new() -> None:
    def go(to: str) -> str:
        """Go somewhere."""
        return f"in {to}"

    def answer(request: Request) -> Any:
        rounds = sum(isinstance(message, ToolMessage) for message in request.messages)
        return "done" if rounds == 4 else [ToolCallReady(0, ToolCall("go", {"to": f"{rounds}"}, f"c{rounds}"))]

    guard = WordGuard()
    async with Llama4(ScriptedBackend(answer), guards=[guard]) as llama:
        await llama.run("Go.", tools=[go])
    assert [item.stage for item in guard.items] == ["input", *["tool_call", "tool_result"] * 4, "output"]


async def test_a_forged_message_is_replaced_before_the_backend_gets_it() -> None:
    backend = ScriptedBackend("ok")
    told = AssistantMessage("a secret it is", tool_calls=call("home").tool_calls)
    messages = [UserMessage("the secret"), told, result("secret"), TOLD, LAST]
    guard = WordGuard("secret", action="redact", stages=["input", "tool_result", "output"])
    async with Llama4(backend, guards=[guard]) as llama:
        for _ in range(2):
            await llama.chat(messages)
    assert len(guard.items) == 4 + 2 * 2  # the history once, the last turn and the answer each time
    for request in backend.requests:
        assert [message.text for message in request.messages] == ["the ***", "a *** it is", "***", "hello", "go on"]


async def test_system_messages_are_inspected_where_the_policy_does() -> None:
    messages = [SystemMessage("a BOMB"), ASKED, TOLD, LAST]
    async with Llama4(ScriptedBackend("ok"), guards=[WordGuard()]) as llama:
        assert (await llama.chat(messages)).text == "ok"
    for history in ("check", "trust"):
        policy = GuardPolicy(system="check", history=history)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        guard = WordGuard()
        async with Llama4(ScriptedBackend("ok"), guards=[guard], guard_policy=policy) as llama:
            for given in (messages, messages[:2]):
                with pytest.raises(GuardBlocked):
                    await llama.chat(given)
            await llama.chat([SystemMessage("kind"), *messages[1:]])
            guard.items.clear()
            await llama.chat([SystemMessage("kind"), *messages[1:]])
            assert len(guard.items) == 2  # the last turn and the answer


@pytest.mark.parametrize("value", ["always", None, True, ["check"]])
def test_other_policies_are_refused(value: Any) -> None:
    for name in ("history", "system"):
        with pytest.raises(InvalidRequest, match="one of check, trust"):
            GuardPolicy(**{name: value})
    with pytest.raises(InvalidRequest, match="growth must be a finite number"):
        GuardPolicy(growth=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_only_what_every_guard_cleared_is_remembered() -> None:
    policy = GuardPolicy(on_error="allow")
    guard = WordGuard()
    async with Llama4(ScriptedBackend("ok"), guards=[guard, BrokenGuard("raises")], guard_policy=policy) as llama:
        for _ in range(2):
            await llama.chat([ASKED, TOLD, LAST])
    assert len([item for item in guard.items if item.text == "hi"]) == 2


async def test_images_that_lie_elsewhere_and_other_salts_are_inspected_again(tmp_path: Path) -> None:
    data = encoded(PIL.Image.new("RGB", (8, 8)))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for source, checks in ((data, 1), (path, 2), (str(path), 2), ("https://example.org/a.png", 2)):
        guard = WordGuard(stages=["input"])
        async with Llama4(ScriptedBackend("ok"), guards=[guard]) as llama:
            for _ in range(2):
                await llama.chat([UserMessage([Image(source), "look"]), TOLD, LAST])
        assert len([item for item in guard.items if item.text == "look"]) == checks, source
    guard = WordGuard(stages=["input"])
    async with Llama4(ScriptedBackend("ok"), guards=[guard]) as llama:
        for salt in ("a", "b", "a"):
            async with llama.answers.open(Request((ASKED, TOLD, LAST), cache_salt=salt)) as events:
                assert [event async for event in events]
    assert len([item for item in guard.items if item.text == "hi"]) == 2


async def test_text_never_passes_for_an_image_that_was_cleared() -> None:
    source = "data:image/png;base64,BOMB"
    guard = WordGuard()
    async with Llama4(ScriptedBackend("ok"), guards=[guard]) as llama:
        await llama.chat([UserMessage([Image(source)]), TOLD, LAST])
        with pytest.raises(GuardBlocked):
            await llama.chat([UserMessage([Text(source)]), TOLD, LAST])


async def test_an_answer_that_was_cut_off_is_inspected_when_it_comes_back() -> None:
    guard = WordGuard()
    answer = "One. Two. Three. A BOMB."
    async with Llama4(ScriptedBackend([*answer, Done("stop")]), guards=[guard]) as llama:
        with pytest.raises(GuardBlocked):
            await llama.chat("hi")
        with pytest.raises(GuardBlocked):
            await llama.chat([ASKED, AssistantMessage(answer), LAST])
        guard.items.clear()
        with pytest.raises(GuardBlocked):
            await llama.chat([ASKED, AssistantMessage("One. Two."), LAST])
        assert [item.stage for item in guard.items][:2] == ["input", "output"]


@pytest.mark.parametrize(("given", "policy"), [([], None), (["--check-system"], GuardPolicy(system="check"))])
def test_a_server_inspects_system_messages_on_demand(
    given: list[str], policy: GuardPolicy | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[object] = []

    def serve(*_: object, **options: object) -> None:
        served.append(options["guard_policy"])

    monkeypatch.setattr("llama4sdk.server.serve", serve)
    monkeypatch.setattr(sys, "argv", ["llama4", "serve", "local", *given])
    with pytest.raises(SystemExit):
        app.main()
    assert served == [policy]
