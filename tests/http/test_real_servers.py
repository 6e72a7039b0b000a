"""Real servers: schemas, numbers, ends, retries, words, marks, ids, deadlines and connections, on the wire."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from http_asking import ask
from http_real_servers import Answering, F, parts, remote
from llama4_http import HttpBackend, Retries
from llama4_http.errors import Sent, error_for_status
from llama4_http.marks import MarkFilter
from llama4_http.profiles import PROFILES, detect, profile_named
from llama4_http.retry import asked_wait, retried_status
from llama4_http.wire import chat_body
from llama4sdk import Llama4
from llama4sdk.errors import (
    DeadlineExceeded,
    ImageError,
    InvalidRequest,
    LlamaError,
    OutputInvalid,
    Overloaded,
    StreamInterrupted,
    TooManyImages,
)
from llama4sdk.messages import Image, UserMessage, conversation
from llama4sdk.request import Deadlines, OutputSpec, Request, Sampling
from llama4sdk.testing.faults import FaultServer, honest
from llama4sdk.testing.faults.wire import Received, Wire

NANO = Path(__file__).parents[2] / "backends/llama4_local/nano/checkpoint/tokenizer.json"
GREETING = "Héllo 👋, you said: Hello!"
SCHEMA = {"type": "object", "properties": {"marker": {"type": "integer"}}}


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_real_servers_05_every_profile_shows_the_schema_to_the_model(profile: str) -> None:
    request = Request(conversation("Hi"), output=OutputSpec(SCHEMA))
    shown = chat_body(request, profile_named(profile), model="m")
    hidden = chat_body(request, profile_named(profile), model="m", show_schema=False)
    assert "marker" in json.dumps(shown["messages"])
    assert "marker" not in json.dumps(hidden["messages"])


@pytest.mark.parametrize(
    ("version", "field"),
    [("0.5.4", "guided_json"), ("0.8.5.post1", "response_format"), ("v0.10.2", "response_format"),
     ("0.11.0", "structured_outputs"), ("0.20.1rc2.dev9+g1", "structured_outputs"), ("dev", "response_format")],
)  # fmt: skip
async def test_real_servers_06_vllm_gets_the_schema_in_the_field_of_its_version(version: str, field: str) -> None:
    async with Answering(version=version) as server:
        backend = HttpBackend(server.url)
        request = Request(conversation("Hi"), output=OutputSpec(SCHEMA))
        outcome = await ask(backend, request)
        assert backend.profile.name == "vllm"
        fields = {"guided_json", "response_format", "structured_outputs"} & server.received[-1].json.keys()
        assert fields == {field}
        assert outcome.events[-1].details["schema_field"] == field  # type: ignore[union-attr]
        await backend.aclose()


async def test_real_servers_06_a_profile_named_by_hand_is_of_its_servers_release_too() -> None:
    async with Answering(version="0.5.4") as server:
        backend = HttpBackend(server.url, model="m", profile="vllm")
        await ask(backend, Request(conversation("Hi"), output=OutputSpec(SCHEMA)))
        assert "guided_json" in server.received[-1].json
        await backend.aclose()


async def test_real_servers_06_a_form_that_the_server_dropped_is_said() -> None:
    async with Answering(version="0.11.0") as server, Llama4(HttpBackend(server.url)) as llama:
        with pytest.raises(OutputInvalid, match="given the form as structured_outputs and did not keep to it"):
            await llama.chat("Hi", output=SCHEMA)


@pytest.mark.parametrize("name", ["logprobs_odd", "counts_as_floats", "counts_as_strings"])
async def test_real_servers_07_odd_numbers_do_not_lose_the_answer(name: str) -> None:
    async with FaultServer() as server:
        backend = remote(server.url_for(name))
        reply = (await ask(backend)).reply
        assert (reply.text, reply.usage.total_tokens) == (GREETING, 7)
        assert all(-9999 <= entry.logprob <= 0 for entry in reply.logprobs)
        await backend.aclose()


@given(st.binary(max_size=60))
def test_real_servers_08_nothing_after_the_finish_reason_loses_the_answer(tail: bytes) -> None:
    from collections import deque

    from llama4_http.answer import AnswerReader
    from llama4sdk.events import Done, Event, TextDelta

    events: deque[Event] = deque()
    reader = AnswerReader(Sent("r"), events)
    data = honest.event(honest.delta({"content": "ok"})) + honest.event(honest.delta({}, "stop")) + b"data: " + tail
    for place in range(len(data)):
        reader.feed(data[place : place + 1])
    reader.end()
    assert events[0] == TextDelta("ok")
    assert isinstance(events[-1], Done)


@pytest.mark.parametrize("name", ["cut_done", "cut_event"])
async def test_real_servers_08_a_cut_in_an_event_is_an_interruption(name: str) -> None:
    async with FaultServer() as server:
        backend = remote(server.url_for(name))
        assert isinstance((await ask(backend)).error, StreamInterrupted)
        await backend.aclose()


@pytest.mark.parametrize(("profile", "sent"), [("sglang", -1), ("vllm", -1), ("nim", -1), ("llamacpp", 0)])
def test_real_servers_09_top_k_off_is_sent_as_each_server_means_it(profile: str, sent: int) -> None:
    request = Request(conversation("Hi"), sampling=Sampling(top_k=0))
    assert chat_body(request, profile_named(profile), model="m")["top_k"] == sent
    assert "top_k" not in chat_body(request, profile_named("openai-generic"), model="m")


async def test_real_servers_09_the_servers_own_word_decides_on_retries() -> None:
    async with FaultServer() as server:
        for name, posts in (("should_not_retry", 1), ("should_retry", 3), ("retry_after_ms", 3)):
            backend, before = remote(server.url_for(name)), server.posts
            error = (await ask(backend)).error
            assert server.posts - before == posts
            assert not isinstance(error, Overloaded) or error.retry_after in (None, 0.02)
            await backend.aclose()
    assert asked_wait({"retry-after-ms": "soon", "retry-after": "2"}) == 2
    assert retried_status(400, {"x-should-retry": "TRUE "})
    waits = {Retries().wait_before(1, retry_after=2.0, draw=lambda drawn=drawn: drawn) for drawn in (0.0, 0.5, 0.9)}
    assert len(waits) == 3
    assert min(wait for wait in waits if wait is not None) == 2.0


def test_real_servers_10_only_the_owner_of_the_chosen_model_counts() -> None:
    models = {
        "data": [{"id": "m", "owned_by": "meta"}, {"id": "n", "owned_by": "nvidia"}, {"id": "v", "owned_by": "vllm"}]
    }
    for model, name in (("m", "openai-generic"), ("n", "nim"), ("v", "vllm"), ("unlisted", "openai-generic")):
        assert detect("http://h/v1", models=models, headers={}, version=None, model=model).name == name


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("The image size exceeds the limit of 20 MB.", ImageError),
        ("Image too large: at most 8192 pixels per side", ImageError),
        ("At most 5 image(s) may be provided in one request.", TooManyImages),
        ("You set image=1 in `--limit-mm-per-prompt`, but found 2 items", TooManyImages),
        ("Too many images in request: 11 > 10", TooManyImages),
        ('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', InvalidRequest),
    ],
)
def test_real_servers_10_refusals_are_told_apart_and_keep_the_servers_words(words: str, kind: type[LlamaError]) -> None:
    error = error_for_status(400, {}, json.dumps({"error": {"message": words}}).encode(), Sent("r"))
    assert type(error) is kind
    assert error.server_message == words
    assert words not in str(error)
    assert words not in repr(error)
    assert ("--enable-auto-tool-choice" in str(error)) == ("auto" in words)


async def test_real_servers_11_marks_around_calls_do_not_stay_in_the_text() -> None:
    async with FaultServer() as server:
        backend = remote(server.url_for("marks_around_calls"))
        reply = (await ask(backend, Request(conversation("Hello!"), tools=(F,)))).reply
        assert (reply.text, reply.tool_calls[0].arguments) == ("", {"city": "Paris"})
        await backend.aclose()


@given(st.lists(st.sampled_from(["a ", "<", "<|eom|>", "<|python_start|>", "f(x=1)", "\n"]), max_size=6),
       st.lists(st.integers(0, 80), max_size=8))  # fmt: skip
def test_real_servers_11_marks_are_the_same_wherever_the_text_is_cut(pieces: list[str], places: list[int]) -> None:
    def filtered(texts: list[str]) -> str:
        marks = MarkFilter()
        before = "".join(marks.feed(text) for text in texts)
        marks.call()
        return before + "|" + "".join(marks.feed(text) for text in texts) + marks.close()

    text = "".join(pieces)
    assert filtered(parts(text, places)) == filtered([text])


def test_real_servers_12_results_are_paired_by_id_then_by_name() -> None:
    def ids(calls: list[Any], results: list[Any]) -> tuple[list[str], list[str]]:
        asked = {"role": "assistant", "tool_calls": [{"id": i, "function": {"name": n}} for n, i in calls]}
        told = [{"role": "tool", "content": "x", "name": n, "tool_call_id": i} for n, i in results]
        body = chat_body(
            Request(conversation([{"role": "user", "content": "q"}, asked, *told])), profile_named("vllm"), model="m"
        )
        return [call["id"] for call in body["messages"][1]["tool_calls"]], [
            m["tool_call_id"] for m in body["messages"][2:]
        ]

    assert ids([("f", "a"), ("g", "b")], [("g", "b"), ("f", "a")]) == (["a", "b"], ["b", "a"])
    assert ids([("f", None), ("g", None)], [("g", None), ("f", None)]) == (["call_1", "call_2"], ["call_2", "call_1"])
    assert ids([("f", None), ("g", "call_1")], [("f", None), ("g", "call_1")])[0] == ["call_2", "call_1"]
    sent, answered = ids([("f", "x"), ("g", "x")], [("g", "x"), ("f", "x")])
    assert len(set(sent)) == 2
    assert answered == sent[::-1]
    assert ids([("f", "a"), ("g", None)], [(None, "a"), (None, None)]) == (["a", "call_1"], ["a", "call_1"])


def test_real_servers_12_the_role_developer_is_accepted() -> None:
    dialog = conversation([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    assert chat_body(Request(dialog), profile_named("vllm"), model="m")["messages"][0]["role"] == "system"


async def test_real_servers_13_a_deadline_holds_while_an_image_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    release, reading = threading.Event(), threading.Event()

    def stuck(*_: object, **__: object) -> None:
        reading.set()
        release.wait(30)

    monkeypatch.setattr("llama4_http.images.pack", stuck)
    async with FaultServer() as server:
        backend = remote(server.url)
        request = Request((UserMessage([Image(b"x"), "?"]),), deadlines=Deadlines(total=0.2))
        try:
            assert isinstance((await ask(backend, request)).error, DeadlineExceeded)
            assert reading.is_set()
            assert not release.is_set()  # the error did not wait for the thread
        finally:
            release.set()
        assert (await ask(backend)).reply.text == GREETING
        await backend.aclose()


async def test_real_servers_13_a_deadline_holds_while_tokens_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def stuck(*_: object, **__: object) -> list[int]:
        release.wait(30)
        return []

    monkeypatch.setattr("llama4_http.prompt.render", stuck)
    async with FaultServer() as server:
        backend = remote(server.url_for("no_usage"), tokenizer=NANO)
        await backend.start()
        try:
            outcome = await ask(backend, total=0.5)
            assert outcome.error is None  # the answer is complete; only its counts are missing
            assert (outcome.reply.text, outcome.reply.usage.total_tokens) == (GREETING, 0)
            assert not release.is_set()
        finally:
            release.set()
        await backend.aclose()


async def test_real_servers_14_a_surplus_response_never_answers_the_next_request() -> None:
    async with FaultServer() as server:
        backend = remote(server.url_for("surplus_response"))
        for _ in range(3):
            assert (await ask(backend)).reply.text == GREETING
        await backend.aclose()


@pytest.mark.parametrize("width", [1, 8])
async def test_real_servers_14_a_surplus_response_answers_no_other_request_of_a_callers_client(width: int) -> None:
    limits = httpx.Limits(max_connections=width)
    async with FaultServer() as server, httpx.AsyncClient(limits=limits, trust_env=False) as client:
        backend = remote(server.url_for("surplus_response"), client=client, max_connections=width)
        replies: list[str] = []

        async def one() -> None:
            replies.append((await ask(backend)).reply.text)

        for _ in range(2):
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(one)
        assert replies == [GREETING] * 8
        assert client.is_closed is False
        await backend.aclose()


async def test_real_servers_14_a_callers_connections_are_kept_where_nothing_is_left_over() -> None:
    opened = 0

    async def counted(request: httpx.Request) -> None:
        request.extensions["trace"] = _counting(request.extensions.get("trace"), count)

    def count() -> None:
        nonlocal opened
        opened += 1

    hooks = {"request": [counted]}
    async with FaultServer() as server, httpx.AsyncClient(event_hooks=hooks, trust_env=False) as client:
        backend = remote(server.url, client=client)
        for _ in range(3):
            assert (await ask(backend)).reply.text == GREETING
        await backend.aclose()
    assert opened == 1


def _counting(
    trace: Callable[[str, object], Awaitable[None]] | None, count: Callable[[], None]
) -> Callable[[str, object], Awaitable[None]]:
    async def counting(name: str, info: object) -> None:
        if name == "connection.connect_tcp.complete":
            count()
        if trace is not None:
            await trace(name, info)

    return counting


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1 :8000/v1", " http://h/v1", "http://h/v1\n", "http://h\t/v1", "http://a..b/v1", "http://-a/v1",
     "http://h:0/v1", "http://h:99999/v1", "http://h\\x/v1", "http:///v1",
        "http://" + "a" * 64 + "/v1", b"http://h/v1", None],
)  # fmt: skip
def test_real_servers_14_addresses_that_cannot_be_are_refused(url: Any) -> None:
    with pytest.raises(InvalidRequest, match="base_url"):
        HttpBackend(url)


@pytest.mark.parametrize("key", [b"", b"key", 5])
def test_real_servers_14_a_key_is_a_string(key: Any) -> None:
    with pytest.raises(InvalidRequest, match="api_key"):
        HttpBackend("http://127.0.0.1:9/v1", api_key=key)


async def test_real_servers_14_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Proxy(FaultServer):
        async def _handle(self, wire: Wire, request: Received) -> None:
            self.targets.append(request.path)
            path = "/" + request.path.split("/", 3)[-1]
            await super()._handle(wire, Received(request.method, path, request.headers, request.body))

        targets: list[str]

    async with Proxy() as proxy:
        proxy.targets = []
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "localhost")
        backend = remote("http://model.invalid/v1")
        with anyio.fail_after(20):
            assert (await ask(backend)).reply.text == GREETING
        assert proxy.targets == ["http://model.invalid/v1/chat/completions"]
        await backend.aclose()


async def test_real_servers_14_a_proxy_that_cannot_be_used_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "gopher://proxy.invalid")
    backend = remote("http://model.invalid/v1")
    error = (await ask(backend)).error
    assert isinstance(error, InvalidRequest)
    assert "NO_PROXY" in str(error)
    await backend.aclose()
