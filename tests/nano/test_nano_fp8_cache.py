"""What nano says with its keys and values in e4m3: as good as always what it says without."""

from __future__ import annotations

import asyncio
from itertools import islice

from llama4_local import LocalBackend
from llama4_local.config.options import CacheType
from llama4_local.nano.training.data import SKILLS, Sample, samples
from llama4sdk.events import TextDelta
from llama4sdk.request import Request, Sampling
from long_runs import often, only_long

EACH = often(2, 4)  # samples of a skill
SAME = 0.95
GREEDY = Sampling(temperature=0, max_tokens=220)


async def answers(asked: list[Sample], cache_dtype: CacheType) -> list[str]:
    """Nano's greedy answers, as it wrote them, many at a time."""
    backend = LocalBackend(cache_dtype=cache_dtype, memory="256MB", max_sequences=16)
    await backend.start()
    try:
        return await asyncio.gather(*(answer(backend, sample) for sample in asked))
    finally:
        await backend.aclose()


async def answer(backend: LocalBackend, sample: Sample) -> str:
    request = Request(sample.messages[:-1], sample.tools, sample.choice, sample.output, sampling=GREEDY)
    async with backend.open(request) as events:
        return "".join([event.text async for event in events if isinstance(event, TextDelta)])


@only_long("answers twice for every skill")
async def test_greedy_answers_to_new_samples_of_every_skill_hardly_change() -> None:
    asked = [sample for skill in SKILLS for sample in islice(samples(1, skill, "test"), EACH)]
    assert len(asked) >= 20
    plain, narrow = await answers(asked, "auto"), await answers(asked, "fp8")
    assert all(plain)
    same = sum(one == other for one, other in zip(plain, narrow, strict=True))
    assert same >= SAME * len(asked)
