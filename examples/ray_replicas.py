"""Two replicas of nano on Ray, as one backend; needs: pip install 'llama4sdk[local,ray]'."""

from __future__ import annotations

import asyncio
import sys

from llama4_ray import RayBackend
from llama4sdk import Llama4, Sampling
from llama4sdk.routing import Fallback


async def main() -> None:
    """Ask both replicas at once; were one to die, its answers would go on at the other."""
    replicas = RayBackend("local", replicas=2, cpus=0.5, threads=1, context=2048)
    async with Llama4(Fallback(replicas), guards=None if "--no-guards" in sys.argv else "auto") as llama:
        print(f"{replicas.replicas} replicas of {llama.capabilities.model}")
        sampling = Sampling(temperature=0, max_tokens=24)
        prompts = [f"What is {number} + {number + 3}?" for number in range(8)]
        replies = await asyncio.gather(*(llama.chat(prompt, sampling=sampling) for prompt in prompts))
        for prompt, reply in zip(prompts, replies, strict=True):
            print(f"  {prompt} {reply.text}")


if __name__ == "__main__":
    asyncio.run(main())
