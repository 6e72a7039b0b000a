"""What real servers send, numbered as the promises in docs/http.md: each ends right, on the wire where bytes count."""

from __future__ import annotations

import json
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from http_asking import ask
from llama4_http import HttpBackend, Retries
from llama4_http.errors import Sent, error_for_status
from llama4_http.marks import MarkFilter
from llama4_http.overflow import overflow_of
from llama4_http.profiles import PROFILES, detect, profile_named
from llama4_http.retry import asked_wait, retried_status
from llama4_http.surrogates import SurrogateJoiner
from llama4_http.tool_calls import ToolCallReader
from llama4_http.wire import chat_body
from llama4sdk import Llama4
from llama4sdk.errors import (
    ContextOverflow,
    DeadlineExceeded,
    ImageError,
    InvalidRequest,
    LlamaError,
    Overloaded,
    StreamInterrupted,
    TooManyImages,
)
from llama4sdk.events import ToolCallReady
from llama4sdk.messages import Image, ToolCall, UserMessage, conversation
from llama4sdk.request import Deadlines, OutputSpec, Request, Sampling, ToolSpec
from llama4sdk.testing.faults import FaultServer, honest
from llama4sdk.testing.faults.wire import Received, Wire

NANO = Path(__file__).parents[2] / "backends/llama4_local/nano/checkpoint/tokenizer.json"
GREETING = "Héllo 👋, you said: Hello!"
F = ToolSpec("f", "", {"type": "object", "properties": {"city": {"type": "string"}, "tags": {"type": "array"}}})
G = ToolSpec("g", "")
SCHEMA = {"type": "object", "properties": {"marker": {"type": "integer"}}}

OVERFLOWS = [
    ("This model's maximum context length is 6048 tokens. However, you requested 6616 tokens (568 in the messages, "
     "6048 in the completion).", 6048, 568, 6048),
    ("'max_tokens' or 'max_completion_tokens' is too large: 6048. This model's maximum context length is 6048 tokens "
     "and your request has 568 input tokens (6048 > 6048 - 568). (parameter=max_tokens, value=6048)", 6048, 568, 6048),
    ("This model's maximum context length is 2048 tokens. However, your request has 3000 input tokens.",
     2048, 3000, None),
    ("This model's maximum context length is 2048 tokens. However, your request has 8 input tokens plus 2045 "
     "'max_tokens'. (parameter=input_tokens, max_tokens, value=(8, 2045))", 2048, 8, 2045),
    ("This model's maximum context length is 128000 tokens. However, you requested 65535 output tokens and your prompt "
     "contains at least 62466 input tokens, for a total of at least 128001 tokens.", 128000, 62466, 65535),
    ("You passed 3000 input tokens and requested 100 output tokens. However, the model's context length is only 2048 "
     "tokens, resulting in a maximum input length of 1948 tokens.", 2048, 3000, 100),
    ("The decoder prompt (length 9000) is longer than the maximum model length of 8192.", 8192, 9000, None),
    ("The input (9000 tokens) is longer than the model's context length (8192 tokens).", 8192, 9000, None),
    ("Requested token count exceeds the model's maximum context length of 8192 tokens. You requested a total of 9000 "
     "tokens: 8000 tokens from the input messages and 1000 tokens for the completion.", 8192, 8000, 1000),
    ("request (4476 tokens) exceeds the available context size (4096 tokens), try increasing it", 4096, 4476, None),
    ("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 1000 `inputs` tokens and 4000 "
     "`max_new_tokens`", 4096, 1000, 4000),
    ("Input validation error: `inputs` must have less than 4095 tokens. Given: 5000", 4095, 5000, None),
    ("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000", 200000, 190000, 20000),
    ("This endpoint's maximum context length is 131072 tokens. However, you requested about 140000 tokens (130000 of "
     "text input, 10000 in the output).", 131072, 130000, 10000),
    ("prompt is too long: 208310 tokens > 200000 maximum", 200000, 208310, None),
]  # fmt: skip


class Answering(FaultServer):
    """Answers every POST with the given chunks as one stream, or with the well-behaved answer after the last."""

    def __init__(self, *answers: list[Any], version: str | None = None) -> None:
        super().__init__()
        self._answers = list(answers)
        self._version = version

    async def _behave(self, wire: Wire, request: Received) -> None:
        if not self._answers:
            await super()._behave(wire, request)
            return
        await wire.head()
        for chunk in self._answers.pop(0):
            await wire.chunk(honest.event(chunk))
        await wire.end()

    async def _aside(self, wire: Wire, request: Received) -> None:
        if request.path == "/version" and self._version is not None:
            await wire.answer_json(200, {"version": self._version})
        else:
            await super()._aside(wire, request)


def remote(url: str, **options: Any) -> HttpBackend:
    options = {"model": "faults", "profile": "openai-generic", "retries": Retries(first_wait=0.001), **options}
    return HttpBackend(url, **options)


def calling(*deltas: dict[str, Any], reason: str = "tool_calls") -> list[Any]:
    return [*(honest.delta({"tool_calls": [delta]}) for delta in deltas), honest.delta({}, reason)]


def delta(name: str | None = None, arguments: Any = None, **fields: Any) -> dict[str, Any]:
    return {**fields, "function": {"name": name, "arguments": arguments}}


def read(*deltas: dict[str, Any], cut: bool = False, whole: bool = False, tools: Any = (F, G)) -> list[ToolCall]:
    reader = ToolCallReader(tools)
    for one in deltas:
        reader.add([one], whole=whole)
    return [event.call for event in reader.ready(cut=cut) if isinstance(event, ToolCallReady)]


def parts(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    return [text[low:high] for low, high in pairwise(edges)]


@pytest.mark.parametrize(("words", "limit", "prompt", "asked"), OVERFLOWS)
def test_real_servers_01_the_counts_of_an_overflow_are_read_by_their_role(
    words: str, limit: int, prompt: int, asked: int | None
) -> None:
    overflow = overflow_of(words, "", {})
    assert overflow is not None
    assert (overflow.limit, overflow.prompt, overflow.asked) == (limit, prompt, asked)
    error = error_for_status(400, {}, json.dumps({"object": "error", "message": words}).encode(), Sent("r"))
    assert isinstance(error, ContextOverflow)
    assert (error.limit, error.prompt_tokens) == (limit, prompt)
    assert ("shorten" in str(error)) == (prompt >= limit)
    assert ("max_tokens" in str(error)) == (prompt < limit)


async def test_real_servers_01_an_overflow_names_what_is_too_large_on_the_wire() -> None:
    async with FaultServer() as server:
        backend = remote(server.url_for("max_tokens_overflow"))
        error = (await ask(backend)).error
        assert isinstance(error, ContextOverflow)
        assert (error.limit, error.prompt_tokens) == (6048, 568)
        assert "max_tokens=5480" in str(error)
        await backend.aclose()
        backend = remote(server.url_for("overflow_fields"))
        error = (await ask(backend)).error
        assert isinstance(error, ContextOverflow)
        assert (error.limit, error.prompt_tokens) == (8192, 9000)
        await backend.aclose()


def test_real_servers_02_deltas_never_give_one_calls_arguments_to_another() -> None:
    a, b = '{"city": "A"}', '{"city": "B"}'
    two = [("f", {"city": "A"}), ("g", {"city": "B"})]
    for deltas, whole in (
        ([delta("f", a, index=0), delta("g", b, index=0)], False),
        ([delta("f", a, index=0, id="x"), delta("g", b, index=1, id="x")], False),
        ([delta("f", a, id="x"), delta("g", b, id="x")], True),
        ([delta("f", a, id="x"), delta("g", b, id="x")], False),
        ([delta("f", a), delta("g", b)], False),
        ([delta("f", None, index=0, id="x"), delta("g", None, index=1, id="x"), delta(None, a, index=0),
          delta(None, b, index=1)], False),
    ):  # fmt: skip
        calls = read(*deltas, whole=whole)
        assert [(call.name, call.arguments) for call in calls] == two
        assert len({call.id for call in calls if call.id}) == len([call for call in calls if call.id])
    same = read(delta("f", a, index=0), delta("f", b, index=0))
    assert [call.arguments["city"] for call in same] == ["A", "B"]


@given(st.lists(st.integers(0, 40), max_size=6), st.booleans(), st.booleans())
def test_real_servers_02_names_late_in_pieces_or_repeated(places: list[int], repeated: bool, with_id: bool) -> None:
    tools = (ToolSpec("get_weather"), ToolSpec("get"))
    fields: dict[str, Any] = {"index": 0, "id": "x"} if with_id else {"index": 0}
    texts = parts('{"city": "Paris", "n": 1}', places)
    call = [
        delta("get_weather" if repeated or not number else None, text, **fields) for number, text in enumerate(texts)
    ]
    for deltas in (
        call,
        [{"index": 0, "id": "x"}, *call],
        [delta("get_", "", **fields), delta("weather", None, index=0)],
    ):
        (made,) = read(*deltas, tools=tools)
        assert made.name == "get_weather"
        assert made.problem is None
    (made,) = read(*call, tools=tools)
    assert made.arguments == {"city": "Paris", "n": 1}


@pytest.mark.parametrize("arguments", [None, "", '{"ci', '{"city": "Par'])
async def test_real_servers_02_a_call_that_was_cut_never_runs(arguments: str | None) -> None:
    async with Answering(calling(delta("f", arguments, index=0, id="a"), reason="length")) as server:
        backend = remote(server.url)
        reply = (await ask(backend, Request(conversation("Hello!"), tools=(F,)))).reply
        assert (reply.tool_calls, reply.finish_reason) == ((), "length")
        await backend.aclose()


@pytest.mark.parametrize("arguments", ['{"city": "x",}', '{"city": "x', '{"city": "a\nb"}', "[1]", "5", '{"n": 1e999}'])
async def test_real_servers_03_the_model_is_told_of_unreadable_arguments_and_the_run_goes_on(arguments: str) -> None:
    ran: list[str] = []

    def f(city: str = "") -> str:
        """Take a city."""
        ran.append(city)
        return "done"

    async with Answering(calling(delta("f", arguments, index=0, id="a"))) as server:
        async with Llama4(remote(server.url)) as llama:
            run = await llama.run("Hello!", tools=[f])
        assert run.stopped == "answered"
        assert ran == []
        asked, told = server.received[-1].json["messages"][-2:]
        assert json.loads(asked["tool_calls"][0]["function"]["arguments"]) == {}
        assert told["tool_call_id"] == "a"
        assert "could not be read" in told["content"]


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ("null", {}),
        ("  \n", {}),
        (None, {}),
        (json.dumps('{"city": "Rome"}'), {"city": "Rome"}),
        ('{"tags": "[1, 2]"}', {"tags": [1, 2]}),
        ({"city": "Rome"}, {"city": "Rome"}),
        ('{"city": "a\\ud83d"}', {"city": "a\ufffd"}),
    ],
)
async def test_real_servers_03_odd_arguments_are_mended(arguments: Any, value: dict[str, Any]) -> None:
    async with Answering(calling(delta("f", arguments, index=0, id="a"))) as server:
        backend = remote(server.url)
        reply = (await ask(backend, Request(conversation("Hello!"), tools=(F,)))).reply
        assert [(call.arguments, call.problem) for call in reply.tool_calls] == [(value, None)]
        again = Request((*conversation("Hello!"), reply.message, *conversation("And?")))
        assert (await ask(backend, again)).error is None  # nothing poisons the next request
        await backend.aclose()


@given(st.text(max_size=12), st.lists(st.integers(0, 40), max_size=12))
def test_real_servers_03_surrogate_pairs_are_joined_wherever_they_are_cut(text: str, places: list[int]) -> None:
    units = text.encode("utf-16-le", "surrogatepass")
    halves = "".join(units[place : place + 2].decode("utf-16-le", "surrogatepass") for place in range(0, len(units), 2))
    joiner = SurrogateJoiner()
    joined = "".join(joiner.feed(part) for part in parts(halves, places)) + joiner.close()
    assert joined == units.decode("utf-16-le", "replace")
    assert joined.encode().decode() == joined  # no surrogate is left


@pytest.mark.parametrize("name", ["reason_tool_calls_without_call", "body_without_reason", "body_with_unknown_reason"])
async def test_real_servers_04_a_complete_answer_without_a_call_ends_with_stop(name: str) -> None:
    async with FaultServer() as server:
        backend = remote(server.url_for(name))
        reply = (await ask(backend)).reply
        assert (reply.text, reply.finish_reason) == (GREETING, "stop")
        await backend.aclose()


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
