"""Every wrapper can do what its backend can: each optional protocol and each capability of the seam."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, cast

import anyio
import pytest

from llama4_ray import RayBackend
from llama4sdk import InvalidRequest, Llama4, LlamaError, Overloaded, Request, ServerFault
from llama4sdk import backend as seam
from llama4sdk.backend import Backend, BackendLoad, Capabilities, Metered
from llama4sdk.events import TokenLogprob
from llama4sdk.messages import conversation
from llama4sdk.request import RawPrompt
from llama4sdk.routing import Balanced, Fallback, Hedged, Limited
from llama4sdk.routing.limited_session import LimitedSession
from llama4sdk.testing import ScriptedBackend
from routing.failing import events_of, text_of
from routing.test_limited import ask, simulated, words

Wrapping = Callable[..., Any]
WRAPPERS: dict[str, Wrapping] = {
    "fallback": Fallback,
    "balanced": Balanced,
    "hedged": Hedged,
    "limited": lambda *backends: Limited(backends[0], 60_000),
    "nested": lambda *backends: Fallback(Limited(Balanced(Hedged(*backends)), 60_000)),
}
NOT_OF_A_BACKEND = {"Answers", "Backend", "KeptSession", "Metered", "KeepsDeadlines"}
OPTIONAL = {
    name: protocol
    for name, protocol in vars(seam).items()
    if inspect.isclass(protocol) and getattr(protocol, "_is_protocol", False) and protocol.__module__ == seam.__name__
    if name not in NOT_OF_A_BACKEND
}
SCORES = (TokenLogprob("a", -0.5),)
RAW = "a"
OPENING = Request(conversation("Hello!"), part="opening")


class Kept(ScriptedBackend):
    """A session of an able backend, which answers as a script does."""

    tokens = 7

    async def fork(self) -> Kept:
        return Kept("forked")

    async def save(self, path: object) -> None:
        raise NotImplementedError


class Able(ScriptedBackend):
    """Can do everything that the seam names, or fails at all of it."""

    prompt_template: Any = object()

    def __init__(self, error: LlamaError | None = None, **changes: object) -> None:
        super().__init__("An answer")
        self.kept = Kept("A turn")
        self.error = error
        self.changes = {"sessions": True} | changes
        self.calls: list[str] = []
        self.current_load = BackendLoad(True, 2, 3, {"global": 4})

    @property
    def capabilities(self) -> Capabilities:
        return dataclasses.replace(super().capabilities, **self.changes)  # type: ignore[arg-type]

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.error is not None:
            raise self.error

    async def ready(self) -> None:
        self._called("ready")

    async def requests_running(self) -> int | None:
        self._called("requests_running")
        return 5

    async def score_prompt(self, raw: RawPrompt, *, top: int = 0) -> tuple[TokenLogprob, ...]:
        self._called(f"score_prompt {raw} {top}")
        return SCORES

    async def session(self, request: Request) -> Kept:
        self._called(f"session {request.messages[0].text}")
        return self.kept

    async def restore(self, path: object) -> Kept:
        self._called(f"restore {path}")
        return self.kept


async def turns_of(session: Any, backend: Able) -> None:
    """Check that a session is, or stands for, the one that the backend keeps."""
    assert (session.tokens, session.capabilities.name) == (7, backend.kept.capabilities.name)
    assert text_of(await events_of(session, ask("?"))) == "A turn"
    assert text_of(await events_of(await session.fork(), ask("?"))) == "forked"


async def _begun(wrapper: Any, backend: Able) -> None:
    await turns_of(await wrapper.session(OPENING), backend)
    assert backend.calls == ["session Hello!"]


async def _restored(wrapper: Any, backend: Able) -> None:
    await turns_of(await wrapper.restore("/a/file"), backend)
    assert backend.calls == ["restore /a/file"]


async def _scored(wrapper: Any, backend: Able) -> None:
    assert await wrapper.score_prompt(RAW, top=3) == SCORES
    assert backend.calls == ["score_prompt a 3"]


async def _counted(wrapper: Any, backend: Able) -> None:
    assert (await wrapper.requests_running(), backend.calls) == (5, ["requests_running"])


async def _loaded(wrapper: Any, backend: Able) -> None:
    async with Llama4(wrapper, guards=None) as llama:
        await llama.ready()
    assert backend.calls == ["ready"]


async def _reported(wrapper: Any, backend: Able) -> None:
    assert wrapper.current_load == backend.current_load


async def _rendered(wrapper: Any, backend: Able) -> None:
    assert wrapper.prompt_template is backend.prompt_template


CHECKS: dict[str, Callable[[Any, Able], Awaitable[None]]] = {
    "session": _begun,
    "restore": _restored,
    "score_prompt": _scored,
    "requests_running": _counted,
    "ready": _loaded,
    "current_load": _reported,
    "prompt_template": _rendered,
}


def methods_of(protocol: type) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")}


def test_every_optional_method_of_the_seam_is_checked_here() -> None:
    assert set(CHECKS) == set().union(*map(methods_of, OPTIONAL.values()))


@pytest.mark.parametrize("protocol", OPTIONAL)
def test_every_wrapper_has_every_optional_method(protocol: str) -> None:
    wrappers: list[object] = [make(Able()) for make in WRAPPERS.values()] + [RayBackend("local")]
    for wrapper in wrappers:
        missing = [
            name for name in methods_of(OPTIONAL[protocol]) if inspect.getattr_static(wrapper, name, None) is None
        ]
        assert not missing, f"{type(wrapper).__name__} lacks {missing}"


@pytest.mark.parametrize("method", CHECKS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
async def test_a_wrapper_does_what_its_backend_does(wrapper: str, method: str) -> None:
    backend = Able()
    await CHECKS[method](WRAPPERS[wrapper](backend), backend)


@pytest.mark.parametrize("wrapper", WRAPPERS)
async def test_a_request_of_every_wrapper_tells_its_usage(wrapper: str) -> None:
    assert isinstance(WRAPPERS[wrapper](Able()).open(ask("?")), Metered)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_has_every_capability_of_its_backend(wrapper: str) -> None:
    plain = Capabilities("plain")
    other: dict[type, Any] = {str: "x", int: 9}
    values: dict[str, Any] = {
        "context": 9,
        "max_images": 9,
        "server": ("host", 80),
        "guards": ("x",),
        "continues": "everything",
    }
    for field in dataclasses.fields(Capabilities):
        if field.name != "name" and field.name not in values:
            default = getattr(plain, field.name)
            values[field.name] = not default if isinstance(default, bool) else other[type(default)]
    backend = Able(**values)
    have = dataclasses.asdict(WRAPPERS[wrapper](backend, backend).capabilities)
    assert {name: have[name] for name in values} == values


@pytest.mark.parametrize("wrapper", WRAPPERS)
async def test_around_a_backend_that_cannot_a_wrapper_refuses_or_tells_nothing(wrapper: str) -> None:
    alone = WRAPPERS[wrapper](ScriptedBackend())
    assert (alone.current_load, await alone.requests_running()) == (None, None)
    await alone.ready()
    for call, words_ in [
        (alone.score_prompt(RAW), "scores prompts"),
        (alone.session(OPENING), "Sessions are not supported"),
        (alone.restore("/a/file"), "Sessions are not supported"),
    ]:
        with pytest.raises(InvalidRequest, match=words_):
            await call


@pytest.mark.parametrize("make", [Fallback, Balanced])
async def test_a_call_goes_to_the_next_backend_where_one_cannot_or_fails(make: Wrapping) -> None:
    failing, able = Able(ServerFault("down")), Able()
    wrapper = make(ScriptedBackend(), failing, able)
    assert await wrapper.score_prompt(RAW) == SCORES
    assert (len(failing.calls), len(able.calls)) == (1, 1)
    for _ in range(5):
        await wrapper.score_prompt(RAW)
    assert len(failing.calls) == 5  # then it rests
    assert [member.running for member in wrapper.members.all] == [0, 0, 0]
    refusing = make(Able(InvalidRequest("no")), able)
    with pytest.raises(InvalidRequest, match="no"):
        await refusing.score_prompt(RAW)


async def test_a_session_goes_to_the_least_busy_backend_and_a_failure_of_any_kind_to_the_next() -> None:
    busy, broken, free = Able(), Able(cast("LlamaError", ValueError("a bug"))), Able()
    balanced = Balanced(busy, broken, free)
    balanced.members.all[0].running = 3
    await balanced.session(OPENING)
    assert (busy.calls, broken.calls, free.calls) == ([], ["session Hello!"], ["session Hello!"])
    with pytest.raises(ServerFault, match="ValueError"):
        await Hedged(broken).session(OPENING)


async def test_a_wrapper_is_ready_where_one_of_its_backends_is() -> None:
    broken = Able(ServerFault("no model"))
    broken.current_load = BackendLoad(ready=False)
    wrapper = Fallback(broken, Able(), ScriptedBackend())
    await wrapper.ready()
    assert wrapper.current_load == BackendLoad(True, 2, 3, {"global": 4})
    assert not Fallback(broken).current_load.ready  # type: ignore[union-attr]
    with pytest.raises(ServerFault, match="no model"):
        await Fallback(broken).ready()


async def test_a_count_that_one_backend_does_not_tell_is_unknown() -> None:
    assert await Balanced(Able(), Able()).requests_running() == 10
    assert await Balanced(Able(), ScriptedBackend()).requests_running() is None


def test_prompts_to_be_scored_and_turns_of_sessions_keep_to_the_limits() -> None:
    async def main() -> None:
        backend = Able()
        limited = Limited(backend, requests_per_minute=60, max_wait=100)
        begun = anyio.current_time()
        session = await limited.session(OPENING)
        for _ in range(5):
            await limited.score_prompt(RAW)
            await events_of(cast("Backend", session), ask("?"))
        assert anyio.current_time() - begun == pytest.approx(10, abs=0.1)
        assert (limited.limiter.running, limited.limiter.waiting) == (0, 0)
        hasty = Limited(backend, requests_per_minute=60, max_wait=0.5)
        await hasty.score_prompt(RAW)
        with pytest.raises(Overloaded):
            await hasty.score_prompt(RAW)

    simulated(main)


def test_the_tokens_that_a_session_holds_count_as_part_of_each_turn() -> None:
    async def main() -> None:
        limited = Limited(Able(), tokens_per_minute=600, max_wait=100, count=words)
        session = await limited.session(OPENING)
        assert isinstance(session, LimitedSession)
        block = cast("Any", session.open(ask("a b c", max_tokens=10)))
        async with block as events:
            await anext(events)
            assert block._reserved == 7 + 3 + 10

    simulated(main)
