"""Bulk work: many prompts at once, each with its own outcome, and a journal to go on from."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from llama4sdk import Llama4, Sampling
from llama4sdk.bulk import Tally

PROMPTS = [f"What is {number} + {number + 3}?" for number in range(12)]


async def ask(llama: Llama4, prompts: list[str], journal: Path) -> Tally:
    """Ask all prompts, four at a time, and print each answer as it comes."""
    sampling = Sampling(temperature=0, max_tokens=24)
    async with llama.map(prompts, concurrency=4, journal=journal, sampling=sampling) as outcomes:
        async for outcome in outcomes:
            known = " (from the journal)" if outcome.resumed else ""
            print(f"  {outcome.prompt} {outcome.reply or outcome.error}{known}")
        return outcomes.tally


async def main() -> None:
    """Stop half-way, then go on: what was answered is not asked again."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "answers.jsonl"
        async with Llama4(guards=None if "--no-guards" in sys.argv else "auto") as llama:
            print("the first half")
            await ask(llama, PROMPTS[:6], journal)
            print("all of it")
            tally = await ask(llama, PROMPTS, journal)
    print(f"{tally.done} done, {tally.resumed} of them from the journal, {tally.usage.completion_tokens} new tokens")


if __name__ == "__main__":
    asyncio.run(main())
