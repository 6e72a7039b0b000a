"""Finds the fastest cut of each kernel for each number of tokens, and writes the table that serving reads.

    python benchmarks/tune.py [--kernels gate_up down] [--formats int4] [--buckets 8 192 0] [--dry]

Candidates are compiled in processes side by side and timed on this GPU at Scout's shapes, one after the other;
a winner that spills is passed over.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "backends"), str(Path(__file__).parent)]

import torch  # noqa: E402
from hopper_inputs import FORMATS, activations_for, experts, matrix, normal  # noqa: E402
from hopper_times import EXPERTS, HIDDEN, SIZE, rotated, seconds  # noqa: E402

from llama4_local.kernels import gemv  # noqa: E402
from llama4_local.kernels.ahead_of_time import compile_launch  # noqa: E402
from llama4_local.kernels.down import down  # noqa: E402
from llama4_local.kernels.gate_up import gate_up  # noqa: E402
from llama4_local.kernels.launch import recording  # noqa: E402
from llama4_local.kernels.linear import linear  # noqa: E402
from llama4_local.kernels.routing import choose, route  # noqa: E402
from llama4_local.kernels.tiles import Format, Tile, VectorTile  # noqa: E402
from llama4_local.quantized import Matrix  # noqa: E402

TABLE = ROOT / "backends" / "llama4_local" / "kernels" / "table.json"
KERNELS = ("vector", "linear", "gate_up", "down")
MOST = {
    "vector": (1,),
    "linear": (16, 32, 64, 256, None),
    "gate_up": (8, 24, 64, 192, None),
    "down": (8, 24, 64, 192, None),
}
TYPICAL = {192: 128, None: 512}  # tokens of a group that stand for the others of a bucket, where not the most


@dataclass(frozen=True, slots=True)
class Job:
    """One cut to try."""

    kernel: str
    form: Format
    most: int | None
    tile: Tile | VectorTile

    @property
    def tokens(self) -> int:
        """Tokens of a group."""
        return TYPICAL.get(self.most) or self.most or 1


def main() -> None:
    """Tune what was asked for and rewrite the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kernels", nargs="+", default=KERNELS, choices=KERNELS)
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument("--buckets", nargs="+", type=int, help="most tokens of a group; 0 for the open end")
    parser.add_argument("--dry", action="store_true", help="print, but leave the table alone")
    parser.add_argument("--warm", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("Tuning needs the GPU that will serve.")
    wanted = list(jobs(given))
    # I/N compiles a share and times nothing; done times only.
    if given.warm and given.warm != "done":
        index, count = map(int, given.warm.split("/"))
        for job in wanted[index::count]:
            time_of(job, warm=True)
        return
    if not given.warm:
        compile_all()
    table = json.loads(TABLE.read_text())
    for (kernel, form, most), group in itertools.groupby(wanted, key=lambda job: (job.kernel, job.form, job.most)):
        found = best(list(group))
        if found is not None:
            enter(table, kernel, form, most, found)
    if not given.dry:
        TABLE.write_text(as_text(table))


def jobs(given: argparse.Namespace) -> Iterator[Job]:
    """Yield what is to be tried, the candidates for one entry of the table together."""
    for kernel, form in itertools.product(given.kernels, given.formats):
        for most in MOST[kernel]:
            if not given.buckets or kernel == "vector" or (most or 0) in given.buckets:
                tiles = vectors(form) if kernel == "vector" else candidates(kernel, form, most)
                yield from (Job(kernel, form, most, tile) for tile in tiles)


def compile_all() -> None:
    """Compile all candidates in processes side by side; their results lie in Triton's cache."""
    count = max(1, min(12, (os.cpu_count() or 1) - 2))
    workers = [subprocess.Popen([sys.executable, *sys.argv, "--warm", f"{index}/{count}"]) for index in range(count)]
    for worker in workers:
        worker.wait()


def best(group: Sequence[Job]) -> Tile | VectorTile | None:
    """Return the fastest of several cuts that does not spill."""
    timed = [(took, job) for job in group if (took := time_of(job)) is not None]
    for took, job in sorted(timed, key=lambda pair: pair[0]):
        if sound(job):
            what = f"{job.kernel:<8}{job.form:<5}{job.most or 'any':>4}"
            print(f"{what} {took * 1e6:8.1f} us, best of {len(timed)}: {job.tile}", flush=True)
            return job.tile
    return None


def sound(job: Job) -> bool:
    """Whether a cut's machine code keeps the rules that the tests check."""
    with recording() as launches:
        prepared(job)[0]()
    return not compile_launch(launches[-1]).code.problems(job.kernel, matmul=job.kernel != "vector")


def enter(table: dict[str, Any], kernel: str, form: Format, most: int | None, tile: Tile | VectorTile) -> None:
    """Put a cut into the table, in place of the entry for as many tokens."""
    if isinstance(tile, VectorTile):
        table["vector"][form] = asdict(tile)
        return
    rows = [row for row in table["matrix"][kernel][form] if row["most"] != most]
    rows.append({"most": most, **asdict(tile)})
    table["matrix"][kernel][form] = sorted(rows, key=lambda row: row["most"] or 1 << 30)


def vectors(form: Format) -> list[VectorTile]:
    """Return the cuts of the vector kernel to try."""
    if form == "int4":
        return [VectorTile(rows, 128, 4, warps, 1) for rows, warps in ((32, 4), (64, 4), (64, 8), (128, 8), (32, 2))]
    cuts = ((8, 512, 4), (16, 256, 4), (8, 256, 2), (4, 1024, 4), (16, 512, 8))
    return [VectorTile(rows, depth, 4, warps, 1) for rows, depth, warps in cuts]


def candidates(kernel: str, form: Format, most: int | None) -> list[Tile]:
    """Return the cuts of a matrix kernel to try: blocks about as wide as there are tokens."""
    tokens = TYPICAL.get(most) or most or 1
    widths = [width for width in (16, 32, 64, 128) if tokens / 2 <= width <= 2 * tokens] or [64, 128]
    depths = (128,) if form != "bf16" else (64,)
    splits = (1,) if kernel == "gate_up" or tokens > 64 else (1, 2, 4)
    cuts = [(64, 4), (128, 8), (128, 4)]
    grid = itertools.product(cuts, widths, depths, splits, (3, 4))
    return [
        Tile(rows, width, depth, parts, warps, stages)
        for (rows, warps), width, depth, parts, stages in grid
        if not (warps == 4 and rows == 128 and width > 32)
    ]


def time_of(job: Job, *, warm: bool = False) -> float | None:
    """Return the time of one call; None where the kernel does not fit. Warm, the call is only made once."""
    try:
        calls = prepared(job)
        if warm:
            calls[0]()
            return None
        return seconds(calls, replays=5)
    except (RuntimeError, ValueError, OSError) as error:
        print(f"{job}: {type(error).__name__}", flush=True)
        return None
    except Exception as error:  # noqa: BLE001 - Triton's own errors have no common base
        print(f"{job}: {type(error).__name__}: {error}"[:200], flush=True)
        return None


def prepared(job: Job) -> list[Callable[[], object]]:
    """Return calls on inputs that leave the L2 cache."""
    if isinstance(job.tile, VectorTile):
        return vector_calls(job.form, job.tile)
    kernel, form, tile = job.kernel, job.form, job.tile
    if kernel == "linear":
        x, scales, _ = activations_for(normal(job.tokens, HIDDEN), form)
        return [lambda w=w: linear(x, w, tile, x_scales=scales) for w in rotated(lambda: matrix(form, 7168, HIDDEN))]
    count = job.tokens * EXPERTS
    shape = (2 * SIZE, HIDDEN) if kernel == "gate_up" else (HIDDEN, SIZE)
    weight = stack(form, *shape)
    routing = route(choose(normal(count, EXPERTS, dtype=torch.float32)))
    if kernel == "gate_up":
        x, scales, _ = activations_for(normal(count, HIDDEN), form)
        return [lambda: gate_up(x, weight, tile, routing=routing, x_scales=scales)]
    x, scales, _ = activations_for(normal(2 * count, SIZE), form)
    return [lambda: down(x, weight, tile, routing, x_scales=scales)]


def vector_calls(form: Format, tile: VectorTile) -> list[Callable[[], object]]:
    """Return the products of one token through a layer, for several layers' worth of experts."""
    x = normal(1, HIDDEN)
    dense = rotated(lambda: matrix(form, 7168, HIDDEN))
    weight, back = stack(form, 2 * SIZE, HIDDEN), stack(form, HIDDEN, SIZE)
    rounds = [choose(normal(1, EXPERTS, dtype=torch.float32)) for _ in range(8)]
    hidden = gemv.gate_up_vector(x, weight, tile, rounds[0])
    return [
        *(lambda w=w: gemv.linear_vector(x, w, tile) for w in dense[:8]),
        *(lambda c=c: gemv.gate_up_vector(x, weight, tile, c) for c in rounds),
        *(lambda c=c: gemv.down_vector(hidden, back, tile, c) for c in rounds),
    ]


@lru_cache(maxsize=2)
def stack(form: Format, outputs: int, inputs: int) -> Matrix:
    """Return a stack of experts; the last ones asked for are kept."""
    return experts(form, EXPERTS + 1, outputs, inputs)


def as_text(table: dict[str, Any]) -> str:
    """Return the table as JSON with one cut a line."""
    kernels: list[str] = []
    for kernel, forms in table["matrix"].items():
        blocks = [
            f'      "{form}": [\n' + ",\n".join(f"        {json.dumps(cut)}" for cut in cuts) + "\n      ]"
            for form, cuts in forms.items()
        ]
        kernels.append(f'    "{kernel}": {{\n' + ",\n".join(blocks) + "\n    }")
    vectors = ",\n".join(f'    "{form}": {json.dumps(cut)}' for form, cut in table["vector"].items())
    return '{\n  "vector": {\n' + vectors + '\n  },\n  "matrix": {\n' + ",\n".join(kernels) + "\n  }\n}\n"


if __name__ == "__main__":
    main()
