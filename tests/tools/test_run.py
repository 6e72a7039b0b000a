"""The tool loop: calls run side by side, whatever they do ends in a result, and the model hears of it."""

from __future__ import annotations

import json
import threading
from typing import Any

import anyio
import pytest
from PIL import Image as Images

from llama4sdk import (
    DeadlineExceeded,
    Deadlines,
    Done,
    Image,
    InvalidRequest,
    Llama4,
    OutputInvalid,
    ServerFault,
    Started,
    TextDelta,
    ToolCall,
    ToolCallReady,
    ToolFailed,
    ToolMessage,
    ToolSpec,
    Usage,
)
from llama4sdk.run import Run, ToolEnded
from tools.running import City, add, results, run, weather
from tools.written import Writes


async def test_the_model_calls_and_is_told_and_answers() -> None:
    backend = Writes('Let me see. [add(a=1, b=2), weather(city="Paris")]', "It is 3, and 21 degrees.")
    async with Llama4(backend) as llama:
        run = await llama.run("What?", tools=[add, weather])
    assert (run.text, run.stopped, run.complete, run.rounds) == ("It is 3, and 21 degrees.", "answered", True, 2)
    assert results(run) == ["3", '{"city": "Paris", "degrees": 21}']
    assert [result.value for result in run.calls] == [3, {"city": "Paris", "degrees": 21}]
    assert [message.role for message in run.messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert backend.requests[1].messages == run.messages[:-1]
    assert run.usage == Usage(1 + 9, 6 + 6)
    ids = [message.tool_call_id for message in run.messages if isinstance(message, ToolMessage)]
    assert len(set(ids)) == 2
    assert str(run) == run.text


async def test_without_a_call_there_is_one_round() -> None:
    run = await run_once("Just words.")
    assert (run.rounds, run.calls, run.stopped) == (1, (), "answered")


async def run_once(text: str, **options: Any) -> Run:
    async with Llama4(Writes(text)) as llama:
        return await llama.run("?", tools=[add], **options)


async def test_calls_run_side_by_side_within_the_limit() -> None:
    now = most = 0

    async def busy(n: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await anyio.sleep(0.01)
        now -= 1
        return n

    calls = "[" + ", ".join(f"busy(n={n})" for n in range(9)) + "]"
    done = await run(calls, "ok", tools=[busy], max_parallel=3)
    assert most == 3
    assert results(done) == [str(n) for n in range(9)]


async def test_plain_functions_run_off_the_loop() -> None:
    threads: list[int] = []

    def where() -> str:
        threads.append(threading.get_ident())
        return "here"

    await run("[where()]", "ok", tools=[where])
    assert threads != [threading.get_ident()]


def image() -> Any:
    return Images.new("RGB", (4, 4), "red")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("text", "text"),
        ("", ""),
        (3, "3"),
        (None, "null"),
        (True, "true"),
        ([1, "é"], '[1, "é"]'),
        ({"a": {"b": None}}, '{"a": {"b": null}}'),
        (City(name="Paris", people=2), '{"name": "Paris", "people": 2}'),
        ((1, 2), "[1, 2]"),
        (range(3), "[0, 1, 2]"),
        (float("nan"), "NaN"),
        ("<|eot|><|header_start|>", "<|eot|><|header_start|>"),
        ("\ud83d", "?"),
    ],
)
async def test_results_of_any_json_kind_are_told(value: object, told: str) -> None:
    def give() -> object:
        return value

    assert results(await run("[give()]", "ok", tools=[give])) == [told]


async def test_images_are_shown() -> None:
    def draw() -> object:
        return ["An image:", image(), Image(b"png")]

    def draw_one() -> object:
        return image()

    done = await run("[draw(), draw_one()]", "ok", tools=[draw, draw_one])
    messages = [message for message in done.messages if isinstance(message, ToolMessage)]
    assert [len(message.images) for message in messages] == [2, 1]
    assert messages[0].text == "An image:"


async def test_an_answer_that_is_cut_runs_nothing() -> None:
    done = await run([TextDelta("[add(a=1, b=1)"), Done("length")], tools=[add])
    assert done.stopped == "length"
    assert not done.calls


@pytest.mark.parametrize(
    ("decision", "told"),
    [
        (True, "3"),
        (False, '{"error": "The call was refused by the user."}'),
        ("too risky", '{"error": "The call was refused: too risky"}'),
        (ToolCall("add", {"a": 10, "b": 20}), "30"),
        (ToolCall("add", {"a": "x"}), '{"error": "The arguments do not fit'),
        (None, '{"error": "The call was refused by the user."}'),
    ],
)
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_approve_allows_refuses_and_edits(decision: Any, told: str, kind: str) -> None:
    asked: list[ToolCall] = []

    def approve(call: ToolCall) -> Any:
        asked.append(call)
        return decision

    async def approve_async(call: ToolCall) -> Any:
        return approve(call)

    done = await run("[add(a=1, b=2)]", "ok", tools=[add], approve=approve if kind == "sync" else approve_async)
    assert asked[0].arguments == {"a": 1, "b": 2}
    assert results(done)[0].startswith(told)
    ran = decision if isinstance(decision, ToolCall) else asked[0]
    assert done.messages[1].tool_calls[0].arguments == ran.arguments  # type: ignore[union-attr]
    assert done.calls[0].call.id == asked[0].id


async def test_an_approve_callback_that_fails_ends_the_run() -> None:
    def approve(_: ToolCall) -> bool:
        raise ValueError("secret")

    with pytest.raises(ToolFailed, match="ValueError") as caught:
        await run("[add(a=1, b=2)]", tools=[add], approve=approve)
    assert "secret" not in str(caught.value)


async def test_an_approve_callback_may_only_choose_declared_tools() -> None:
    def approve(_: ToolCall) -> ToolCall:
        return ToolCall("other")

    with pytest.raises(ToolFailed, match="no tool"):
        await run("[add(a=1, b=2)]", tools=[add], approve=approve)


async def test_tool_errors_may_end_the_run() -> None:
    settled = anyio.Event()

    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            settled.set()

    def broken() -> None:
        raise ValueError("no")

    with pytest.raises(ToolFailed, match="broken failed: ValueError: no"):
        await run("[slow(), broken()]", tools=[slow, broken], on_tool_error="raise")
    assert settled.is_set()


async def test_the_events_of_a_run_come_in_order() -> None:
    async with (
        Llama4(Writes("[add(a=1, b=2)]", "three")) as llama,
        llama.run_stream("?", tools=[add]) as running,
    ):
        kinds = [type(event).__name__ async for event in running]
        run = await running.result()
    assert kinds == [
        "Started", "ToolCallStarted", "ToolCallDelta", "ToolCallDelta", "ToolCallReady", "Done", "ToolBegun",
        "ToolEnded", "Started", "TextDelta", "Done",
    ]  # fmt: skip
    assert run.text == "three"


async def test_the_text_of_all_rounds_can_be_read() -> None:
    async with Llama4(Writes("One. [add(a=1, b=2)]", "Two.")) as llama, llama.run_stream("?", tools=[add]) as running:
        assert [text async for text in running.text()] == ["One.", "Two."]


async def test_fault_54_a_cancel_in_a_tool_settles_every_tool() -> None:
    settled: list[str] = []

    async def wait(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            settled.append(name)

    async with (
        Llama4(Writes('[wait(name="a"), wait(name="b"), add(a=1, b=1)]')) as llama,
        llama.run_stream("?", tools=[wait, add]) as running,
    ):
        async for event in running:
            if isinstance(event, ToolEnded):
                break
        await running.cancel()
        assert sorted(settled) == ["a", "b"]
        run = await running.result()
    assert (run.stopped, run.complete) == ("cancelled", False)
    assert [result.error for result in run.calls] == ["The call was cancelled.", "The call was cancelled.", None]
    assert len(results(run)) == 3


async def test_fault_54_a_cancel_around_a_run_is_never_wrapped() -> None:
    began = anyio.Event()

    async def wait() -> None:
        began.set()
        await anyio.sleep_forever()

    backend = Writes("[wait()]")
    async with Llama4(backend) as llama:
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                await llama.run("?", tools=[wait])

            tasks.start_soon(ask)
            await began.wait()
            tasks.cancel_scope.cancel()
        assert backend.running == 0


async def test_leaving_a_run_early_stops_the_backend() -> None:
    backend = Writes(
        "one two three four",
    )
    async with Llama4(backend) as llama:
        async with llama.run_stream("?", tools=[add]) as running:
            async for event in running:
                if isinstance(event, Started):
                    break
        assert backend.running == 0


async def test_the_total_deadline_spans_the_whole_run() -> None:
    async def wait() -> None:
        await anyio.sleep_forever()

    with pytest.raises(DeadlineExceeded) as caught:
        await run("[wait()]", tools=[wait], deadlines=Deadlines(total=0.05))
    assert caught.value.phase == "total"


async def test_a_failure_of_the_backend_comes_out_as_it_is() -> None:
    with pytest.raises(ServerFault, match="broken"):
        await run("[add(a=1, b=1)]", [ServerFault("broken")], tools=[add])


async def test_a_forced_tool_is_forced_once() -> None:
    backend = Writes("[add(a=1, b=1)]", "ok")
    async with Llama4(backend) as llama:
        await llama.run("?", tools=[add], tool_choice="add")
    assert [request.tool_choice for request in backend.requests] == ["add", "auto"]
    assert len({request.request_id for request in backend.requests}) == 2


async def test_the_last_reply_may_be_typed_and_repaired() -> None:
    script = ("[add(a=1, b=2)]", '{"name": "Paris"}', '{"name": "Paris", "people": 2}')
    run_typed = await run(*script, tools=[add], output=City, repair=1)
    assert run_typed.output == City(name="Paris", people=2)
    assert run_typed.rounds == 3
    with pytest.raises(OutputInvalid) as caught:
        await run(*script, tools=[add], output=City)
    assert caught.value.raw == '{"name": "Paris"}'


@pytest.mark.parametrize(
    "options",
    [
        {"max_rounds": 0},
        {"max_parallel": 0},
        {"tool_timeout": 0},
        {"max_result": 0},
        {"repair": -1},
        {"max_rounds": True},
    ],
)
async def test_limits_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        await run("x", tools=[add], **options)


async def test_a_tool_without_a_function_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no function"):
        await run("x", tools=[ToolSpec("now")])


async def test_calls_that_the_server_parsed_run_too() -> None:
    first = [ToolCallReady(0, ToolCall("add", {"a": "1", "b": 2}, "server-1"))]
    done = await run(first, "ok", tools=[add])
    assert results(done) == ["3"]
    assert done.calls[0].call.id == "server-1"


async def test_a_function_that_returns_a_coroutine_is_awaited() -> None:
    def later(n: int) -> Any:
        return weather(str(n))

    assert json.loads(results(await run("[later(n=3)]", "ok", tools=[later]))[0])["city"] == "3"


def test_it_runs_under_trio_too() -> None:
    async def main() -> None:
        def hang() -> None:
            threading.Event().wait(0.2)

        done = await run(
            "[add(a=1, b=2), weather(city='Rome'), hang()]", "ok", tools=[add, weather, hang], tool_timeout=0.1
        )
        assert results(done)[0] == "3"
        assert done.calls[2].error is not None
        assert done.text == "ok"

    anyio.run(main, backend="trio")


def test_a_hanging_tool_does_not_keep_the_process_from_ending() -> None:
    import subprocess
    import sys

    code = (
        "import anyio, threading\n"
        "from llama4sdk.tools.calling import in_thread\n"
        "async def main():\n"
        "    with anyio.move_on_after(0.05):\n"
        "        await in_thread(lambda: threading.Event().wait())\n"
        "anyio.run(main); print('over')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout.strip() == "over", ended.stderr


async def test_an_undeclared_call_alone_does_not_end_a_run() -> None:
    backend = Writes('[forecast(city="Paris")]', '[weather(city="Paris")]', "It is 21 degrees.")
    async with Llama4(backend) as llama:
        run = await llama.run("What?", tools=[weather])
    assert run.text == "It is 21 degrees."
    told = run.messages[2]
    assert told.role == "user"
    assert "no tool named forecast" in told.text


async def test_a_bad_call_beside_a_good_one_is_told_to_the_model_and_leaves_no_text() -> None:
    backend = Writes("[add(a=1, b=2), weather(city=b'z')]", "3.")
    async with Llama4(backend) as llama:
        run = await llama.run("What?", tools=[add, weather])
    assert [call.error is None for call in run.calls] == [True, False]
    assert run.messages[1].text == ""
