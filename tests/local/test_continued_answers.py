"""Answers that the local backend continues behind their beginning: the same tokens as without a cut."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from llama4_local import LocalBackend
from llama4sdk.events import Done, Event, TextDelta, Usage
from llama4sdk.messages import conversation
from llama4sdk.request import OutputSpec, Request, Sampling, ToolSpec
from long_runs import often

GREEDY = Sampling(temperature=0, max_tokens=40)
TOOL = ToolSpec(
    "get_weather",
    "The weather in a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture
async def nano() -> AsyncGenerator[LocalBackend]:
    backend = LocalBackend()
    await backend.start()
    yield backend
    await backend.aclose()


async def events_of(backend: LocalBackend, request: Request) -> list[Event]:
    async with backend.open(request) as events:
        return [event async for event in events]


def texts_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, TextDelta)]


def usage_of(events: list[Event]) -> Usage:
    done = events[-1]
    assert isinstance(done, Done)
    assert done.usage is not None
    return done.usage


REQUESTS = [
    Request(conversation("Tell me about yourself."), sampling=GREEDY),
    Request(conversation("Count from 1 to 40."), sampling=Sampling(temperature=1.0, seed=3, max_tokens=40)),
    Request(conversation("What is 17 + 25?"), sampling=replace(GREEDY, presence_penalty=1.0, repetition_penalty=1.2)),
    Request(conversation("What is the weather in Paris?"), (TOOL,), "required", sampling=GREEDY),
    Request(conversation("Ada is 36."), output=OutputSpec(SCHEMA), sampling=GREEDY),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=["greedy", "sampled", "penalized", "called", "typed"])
async def test_an_answer_cut_anywhere_goes_on_as_if_it_were_not(nano: LocalBackend, request_: Request) -> None:
    whole = await events_of(nano, request_)
    texts = texts_of(whole)
    for place in range(1, len(texts), often(6, 1)):
        begun = "".join(texts[:place])
        left = replace(request_.sampling, max_tokens=40 - place)
        rest = await events_of(nano, replace(request_, answer_so_far=begun, sampling=left))
        assert begun + "".join(texts_of(rest)) == "".join(texts)
        assert usage_of(rest).total_tokens == usage_of(whole).total_tokens


async def test_the_tokens_of_the_beginning_belong_to_the_prompt_and_never_count_as_written(nano: LocalBackend) -> None:
    request = Request(conversation("Count from 1 to 40."), sampling=replace(GREEDY, max_tokens=5))
    plain = usage_of(await events_of(nano, request))
    going_on = usage_of(await events_of(nano, replace(request, answer_so_far="1, 2, 3")))
    assert (plain.completion_tokens, going_on.completion_tokens) == (5, 5)
    begun = len(nano.prompt_template.tokenizer.encode("1, 2, 3"))
    assert going_on.prompt_tokens == plain.prompt_tokens + begun


async def test_min_tokens_counts_further_tokens(nano: LocalBackend) -> None:
    request = Request(conversation("What is 17 + 25?"), sampling=replace(GREEDY, min_tokens=12, max_tokens=12))
    usage = usage_of(await events_of(nano, replace(request, answer_so_far="17 + 25 = 42.")))
    assert usage.completion_tokens == 12


@pytest.mark.parametrize("stop", ["8, 9", ", 9", "9"])
async def test_a_stop_string_is_found_across_the_cut_and_its_beginning_is_not_shown_again(
    nano: LocalBackend, stop: str
) -> None:
    request = Request(conversation("Count from 1 to 40."), sampling=replace(GREEDY, stop=stop))
    whole = "".join(texts_of(await events_of(nano, request)))
    begun = "1, 2, 3, 4, 5, 6, 7, 8"
    rest = "".join(texts_of(await events_of(nano, replace(request, answer_so_far=begun))))
    assert begun + rest in (whole, begun)  # what was shown of it before stays shown


async def test_the_name_of_a_special_token_in_a_beginning_stays_text_and_marks_of_calls_are_marks(
    nano: LocalBackend,
) -> None:
    from llama4sdk.prompting.answer_ids import answer_ids

    tokenizer = nano.prompt_template.tokenizer
    for name in ("<|eot|>", "<|header_start|>", "<|begin_of_text|>", "<|image|>"):
        assert not set(answer_ids(tokenizer, f"a{name}b")) & set(tokenizer.specials.values())
    marked = answer_ids(tokenizer, "<|python_start|>[f(a=1)]<|python_end|>")
    assert (marked[0], marked[-1]) == (tokenizer.special("<|python_start|>"), tokenizer.special("<|python_end|>"))
