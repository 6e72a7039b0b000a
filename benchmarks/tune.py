"""Finds the fastest cut of each matrix kernel for each number of tokens, and writes the table that serving reads.

    python benchmarks/tune.py [--kernel linear] [--format int4] [--dry]

Every candidate is compiled and timed on this GPU at Scout's shapes; those that spill are left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "backends"), str(Path(__file__).parent)]

import torch  # noqa: E402
from hopper_inputs import FORMATS, activations_for, experts, matrix, normal  # noqa: E402
from hopper_times import EXPERTS, HIDDEN, SIZE, rotated, seconds  # noqa: E402

from llama4_local.kernels.ahead_of_time import compile_launch  # noqa: E402
from llama4_local.kernels.down import down  # noqa: E402
from llama4_local.kernels.gate_up import gate_up  # noqa: E402
from llama4_local.kernels.launch import recording  # noqa: E402
from llama4_local.kernels.linear import linear  # noqa: E402
from llama4_local.kernels.routing import choose, route  # noqa: E402
from llama4_local.kernels.tiles import Format, Kernel, Tile  # noqa: E402
from llama4_local.quantized import Matrix  # noqa: E402

TABLE = ROOT / "backends" / "llama4_local" / "kernels" / "table.json"
KERNELS: tuple[Kernel, ...] = ("linear", "gate_up", "down")
MOST = {"linear": (16, 32, 64, 256, None), "gate_up": (8, 24, 64, None), "down": (8, 24, 64, None)}
LARGEST = 512  # tokens of a group that stand for the open end


def main() -> None:
    """Tune what was asked for and rewrite the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kernel", choices=KERNELS)
    parser.add_argument("--format", choices=FORMATS)
    parser.add_argument("--dry", action="store_true", help="print, but leave the table alone")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("Tuning needs the GPU that will serve.")
    table = json.loads(TABLE.read_text())
    for kernel, form in itertools.product(KERNELS, FORMATS):
        if given.kernel in (None, kernel) and given.format in (None, form):
            table[kernel][form] = [best(kernel, form, most) for most in MOST[kernel]]
    if not given.dry:
        TABLE.write_text(as_text(table))


def best(kernel: Kernel, form: Format, most: int | None) -> dict[str, int | None]:
    """Return the table's entry for one number of tokens."""
    tokens = most or LARGEST
    timed: list[tuple[float, Tile]] = []
    for tile in candidates(kernel, form, tokens):
        took = time_of(kernel, form, tokens, tile)
        if took is not None:
            timed.append((took, tile))
    took, tile = min(timed, key=lambda pair: pair[0])
    print(
        f"{kernel:<8}{form:<5} up to {most or 'any':>4}: {tile} {took * 1e6:.1f} us of {len(timed)} candidates",
        flush=True,
    )
    return {"most": most, **asdict(tile)}


def candidates(kernel: Kernel, form: Format, tokens: int) -> list[Tile]:
    """Return the cuts to try: blocks about as wide as there are tokens."""
    widths = [width for width in (16, 32, 64, 128) if width <= max(16, 2 * tokens) and width >= min(128, tokens) // 2]
    depths = (128,) if form == "int4" else (64, 128)
    splits = (1,) if kernel == "gate_up" else (1, 2, 4, 8) if tokens <= 256 else (1,)
    grid = itertools.product((64, 128), widths, depths, splits, (4, 8), (2, 3, 4, 5))
    return [Tile(*cut) for cut in grid if cut[0] * cut[1] <= 128 * 128 and (cut[4] == 4 or cut[0] == 128)]


def time_of(kernel: Kernel, form: Format, tokens: int, tile: Tile) -> float | None:
    """Return the time of one call; None where the kernel spills or does not fit."""
    try:
        calls = prepared(kernel, form, tokens, tile)
        with recording() as launches:
            calls[0]()
        if compile_launch(launches[0]).code.problems(kernel, matmul=True):
            return None
        return seconds(calls, replays=5)
    except (RuntimeError, ValueError):
        return None


def prepared(kernel: Kernel, form: Format, tokens: int, tile: Tile) -> list[Callable[[], object]]:
    """Return calls on inputs that leave the L2 cache."""
    if kernel == "linear":
        x, scales, _ = activations_for(normal(tokens, HIDDEN), form)
        return [lambda w=w: linear(x, w, tile, x_scales=scales) for w in rotated(lambda: matrix(form, 7168, HIDDEN))]
    count = tokens * EXPERTS
    shape = (2 * SIZE, HIDDEN) if kernel == "gate_up" else (HIDDEN, SIZE)
    weight = stack(form, *shape)
    routing = route(choose(normal(count, EXPERTS, dtype=torch.float32)))
    if kernel == "gate_up":
        x, scales, _ = activations_for(normal(count, HIDDEN), form)
        return [lambda: gate_up(x, weight, tile, routing=routing, x_scales=scales)]
    x, scales, _ = activations_for(normal(2 * count, SIZE), form)
    return [lambda: down(x, weight, tile, routing, x_scales=scales)]


@lru_cache(maxsize=1)
def stack(form: Format, outputs: int, inputs: int) -> Matrix:
    """Return a stack of experts; the last one asked for is kept."""
    return experts(form, EXPERTS + 1, outputs, inputs)


def as_text(table: dict[str, dict[str, list[dict[str, int | None]]]]) -> str:
    """Return the table as JSON with one cut a line."""
    kernels: list[str] = []
    for kernel, forms in table.items():
        blocks = [
            f'    "{form}": [\n' + ",\n".join(f"      {json.dumps(cut)}" for cut in cuts) + "\n    ]"
            for form, cuts in forms.items()
        ]
        kernels.append(f'  "{kernel}": {{\n' + ",\n".join(blocks) + "\n  }")
    return "{\n" + ",\n".join(kernels) + "\n}\n"


if __name__ == "__main__":
    main()
