"""The cost of guards: the first token beside a check of the input, and CPU and reading for each token of an answer.

Run it with: python -m benchmarks.guards [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from typing import TYPE_CHECKING

from llama4sdk import Llama4, Request, Sampling, TextDelta
from llama4sdk.guards import GuardPolicy, Item, LlamaGuard, PatternGuard, Stage, Verdict
from llama4sdk.testing import ScriptedBackend

if TYPE_CHECKING:
    from llama4sdk.guards import Guard

_PROMPT = "Tell me about the sea. " * 150
_CHECK = 0.05  # seconds of a check, which the prefill outlasts
_SENTENCE = "The sky is blue, and water is wet, as a poet of old wrote . "
_SIZES = (100, 1000, 10_000)


class Slow:
    """Clears the input after a while."""

    name = "slow"
    stages: tuple[Stage, ...] = ("input",)

    async def check(self, item: Item) -> Verdict:
        """Wait, and allow."""
        await asyncio.sleep(_CHECK)
        return Verdict(coverage=item.inspected())

    async def selftest(self) -> None:
        """Do nothing."""


class Reader:
    """Plays Llama Guard, and counts the characters that it reads."""

    def __init__(self) -> None:
        self.characters = 0

    def __call__(self, request: Request) -> str:
        """Return a verdict."""
        self.characters += sum(len(message.text) for message in request.messages)
        return "unsafe\nS9" if "pipe bomb" in request.messages[-1].text else "safe"


async def first_token(llama: Llama4, number: int) -> float:
    """Return the seconds until the first text of an answer to a prompt that is in no cache."""
    begun = time.perf_counter()
    async with llama.stream(f"{number} {_PROMPT}", sampling=Sampling(temperature=0, max_tokens=4)) as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                return time.perf_counter() - begun
    return float("nan")


async def first_tokens(rounds: int) -> None:
    """Print the first token's time without and with a guard of the input, in turns."""
    times: dict[str, list[float]] = {"without": [], "with": []}
    async with Llama4("local") as plain, Llama4("local", guards=[Slow()]) as guarded:
        for number in range(rounds + 2):
            for name, llama in (("without", plain), ("with", guarded)):
                times[name].append(await first_token(llama, number))
    without, beside = (statistics.median(times[name][2:]) for name in ("without", "with"))
    print(f"first token {without * 1e3:.0f} ms, beside a check of {_CHECK * 1e3:.0f} ms {beside * 1e3:.0f} ms: "
          f"{beside / without - 1:+.1%}")  # fmt: skip


async def cost(guard: Guard | None, tokens: int, growth: float) -> float:
    """Return the CPU seconds of an answer of so many tokens, each of which may be checked."""
    words = [f"{word} " for word in _SENTENCE.split()]
    steps = [step for number in range(tokens) for step in (TextDelta(words[number % len(words)]), 0.0)]
    guards = None if guard is None else [guard]
    policy = None if guard is None else GuardPolicy(growth=growth)
    async with Llama4(ScriptedBackend(steps), guards=guards, guard_policy=policy) as llama:
        begun = time.process_time()
        await llama.chat("Go on.")
        return time.process_time() - begun


async def costs() -> None:
    """Print the costs for each token of answers of several lengths."""
    for tokens in _SIZES:
        plain = await cost(None, tokens, 0)
        rules = await cost(PatternGuard({"ticket": "TICKET-[0-9]{6}"}), tokens, 0)
        shown = f"{tokens:6} tokens: {plain / tokens * 1e6:.0f} µs each, with rules {rules / tokens * 1e6:.0f} µs"
        for growth in (0.0, 0.1):
            reader = Reader()
            await cost(LlamaGuard(ScriptedBackend(reader)), tokens, growth)
            read = reader.characters / (tokens * len(_SENTENCE) / len(_SENTENCE.split()))
            shown += f", read at growth {growth:g} {read:.1f} times"
        print(shown)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    asyncio.run(first_tokens(parser.parse_args().rounds))
    asyncio.run(costs())


if __name__ == "__main__":
    main()
