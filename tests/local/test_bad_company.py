"""Random bad requests in company of good ones: the engine survives, and good texts are those of running alone."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest
import torch

from llama4_local import LocalBackend
from llama4_local.decoding.detokenizer import Detokenizer
from llama4_local.decoding.sampler import SampledToken
from llama4_local.engine import eager_runner
from llama4sdk.errors import InvalidRequest, LlamaError, ServerFault
from llama4sdk.messages import conversation
from llama4sdk.request import Deadlines, Request, Sampling
from local.small_backends import GREEDY, SmallEngine, asking, chatting, check_at_rest, events_of, saved_chat, text_of
from local.small_checkpoints import prompt

CONTEXT = chatting().text.max_positions
MANY = 2000 if os.environ.get("LLAMA4_LONG") else 200
ODD: list[Any] = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 1.5, -0.0, 1e-320, 1e308, -1e308),
    *(float("nan"), float("inf"), "", "1", "\ud800", "x" * 10_000, b"", b"\xff", (), [], {}, [None], [-1], [2**40]),
    *((1, "a"), {"a": 1}, object(), print, int, "auto", "whole", "turn", "opening", Sampling(), Deadlines()),
]
KINDS: list[Any] = [Sampling, Deadlines, Request]
FIELDS: dict[Any, list[str]] = {kind: list(kind.__dataclass_fields__) for kind in KINDS}


class BrokenMask:
    """A token mask that fails."""

    problem = None

    def allowed(self, written: Sequence[int]) -> bytes:
        raise RuntimeError(f"broken after {len(written)} tokens")


def bad_request(rng: random.Random) -> Request:
    """A request with up to three odd values; raises `InvalidRequest` for most of them."""
    kind = rng.choice(KINDS)
    odd = {rng.choice(FIELDS[kind]): rng.choice(ODD) for _ in range(rng.randint(1, 3))}
    base: dict[str, Any] = {"messages": conversation("hello"), "sampling": replace(GREEDY, max_tokens=3)}
    if kind is Sampling:
        parameters: dict[str, Any] = {"max_tokens": 3, **odd}
        base["sampling"] = Sampling(**parameters)
    elif kind is Deadlines:
        base["deadlines"] = Deadlines(**odd)
    else:
        base |= odd
    return Request(**base)


async def answered(backend: LocalBackend, request: Request) -> None:
    """Read an answer that may fill the whole context: what may not happen is that nothing comes any more."""
    async with backend.open(request) as events:
        for _ in range(CONTEXT + 3):  # a delta for each token, and the events around them
            with anyio.fail_after(30):
                if await anext(events, None) is None:
                    return
    raise AssertionError("the answer has more events than the context has tokens")


def test_every_field_is_checked_where_it_is_made() -> None:
    for kind, fields in FIELDS.items():
        for name in fields:
            for value in ODD:
                base: dict[str, Any] = {"messages": conversation("hello")} if kind is Request else {}
                try:
                    kind(**{**base, name: value})
                except InvalidRequest as error:
                    assert len(str(error)) < 400


async def test_bad_requests_in_company_change_no_text_and_the_engine_survives(tmp_path_factory: Any) -> None:
    folder = saved_chat(tmp_path_factory.mktemp("checkpoint"), chatting(stop_ids=()))
    rng = random.Random(20)
    backend = LocalBackend(folder, max_sequences=8)
    await backend.start()
    good = [asking(f"{n} hello", replace(GREEDY, max_tokens=6)) for n in range(4)]
    alone = [text_of(await events_of(backend, request)) for request in good]
    served = 0

    async def bad() -> None:
        nonlocal served
        try:
            await answered(backend, bad_request(rng))
            served += 1
        except LlamaError:
            pass

    for round_ in range(MANY // 8):
        texts: dict[int, str] = {}

        async def ask(n: int, texts: dict[int, str]) -> None:
            texts[n] = text_of(await events_of(backend, good[n]))

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(bad)
            tasks.start_soon(ask, round_ % 4, texts)
        assert texts[round_ % 4] == alone[round_ % 4]
    assert served
    await backend.aclose()


def fails_for(broken: Detokenizer, real: Any) -> Any:
    def add(self: Detokenizer, sampled: SampledToken) -> Any:
        if self is broken:
            raise RuntimeError("broken")
        return real(self, sampled)

    return add


@pytest.mark.parametrize("where", ["mask", "decoder"])
def test_a_failure_in_one_row_or_one_answer_ends_that_request_alone(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = SmallEngine(chatting(stop_ids=()))
    ids = prompt(small.config, 7)
    expected = small.answer(ids).text
    broken, fine = small.submit(prompt(small.config, 5, seed=3)), small.submit(ids)
    assert broken.engine_request
    state = small.engine._states[broken.engine_request]  # pyright: ignore[reportPrivateUsage]

    if where == "mask":
        state.sampler_state.mask = BrokenMask()
    else:
        monkeypatch.setattr(Detokenizer, "add", fails_for(state.detokenizer, Detokenizer.add))
    small.run()
    assert isinstance(broken.error, LlamaError)
    assert fine.text == expected
    assert small.answer(ids).text == expected
    check_at_rest(small)


async def test_a_lost_device_ends_the_engine_and_is_not_retryable(
    tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved_chat(tmp_path_factory.mktemp("checkpoint"), chatting(stop_ids=()))
    backend = LocalBackend(folder)
    await backend.start()
    assert text_of(await events_of(backend, asking()))

    def lost(*_: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(eager_runner, "forward", lost)
    for _ in range(3):
        with pytest.raises(ServerFault) as caught:
            await events_of(backend, asking())
        assert caught.value.retryable is False
    monkeypatch.undo()
    with pytest.raises(ServerFault):
        await events_of(backend, asking())
    await backend.aclose()


async def test_a_fault_of_the_scheduler_ends_its_requests_and_not_the_engine(
    tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama4_local.engine.scheduler import Scheduler

    folder = saved_chat(tmp_path_factory.mktemp("checkpoint"), chatting(stop_ids=()))
    backend = LocalBackend(folder)
    await backend.start()
    expected = text_of(await events_of(backend, asking()))

    def broken(self: object) -> Any:
        raise IndexError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(Scheduler, "schedule", broken)
        with pytest.raises(ServerFault):
            await events_of(backend, asking())
    assert text_of(await events_of(backend, asking())) == expected
    await backend.aclose()
