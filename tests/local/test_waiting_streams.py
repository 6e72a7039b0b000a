"""Streams beside admissions and a long prompt, on a simulated device whose steps cost seconds by a table."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from llama4_local.decoding.sampler import SamplerState
from llama4_local.engine.engine import EngineLimits
from llama4_local.engine.scheduler import Scheduler
from llama4_local.engine.step_output import StepOutput
from llama4_local.ops.batch import SequenceInput
from llama4sdk.request import Sampling
from local.small_backends import Reader, SmallEngine, chatting
from local.small_checkpoints import prompt

LONG = 100_000
LONGEST_WAIT = 0.040


@dataclass
class Clock:
    """Simulated seconds."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Costs:
    """Seconds of a step.

    Args:
        launch: Of any step.
        sequence: For each sequence in it.
        prompt_tokens: For each prompt token, by the context that it is computed in.
    """

    launch: float
    sequence: float
    prompt_tokens: dict[int, float]

    def of(self, inputs: Sequence[SequenceInput]) -> float:
        total = self.launch + self.sequence * len(inputs)
        contexts = list(self.prompt_tokens)
        for each in inputs:
            place = bisect_right(contexts, each.position) - 1
            total += len(each.token_ids) * self.prompt_tokens[contexts[place]] if len(each.token_ids) > 1 else 0
        return total


# A large GPU with a network of Scout's size in int4, where a step of 8,192 prompt tokens takes 0.7 s; a slower GPU;
# a few cores of a CPU with a small network.
DEVICES = {
    "large GPU": Costs(6e-3, 1e-4, {0: 82e-6, 16_384: 90e-6, 65_536: 110e-6}),
    "small GPU": Costs(12e-3, 2e-4, {0: 300e-6, 16_384: 340e-6, 65_536: 420e-6}),
    "CPU": Costs(5e-3, 2e-4, {0: 450e-6, 16_384: 500e-6, 65_536: 600e-6}),
}


class SimulatedRunner:
    """Takes a step's seconds off the clock, and samples token 5 for each row."""

    def __init__(self, clock: Clock, costs: Costs) -> None:
        self._clock = clock
        self._costs = costs

    def launch(
        self,
        inputs: Sequence[SequenceInput],
        rows: Sequence[int],
        states: Sequence[SamplerState],
        *,
        from_previous: bool = False,
    ) -> StepOutput:
        self._clock.now += self._costs.of(inputs)
        return StepOutput(torch.full((len(rows),), 5))

    def close(self) -> None:
        """Nothing runs beside it."""


class Simulation:
    """An engine whose steps cost what a table says."""

    def __init__(self, costs: Costs) -> None:
        config = chatting(stop_ids=())
        text = replace(config.text, chunk=8192, max_positions=2 * LONG)
        self.clock = Clock()
        self.small = SmallEngine(
            replace(config, text=text),
            global_pages=2 * LONG // 64,
            local_pages=2 * LONG // 64,
            page_size=64,
            limits=EngineLimits(step_tokens=8192, max_sequences=64),
            clock=self.clock,
        )
        self.small.engine._runner = SimulatedRunner(self.clock, costs)  # pyright: ignore[reportPrivateUsage]
        self.longest_wait = 0.0
        self._streams: list[_Stream] = []

    def submit(self, tokens: int, answer: int, seed: int) -> Reader:
        ids = (prompt(self.small.config, 1000, seed=seed) * (tokens // 1000 + 1))[:tokens]
        reader = self.small.submit(ids, Sampling(temperature=0, max_tokens=answer))
        assert reader.engine_request is not None
        self._streams.append(_Stream(reader.engine_request.written))
        return reader

    def step(self) -> None:
        """Make a step, and note how long each stream waited for its next token."""
        self.small.engine.step()
        for stream in self._streams:
            if len(stream.written) > stream.counted:
                if stream.counted:
                    self.longest_wait = max(self.longest_wait, self.clock.now - stream.since)
                stream.counted, stream.since = len(stream.written), self.clock.now


@dataclass
class _Stream:
    written: list[int]
    counted: int = 0
    since: float = 0.0


@pytest.mark.parametrize("device", DEVICES)
def test_no_stream_waits_long_beside_admissions_and_a_long_prompt(device: str) -> None:
    simulation = Simulation(DEVICES[device])
    streams = [simulation.submit(40, 10**5 // 4, seed) for seed in range(8)]
    for _ in range(20):
        simulation.step()
    long = simulation.submit(LONG, 4, seed=99)
    steps = 0
    while not long.done:
        if steps % 50 == 0 and steps < 1000:
            simulation.submit(500, 20, seed=1000 + steps)
        simulation.step()
        steps += 1
    assert not any(stream.done for stream in streams)
    assert simulation.longest_wait <= LONGEST_WAIT


def test_without_a_pace_streams_wait_for_whole_steps_of_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Scheduler.schedule

    def unpaced(self: Scheduler, beside: int | None = None) -> object:  # type: ignore[type-arg]
        return schedule(self)

    monkeypatch.setattr(Scheduler, "schedule", unpaced)
    simulation = Simulation(DEVICES["large GPU"])
    for seed in range(8):
        simulation.submit(40, 1000, seed)
    for _ in range(20):
        simulation.step()
    long = simulation.submit(LONG, 4, seed=99)
    while not long.done:
        simulation.step()
    assert simulation.longest_wait > 0.5


def test_prompts_with_no_stream_beside_them_take_whole_steps() -> None:
    simulation = Simulation(DEVICES["large GPU"])
    long = simulation.submit(LONG, 1, seed=0)
    steps = 0
    while not long.done:
        simulation.step()
        steps += 1
    assert steps == -(-LONG // 8192)
