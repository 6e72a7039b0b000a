"""Every fault of the misbehaving server, and what the remote backend makes of it."""

from __future__ import annotations

import tracemalloc

import anyio
import httpx
import pytest

from http_asking import ask
from llama4_http import HttpBackend, Retries
from llama4sdk.errors import (
    BadKey,
    ContextOverflow,
    DeadlineExceeded,
    ImageError,
    InvalidRequest,
    LlamaError,
    ModelRetired,
    Overloaded,
    ProtocolError,
    Rejected,
    ServerFault,
    StreamInterrupted,
    TooManyImages,
    Unreachable,
)
from llama4sdk.events import Done, Started
from llama4sdk.testing.faults import MISDEEDS, PARTIAL, QUIRKS, FaultServer

FAST = Retries(first_wait=0.001)
ONCE = Retries(times=0)
GREETING = "Héllo 👋, you said: Hello!"

EXPECTED: dict[type[LlamaError], tuple[str, ...]] = {
    InvalidRequest: ("status_400", "status_413", "status_422", "echo", "auto_tool_choice", "should_retry"),
    ContextOverflow: ("context_overflow", "max_tokens_overflow", "overflow_fields"),
    ImageError: ("image_too_large",),
    TooManyImages: ("too_many_images",),
    BadKey: ("status_401", "status_403", "problem_json"),
    Rejected: ("status_402", "status_404", "status_405", "status_418"),
    ModelRetired: ("status_410",),
    Overloaded: (
        "retry_after_ms", "should_not_retry",
        "status_409", "status_429", "status_503", "json_error_200", "error_in_list",
        "retry_after_1", "retry_after_date",
        "retry_after_huge", "retry_after_nan", "retry_after_negative", "retry_after_past",
    ),
    ServerFault: (
        "status_408", "status_500", "status_501", "status_502", "status_504", "status_529", "html_502", "abort_reason",
        "error_in_stream", "error_flat_in_stream", "error_string_in_stream", "error_event_field", "error_then_done",
        "echo_in_stream", "error_event_with_words", "error_in_choice",
    ),
    StreamInterrupted: (
        "cut_done", "cut_event",
        "clean_end_without_finish", "close_mid_stream", "done_without_finish", "empty_body", "reset_after_headers",
        "reset_mid_event", "reset_mid_stream",
    ),
    Unreachable: ("close_before_headers", "reset_before_headers", "reset_in_headers"),
    DeadlineExceeded: (
        "comments_only", "endless_comments", "silence", "silence_after_headers", "slow_headers", "stall",
    ),
    ProtocolError: (
        "bad_chunk_size", "brotli", "call_without_name", "deep_json", "endless_deltas", "endless_headers",
        "garbage", "gzip_bomb", "html_200", "huge_body", "huge_integer", "huge_line", "invalid_utf8", "json_other_200",
        "nan", "no_content", "redirect", "trailing_json", "truncated_json",
        *(name for name in MISDEEDS if name.startswith("mistyped_")),
    ),
}  # fmt: skip
SHORT = {"first_token": 0.3, "idle": 0.3}  # seconds
MENDED = ("once_429", "once_500", "once_503")  # what a retry makes good
EITHER = ("slow_error",)  # the deadline, or the status that was seen: whichever comes first
CASES = [(name, kind) for kind, names in EXPECTED.items() for name in names]
NO_COUNTS = ("no_usage", "reset_after_finish", "silent_after_finish", "cut_after_finish", "trouble_after_finish")
CALLS = {name for name in QUIRKS if name.startswith(("call", "arguments"))}


def backend_for(server: FaultServer, name: str, **options: object) -> HttpBackend:
    options = {"retries": FAST, "max_answer_bytes": 2 << 20, **options}
    return HttpBackend(server.url_for(name), model="faults", profile="openai-generic", **options)  # type: ignore[arg-type]


def test_every_fault_of_the_server_is_tested() -> None:
    assert sorted([name for name, _ in CASES] + [*MENDED, *EITHER]) == sorted(MISDEEDS)


@pytest.mark.parametrize(("name", "kind"), CASES, ids=[name for name, _ in CASES])
async def test_a_fault_ends_in_one_error_of_the_right_class(name: str, kind: type[LlamaError]) -> None:
    async with FaultServer() as server:
        backend = backend_for(server, name)
        with anyio.fail_after(120):
            outcome = await ask(backend, "Hello!", **(SHORT if kind is DeadlineExceeded else {}))
        assert outcome.error is not None
        assert type(outcome.error) is kind
        assert outcome.error.backend == "http"
        assert outcome.error.request_id
        assert not any(isinstance(event, Done) for event in outcome.events)
        assert backend.connections_held == 0
        if outcome.events:
            assert isinstance(outcome.events[0], Started)
            assert outcome.error.partial.text == outcome.reply.text  # type: ignore[attr-defined]
            assert outcome.reply.text in ("", PARTIAL) or name == "endless_deltas"
        await backend.aclose()


@pytest.mark.parametrize("name", sorted({*QUIRKS} - CALLS - {"marks_around_calls"}))
async def test_a_quirk_makes_no_difference(name: str) -> None:
    async with FaultServer() as server:
        backend = backend_for(server, name)
        outcome = await ask(backend)
        assert outcome.error is None
        assert outcome.reply.text == GREETING
        assert outcome.reply.finish_reason == "stop"
        if name not in NO_COUNTS:
            assert outcome.reply.usage.total_tokens == 2 + 5
        await backend.aclose()


@pytest.mark.parametrize("name", sorted(CALLS))
async def test_tool_calls_are_put_together_whatever_the_server_leaves_out(name: str) -> None:
    async with FaultServer() as server:
        backend = backend_for(server, name)
        reply = (await ask(backend)).reply
        assert reply.finish_reason == "tool_calls"
        assert (reply.tool_calls[0].name, reply.tool_calls[0].arguments) == ("f", {"city": "Paris"})
        ids = [call.id for call in reply.tool_calls]
        assert (
            ids
            == (["a", "a_2"] if "one_id" in name else [None] * 2 if "without_ids" in name else ["a", "b"])[: len(ids)]
        )
        assert [call.name for call in reply.tool_calls] == ["f", "g"][: len(ids)]
        assert reply.text == ""
        await backend.aclose()


@pytest.mark.parametrize("name", MENDED)
async def test_what_fails_once_is_sent_again(name: str) -> None:
    async with FaultServer() as server:
        backend = backend_for(server, name)
        assert (await ask(backend)).reply.text == GREETING
        assert server.posts == 2
        await backend.aclose()


async def test_fault_01_a_wait_that_the_deadline_does_not_allow_is_an_error_at_once() -> None:
    async with FaultServer() as server:
        backend = backend_for(server, "retry_after_1")
        started = anyio.current_time()
        error = (await ask(backend, total=0.9)).error
        assert isinstance(error, Overloaded)
        assert (error.retry_after, server.posts) == (1.0, 1)
        assert anyio.current_time() - started < 0.9
        await backend.aclose()


async def test_fault_01_a_wait_that_the_deadline_allows_is_waited_for() -> None:
    async with FaultServer() as server:
        backend = backend_for(server, "retry_after_1", retries=Retries(times=1))
        started = anyio.current_time()
        assert isinstance((await ask(backend, total=30)).error, Overloaded)
        assert server.posts == 2
        assert anyio.current_time() - started >= 1.0
        await backend.aclose()


@pytest.mark.parametrize(("name", "posts"), [("nan", 3), ("negative", 3), ("past", 3), ("huge", 1), ("date", 1)])
async def test_fault_02_an_odd_retry_after_makes_no_endless_sleep(name: str, posts: int) -> None:
    async with FaultServer() as server:
        backend = backend_for(server, f"retry_after_{name}")
        with anyio.fail_after(10):
            error = (await ask(backend)).error
        assert isinstance(error, Overloaded)
        assert error.retry_after is None or 0 <= error.retry_after <= 3600
        assert server.posts == posts
        await backend.aclose()


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_fault_03_a_failing_server_is_asked_three_times_at_most(status: int) -> None:
    async with FaultServer() as server:
        backend = backend_for(server, f"status_{status}")
        assert (await ask(backend)).error is not None
        assert server.posts == 3
        await backend.aclose()


@pytest.mark.parametrize(("retries", "posts"), [(ONCE, 1), (FAST, 1), (Retries(first_wait=0.001, resend=True), 3)])
async def test_fault_04_a_reset_before_the_answer_is_sent_again_only_when_allowed(retries: Retries, posts: int) -> None:
    async with FaultServer() as server:
        backend = backend_for(server, "reset_before_headers", retries=retries)
        assert isinstance((await ask(backend)).error, Unreachable)
        assert server.posts == posts
        await backend.aclose()


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_no_second_post_when_the_caller_forbids_it(status: int) -> None:
    async with FaultServer() as server:
        backend = backend_for(server, f"status_{status}", retries=ONCE)
        assert (await ask(backend)).error is not None
        assert server.posts == 1
        await backend.aclose()


async def test_fault_05_a_reset_mid_stream_keeps_the_text_and_is_never_sent_again() -> None:
    async with FaultServer() as server:
        backend = backend_for(server, "reset_mid_stream", retries=Retries(resend=True))
        error = (await ask(backend)).error
        assert isinstance(error, StreamInterrupted)
        assert error.partial is not None
        assert (error.partial.text, error.partial.complete) == (PARTIAL, False)
        assert server.posts == 1
        await backend.aclose()


@pytest.mark.parametrize("name", ["clean_end_without_finish", "done_without_finish", "close_mid_stream"])
async def test_fault_06_an_end_without_a_finish_reason_is_no_success(name: str) -> None:
    async with FaultServer() as server:
        backend = backend_for(server, name)
        assert isinstance((await ask(backend)).error, StreamInterrupted)
        await backend.aclose()


@pytest.mark.parametrize("name", ["silence", "silence_after_headers", "slow_headers", "comments_only"])
async def test_fault_07_headers_that_trickle_meet_the_first_token_deadline(name: str) -> None:
    async with FaultServer() as server:
        backend = backend_for(server, name)
        error = (await ask(backend, first_token=0.2)).error
        assert isinstance(error, DeadlineExceeded)
        assert error.phase == "first_token"
        await backend.aclose()


@pytest.mark.parametrize("name", ["endless_comments", "stall"])
async def test_fault_08_comments_do_not_feed_the_idle_deadline(name: str) -> None:
    async with FaultServer() as server:
        backend = backend_for(server, name)
        error = (await ask(backend, idle=0.2)).error
        assert isinstance(error, DeadlineExceeded)
        assert error.phase == "idle"
        assert error.partial is not None
        assert error.partial.text == PARTIAL
        await backend.aclose()


async def test_fault_09_endless_deltas_meet_a_cap() -> None:
    async with FaultServer() as server:
        backend = backend_for(server, "endless_deltas", max_answer_bytes=100_000)
        outcome = await ask(backend)
        assert isinstance(outcome.error, ProtocolError)
        assert 0 < len(outcome.reply.text) < 100_000
        await backend.aclose()


@pytest.mark.parametrize("name", ["huge_line", "huge_body", "gzip_bomb"])
async def test_fault_10_and_17_memory_stays_bounded(name: str) -> None:
    async with FaultServer() as server:
        backend = backend_for(server, name)
        tracemalloc.start()
        try:
            assert isinstance((await ask(backend)).error, ProtocolError)
            assert tracemalloc.get_traced_memory()[1] < 24 << 20
        finally:
            tracemalloc.stop()
        await backend.aclose()


@pytest.mark.parametrize(
    "name",
    ["truncated_json", "invalid_utf8", "deep_json", "huge_integer", "nan", "mistyped_content", "mistyped_choice"],
    ids=[
        "fault_11",
        "fault_12",
        "fault_13_deep",
        "fault_13_integer",
        "fault_13_nan",
        "fault_14_typed",
        "fault_14_choice",
    ],
)
async def test_fault_11_12_13_14_malformed_events_break_the_protocol(name: str) -> None:
    async with FaultServer() as server:
        backend = backend_for(server, name)
        error = (await ask(backend)).error
        assert isinstance(error, ProtocolError)
        assert not error.retryable
        await backend.aclose()


@pytest.mark.parametrize("name", ["html_200", "json_error_200", "error_in_stream", "html_502"])
async def test_fault_15_an_error_inside_a_success_is_an_error_without_the_body(name: str) -> None:
    async with FaultServer() as server:
        backend = backend_for(server, name)
        error = (await ask(backend)).error
        assert error is not None
        assert "boom" not in str(error)
        assert "Welcome" not in str(error)
        assert "Gateway" not in str(error)
        await backend.aclose()


async def test_fault_16_a_redirect_elsewhere_carries_nothing_there() -> None:
    async with FaultServer() as server, FaultServer() as elsewhere:
        client = httpx.AsyncClient(headers={"X-Elsewhere": f"{elsewhere.url}/chat/completions"}, follow_redirects=True)
        async with client:
            backend = backend_for(server, "redirect", client=client, api_key="secret-key")
            assert isinstance((await ask(backend)).error, ProtocolError)
            await backend.aclose()
        assert elsewhere.received == []
        assert elsewhere.connections == 0


async def test_every_failure_gives_its_connection_back() -> None:
    async with FaultServer() as server:
        for name in ("stall", "huge_line", "reset_mid_stream", "status_500", "html_200"):
            backend = backend_for(server, name, max_connections=1)
            for _ in range(3):
                assert (await ask(backend, idle=0.05)).error is not None
            assert backend.connections_held == 0
            await backend.aclose()
        with anyio.fail_after(20):
            await server.at_rest()
