"""Time to the first token with an input guard and without: the backend computes the prompt while the guard judges it.

Run it with: python -m benchmarks.guarded_first_token [--rounds N]

Each round measures without and with guards, in alternating order, so that what else the machine does meets both; a
ratio is of the two times of one round. Printed are the medians of the times and the ratios' median and quartiles. Where
the guard is a model on the same cores, the ratio has the sharing of these cores in it; the first two cases, whose guard
only waits, show the waiting for the verdict alone.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import anyio

from llama4_local import LocalBackend
from llama4sdk import Llama4, Sampling, TextDelta
from llama4sdk.backend import Backend
from llama4sdk.guards import Guard, Item, LlamaGuard, Stage, Verdict
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
    stages: tuple[Stage, ...] = ("input",)

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


class Allows:
    """Lets another guard judge, and allows: a time without an answer would be none.

    Args:
        inner: The other guard.
    """

    name = "allows"
    stages: tuple[Stage, ...] = ("input",)

    def __init__(self, inner: LlamaGuard) -> None:
        self._inner = inner
        self.sees_images = inner.sees_images

    async def start(self) -> None:
        await self._inner.start()

    async def check(self, item: Item) -> Verdict:
        return replace(await self._inner.check(item), action="allow")

    async def selftest(self) -> None:
        return None

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass(frozen=True)
class Compared:
    """Seconds to the first token, round by round."""

    plain: Sequence[float]
    guarded: Sequence[float]

    def line(self, name: str) -> str:
        """Return the medians, and the median and quartiles of the rounds' ratios, in words."""
        ratios = [with_guard / without - 1 for without, with_guard in zip(self.plain, self.guarded, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        times = [statistics.median(each) * 1000 for each in (self.plain, self.guarded)]
        return f"{name:38} {times[0]:7.1f} ms {times[1]:7.1f} ms  {middle:+.1%} ({low:+.1%} to {high:+.1%})"


class Borrowed:
    """A backend that another client starts and closes: two of their own could take other forms of products.

    Args:
        backend: The backend.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def start(self) -> None:
        return None

    async def aclose(self) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


async def compare(backend: Backend, guards: Sequence[Guard], prompt: str, rounds: int) -> Compared:
    """Measure without and with guards; the order alternates."""
    times: dict[Llama4, list[float]] = {}
    borrowed = cast("Backend", Borrowed(backend))
    async with Llama4(backend, guards=None) as bare, Llama4(borrowed, guards=guards) as watched:
        for llama in (bare, watched):
            times[llama] = []
            await first_token(llama, prompt)  # loads, and runs the self-test
        for number in range(rounds):
            for llama in (bare, watched) if number % 2 else (watched, bare):
                fresh = f"{number} is {'a' if llama is bare else 'one'} number. {prompt}"  # not cached
                times[llama].append(await first_token(llama, fresh))
    return Compared(times[bare], times[watched])


async def measure(rounds: int) -> None:
    """Print a line for each case."""
    scripted = ScriptedBackend("Hi", pause=_PREFILL)
    cases: dict[str, tuple[Backend, Sequence[Guard], str]] = {
        "100 ms of prefill, a guard of 50 ms": (scripted, [Waits(_PREFILL / 2)], "Hi"),
        "nano, 900 tokens, a guard of 10 ms": (LocalBackend(), [Waits(0.01)], _LONG),
        "nano, a short question, nano-guard": (LocalBackend(), [Allows(nano_guard())], "What is 17 + 25?"),
        "nano, 900 tokens, nano-guard": (LocalBackend(), [Allows(nano_guard())], _LONG),
    }
    for name, (backend, guards, prompt) in cases.items():
        print((await compare(backend, guards, prompt, rounds)).line(name), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=21)
    print(f"{'':38} {'without':>10} {'with':>10}  growth, median (quartiles)")
    asyncio.run(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
