"""What goes wrong in an engine, or is given up: it ends one request, frees what it held, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llama4_local.engine import eager_runner
from llama4_local.engine.engine import EngineLimits
from llama4sdk.errors import ContextOverflow, Overloaded, ServerFault
from local.small_backends import GREEDY, SmallEngine, check_at_rest, endless
from local.small_checkpoints import prompt


def test_what_does_not_fit_the_cache_is_refused_before_the_device_is_touched() -> None:
    small = SmallEngine(endless(), global_pages=4)
    reader = small.submit(prompt(small.config, 17))
    assert isinstance(reader.error, ContextOverflow)
    check_at_rest(small)


def test_an_answer_ends_where_the_cache_ends() -> None:
    small = SmallEngine(endless(), global_pages=4)
    reader = small.answer(prompt(small.config, 10), replace(GREEDY, max_tokens=100))
    assert reader.done
    assert reader.done.finish_reason == "length"
    assert reader.usage.total_tokens == 16


def test_fault_55_a_full_queue_is_overloaded_and_the_others_go_on() -> None:
    small = SmallEngine(endless(), limits=EngineLimits(step_tokens=16, max_sequences=1, max_waiting=2))
    readers = [small.submit(prompt(small.config, 5, seed=n)) for n in range(4)]
    small.run()
    assert [isinstance(reader.error, Overloaded) for reader in readers] == [False, False, True, True]
    assert all(reader.done for reader in readers[:2])


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_fault_54_a_cancel_frees_everything_before_the_next_step(steps: int) -> None:
    small = SmallEngine(endless(), limits=EngineLimits(step_tokens=8))
    reader = small.submit(prompt(small.config, 20))
    for _ in range(steps):
        small.engine.step()
    assert reader.engine_request
    small.engine.cancel(reader.engine_request)
    small.engine.cancel(reader.engine_request)
    check_at_rest(small)
    assert not reader.over


def test_fault_56_an_error_in_a_step_ends_its_requests_and_not_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    small = SmallEngine(endless())
    expected = small.answer(prompt(small.config, 9)).text
    reader = small.submit(prompt(small.config, 9, seed=1))
    small.engine.step()

    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(eager_runner, "forward", out_of_memory)
        small.engine.step()
    assert isinstance(reader.error, ServerFault)
    assert isinstance(reader.error.__cause__, torch.OutOfMemoryError)
    assert small.answer(prompt(small.config, 9)).text == expected
    check_at_rest(small)


def test_fault_57_numbers_gone_wrong_end_one_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    small = SmallEngine(endless())
    first, second = prompt(small.config, 5), prompt(small.config, 5, seed=1)
    expected = small.answer(first).text
    readers = [small.submit(first), small.submit(second)]
    small.engine.step()
    real = eager_runner.sampling_logits

    def one_row_broken(*arguments: object) -> torch.Tensor:
        scores = real(*arguments)  # pyright: ignore[reportArgumentType]
        scores[1] = torch.nan
        return scores

    with monkeypatch.context() as patch:
        patch.setattr(eager_runner, "sampling_logits", one_row_broken)
        small.engine.step()
    small.run()
    assert isinstance(readers[1].error, ServerFault)
    assert readers[0].text == expected
    again = small.answer(second)
    assert again.usage.cached_tokens == 0
    check_at_rest(small)


async def test_fault_60_a_slow_reader_waits_alone() -> None:
    small = SmallEngine(endless(), limits=EngineLimits(step_tokens=16, max_sequences=1))
    sampling = replace(GREEDY, max_tokens=40)
    expected = small.answer(prompt(small.config, 5), sampling).text
    slow = small.submit(prompt(small.config, 5), sampling, room=8)
    quick = [small.submit(prompt(small.config, 5, seed=n), sampling) for n in range(3)]
    small.run()
    assert all(reader.done for reader in quick)
    assert not slow.over
    assert len(slow.events) <= 8 + 2
    taken = 0
    while not slow.over:
        for _ in range(taken, len(slow.events)):
            await slow.mailbox.take()
        taken = len(slow.events)
        small.run()
    assert slow.text == expected
    check_at_rest(small)


async def test_a_cancel_while_waiting_for_a_slow_reader_frees_everything() -> None:
    small = SmallEngine(endless())
    slow = small.submit(prompt(small.config, 5), replace(GREEDY, max_tokens=40), room=8)
    small.run()
    assert not slow.over
    assert slow.engine_request
    small.engine.cancel(slow.engine_request)
    check_at_rest(small)
