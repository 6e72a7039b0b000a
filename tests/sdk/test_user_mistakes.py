"""Mistakes that callers make: each is an `InvalidRequest` (or `BackendMissing`) at once, with the way out in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from llama4sdk import BackendMissing, Deadlines, Image, InvalidRequest, Llama4, Request, Sampling, UserMessage
from llama4sdk.messages import conversation
from llama4sdk.testing import ScriptedBackend

MESSAGES = conversation("hello")


@pytest.mark.parametrize(
    ("wrong", "way_out"),
    [
        ({"sampling": {"temperature": 1}}, "Sampling"),
        ({"deadlines": 5}, "Deadlines"),
        ({"tool_choice": None}, "leave it out"),
        ({"tool_choice": 7}, "auto"),
        ({"temperature": 0.5}, r"sampling=Sampling\(temperature="),
        ({"total": 5}, r"deadlines=Deadlines\(total="),
        ({"tool": []}, "Did you mean 'tools'"),
        ({"max_token": 5}, "There are: "),
    ],
)
async def test_a_wrong_argument_of_chat_names_the_right_one(wrong: dict[str, Any], way_out: str) -> None:
    async with Llama4(ScriptedBackend("hi")) as llama:
        with pytest.raises(InvalidRequest, match=way_out):
            await llama.chat("hello", **wrong)
        with pytest.raises(InvalidRequest, match=way_out):
            llama.stream("hello", **wrong)


async def test_a_wrong_option_of_run_names_the_right_one() -> None:
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    options: dict[str, Any] = {"max_round": 3}
    async with Llama4(ScriptedBackend("hi")) as llama:
        with pytest.raises(InvalidRequest, match="Did you mean 'max_rounds'"):
            await llama.run("hello", tools=[add], **options)


@pytest.mark.parametrize(
    ("make", "way_out"),
    [
        (lambda: Sampling(stop=None), "leave it out"),  # type: ignore[arg-type] # pyright: ignore
        (lambda: Sampling(min_tokens=None), "leave it out"),  # type: ignore[arg-type] # pyright: ignore
        (lambda: Sampling(top_k=2**63), "2147483647"),
        (lambda: Sampling(repetition_penalty=1e-320), "0.01"),
        (lambda: Deadlines(total=10**400), "finite"),
        (lambda: Request(MESSAGES, cache_salt="\ud800"), "surrogate"),
        (lambda: Request(MESSAGES, cache_salt=7), "text"),  # type: ignore[arg-type] # pyright: ignore
        (lambda: Request(MESSAGES, priority=None), "whole number"),  # type: ignore[arg-type] # pyright: ignore
        (lambda: Request(MESSAGES, priority="high"), "whole number"),  # type: ignore[arg-type] # pyright: ignore
    ],
)
def test_a_wrong_value_is_refused_where_it_is_made(make: Any, way_out: str) -> None:
    with pytest.raises(InvalidRequest, match=way_out):
        make()


@pytest.mark.parametrize(
    ("target", "way_out"),
    [
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "local:meta-llama/"),
        ("/models/scout", "local:/models/scout"),
        ("~/models/scout", "local:~/models/scout"),
        ("./scout", "local:./scout"),
        ("scout", "local:"),
        ("locale", "'local'"),
        ("htp://127.0.0.1:8000/v1", "installed: http, https, local"),
    ],
)
def test_a_target_without_a_scheme_shows_the_right_spelling(target: str, way_out: str) -> None:
    with pytest.raises(BackendMissing, match=way_out):
        Llama4(target)


@pytest.mark.parametrize(
    ("target", "option", "way_out"),
    [
        ("local", "quantise", "Did you mean 'quantize'"),
        ("local", "temperature", "There are: "),
        ("http://127.0.0.1:9/v1", "modle", "Did you mean 'model'"),
        ("http://127.0.0.1:9/v1", "apikey", "Did you mean 'api_key'"),
        ("http://127.0.0.1:9/v1", "nonsense", "api_key.*model"),
    ],
)
def test_a_misspelt_option_names_the_nearest_and_lists_all(target: str, option: str, way_out: str) -> None:
    options: dict[str, Any] = {option: 1}
    with pytest.raises(InvalidRequest, match=way_out):
        Llama4(target, **options)


async def test_a_pil_image_or_a_path_beside_text_is_an_image(tmp_path: Path) -> None:
    pixels = Pillow.new("RGB", (8, 8), "red")
    pixels.save(path := tmp_path / "red.png")
    for source in (pixels, path):
        message = UserMessage([source, "What is this?"])  # type: ignore[list-item] # pyright: ignore
        assert isinstance(message.content[0], Image)
        backend = ScriptedBackend("red")
        async with Llama4(backend) as llama:
            await llama.chat([{"role": "user", "content": [source, "What is this?"]}])
        assert len(backend.requests[0].messages[0].images) == 1


def test_the_default_deadlines_are_finite() -> None:
    assert Deadlines() == Deadlines(connect=10, first_token=600, idle=600, total=None)
    assert Deadlines(first_token=None, idle=None).idle is None


async def test_total_spans_all_tries_of_a_repaired_answer() -> None:
    from llama4sdk import DeadlineExceeded

    backend = ScriptedBackend(*[[0.4, "no json"]] * 9)
    async with Llama4(backend) as llama:
        with pytest.raises(DeadlineExceeded):
            await llama.chat("A number.", output=int, repair=5, deadlines=Deadlines(total=1.0))
    assert len(backend.requests) <= 3  # with a total of its own each of six tries would come to its end


@pytest.mark.parametrize(("kind", "wrong", "way_out"), [
    (Sampling, "temprature", "Did you mean 'temperature'"),
    (Sampling, "max_completion_tokens", "There are: .*max_tokens"),
    (Deadlines, "timeout", "There are: connect, first_token, idle, total"),
])  # fmt: skip
def test_a_field_that_does_not_exist_names_the_nearest(kind: Any, wrong: str, way_out: str) -> None:
    with pytest.raises(InvalidRequest, match=way_out):
        kind(**{wrong: 5})


async def test_a_time_limit_for_tools_is_a_number() -> None:
    async with Llama4(ScriptedBackend("hi")) as llama:
        with pytest.raises(InvalidRequest, match="tool_timeout"):
            await llama.run("hello", tools=[], tool_timeout=True)


@pytest.mark.parametrize("message", [{"role": "user"}, {"role": "user", "content": None}, {"role": "system"}])
def test_a_message_without_content_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="content"):
        conversation(message)
    assert conversation({"role": "assistant", "content": None})[0].text == ""


@pytest.mark.parametrize("source", ["", "  ", b""])
def test_an_empty_image_is_refused_at_once(source: Any) -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        Image(source)


@pytest.mark.parametrize(("target", "way_out"), [
    ("localhost:8000", "http://localhost:8000"), ("127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
    ("locl:scout", "Did you mean 'local'"), ("C:\\models\\scout", "local:C:"), (" http://h", "blanks"),
])  # fmt: skip
def test_a_target_without_a_scheme_is_told_its_probable_one(target: str, way_out: str) -> None:
    with pytest.raises(BackendMissing) as told:
        Llama4(target)
    assert way_out in str(told.value)


def test_telemetry_of_a_wrong_kind_and_a_second_address_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="telemetry"):
        Llama4(ScriptedBackend("hi"), telemetry=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="base_url"):
        Llama4("http://127.0.0.1:1/v1", base_url="http://127.0.0.1:1/v1")
