"""The cost of `deterministic=True` on a CPU: seconds of the processor for prompts and answers of nano.

    OMP_NUM_THREADS=1 python benchmarks/deterministic.py

Each line is a dtype, with and without: seconds of the processor for a prompt, and for each token of a lone answer and
of 16 answers at once. These, unlike seconds of the clock, count nothing that runs beside it.
"""

from __future__ import annotations

import asyncio
import time

from llama4_local import LocalBackend
from llama4_local.config.formats import DType
from llama4sdk.messages import conversation
from llama4sdk.request import Request, Sampling

PROMPT = "Add these numbers: " + " ".join(map(str, range(150)))
TOKENS = 64
DTYPES: tuple[DType, ...] = ("float32", "bfloat16")


async def answer(backend: LocalBackend, text: str, tokens: int, seed: int = 0) -> None:
    """Read one seeded answer of so many tokens."""
    sampling = Sampling(temperature=1.0, max_tokens=tokens, min_tokens=tokens, seed=seed)
    async with backend.open(Request(conversation(text), sampling=sampling)) as events:
        async for _ in events:
            pass


async def measured(backend: LocalBackend, text: str, tokens: int, count: int) -> float:
    """Return seconds of the processor for several answers at once."""
    begun = time.process_time()
    await asyncio.gather(*(answer(backend, text, tokens, seed) for seed in range(count)))
    return time.process_time() - begun


async def main() -> None:
    """Measure both, each after a first answer in which forms are tried out."""
    for dtype in DTYPES:
        for deterministic in (False, True):
            backend = LocalBackend(dtype=dtype, deterministic=deterministic, prefix_caching=False)
            await backend.start()
            await measured(backend, PROMPT, 2, 2)
            prompt = await measured(backend, PROMPT, 1, 1)
            alone, together = [await measured(backend, "Hello", TOKENS, count) / TOKENS for count in (1, 16)]
            await backend.aclose()
            print(
                f"{dtype:<9} deterministic={deterministic!s:<5} prompt {prompt:.2f} s, each token of one answer "
                f"{alone * 1e3:.1f} ms, of 16 together {together * 1e3:.1f} ms",
                flush=True,
            )


if __name__ == "__main__":
    asyncio.run(main())
