"""Long runs of a backend over ranks, with `LLAMA4_LONG=1`: every skill of nano, and ranks killed at random moments."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from itertools import islice
from pathlib import Path

import anyio
import pytest

from llama4_local import LocalBackend
from llama4_local.nano import CHECKPOINT as NANO
from llama4_local.nano.training.data import SKILLS, samples
from llama4sdk.errors import LlamaError, ServerFault
from llama4sdk.request import Request, Sampling
from local.divisible import SHAPES
from local.small_backends import ENDLESS, asking, chatting, events_of, saved_chat, serving, text_of
from local.test_parallel_backend import children
from long_runs import only_long

pytestmark = only_long("takes minutes")
MOMENTS = 30
STREAMS = 20
PROMPTLY = 5.0  # seconds
PER_SKILL = 30


@pytest.mark.parametrize("ranks", [2, 4])
async def test_a_rank_killed_at_any_moment_ends_every_stream_promptly_and_leaves_nothing(ranks: int, tmp_path: Path):
    folder = saved_chat(tmp_path, chatting(SHAPES["scout"], stop_ids=()))
    chance, slowest = random.Random(ranks), 0.0
    for moment in range(MOMENTS):
        async with serving(folder, tensor_parallel=ranks) as backend:
            await backend.ready()
            errors: list[LlamaError] = []
            killed = time.monotonic()
            async with anyio.create_task_group() as tasks:
                for _ in range(STREAMS):
                    tasks.start_soon(_failing, backend, errors)
                await anyio.sleep(chance.uniform(0, 0.5))
                os.kill(chance.choice(children()), signal.SIGKILL)
                killed = time.monotonic()
            slowest = max(slowest, time.monotonic() - killed)
        assert len(errors) == STREAMS
        assert all(isinstance(error, ServerFault) and not error.retryable for error in errors)
        assert children() == []
        assert _folders() == []
        print(f"moment {moment}: {slowest:.2f} s at most", flush=True)
    assert slowest < PROMPTLY
    async with serving(folder, tensor_parallel=ranks) as backend:
        assert text_of(await events_of(backend, asking()))


def _folders() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"llama4-ranks-{os.getpid()}-*"))


async def _failing(backend: LocalBackend, errors: list[LlamaError]) -> None:
    with pytest.raises(LlamaError) as caught:
        await events_of(backend, asking(sampling=ENDLESS))
    errors.append(caught.value)


async def test_nano_answers_every_skills_samples_alike_over_two_ranks():
    asked = [sample for skill in SKILLS for sample in islice(samples(1, skill, "test"), PER_SKILL)]
    greedy = Sampling(temperature=0, max_tokens=96)
    requests = [
        Request(
            sample.messages[:-1], tools=sample.tools, tool_choice=sample.choice, output=sample.output, sampling=greedy
        )
        for sample in asked
    ]
    alone, shared = [await _answers(requests, ranks) for ranks in (1, 2)]
    differing = [place for place in range(len(asked)) if alone[place] != shared[place]]
    assert not differing, [(asked[place].skill, alone[place], shared[place]) for place in differing]


async def _answers(requests: list[Request], ranks: int) -> list[str]:
    texts = [""] * len(requests)

    async def ask(backend: LocalBackend, place: int) -> None:
        texts[place] = text_of(await events_of(backend, requests[place]))

    backend = LocalBackend(NANO, dtype="float32", tensor_parallel=ranks)
    try:
        await backend.start()
        async with anyio.create_task_group() as tasks:
            for place in range(len(requests)):
                tasks.start_soon(ask, backend, place)
    finally:
        await backend.aclose()
    return texts
