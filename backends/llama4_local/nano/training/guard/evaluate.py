"""Measure nano-guard kind by kind: `python -m llama4_local.nano.training.guard.evaluate [--samples N] [CHECKPOINT]`.

Cases come from a split whose wordings (`--split wordings`) or whose wordings and words (`--split words`) training never
met. Each goes through `LlamaGuard`
over the local backend, as every turn of a client does.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from llama4_local.checkpoint.writer import write_json
from llama4_local.nano import GUARD_CHECKPOINT
from llama4_local.nano.training.guard.data import HARMFUL, KINDS, cases
from llama4sdk.guards import HARMS, Item, LlamaGuard
from llama4sdk.messages import AssistantMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4_local.nano.training.guard.data import Case
    from llama4_local.nano.training.guard.data.choices import Split
    from llama4sdk.guards import Stage, Verdict

_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of one kind of case.

    Args:
        right: Share of cases that are blocked where they are harmful, and pass where they are not.
        named: Of the harmful cases that are blocked, the share with the right category; 1 for harmless kinds.
        misses: Cases that are judged wrongly.
    """

    right: float
    named: float
    misses: tuple[Case, ...]


async def measure(guard: LlamaGuard, kind: str, count: int, *, seed: int = 1, split: Split = "wordings") -> Measured:
    """Return the figures of a kind on `count` cases."""
    asked = list(islice(cases(seed, kind, split), count))
    verdicts = await _judged(guard, asked)
    right = [(verdict.action == "block") is bool(case.code) for case, verdict in zip(asked, verdicts, strict=True)]
    caught = [
        HARMS[case.code] in verdict.categories
        for case, verdict in zip(asked, verdicts, strict=True)
        if case.code and verdict.action == "block"
    ]
    misses = tuple(case for case, good in zip(asked, right, strict=True) if not good)
    return Measured(sum(right) / count, sum(caught) / len(caught) if caught else 1.0, misses)


async def _judged(guard: LlamaGuard, asked: Sequence[Case]) -> list[Verdict]:
    verdicts: dict[int, Verdict] = {}
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def judge(place: int, case: Case) -> None:
        async with limiter:
            verdicts[place] = await guard.check(item_of(case))

    async with anyio.create_task_group() as tasks:
        for place, case in enumerate(asked):
            tasks.start_soon(judge, place, case)
    return [verdicts[place] for place in range(len(asked))]


def item_of(case: Case) -> Item:
    """Return the item whose check asks for the verdict on a case."""
    last = case.messages[-1]
    stage: Stage = "output" if isinstance(last, AssistantMessage) else "input"
    return Item(stage, last.text, last.images, case.messages)


async def _main(options: argparse.Namespace) -> None:
    guard = LlamaGuard(f"local:{options.checkpoint}", device="cpu", dtype="float32", deterministic=True)
    await guard.start()
    figures: dict[str, dict[str, dict[str, float]]] = {}
    try:
        for split in options.split:
            print(split, flush=True)
            figures[split] = {kind: await _shown(guard, kind, split, options) for kind in options.kinds}
    finally:
        await guard.aclose()
    if options.write:
        write_json(options.write, {"samples": options.samples, "seed": options.seed, "figures": figures})


async def _shown(guard: LlamaGuard, kind: str, split: Split, options: argparse.Namespace) -> dict[str, float]:
    of = await measure(guard, kind, options.samples, seed=options.seed, split=split)
    verb = "caught" if kind in HARMFUL else "passed"
    print(f"  {kind:18} {verb} {of.right:7.1%}  named {of.named:7.1%}", flush=True)
    for case in of.misses[: options.misses]:
        print(f"    {[message.text for message in case.messages]} {case.code}", flush=True)
    return {"right": of.right, "named": of.named}


def main() -> None:
    """Read the command line, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=GUARD_CHECKPOINT)
    parser.add_argument("--samples", type=int, default=200, help="cases of each kind")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--split", nargs="+", choices=("wordings", "words", "train"), default=["wordings", "words"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--misses", type=int, default=0, help="wrong verdicts to show of each kind")
    parser.add_argument("--write", type=Path, default=None, help="a JSON file for the table")
    anyio.run(partial(_main, parser.parse_args()))


if __name__ == "__main__":
    main()
