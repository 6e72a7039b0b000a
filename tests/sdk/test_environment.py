"""The backend that the environment names, and a client that is started without a block."""

from __future__ import annotations

import json

import pytest

from llama4sdk import InvalidRequest, Llama4
from llama4sdk.environment import backend_named, options_in
from llama4sdk.testing import ScriptedBackend

SERVER = "http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, ("local", {})),
        ({"LLAMA4_BACKEND": " "}, ("local", {})),
        ({"LLAMA4_API_KEY": "secret", "LLAMA4_MODEL": "m"}, ("local", {})),
        (
            {"LLAMA4_BACKEND": SERVER, "LLAMA4_API_KEY": "secret", "LLAMA4_MODEL": "m"},
            (SERVER, {"api_key": "secret", "model": "m"}),
        ),
        ({"LLAMA4_OPTIONS": "quantize=int4, context=8192"}, ("local", {"quantize": "int4", "context": 8192})),
        ({"LLAMA4_OPTIONS": '{"prefix_caching": false}'}, ("local", {"prefix_caching": False})),
        ({"LLAMA4_BACKEND": SERVER, "LLAMA4_MODEL": "m", "LLAMA4_OPTIONS": "model=n"}, (SERVER, {"model": "n"})),
    ],
)
def test_the_environment_names_backend_and_options(
    environ: dict[str, str], named: tuple[str, dict[str, object]]
) -> None:
    assert backend_named(environ) == named


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", {}),
        ("a=True,b=none,c=1.5,d=16GB", {"a": True, "b": "none", "c": 1.5, "d": "16GB"}),
        ("max-sequences=3", {"max_sequences": 3}),
        ("memory=None", {"memory": None}),
        ('name="8192"', {"name": "8192"}),
        ("url=http://host/?a=b", {"url": "http://host/?a=b"}),
    ],
)
def test_options_are_written_as_names_and_values(text: str, options: dict[str, object]) -> None:
    assert options_in(text) == options


@pytest.mark.parametrize("text", ["quantize", "=3", "a b=3", "{", '{"a": 1'])
def test_options_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        options_in(text)


async def test_options_in_the_call_go_before_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA4_OPTIONS", json.dumps({"context": 64, "max_sequences": 2}))
    async with Llama4(context=128) as llama:
        await llama.ready()
        assert llama.capabilities.context == 128


def test_a_named_backend_gets_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA4_OPTIONS", "no_such_option=1")
    Llama4("local")
    with pytest.raises(InvalidRequest, match="no_such_option"):
        Llama4()


async def test_a_client_is_started_without_a_block() -> None:
    llama = Llama4(ScriptedBackend("Hello!"))
    await llama.start()
    await llama.start()
    await llama.ready()
    assert (await llama.chat("a")).text == "Hello!"
    await llama.aclose()
    with pytest.raises(InvalidRequest, match="closed"):
        await llama.start()


async def test_a_started_client_may_be_entered_once() -> None:
    llama = Llama4(ScriptedBackend("Hello!"))
    await llama.ready()
    async with llama:
        assert llama.started
        with pytest.raises(InvalidRequest, match="once"):
            await llama.__aenter__()
    with pytest.raises(InvalidRequest, match="closed"):
        await llama.chat("a")


async def test_nano_is_ready_once_it_is_loaded() -> None:
    async with Llama4("local") as llama:
        await llama.ready()
        assert llama.backend.current_load.ready  # type: ignore[attr-defined]
