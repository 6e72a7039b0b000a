"""Messages accept objects and the familiar dicts, and refuse nonsense with one kind of error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama4sdk import (
    AssistantMessage,
    Image,
    InvalidRequest,
    SystemMessage,
    Text,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from llama4sdk.messages import conversation, message_of, part_of

DATA_URL = "data:image/png;base64,AAAA"


def test_a_string_is_one_user_message() -> None:
    assert conversation("Hello") == (UserMessage("Hello"),)


def test_a_single_dict_is_one_message() -> None:
    assert conversation({"role": "system", "content": "Be brief."}) == (SystemMessage("Be brief."),)


def test_a_conversation_mixes_dicts_and_objects() -> None:
    messages = conversation([{"role": "user", "content": "a"}, AssistantMessage("b"), {"role": "user", "content": "c"}])
    assert [message.role for message in messages] == ["user", "assistant", "user"]
    assert [message.text for message in messages] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("plain", Text("plain")),
        (Text("x"), Text("x")),
        ({"type": "text", "text": "x"}, Text("x")),
        ({"type": "image_url", "image_url": {"url": DATA_URL}}, Image(DATA_URL)),
        ({"type": "image_url", "image_url": {"url": DATA_URL, "detail": "high"}}, Image(DATA_URL)),
        ({"type": "image_url", "image_url": DATA_URL}, Image(DATA_URL)),
        ({"type": "image", "image": b"bytes"}, Image(b"bytes")),
        ({"type": "image", "path": "cat.png"}, Image("cat.png")),
        ({"type": "image", "url": "https://host/cat.png", "fetch": True}, Image("https://host/cat.png", fetch=True)),
    ],
)
def test_a_part_may_be_written_in_each_familiar_way(written: object, meant: Text | Image) -> None:
    assert part_of(written) == meant


def test_content_may_be_a_list_of_strings_parts_and_dicts() -> None:
    message = UserMessage([Image("cat.png"), "What", {"type": "text", "text": " is this?"}])
    assert message.text == "What is this?"
    assert message.images == (Image("cat.png"),)


def test_one_part_alone_is_content_too() -> None:
    assert UserMessage(Image(Path("cat.png"))).images == (Image(Path("cat.png")),)


def test_tool_calls_come_in_the_familiar_form_with_arguments_as_json_text() -> None:
    message = message_of(
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}},
                {"name": "now", "arguments": {}},
            ],
        }
    )
    assert isinstance(message, AssistantMessage)
    assert message.tool_calls == (ToolCall("get_weather", {"city": "Paris"}, "c1"), ToolCall("now"))


def test_a_tool_result_keeps_its_call_id() -> None:
    assert message_of({"role": "tool", "content": "21", "tool_call_id": "c1"}) == ToolMessage("21", tool_call_id="c1")


def test_messages_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        UserMessage("a").content = "b"  # type: ignore[misc]


def test_bytes_that_may_still_change_are_copied() -> None:
    data = bytearray(b"abc")
    image = Image(data)
    data[0] = 0
    assert image.source == b"abc"


def test_the_url_of_a_remote_image_is_known() -> None:
    assert Image("HTTPS://host/x.png").url == "HTTPS://host/x.png"
    assert Image("x.png").url is None


def nested(depth: int) -> list[Any]:
    """A list in a list, and so on."""
    outer: list[Any] = []
    for _ in range(depth):
        outer = [outer]
    return outer


REFUSED: dict[str, Callable[[], object]] = {
    "a number as content": lambda: UserMessage(3),  # type: ignore[arg-type]
    "bytes as content": lambda: UserMessage(b"x"),  # type: ignore[arg-type]
    "an unknown field": lambda: message_of({"role": "user", "content": "x", "colour": "red"}),
    "an unknown role": lambda: message_of({"role": "narrator", "content": "x"}),
    "no role": lambda: message_of({"content": "x"}),
    "a message that is none": lambda: conversation([3]),  # type: ignore[list-item]
    "an empty conversation": lambda: conversation([]),
    "an unknown part": lambda: part_of({"type": "video", "video": "x"}),
    "an image without a source": lambda: part_of({"type": "image"}),
    "an image with two sources": lambda: part_of({"type": "image", "path": "a", "url": "b"}),
    "an image_url that is a path": lambda: part_of({"type": "image_url", "image_url": {"url": "/etc/passwd"}}),
    "an image of a number": lambda: Image(3),
    "an image in a system message": lambda: SystemMessage([Image("x.png")]),
    "an image in an assistant message": lambda: AssistantMessage([Image("x.png")]),
    "tool calls that are text": lambda: message_of({"role": "assistant", "tool_calls": "f()"}),
    "arguments that are no object": lambda: ToolCall("f", "[1]"),
    "arguments that are no JSON": lambda: ToolCall("f", "{"),
    "an array without an axis as content": lambda: UserMessage(np.array(3)),  # type: ignore[arg-type]
    "an array without an axis as calls": lambda: AssistantMessage("x", tool_calls=np.array(3)),
    "a key that is a number": lambda: message_of({"role": "user", "content": "x", 1: 2}),
    "a key named self": lambda: message_of({"role": "user", "content": "x", "self": 1}),
    "an endless key": lambda: message_of({"role": "user", "content": "x", "k" * 10_000: 1}),
    "an endless number as a tool's name": lambda: ToolCall(10**5000),  # type: ignore[arg-type]
    "a truth value as a tool's name": lambda: ToolMessage("x", name=True),  # type: ignore[arg-type]
    "an endless list as a tool's name": lambda: ToolMessage("x", name=nested(5000)),  # type: ignore[arg-type]
    "an endless number as a role": lambda: message_of({"role": 10**5000, "content": "x"}),
    "an endless number as a part": lambda: UserMessage([{"type": 10**5000}]),
    "a prompt of bytes": lambda: conversation(b"x"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", REFUSED)
def test_nonsense_is_refused(what: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        REFUSED[what]()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["a b", "", "f<|eot|>", "1f", "x" * 65, "f\n", "fé"])
def test_fault_43_control_text_in_a_tool_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        ToolCall(name)


def test_fault_43_control_text_in_a_role_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="role"):
        message_of({"role": "user<|header_end|>", "content": "x"})


def in_a_list(text: str) -> UserMessage:
    return UserMessage([text])


@pytest.mark.parametrize("make", [UserMessage, Text, in_a_list, ToolMessage])
def test_fault_44_a_lone_surrogate_is_refused(make: Callable[[str], object]) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        make("abc\ud800def")


def test_a_refusal_does_not_repeat_what_was_written() -> None:
    with pytest.raises(InvalidRequest) as caught:
        message_of({"role": "user", "content": "x", "extra": "my-secret"})
    assert "my-secret" not in str(caught.value)
