"""Replicas on Ray: tokens per second of one and of two, and the CPU time per token of caller, server and cluster.

    python benchmarks/replicas.py [--streams 8] [--tokens 200] [--rounds 9] [--out benchmarks/results/replicas.json]

`server` is one server in a process without Ray: the same wire, read with `HttpBackend`. `wire` is the way that
`RayBackend` takes: each replica serves HTTP, and Ray only places and watches it. So the caller's CPU time at one
replica less that at the server is what Ray adds, balancing included. `generator` is the other way: a method of an actor
yields the events, some to an item, as a Ray streaming generator, with no client around it.

A replica computes in one thread. Guards check nothing: they hold text back, so that the caller reads it in fewer
pieces. Each way has a caller in a process of its own (`replica_caller.py`), and they take turns within each round.
`streams` are those of one replica, and two get twice as many: half a batch takes more than half the time. Figures are
medians over the rounds, with quartiles; ratios and differences are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

CALLER = Path(__file__).with_name("replica_caller.py")
CHUNKS = 2000  # that come through a generator
Figures: TypeAlias = dict[str, float]
Round: TypeAlias = dict[str, Figures]


@contextmanager
def caller(way: str) -> Generator[Callable[..., Figures]]:
    """Start a caller, and give the function that lets it measure once."""
    command = [sys.executable, str(CALLER), way]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise SystemExit("no pipes")
        lines, asking = process.stdout, process.stdin

        def figures() -> Figures:
            for line in lines:
                if line.startswith("{"):
                    return json.loads(line)
            raise SystemExit(f"the caller of {way} ended")

        def measure(*numbers: int) -> Figures:
            asking.write(" ".join(map(str, numbers)) + "\n")
            asking.flush()
            return figures()

        figures()  # it is ready
        try:
            yield measure
        finally:
            asking.close()
            process.wait()


def rounds(streams: int, tokens: int, count: int) -> Generator[Round]:
    """Measure all ways in turns."""
    with ExitStack() as stack:
        server, one, two, generator = (
            stack.enter_context(caller(way)) for way in ("server", "replicas 1", "replicas 2", "generator")
        )
        for measure in (server, one, two):  # the first time warms up
            measure(streams, tokens // 4)
        for _ in range(count):
            yield {
                "server": server(streams, tokens),
                "wire, 1 replica": one(streams, tokens),
                "wire, 2 replicas": two(2 * streams, tokens),
                "wire, 1 replica, all streams": one(2 * streams, tokens),
                "generator, 1 to an item": generator(CHUNKS, 1),
                "generator, 8 to an item": generator(CHUNKS, 8),
            }


def spread(values: Iterable[float], digits: int = 1) -> dict[str, object]:
    """Return the median and the quartiles."""
    each = list(values)
    lower, median, upper = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    return {"median": round(median, digits), "quartiles": [round(lower, digits), round(upper, digits)]}


def summary(each: list[Round]) -> dict[str, object]:
    """Return what the rounds come to."""

    def caller_cpu(measured: Round, way: str) -> float:
        return measured[way]["caller_cpu_us_per_token"]

    def speed(measured: Round, way: str) -> float:
        return measured[way]["tokens_per_second"]

    two = "wire, 2 replicas"
    return {
        "figures": {
            way: {unit: spread(measured[way][unit] for measured in each) for unit in each[0][way]} for way in each[0]
        },
        "ray_adds_cpu_us_per_token": spread(
            caller_cpu(measured, "wire, 1 replica") - caller_cpu(measured, "server") for measured in each
        ),
        "two_replicas_to_one": spread((speed(m, two) / speed(m, "wire, 1 replica") for m in each), 2),
        "two_replicas_to_one_with_all_streams": spread(
            (speed(m, two) / speed(m, "wire, 1 replica, all streams") for m in each), 2
        ),
    }


def processor() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    measured: list[Round] = []
    for each in rounds(options.streams, options.tokens, options.rounds):
        measured.append(each)
        print(json.dumps(each), flush=True)
    about = {"python": platform.python_version(), "processor": processor(), "cpus": os.cpu_count()}
    about |= {"ray": version("ray"), "streams": options.streams, "tokens": options.tokens, "rounds": options.rounds}
    text = json.dumps({**about, **summary(measured)}, indent=1, ensure_ascii=False)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
