"""Requests are frozen and complete, and refuse what no backend could serve."""

from __future__ import annotations

import itertools
import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from llama4sdk import (
    AssistantMessage,
    Deadlines,
    InvalidRequest,
    Request,
    Sampling,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)
from llama4sdk.messages import Message

SYSTEM, USER, ASSISTANT = SystemMessage("s"), UserMessage("u"), AssistantMessage("a")
CALLS, RESULT = AssistantMessage("", tool_calls=[ToolCall("f")]), ToolMessage("r")


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": math.nan},
        {"temperature": -0.1},
        {"temperature": math.inf},
        {"temperature": "hot"},
        {"temperature": True},
        {"top_p": 0},
        {"top_p": 1.01},
        {"top_k": -1},
        {"top_k": 1.5},
        {"min_p": 1.1},
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": 1e9},
        {"min_tokens": -1},
        {"min_tokens": 5, "max_tokens": 4},
        {"stop": ""},
        {"stop": ["a"] * 65},
        {"stop_token_ids": [-1]},
        {"stop_token_ids": range(10**9)},
        {"logit_bias": itertools.repeat((1, 1.0))},
        {"seed": 2**63},
        {"repetition_penalty": 0},
        {"presence_penalty": 2.1},
        {"frequency_penalty": math.nan},
        {"logprobs": 21},
    ],
    ids=str,
)
def test_fault_58_sampling_refuses_what_is_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(wrong))):
        Sampling(**wrong)


def test_one_stop_string_may_stand_alone() -> None:
    assert Sampling(stop="END").stop_strings == ("END",)


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, "soon"])
def test_deadlines_are_positive_finite_numbers(wrong: Any) -> None:
    with pytest.raises(InvalidRequest, match="total"):
        Deadlines(total=wrong)


@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [SYSTEM, USER],
        [USER, USER],
        [USER, ASSISTANT, USER],
        [USER, CALLS, RESULT],
        [USER, CALLS, RESULT, RESULT],
        [USER, CALLS, RESULT, USER],
        [SYSTEM, USER, CALLS, RESULT, ASSISTANT, USER],
    ],
)
def test_conversations_as_models_know_them_are_taken(messages: list[Message]) -> None:
    assert Request(tuple(messages)).messages == tuple(messages)


@pytest.mark.parametrize(
    ("messages", "at"),
    [
        ([USER, SYSTEM, USER], 1),
        ([SYSTEM, SYSTEM, USER], 1),
        ([ASSISTANT, USER], 0),
        ([SYSTEM, ASSISTANT, USER], 1),
        ([USER, ASSISTANT, ASSISTANT, USER], 2),
        ([USER, RESULT], 1),
        ([USER, ASSISTANT, RESULT], 2),
    ],
)
def test_a_wrong_order_of_roles_names_the_message(messages: list[Message], at: int) -> None:
    with pytest.raises(InvalidRequest, match=f"Message {at} "):
        Request(tuple(messages))


@pytest.mark.parametrize("messages", [[USER, ASSISTANT], [SYSTEM]])
def test_the_last_word_is_not_the_models(messages: list[Message]) -> None:
    with pytest.raises(InvalidRequest, match="last message"):
        Request(tuple(messages))


def test_an_empty_conversation_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        Request(())


def test_fault_50_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="twice: f"):
        Request((USER,), tools=(ToolSpec("f"), ToolSpec("f")))


def test_the_chosen_tool_must_be_declared() -> None:
    with pytest.raises(InvalidRequest, match="tool_choice"):
        Request((USER,), tools=(ToolSpec("f"),), tool_choice="g")
    with pytest.raises(InvalidRequest, match="required"):
        Request((USER,), tool_choice="required")


def test_requests_are_frozen_and_have_names_of_their_own() -> None:
    one, other = Request((USER,)), Request((USER,))
    assert one.request_id != other.request_id
    with pytest.raises(FrozenInstanceError):
        one.priority = 1  # type: ignore[misc]
