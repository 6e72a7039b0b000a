"""Time to the first token with an input guard and without: the backend computes the prompt while the guard judges it.

Run it with: python -m benchmarks.guarded_first_token [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence

import anyio

from llama4sdk import Llama4, Sampling, TextDelta
from llama4sdk.backend import Backend
from llama4sdk.guards import Guard, Item, Verdict
from llama4sdk.guards.automatic import nano_guard
from llama4sdk.testing import ScriptedBackend

_PREFILL = 0.1  # seconds of a scripted backend before its first token
_LONG = "The train leaves at 9 o'clock. " * 100 + "What is 17 + 25?"


class Waits:
    """Judges input after a time.

    Args:
        seconds: The time.
    """

    name = "waits"
    stages = ("input",)

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def check(self, item: Item) -> Verdict:
        await anyio.sleep(self._seconds)
        return Verdict(coverage=item.inspected())

    async def selftest(self) -> None:
        return None


async def first_token(llama: Llama4, prompt: str) -> float:
    """Return the seconds until the first text of an answer."""
    begun = time.perf_counter()
    async with llama.stream(prompt, sampling=Sampling(temperature=0, max_tokens=4)) as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                return time.perf_counter() - begun
    return float("nan")


async def compare(backend: Backend | str, guards: Sequence[Guard], prompt: str, rounds: int) -> tuple[float, float]:
    """Return the median seconds to the first token without and with guards, in alternating rounds."""
    plain, guarded = [], []
    other = backend if isinstance(backend, str) else ScriptedBackend("Hi", pause=_PREFILL)
    async with Llama4(backend, guards=None) as bare, Llama4(other, guards=guards) as watched:
        for llama in (bare, watched):
            await first_token(llama, prompt)  # loads, and runs the self-test
        for number in range(rounds):
            text = (
                prompt if isinstance(backend, ScriptedBackend) else f"{number} is a number. {prompt}"
            )  # nothing cached
            plain.append(await first_token(bare, text))
            guarded.append(await first_token(watched, text))
    return statistics.median(plain), statistics.median(guarded)


async def measure(rounds: int) -> None:
    """Print a line for each case."""
    scripted = ScriptedBackend("Hi", pause=_PREFILL)
    cases: dict[str, tuple[Backend | str, Sequence[Guard], str]] = {
        "100 ms of prefill, a guard of 50 ms": (scripted, [Waits(_PREFILL / 2)], "Hi"),
        "nano, a short question, nano-guard": ("local", [_input_only()], "What is 17 + 25?"),
        "nano, 900 tokens, nano-guard": ("local", [_input_only()], _LONG),
    }
    for name, (backend, guards, prompt) in cases.items():
        plain, guarded = await compare(backend, guards, prompt, rounds)
        print(f"{name:38} {plain * 1000:7.1f} ms {guarded * 1000:7.1f} ms  {guarded / plain - 1:+.1%}", flush=True)


def _input_only() -> Guard:
    guard = nano_guard()
    guard.stages = ("input",)
    return guard


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=21)
    print(f"{'':38} {'without':>10} {'with':>10}")
    asyncio.run(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
