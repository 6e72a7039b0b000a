"""`Limited` keeps rates, serves tenants fairly, refuses instead of letting wait for ever, and learns from servers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trio
import trio.testing

from llama4_http.rate_limits import rate_limits
from llama4_local import LocalBackend
from llama4sdk import (
    DeadlineExceeded,
    Deadlines,
    Done,
    Image,
    InvalidRequest,
    Llama4,
    Overloaded,
    Request,
    Sampling,
    Usage,
    UserMessage,
)
from llama4sdk.messages import conversation
from llama4sdk.routing import Limited, Limiter
from llama4sdk.routing.limited import prompt_tokens
from llama4sdk.testing import ScriptedBackend
from routing.failing import events_of

FREE = Deadlines(None, None, None, None)


def ask(prompt: str = "?", *, salt: str = "", priority: int = 0, max_tokens: int | None = None) -> Request:
    return Request(
        conversation(prompt),
        sampling=Sampling(max_tokens=max_tokens),
        cache_salt=salt,
        priority=priority,
        deadlines=FREE,
    )


def simulated(main: Callable[[], Any]) -> None:
    """Run on a clock that jumps to whatever is due next."""
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.001))


class Timed(ScriptedBackend):
    """Notes when each request came."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(*answers)
        self.times: list[float] = []

    def open(self, request: Request) -> Any:
        self.times.append(anyio.current_time())
        return super().open(request)


def words(request: Request) -> int:
    return len(request.messages[-1].text.split())


def test_requests_of_two_hundred_tasks_keep_their_rate_over_a_minute_and_all_are_served() -> None:
    served: Counter[str] = Counter()

    async def main() -> None:
        backend = Timed("ok")
        limited = Limited(backend, requests_per_minute=600, max_wait=1000)
        begun = anyio.current_time()

        async def client(name: str) -> None:
            while anyio.current_time() - begun < 60:
                await events_of(limited, ask(salt=name))
                served[name] += 1

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(client, f"tenant {number}")
        inside = [at for at in backend.times if at - begun < 60]
        assert 600 * 0.98 <= len(inside) <= 600 * 1.02
        for start in range(0, 30, 5):  # every half minute is as good as another
            count = sum(start <= at - begun < start + 30 for at in backend.times)
            assert 300 * 0.96 <= count <= 300 * 1.04

    simulated(main)
    assert len(served) == 200
    assert max(served.values()) - min(served.values()) <= 1


def test_tokens_keep_their_rate_and_what_an_answer_did_not_take_is_given_back() -> None:
    async def main() -> None:
        backend = Timed("one two three")  # three tokens, of the ten that are set aside
        limited = Limited(backend, tokens_per_minute=6000, max_wait=1000, count=words)
        begun = anyio.current_time()
        sent = 0

        async def client() -> None:
            nonlocal sent
            while anyio.current_time() - begun < 60:
                await events_of(limited, ask("a b c d e f g", max_tokens=10))
                sent += 10 if anyio.current_time() - begun < 60 else 0  # seven of the prompt, three of the answer

        async with anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(client)
        assert 6000 * 0.98 <= sent <= 6000 * 1.02

    simulated(main)


def test_a_tenant_that_asks_for_everything_leaves_others_their_share() -> None:
    order: list[str] = []

    async def main() -> None:
        limited = Limited(ScriptedBackend("ok"), requests_per_minute=60, max_wait=10_000)

        async def client(name: str) -> None:
            await events_of(limited, ask(salt=name))
            order.append(name)

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(client, "greedy")
            await anyio.sleep(5)
            for _ in range(10):
                tasks.start_soon(client, "modest")

    simulated(main)
    places = [place for place, name in enumerate(order) if name == "modest"]
    assert places[-1] <= 5 + 2 * 10 + 2


def test_a_higher_priority_gets_a_larger_share_and_a_lower_one_is_not_starved() -> None:
    order: list[int] = []

    async def main() -> None:
        limited = Limited(ScriptedBackend("ok"), requests_per_minute=60, max_wait=10_000)

        async def client(priority: int) -> None:
            await events_of(limited, ask(priority=priority))
            order.append(priority)

        async with anyio.create_task_group() as tasks:
            for priority in [0] * 60 + [2] * 60:
                tasks.start_soon(client, priority)

    simulated(main)
    first = Counter(order[:50])
    assert first[2] >= 3 * first[0] > 0


def test_a_request_that_would_wait_too_long_is_refused_with_the_time_to_come_again() -> None:
    async def main() -> None:
        limited = Limited(ScriptedBackend("ok"), requests_per_minute=6, max_wait=25)
        errors: list[Overloaded] = []

        async def client() -> None:
            try:
                await events_of(limited, ask())
            except Overloaded as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(client)
        assert len(errors) == 2
        assert all(error.retry_after is not None and 25 < error.retry_after <= 41 for error in errors)

    simulated(main)


def test_a_request_never_waits_beyond_its_own_deadline() -> None:
    async def main() -> None:
        limited = Limited(ScriptedBackend("ok"), requests_per_minute=6, max_wait=1000)
        await events_of(limited, ask())
        begun = anyio.current_time()
        with pytest.raises(Overloaded):
            await events_of(limited, Request(conversation("?"), deadlines=Deadlines(first_token=2)))
        assert anyio.current_time() == begun

    simulated(main)


def test_concurrency_is_kept_and_a_wait_for_it_ends() -> None:
    async def main() -> None:
        backend = ScriptedBackend([30.0, "ok"])
        limited = Limited(backend, concurrency=2, max_wait=45)
        most = 0
        ends: Counter[str] = Counter()

        async def client() -> None:
            try:
                await events_of(limited, ask())
                ends["reply"] += 1
            except Overloaded:
                ends["overloaded"] += 1

        async def watch() -> None:
            nonlocal most
            for _ in range(100):
                most = max(most, backend.running)
                await anyio.sleep(1)

        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(client)
            tasks.start_soon(watch)
        assert most == 2
        assert ends == {"reply": 4, "overloaded": 2}

    simulated(main)


def test_a_request_that_is_cancelled_in_the_queue_leaves_it_and_the_next_one_is_served() -> None:
    async def main() -> None:
        limited = Limited(ScriptedBackend("ok"), requests_per_minute=60, max_wait=1000)
        done: list[int] = []

        async def client(number: int, patience: float) -> None:
            with anyio.move_on_after(patience):
                await events_of(limited, ask())
                done.append(number)

        await client(0, 100)  # alone, since trio starts tasks in a random order
        async with anyio.create_task_group() as tasks:
            for number in range(1, 10):
                tasks.start_soon(client, number, 0.5 if 1 <= number <= 5 else 100)
        assert sorted(done) == [0, 6, 7, 8, 9]
        assert (limited.limiter.waiting, limited.limiter.running) == (0, 0)

    simulated(main)


def test_a_server_that_refuses_is_left_alone_as_long_as_it_asks_and_asked_more_slowly() -> None:
    async def main() -> None:
        backend = Timed([Overloaded("busy", retry_after=20)], "ok")
        limited = Limited(backend, requests_per_minute=600, burst=0.1, max_wait=1000)
        with pytest.raises(Overloaded):
            await events_of(limited, ask())
        for _ in range(20):
            await events_of(limited, ask())
        assert backend.times[1] - backend.times[0] >= 20
        slow, fast = backend.times[3] - backend.times[2], 60 / 600
        assert slow > fast * 1.1

    simulated(main)


def test_limits_that_a_server_names_are_kept() -> None:
    async def main() -> None:
        told = Done("stop", Usage(1, 1), {"rate_limits": {"requests": 60.0, "wait": 7.0}})
        backend = Timed([told], "ok")
        limited = Limited(backend, requests_per_minute=6000, max_wait=1000)
        for _ in range(4):
            await events_of(limited, ask())
        gaps = [after - before for before, after in zip(backend.times, backend.times[1:], strict=False)]
        assert gaps[0] >= 7
        assert gaps[-1] == pytest.approx(1.0, rel=0.1)

    simulated(main)


def test_limits_are_shared_between_wrappers() -> None:
    async def main() -> None:
        first, second = Timed("a"), Timed("b")
        shared = Limiter(requests_per_minute=60, max_wait=1000)
        wrappers = [Limited(backend, limiter=shared) for backend in (first, second)]
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(events_of, wrappers[number % 2], ask())
        times = sorted(first.times + second.times)
        assert times[-1] - times[0] == pytest.approx(9, abs=0.2)

    simulated(main)


async def test_tokens_are_counted_exactly_before_sending_images_too() -> None:
    async with Llama4(LocalBackend()) as llama:
        template = llama.backend.prompt_template  # type: ignore[attr-defined]
        for prompt in ("What is 17 + 25?", [UserMessage([Image(_image()), "What is this?"])]):
            request = Request(conversation(prompt), sampling=Sampling(max_tokens=1))
            async with llama.stream(prompt, sampling=Sampling(max_tokens=1)) as stream:
                reply = await stream.result()
            assert prompt_tokens(template, request) == reply.usage.prompt_tokens


def _image() -> bytes:
    import io

    from PIL import Image as PillowImage

    file = io.BytesIO()
    PillowImage.new("RGB", (700, 340), "red").save(file, "PNG")
    return file.getvalue()


async def test_without_a_tokenizer_the_remedy_is_named() -> None:
    with pytest.raises(InvalidRequest, match="tokenizer="):
        await events_of(Limited(ScriptedBackend("ok"), tokens_per_minute=100), ask())


async def test_a_deadline_that_passes_while_counting_is_that_of_its_phase() -> None:
    import time

    def slowly(request: Request) -> int:
        time.sleep(0.2)
        return len(request.messages)

    limited = Limited(ScriptedBackend("ok"), tokens_per_minute=100, count=slowly)
    with pytest.raises(DeadlineExceeded) as caught:
        await events_of(limited, Request(conversation("?"), deadlines=Deadlines(first_token=0.02)))
    assert caught.value.phase == "first_token"


@pytest.mark.parametrize(
    "limits",
    [
        {"requests_per_minute": 0},
        {"tokens_per_minute": -1},
        {"concurrency": 0},
        {"concurrency": 1.5},
        {"requests_per_minute": float("nan")},
        {"burst": 0},
        {"max_wait": -1},
        {"requests_per_minute": 5, "limiter": Limiter()},
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        Limited(ScriptedBackend(), **limits)


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        ({}, {}),
        (
            {"x-ratelimit-limit-requests": "500", "x-ratelimit-limit-tokens": "9000"},
            {"requests": 500, "tokens": 9000},
        ),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, {"wait": 360}),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"}, {"wait": 0.02}),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1.5"}, {"wait": 1.5}),
        ({"x-ratelimit-remaining-tokens": "3", "x-ratelimit-reset-tokens": "20ms"}, {}),
        ({"x-ratelimit-limit-requests": "many", "x-ratelimit-remaining-requests": "0"}, {}),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2026-01-01T00:00:00Z"}, {}),
        ({"x-ratelimit-limit-requests": "inf"}, {}),
    ],
)
def test_rate_limit_headers_are_read_and_nonsense_is_passed_over(
    headers: dict[str, str], limits: dict[str, float]
) -> None:
    assert rate_limits(headers) == pytest.approx(limits)
