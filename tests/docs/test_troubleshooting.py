"""Every error that the page on troubleshooting shows is raised, word for word."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import sys
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import BaseModel

import llama4_local
from llama4_http import Retries
from llama4_local.checkpoint.hub import HubName, download
from llama4sdk import Deadlines, Image, Llama4, LlamaError, Sampling, UserMessage
from llama4sdk.server import create_app, running
from llama4sdk.testing import ScriptedBackend
from llama4sdk.testing.faults import FaultServer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"
SCOUT = "meta-llama/Llama-4-Scout-17B-16E-Instruct"
SHOWN = re.findall(r"^```text\n(\w+: .*?)\n```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


class Person(BaseModel):
    name: str
    age: int


def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return city


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nano() -> AsyncGenerator[Llama4]:
    async with Llama4("local") as llama:
        yield llama


class Scene:
    """What an error is raised with.

    Args:
        nano: A client that runs.
        monkeypatch: For what this machine has.
    """

    def __init__(self, nano: Llama4, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nano = nano
        self.setattr = monkeypatch.setattr


Raising = Callable[[Scene], Awaitable[object]]


async def ask(backend: Any, prompt: Any = "Hello!", *, opened: dict[str, Any] | None = None, **options: Any) -> None:
    async with Llama4(backend, **(opened or {})) as llama:
        await llama.chat(prompt, **options)


async def ask_fault(fault: str, **options: Any) -> None:
    async with FaultServer() as server:
        backend = server.url_for(fault)
        await ask(
            backend, opened={"model": "faults", "retries": Retries(times=0)}, deadlines=Deadlines(total=5), **options
        )


async def without_torch(scene: Scene) -> None:
    def no_torch(name: str) -> object:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    scene.setattr(llama4_local, "import_module", no_torch)
    _ = llama4_local.LocalBackend


async def in_another_loop(scene: Scene) -> None:
    await asyncio.to_thread(asyncio.run, scene.nano.chat("Hello!"))


async def dropped(_: Scene) -> None:
    with unraisable() as caught:
        backend = ScriptedBackend("Hello!")
        llama = Llama4(backend)
        await llama.start()
        del llama
        gc.collect()
        await backend.aclose()
    raise caught[0]


async def dropped_stream(_: Scene) -> None:
    async with Llama4(ScriptedBackend("Hello!")) as llama:
        with unraisable() as caught:
            stream = await llama.stream("Hello?").__aenter__()
            del stream
            gc.collect()
    raise caught[0]


@contextmanager
def unraisable() -> Generator[list[BaseException]]:
    """Take down what finalizers warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        hook, caught = sys.unraisablehook, list[BaseException]()
        sys.unraisablehook = lambda raised: caught.append(raised.exc_value or BaseException())
        try:
            yield caught
        finally:
            sys.unraisablehook = hook


async def gated(scene: Scene) -> None:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def refuse(*_: Any, **__: Any) -> None:
        answer: Any = httpx.Response(403, request=httpx.Request("GET", "https://hub"))
        raise GatedRepoError("gated", response=answer)

    scene.setattr(huggingface_hub, "snapshot_download", refuse)
    download(HubName(SCOUT))


async def port_taken(_: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        async with (
            Llama4(ScriptedBackend("Hello!")) as llama,
            running(create_app(llama), port=other.getsockname()[1]),
        ):
            pass


def chat(backend: Any, *arguments: Any, **options: Any) -> Raising:
    return lambda _: ask(backend, *arguments, **options)


def chat_with_nano(prompt: Any) -> Raising:
    return lambda scene: scene.nano.chat(prompt)


def fault(name: str, **options: Any) -> Raising:
    return lambda _: ask_fault(name, **options)


TOP_K = {"sampling": Sampling(top_k=5)}
PAUSED = ScriptedBackend([1.0, "late"])
# In the order of the page.
RAISED: tuple[Raising, ...] = (
    chat("loca"),
    without_torch,
    chat("local", opened={"quantise": "int4"}),
    lambda _: Llama4().chat("Hello!"),
    in_another_loop,
    dropped,
    dropped_stream,
    chat("local:/models/scout"),
    gated,
    chat("local", opened={"memory": "20MB"}),
    chat("http://127.0.0.1:9/v1", opened={"model": "scout", "retries": Retries(times=0)}),
    fault("status_401"),
    fault("html_200"),
    chat("http://127.0.0.1:9/v1", opened={"model": "scout", "profile": "transformers"}, **TOP_K),
    fault("auto_tool_choice", tools=[get_weather]),
    fault("reset_mid_stream"),
    fault("status_429"),
    chat_with_nano("word " * 20_000),
    chat(PAUSED, deadlines=Deadlines(first_token=0.01)),
    chat(ScriptedBackend("Ada is 36."), output=Person),
    chat_with_nano([UserMessage([*[Image(b"x")] * 20, "What is in these?"])]),
    chat_with_nano([UserMessage([Image("https://example.org/cat.png"), "What is it?"])]),
    chat_with_nano([UserMessage([Image("nope.png"), "What is it?"])]),
    port_taken,
)


def test_the_page_shows_as_many_errors_as_are_raised_here() -> None:
    assert len(SHOWN) == len(RAISED)


@pytest.mark.parametrize("place", range(len(SHOWN)), ids=[shown.partition(" ")[0] for shown in SHOWN])
@pytest.mark.asyncio(loop_scope="module")
async def test_the_error_is_raised_word_for_word(place: int, nano: Llama4, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((LlamaError, ResourceWarning)) as raised:
        await RAISED[place](Scene(nano, monkeypatch))
    told = f"{type(raised.value).__name__}: {raised.value}"
    pattern = re.escape(SHOWN[place]).replace("…", ".*")
    assert re.fullmatch(pattern, told, re.DOTALL), told
