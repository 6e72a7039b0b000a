"""The beginning of an answer over HTTP: sent where a server goes on with it, refused in words elsewhere."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama4_http.answer import AnswerReader
from llama4_http.errors import Sent
from llama4_http.outgoing import check, compose, continues
from llama4_http.profiles import PROFILES, profile_named
from llama4_http.settings import Settings
from llama4sdk.errors import InvalidRequest
from llama4sdk.events import Event, TextDelta
from llama4sdk.messages import conversation
from llama4sdk.request import OutputSpec, Request, Sampling
from llama4sdk.testing.faults import honest


def asked(begun: str, **fields: Any) -> Request:
    return Request(conversation("Hi"), answer_so_far=begun, **fields)


def body_of(request: Request, profile: str, **choices: Any) -> dict[str, Any]:
    settings = Settings(**choices)
    check(request, profile_named(profile), settings)
    return json.loads(compose(request, profile_named(profile), settings, model="m", prompt_ids=[1, 2]).body)


@pytest.mark.parametrize("profile", ["vllm", "sglang"])
def test_servers_with_the_field_get_the_beginning_as_the_last_message(profile: str) -> None:
    body = body_of(asked("One, two"), profile)
    assert body["messages"][-1] == {"role": "assistant", "content": "One, two"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


def test_a_server_that_goes_on_by_itself_gets_no_field() -> None:
    body = body_of(asked("One, two"), "llamacpp")
    assert body["messages"][-1] == {"role": "assistant", "content": "One, two"}
    assert "continue_final_message" not in body


def test_a_prefill_stands_before_the_beginning() -> None:
    assert body_of(asked(" one"), "vllm", prefill="Sure:")["messages"][-1]["content"] == "Sure: one"


@pytest.mark.parametrize("profile", ["openai-generic", "nim", "nvidia-catalog", "transformers"])
def test_servers_that_cannot_go_on_are_told_apart_before_anything_is_sent(profile: str) -> None:
    assert continues(profile_named(profile), Settings()) == "nothing"
    with pytest.raises(InvalidRequest, match=f"{profile} cannot go on"):
        body_of(asked("One"), profile)


@pytest.mark.parametrize("profile", ["vllm", "nim", "llamacpp", "sglang"])
def test_with_token_ids_every_server_that_takes_them_goes_on(profile: str) -> None:
    assert continues(profile_named(profile), Settings(prompt_mode="client")) == "text"


def test_behind_the_beginning_of_a_typed_answer_a_schema_field_would_ask_for_a_second_one() -> None:
    with pytest.raises(InvalidRequest, match="typed answer"):
        body_of(asked('{"a"', output=OutputSpec({"type": "object"})), "vllm")


def test_a_seed_does_not_repeat_its_draws_behind_a_beginning() -> None:
    seeds = {body_of(asked(begun, sampling=Sampling(seed=7)), "vllm")["seed"] for begun in ("", "One", "One, two")}
    assert len(seeds) == 3
    assert 7 in seeds


def test_no_profile_is_left_out() -> None:
    assert {continues(profile, Settings()) for profile in PROFILES.values()} <= {"nothing", "text", "everything"}


def read(parts: list[str], repeated: str) -> str:
    out: deque[Event] = deque()
    reader = AnswerReader(Sent("r", b"", ""), out, repeated=repeated)
    for part in parts:
        reader.feed(honest.event(honest.delta({"content": part})))
    reader.feed(honest.event(honest.delta({}, "stop")))
    return "".join(event.text for event in out if isinstance(event, TextDelta))


@given(st.text(" \n", min_size=1, max_size=4), st.text("ab \n", min_size=1, max_size=8), st.data())
def test_white_space_at_the_end_of_a_beginning_is_sent_by_the_model_and_shown_once(
    blank: str, rest: str, data: st.DataObject
) -> None:
    sent = body_of(asked("One," + blank), "vllm")["messages"][-1]["content"]
    assert sent == "One,"
    answer = blank + rest
    cuts = sorted(data.draw(st.sets(st.integers(1, len(answer) - 1)))) if len(answer) > 1 else []
    parts = [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    assert read(parts, blank) == rest


def test_an_answer_that_goes_on_otherwise_is_shown_whole() -> None:
    assert read(["b", "c"], " ") == "bc"
