"""Real servers: overflows, tool calls, their arguments and finish reasons, on the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from http_asking import ask
from http_real_servers import Answering, F, calling, delta, parts, read, remote
from llama4_http.errors import Sent, error_for_status
from llama4_http.overflow import overflow_of
from llama4_http.surrogates import SurrogateJoiner
from llama4sdk import Llama4
from llama4sdk.errors import (
    ContextOverflow,
)
from llama4sdk.messages import conversation
from llama4sdk.request import Request, ToolSpec
from llama4sdk.testing.faults import FaultServer

GREETING = "Héllo 👋, you said: Hello!"


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
    ("This model's maximum context length is 8192 tokens. However, your messages resulted in 9123 tokens (9000 in the "
     "messages, 123 in the functions).", 8192, 9123, None),
    ("Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192",
     8192, 9000, None),
    ("Prompt has 9,000 tokens, but the context window is 8,192 tokens", 8192, 9000, None),
    ("The sum of prompt length (9000.0) and query length (0) should not exceed max_num_tokens (8192)",
     8192, 9000, None),
    ("Prompt length (9000) exceeds max input length (8192)", 8192, 9000, None),
    ("The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).", 1048576, 1200000, None),
    ("Token limit exceeded: requested 9000 tokens, maximum 8192", 8192, 9000, None),
]  # fmt: skip


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


@pytest.mark.parametrize("words", [
    "Request too large for model `llama` on tokens per minute (TPM): Limit 6000, Requested 9000",
    "You exceeded your rate limit of 8,192 tokens; you requested 9000 tokens of context length 8192.",
    "Quota exceeded: context length 9000 tokens, 8192 tokens left today.",
])  # fmt: skip
def test_real_servers_01_a_limit_of_a_rate_is_no_overflow(words: str) -> None:
    assert overflow_of(words, "", {}) is None


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
