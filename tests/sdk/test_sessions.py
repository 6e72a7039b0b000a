"""Sessions above the seam: what the client asks of a backend, and what it says where there is nothing to ask."""

from __future__ import annotations

import os
import runpy
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import cast

import pytest

from llama4_http import HttpBackend
from llama4sdk import Backend, Event, InvalidRequest, Llama4, Request, Sampling, UserMessage
from llama4sdk.backend import KeepsSessions
from llama4sdk.request import Part, check_order
from llama4sdk.testing import ScriptedBackend
from llama4sdk.testing.recording import Recorder

OWN = Path(__file__).resolve().parents[2] / "examples" / "own_backend.py"


class Kept(ScriptedBackend):
    """A session that answers from a script."""

    def __init__(self) -> None:
        super().__init__("a word")
        self.forks = 0
        self.saved: list[str] = []
        self.closed = False

    @property
    def tokens(self) -> int:
        return 7

    async def fork(self) -> Kept:
        self.forks += 1
        return Kept()

    async def save(self, path: str | os.PathLike[str]) -> None:
        self.saved.append(str(path))

    async def aclose(self) -> None:
        await super().aclose()
        self.closed = True


class Keeping(ScriptedBackend):
    """A foreign backend that keeps sessions."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept()
        self.openings: list[Request] = []
        self.restored: list[str] = []

    async def session(self, request: Request) -> Kept:
        self.openings.append(request)
        return self.kept

    async def restore(self, path: str | os.PathLike[str]) -> Kept:
        self.restored.append(str(path))
        return self.kept


class Wrapping:
    """A backend around another one, which passes on what a backend must."""

    def __init__(self, inside: Backend) -> None:
        self._inside = inside
        self.capabilities = inside.capabilities

    async def start(self) -> None:
        await self._inside.start()

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        return self._inside.open(request)

    async def aclose(self) -> None:
        await self._inside.aclose()


async def test_what_is_asked_reaches_the_backend_as_opening_and_turns() -> None:
    backend = Keeping()
    async with Llama4(backend) as llama:
        async with await llama.session("a book", tools=[now], cache_salt="mine", priority=2) as session:
            assert session.tokens == 7
            assert (await session.chat("and?", sampling=Sampling(seed=3))).text == "a word"
            await session.save("here")
            async with await session.fork() as twin:
                assert twin.tools == session.tools
        assert backend.kept.closed
        again = await llama.restore(Path("here"), tools=[now])
        assert again.tools == session.tools
    (opening,), (turn,) = backend.openings, backend.kept.requests
    assert (opening.part, opening.cache_salt, opening.priority) == ("opening", "mine", 2)
    assert (turn.part, turn.messages, turn.sampling.seed) == ("turn", (UserMessage("and?"),), 3)
    assert [tool.name for tool in opening.tools] == [tool.name for tool in turn.tools] == ["now"]
    assert (backend.kept.forks, backend.kept.saved, backend.restored) == (1, ["here"], ["here"])


def now() -> str:
    """Tell the time."""
    return "noon"


MAKERS: dict[str, Callable[[Path], Backend]] = {
    "scripted": lambda _: ScriptedBackend(),
    "http": lambda _: HttpBackend("http://127.0.0.1:1/v1", model="m"),
    "own": lambda _: cast("type[Backend]", runpy.run_path(str(OWN))["Shouting"])(),
    "recorder": lambda folder: Recorder(ScriptedBackend(), folder),
    "wrapper": lambda _: Wrapping(ScriptedBackend()),
}


@pytest.mark.parametrize("name", MAKERS)
async def test_a_backend_without_sessions_says_so_and_what_to_do(name: str, tmp_path: Path) -> None:
    backend = MAKERS[name](tmp_path)
    assert not isinstance(backend, KeepsSessions)
    assert not backend.capabilities.sessions
    async with Llama4(backend) as llama:
        for attempt in (llama.session("a book"), llama.restore(tmp_path / "session")):
            with pytest.raises(
                InvalidRequest, match=r"not supported by the backend .*chat\(\) or stream\(\)"
            ) as caught:
                await attempt
            assert caught.value.backend == backend.capabilities.name


async def test_a_session_needs_a_client_that_was_entered() -> None:
    llama = Llama4(Keeping())
    with pytest.raises(InvalidRequest, match="Enter the client"):
        await llama.session("a book")


@pytest.mark.parametrize(
    ("part", "roles"),
    [
        ("whole", ["system"]),
        ("whole", ["user", "assistant"]),
        ("whole", ["tool"]),
        ("opening", ["tool"]),
        ("opening", ["assistant"]),
        ("turn", ["assistant", "user"]),
        ("turn", ["system", "user"]),
        ("turn", ["user", "assistant"]),
        ("turn", ["user", "tool"]),
    ],
)
def test_messages_out_of_place_are_refused_in_each_part(part: Part, roles: list[str]) -> None:
    with pytest.raises(InvalidRequest):
        Request.of([{"role": role, "content": "x"} for role in roles], part=part)


@pytest.mark.parametrize(
    ("part", "roles"),
    [
        ("opening", ["system"]),
        ("opening", ["user", "assistant"]),
        ("turn", ["tool", "tool"]),
        ("turn", ["tool", "user"]),
    ],
)
def test_each_part_may_begin_and_end_in_its_own_way(part: Part, roles: list[str]) -> None:
    request = Request.of([{"role": role, "content": "x"} for role in roles], part=part)
    check_order(request.messages, part)
