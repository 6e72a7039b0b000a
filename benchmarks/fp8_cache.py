"""Answers and speed of nano with its keys and values in e4m3 and in its own type: the same questions to both.

python benchmarks/fp8_cache.py [--samples 30] [--seed 21] [--dtype bfloat16]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import dataclass
from itertools import islice
from typing import get_args

from llama4_local import LocalBackend
from llama4_local.config.options import CacheType, DType
from llama4_local.nano.training.data import SKILLS, Sample, samples
from llama4sdk.events import TextDelta
from llama4sdk.request import Request, Sampling

GREEDY = Sampling(temperature=0, max_tokens=220)


@dataclass(frozen=True, slots=True)
class Served:
    """The results of all questions over one type of cache.

    Args:
        answers: What was written, in the order of the questions.
        seconds: How long all took together.
        cache: Bytes of the cache.
    """

    answers: list[str]
    seconds: float
    cache: int


async def serve(asked: list[Sample], dtype: DType, cache_dtype: CacheType) -> Served:
    """Ask everything at once, of a backend that takes 16 questions at a time."""
    backend = LocalBackend(dtype=dtype, cache_dtype=cache_dtype, memory="1GB", context=2048, max_sequences=16)
    await backend.start()
    try:
        await _answer(backend, asked[0])
        began = time.perf_counter()
        answers = await asyncio.gather(*(_answer(backend, sample) for sample in asked))
        seconds = time.perf_counter() - began
        worker, _ = backend.running()
        return Served(answers, seconds, await worker.ask(lambda engine: engine.cache_bytes))
    finally:
        await backend.aclose()


async def _answer(backend: LocalBackend, sample: Sample) -> str:
    request = Request(sample.messages[:-1], sample.tools, sample.choice, sample.output, sampling=GREEDY)
    async with backend.open(request) as events:
        return "".join([event.text async for event in events if isinstance(event, TextDelta)])


def main() -> None:
    """Print how many answers are the same, skill by skill, then sizes, times and the answers that differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=30, help="of each skill")
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--dtype", choices=get_args(DType), default="bfloat16")
    given = parser.parse_args()
    asked = [sample for skill in SKILLS for sample in islice(samples(given.seed, skill, "test"), given.samples)]
    plain, narrow = (asyncio.run(serve(asked, given.dtype, kind)) for kind in get_args(CacheType))
    pairs = list(zip(asked, plain.answers, narrow.answers, strict=True))
    for skill in SKILLS:
        same = [one == other for sample, one, other in pairs if sample.skill == skill]
        print(f"{skill:18} {sum(same)} of {len(same)} the same")
    print(f"{'all':18} {sum(one == other for _, one, other in pairs)} of {len(pairs)} the same")
    for name, served in ((given.dtype, plain), ("fp8", narrow)):
        print(f"{name:18} {served.seconds:.1f} s, a cache of {served.cache / 1e6:.1f} MB")
    for sample, one, other in pairs:
        if one != other:
            print(f"{sample.skill}: {one!r} became {other!r}")


if __name__ == "__main__":
    main()
