"""Steps that run beside the host, on the CPU: fixed shapes, filled up, launched before their tokens are known.

`Rerun` stands where a CUDA graph would be and runs the same work over the same tensors.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama4_local.config.invariant import BrokenInvariant
from llama4_local.engine.cuda_graphs import Rerun
from llama4_local.engine.device_page_table import DevicePageTable
from llama4_local.engine.engine import EngineLimits
from llama4_local.engine.model_runner import ModelRunner
from llama4_local.engine.pinned_buffer import PinnedBuffer
from llama4_local.engine.step_output import StepOutput
from llama4_local.engine.step_shapes import bucket_sizes
from llama4_local.engine.warmup import warmup_steps
from llama4sdk.errors import ServerFault
from llama4sdk.events import TextDelta
from llama4sdk.request import Sampling
from local.small_backends import Reader, SmallEngine, chatting, check_at_rest, image
from local.small_checkpoints import CHUNK, VOCABULARY, guard, maverick, prompt, scout
from long_runs import LONG, often, thinned

GREEDY = Sampling(temperature=0, max_tokens=12)
SEEDED = Sampling(temperature=1.0, top_p=0.9, seed=7, max_tokens=12)
LIMITS = EngineLimits(step_tokens=16, max_sequences=6)
MAKERS = {"scout": scout, "maverick": maverick, "guard": guard}


def warmed(maker: str = "scout", limits: EngineLimits = LIMITS, stops: tuple[int, ...] = ()) -> SmallEngine:
    return warm(SmallEngine(chatting(MAKERS[maker](), stop_ids=stops), limits=limits))


def warm(small: SmallEngine) -> SmallEngine:
    small.engine.warm_up(Rerun)
    return small


def plain(small: SmallEngine) -> SmallEngine:
    return SmallEngine(small.config, limits=LIMITS)


def texts(small: SmallEngine, prompts: list[list[int]], samplings: list[Sampling]) -> list[str]:
    readers = [small.submit(ids, sampling) for ids, sampling in zip(prompts, samplings, strict=True)]
    small.run()
    assert all(reader.done for reader in readers)
    return [reader.text for reader in readers]


def some_prompts(small: SmallEngine, count: int) -> list[list[int]]:
    return [prompt(small.config, 3 + 5 * n, seed=n) for n in range(count)]


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("count", thinned([9, 1, 3, 6], 3))
def test_padded_steps_say_what_plain_ones_say(maker: str, sampling: Sampling, count: int) -> None:
    small = warmed(maker)
    prompts, samplings = some_prompts(small, count), [replace(sampling, max_tokens=8 + n) for n in range(count)]
    assert texts(small, prompts, samplings) == texts(plain(small), prompts, samplings)
    check_at_rest(small)


def test_without_graphs_the_answers_are_the_same() -> None:
    small = SmallEngine(chatting(stop_ids=()), limits=LIMITS)
    small.engine.warm_up(None)
    prompts = some_prompts(small, 4)
    assert texts(small, prompts, [SEEDED] * 4) == texts(plain(small), prompts, [SEEDED] * 4)


@dataclass
class FollowsWritten:
    """A mask that allows another third of the vocabulary behind each token."""

    problem = None

    def allowed(self, written: Sequence[int]) -> bytes:
        third = (written[-1] if written else 0) % 3
        return sum(1 << token for token in range(third, VOCABULARY, 3)).to_bytes(-(-VOCABULARY // 8), "little")


ADJUSTED = {
    "penalties": replace(SEEDED, repetition_penalty=1.3, frequency_penalty=0.5),
    "presence": replace(SEEDED, presence_penalty=1.0),
    "report": replace(SEEDED, logprobs=3),
    "least length": replace(SEEDED, min_tokens=4, stop_token_ids=(7,)),
    "least length, greedy": replace(GREEDY, stop_token_ids=tuple(range(0, 200, 3)), min_tokens=2),
    "bias": replace(GREEDY, logit_bias={5: 3.0, 9: -4.0}),
    "mask": SEEDED,
}


def adjusted(small: SmallEngine, kinds: Sequence[str], max_tokens: int = 12) -> list[Reader]:
    """Answers of a plain row and of rows of these kinds, together."""
    readers = [small.submit(prompt(small.config, 5), replace(GREEDY, max_tokens=max_tokens))]
    for seed, kind in enumerate(kinds, start=1):
        mask = FollowsWritten() if kind == "mask" else None
        sampling = replace(ADJUSTED[kind], max_tokens=max_tokens)
        readers.append(small.submit(prompt(small.config, 3 + seed, seed=seed), sampling, mask=mask))
    small.run()
    assert all(reader.done for reader in readers)
    return readers


def test_rows_with_penalties_masks_and_reports_share_steps_with_plain_ones() -> None:
    small = warmed()
    for kinds in (list(ADJUSTED)[:5], list(ADJUSTED)[5:]):
        readers, expected = adjusted(small, kinds), adjusted(plain(small), kinds)
        assert [reader.text for reader in readers] == [reader.text for reader in expected]
        for own, other in zip(map(reports, readers), map(reports, expected), strict=True):
            assert [token for token, _ in own] == [token for token, _ in other]
            assert [score for _, score in own] == pytest.approx([score for _, score in other], abs=1e-4)
    check_at_rest(small)


def reports(reader: Reader) -> list[tuple[int | None, float]]:
    """The tokens whose log-probabilities were reported, the sampled one and its alternatives in turn."""
    deltas = [event for event in reader.events if isinstance(event, TextDelta)]
    tokens = [token for delta in deltas for each in delta.logprobs for token in (each, *each.top)]
    return [(token.token_id, token.logprob) for token in tokens]


def exposed_waits(kinds: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Steps, and those whose tokens the host waits for while the device has no other step to go on with."""
    small = warmed("guard")  # no chunk edges, where steps wait
    launch, wait = ModelRunner.launch, StepOutput.wait
    launched: list[int] = []
    waits: list[bool] = []

    def launching(self: ModelRunner, inputs: Any, due: Any, states: Any, *, from_previous: bool = False) -> Any:
        launched.append(len(inputs))
        return launch(self, inputs, due, states, from_previous=from_previous)

    def waiting(self: StepOutput) -> Any:
        waits.append(len(launched) - len(waits) < 2)
        return wait(self)

    with monkeypatch.context() as patch:
        patch.setattr(ModelRunner, "launch", launching)
        patch.setattr(StepOutput, "wait", waiting)
        adjusted(small, kinds, max_tokens=24)
    return len(launched), sum(waits)


@pytest.mark.parametrize("kind", ADJUSTED if LONG else ["mask"])
def test_a_row_that_is_adjusted_keeps_steps_beside_the_host(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, waits = exposed_waits([kind], monkeypatch)
    assert steps >= 24
    assert waits <= 4  # where answers begin and end


def test_answers_that_end_at_different_times_leave_the_others_alone() -> None:
    small = warmed(stops=tuple(range(0, 200, 7)))
    prompts = some_prompts(small, 6)
    assert texts(small, prompts, [SEEDED] * 6) == texts(plain(small), prompts, [SEEDED] * 6)
    check_at_rest(small)


def test_answers_go_over_many_chunk_edges() -> None:
    small = warmed()
    long = replace(GREEDY, max_tokens=5 * CHUNK)
    prompts = some_prompts(small, 3)
    assert texts(small, prompts, [long] * 3) == texts(plain(small), prompts, [long] * 3)


def test_images_are_seen() -> None:
    small = warmed()
    tiles = image(small.config, 1)
    assert small.config.vision
    assert small.config.image_token_id is not None
    token_ids = [5, *[small.config.image_token_id] * small.config.vision.patch_tokens, 6]
    assert small.answer(token_ids, tiles=(tiles,)).text == plain(small).answer(token_ids, tiles=(tiles,)).text
    assert small.answer(token_ids, tiles=(tiles,)).text != ""


def test_what_was_written_is_found_again() -> None:
    small = warmed()
    token_ids = prompt(small.config, 10)
    first = small.submit(token_ids, replace(GREEDY, max_tokens=9))
    small.run()
    assert first.engine_request
    again = [*token_ids, *first.engine_request.written]
    reader = small.answer(again)
    assert reader.usage.cached_tokens == 16
    assert reader.text == plain(small).answer(again).text


def test_too_few_pages_change_nothing() -> None:
    small = warm(SmallEngine(chatting(scout()), limits=LIMITS, global_pages=18, local_pages=4))
    prompts, long = [prompt(small.config, 9 + n, seed=n) for n in range(6)], replace(SEEDED, max_tokens=24)
    assert texts(small, prompts, [long] * 6) == texts(plain(small), prompts, [long] * 6)
    check_at_rest(small)


@settings(max_examples=often(6, 40), deadline=None)
@given(data=st.data())
def test_requests_that_come_and_go_change_nothing(data: st.DataObject) -> None:
    small = SHARED
    calm = plain(small)
    readers: list[tuple[Reader, list[int], Sampling]] = []
    gone: set[int] = set()
    for turn in range(data.draw(st.integers(2, 12), label="turns")):
        for _ in range(data.draw(st.integers(0, 2), label="arrivals")):
            ids = prompt(small.config, data.draw(st.integers(1, 30), label="length"), seed=turn)
            sampling = replace(data.draw(st.sampled_from([GREEDY, SEEDED])), max_tokens=data.draw(st.integers(1, 20)))
            readers.append((small.submit(ids, sampling), ids, sampling))
        for _ in range(data.draw(st.integers(0, 4), label="steps")):
            small.engine.step()
        if readers and data.draw(st.booleans(), label="cancel"):
            place = data.draw(st.integers(0, len(readers) - 1))
            order = readers[place][0].engine_request
            assert order
            small.engine.cancel(order)
            gone.add(place)
    small.run()
    for place, (reader, ids, sampling) in enumerate(readers):
        expected = calm.answer(ids, sampling).text
        assert expected.startswith(reader.text) if place in gone else reader.text == expected
    check_at_rest(small)


SHARED = warmed()


def test_the_next_step_is_launched_before_tokens_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    small = warmed()
    launched_ahead: list[bool] = []
    real = ModelRunner.launch

    def noting(
        self: ModelRunner, inputs: object, due: object, states: object, *, from_previous: bool = False
    ) -> object:
        launched_ahead.append(from_previous)
        return real(self, inputs, due, states, from_previous=from_previous)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelRunner, "launch", noting)
    small.answer(prompt(small.config, 3), replace(GREEDY, max_tokens=20))
    assert sum(launched_ahead) >= 10


def test_numbers_gone_wrong_end_one_request_only() -> None:
    small = warmed()
    marked = 9
    small.model.weights.embedding[marked] = torch.nan
    bad, good = small.submit([3, marked], GREEDY), small.submit([3, 4, 5], GREEDY)
    small.run()
    assert isinstance(bad.error, ServerFault)
    assert good.done
    check_at_rest(small)


def test_a_failing_step_ends_its_requests_and_the_next_one_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    small = warmed()
    expected = plain(small).answer([3, 4, 5]).text
    with monkeypatch.context() as patch:
        patch.setattr(DevicePageTable, "write", _out_of_memory)
        patch.setattr("llama4_local.engine.model_runner.forward", _out_of_memory)
        reader = small.submit([3, 4, 5])
        small.run()
    assert isinstance(reader.error, ServerFault)
    assert small.answer([3, 4, 5]).text == expected
    check_at_rest(small)


def test_a_failure_between_noting_and_sending_pages_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    small = warmed()
    expected = plain(small).answer([3, 4, 5]).text
    reader = small.submit([3, 4, 5])
    small.engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(DevicePageTable, "write", _out_of_memory)
        small.run()
    assert isinstance(reader.error, ServerFault)
    assert small.answer([3, 4, 5]).text == expected


def _out_of_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("out of memory")


def test_rows_that_stand_for_nobody_write_to_page_zero_only() -> None:
    small = warmed()
    cache = small.engine._cache  # pyright: ignore[reportPrivateUsage]
    small.submit(prompt(small.config, 5), replace(GREEDY, max_tokens=30))
    for n in range(2):
        small.submit(prompt(small.config, 6, seed=n), replace(GREEDY, max_tokens=30))
    for _ in range(4):
        small.engine.step()
    pages = small.engine._pages  # pyright: ignore[reportPrivateUsage]
    free = {"global": pages.global_pool, "local": pages.local_pool}
    unused = {pool: set(own._free) for pool, own in free.items()}  # pyright: ignore[reportPrivateUsage]
    for layer in cache.layers:
        layer.keys[list(unused[layer.pool])] = torch.nan
    for _ in range(2):
        small.engine.step()
    for layer in cache.layers:
        still = list(unused[layer.pool].intersection(free[layer.pool]._free))  # pyright: ignore[reportPrivateUsage]
        assert still
        assert layer.keys[still].isnan().all()


def test_progress_counts_up_to_the_end() -> None:
    small = SmallEngine(limits=LIMITS)
    seen: list[tuple[int, int]] = []
    small.engine.warm_up(Rerun, lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(len(seen)))
    assert seen[-1][0] == seen[-1][1] == len(seen) - 1


def test_capture_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llama4_local")
    small = SmallEngine(limits=LIMITS)
    small.engine.warm_up(Rerun)
    small.engine.warm_up(None)
    captured, eager = [record.getMessage() for record in caplog.records if record.name == "llama4_local"]
    assert captured.startswith("Warmed up in ")
    assert captured.endswith("CUDA graphs for 1, 2, 4, 6 sequences and for up to 8 tokens of prompts.")
    assert eager.endswith("no CUDA graphs.")


@pytest.mark.parametrize(("most", "sizes"), [(1, (1,)), (6, (1, 2, 4, 6)), (64, (1, 2, 4, 8, 16, 32, 64))])
def test_buckets_are_powers_of_two_and_the_most(most: int, sizes: tuple[int, ...]) -> None:
    assert bucket_sizes(most) == sizes


def test_rehearsals_have_every_power_of_two_of_tokens() -> None:
    small = SmallEngine(limits=LIMITS)
    steps = list(warmup_steps(small.shape, tokens=64, sequences=6))
    assert [sum(len(work.token_ids) for work in works) for works in steps] == [1, 2, 4, 8, 16, 32, 48, 1, 2, 4, 6]


@given(rows=st.lists(st.lists(st.lists(st.integers(1, 9), max_size=5), min_size=3, max_size=3), max_size=8))
def test_a_page_table_holds_what_the_rows_hold(rows: list[list[list[int]]]) -> None:
    table = DevicePageTable(3, 5, torch.device("cpu"))
    for wanted in rows:
        places, pages = table.changes(wanted)
        table.write(torch.tensor(places, dtype=torch.int64), torch.tensor(pages, dtype=torch.int64))
        for row, own in enumerate(wanted):
            assert table.pages[row, : len(own)].tolist() == own


def test_a_page_table_sends_only_what_is_new() -> None:
    table = DevicePageTable(2, 8, torch.device("cpu"))
    table.changes([[1, 2, 3], [4]])
    assert table.changes([[1, 2, 3, 7], [4]]) == ([3], [7])
    assert table.changes([[1, 2, 3, 7], [4]]) == ([], [])
    assert table.changes([[1, 2, 3, 8], [4]])[0] == [0, 1, 2, 3]


def test_what_is_put_alike_lies_at_the_same_place_and_does_not_disturb_the_step_before() -> None:
    buffer = PinnedBuffer(4096, torch.device("cpu"))
    buffer.begin()
    first = buffer.put([1, 2, 3]), buffer.put([0.5], np.float64)
    buffer.send()
    buffer.begin()
    second = buffer.put([4, 5, 6]), buffer.put([1.5], np.float64)
    assert first == second
    assert buffer.view(first[0]).tolist() == [1, 2, 3]
    buffer.send()
    assert buffer.view(second[0]).tolist() == [4, 5, 6]
    assert buffer.view(second[1]).tolist() == [1.5]
    assert buffer.view(second[1]).data_ptr() % 16 == buffer.view(second[0]).data_ptr() % 16


def test_more_than_was_planned_for_is_refused() -> None:
    buffer = PinnedBuffer(64, torch.device("cpu"))
    buffer.begin()
    with pytest.raises(BrokenInvariant, match="64 bytes"):
        buffer.put(range(9))
