"""Finds the fastest tile config of each kernel for each number of tokens, and writes the table that serving reads.

    python benchmarks/tune.py [--out DIR] [--budget SECONDS] [--kernel gate_up …] [--format int4 …]
        [--tokens 1 …]

Candidates are compiled in parallel; those that spill or exceed the shared memory are left out, and the others are
timed on this GPU at Scout's shapes, the most important first. DIR gets `table.json`, which replaces
`backends/llama4_local/ops/kernels/table.json` (its place without --out), and `tuning.json` with all times. Entries
that the budget leaves no time for stay as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "backends"), str(Path(__file__).parent)]

import torch  # noqa: E402
from hopper_clock import Budget, alive, one_line, seconds  # noqa: E402
from hopper_compile import Usage, Workers, compile_one, target_hopper  # noqa: E402
from hopper_inputs import DEVICE, FORMATS, REHEARSAL, SIZES, activations_for, experts, matrix, normal  # noqa: E402
from hopper_times import rotated  # noqa: E402
from torch import Tensor  # noqa: E402
from tune_candidates import TASKS, Candidate, Task, candidates  # noqa: E402

from llama4_local.cache.kv_cache import LayerCache  # noqa: E402
from llama4_local.ops.batch import PoolTable  # noqa: E402
from llama4_local.ops.kernels import gemv  # noqa: E402
from llama4_local.ops.kernels.aot.machine_code import SHARED_LIMIT  # noqa: E402
from llama4_local.ops.kernels.arrivals import arrival_counters  # noqa: E402
from llama4_local.ops.kernels.attention_decode import attention_decode  # noqa: E402
from llama4_local.ops.kernels.down import down  # noqa: E402
from llama4_local.ops.kernels.gate_up import gate_up  # noqa: E402
from llama4_local.ops.kernels.launch import recording  # noqa: E402
from llama4_local.ops.kernels.linear import linear  # noqa: E402
from llama4_local.ops.kernels.norms import add_rms_norm  # noqa: E402
from llama4_local.ops.kernels.routing import dispatch, route  # noqa: E402
from llama4_local.ops.kernels.tile_table import VECTOR_TOKENS  # noqa: E402
from llama4_local.ops.kernels.tiles import DecodeTile, Tile, VectorTile  # noqa: E402
from llama4_local.weights.quantized import Matrix  # noqa: E402

TABLE = ROOT / "backends" / "llama4_local" / "ops" / "kernels" / "table.json"
EXPERTS, HIDDEN, SIZE = SIZES.experts, SIZES.hidden, SIZES.size
Table = dict[str, dict[str, list[dict[str, int | None]]]]
Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timed:
    """A candidate and its seconds."""

    tile: Candidate
    took: float


def main() -> None:
    """Tune the selected kernels and formats and rewrite the table."""
    given = arguments()
    if not REHEARSAL and not torch.cuda.is_available():
        sys.exit("Tuning needs the GPU that will serve.")
    budget = Budget(given.budget)
    selected = [
        task
        for task in TASKS
        if task.kernel in given.kernel and task.weight_format in given.format and task.tokens in given.tokens
    ]
    workers = None if REHEARSAL else Workers()
    compiling = {task: _compile(workers, task) for task in selected}
    table: Table = json.loads(TABLE.read_text())
    times: list[dict[str, object]] = []
    fastest: dict[Task, float] = {}
    for task in selected:
        if not budget.allows(f"tuning of {task}", 3) or not alive():
            continue
        timed = measure(task, compiling[task], budget)
        times.extend({**asdict(task), **one.tile._asdict(), "us": one.took * 1e6} for one in timed)
        if timed and alive():  # else the best candidates may not have been timed
            winner = min(timed, key=lambda one: one.took)
            enter(table, task, winner.tile)
            fastest[task] = winner.took
            decide(table, fastest)
            show(task, timed)
        save(given.out, table, times)
    if workers:
        workers.close()
    print(f"{budget.left:.0f} s left, skipped: {budget.skipped or 'nothing'}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder for table.json and tuning.json")
    parser.add_argument("--budget", type=float, default=600, help="seconds for everything")
    kernels = sorted({task.kernel for task in TASKS})
    parser.add_argument("--kernel", nargs="+", choices=kernels, default=kernels)
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=FORMATS)
    tokens = sorted({task.tokens for task in TASKS})
    parser.add_argument("--tokens", nargs="+", type=int, choices=tokens, default=tokens)
    return parser.parse_args()


def measure(task: Task, compiling: dict[Candidate, Future[Usage | str]], budget: Budget) -> list[Timed]:
    """Time a task's candidates that compile, do not spill and fit into shared memory."""
    try:
        bench = bench_for(task)
    except Exception as problem:  # noqa: BLE001 - the other tasks are measured after any exception
        print(f"FAILED {task}: {one_line(problem)}", flush=True)
        return []
    timed: list[Timed] = []
    for tile in candidates(task):
        usage = _usage(compiling.get(tile), budget)
        if usage or budget.left < 1:
            print(f"  {task} {tile}: {usage or 'no time left'}", flush=True)
            continue
        try:
            timed.append(Timed(tile, sum(seconds(calls, 5) for calls in bench(tile))))
        except Exception as problem:  # noqa: BLE001 - as above
            print(f"  {task} {tile}: {one_line(problem)}", flush=True)
            if not alive():
                break
    return timed


def _compile(workers: Workers | None, task: Task) -> dict[Candidate, Future[Usage | str]]:
    if workers is None:
        return {}
    tiles = candidates(task)
    return dict(zip(tiles, workers.start(compile_candidate, [task] * len(tiles), tiles), strict=True))


def _usage(work: Future[Usage | str] | None, budget: Budget) -> str:
    """Return the reason to leave a candidate out; an empty string for none."""
    if work is None:
        return ""
    try:
        usage = work.result(timeout=budget.left)
    except Exception as problem:  # noqa: BLE001 - any exception leaves the candidate out
        return one_line(problem)
    if isinstance(usage, str):
        return usage
    if usage.stack or usage.shared > SHARED_LIMIT:
        return f"left out: {usage.stack} bytes of stack, {usage.shared} of shared memory"
    return ""


def compile_candidate(task: Task, tile: Candidate) -> Usage | str:
    """Compile a candidate's launches; return the usage of the largest, or the error."""
    torch.set_num_threads(1)
    target_hopper()
    try:
        with recording() as launches:
            for calls in bench_for(task, "meta")(tile):
                calls[0]()
        others = ("route", "dispatch", "quantize_rows")  # they make inputs, and are compiled when first launched
        used = [compile_one(launch) for launch in launches if launch.name not in others]
    except Exception as problem:  # noqa: BLE001 - an exception may not be picklable; its text is
        return one_line(problem)
    return Usage(*(max(getattr(one, name) for one in used) for name in ("registers", "stack", "shared")))


def bench_for(task: Task, device: str = DEVICE) -> Callable[[Candidate], list[list[Call]]]:
    """Return a function from a candidate to lists of calls, whose median times are summed."""
    make = {"linear": _linear, "gate_up": _grouped, "down": _grouped, "vector": _vector, "attention_decode": _decode}
    return make[task.kernel](task, device)


def _linear(task: Task, device: str) -> Callable[[Candidate], list[list[Call]]]:
    shapes = ((SIZES.qkv, HIDDEN), (HIDDEN, SIZES.heads * SIZES.dim))
    weights = [many(lambda shape=shape: matrix(task.weight_format, *shape, device=device), device) for shape in shapes]
    inputs = [activations_for(normal(task.tokens, shape[1], device=device), task.weight_format) for shape in shapes]

    after = [None, _norm_behind(task.tokens, device)]  # the QKV epilogue sums parts in less time

    def bench(tile: Candidate) -> list[list[Call]]:
        config = _matrix_tile(tile)
        return [
            [partial(_then, partial(linear, x, weight, config, x_scales=scales), norm) for weight in own]
            for own, (x, scales, _), norm in zip(weights, inputs, after, strict=True)
        ]

    return bench


def _grouped(task: Task, device: str) -> Callable[[Candidate], list[list[Call]]]:
    up = task.kernel == "gate_up"
    shape = (2 * SIZE, HIDDEN) if up else (HIDDEN, SIZE)
    weight = experts(task.weight_format, EXPERTS + 1, *shape, device=device)
    rounds = 8 if task.tokens <= 256 else 2  # other experts each time, so that the weights leave the L2 cache
    logits = [normal(task.tokens, EXPERTS, dtype=torch.float32, device=device) for _ in range(rounds)]
    slots = [dispatch(route(one)) for one in logits]
    rows = normal(task.tokens * (1 if up else 2), shape[1], device=device)
    x, scales, _ = activations_for(rows, task.weight_format)
    norm = _norm_behind(task.tokens, device)

    def bench(tile: Candidate) -> list[list[Call]]:
        config = _matrix_tile(tile)
        if up:
            return [[partial(gate_up, x, weight, config, dispatch=one, x_scales=scales) for one in slots]]
        return [[partial(_then, partial(down, x, weight, config, one, x_scales=scales), norm) for one in slots]]

    return bench


def _norm_behind(tokens: int, device: str) -> Callable[[Tensor], object]:
    """Return the norm that sums a result's parts: more parts take it longer."""
    residual, weight = normal(tokens, HIDDEN, device=device), normal(HIDDEN, device=device)
    return lambda result: add_rms_norm(result, residual, weight, 1e-5)


def _then(call: Callable[[], Tensor], after: Callable[[Tensor], object] | None) -> None:
    result = call()
    if after:
        after(result)


def _vector(task: Task, device: str) -> Callable[[Candidate], list[list[Call]]]:
    weight = experts(task.weight_format, EXPERTS + 1, 2 * SIZE, HIDDEN, device=device)
    back = experts(task.weight_format, EXPERTS + 1, HIDDEN, SIZE, device=device)
    x, hidden = normal(task.tokens, HIDDEN, device=device), normal(2 * task.tokens, SIZE, device=device)
    routings = [route(normal(task.tokens, EXPERTS, dtype=torch.float32, device=device)) for _ in range(8)]

    def bench(tile: Candidate) -> list[list[Call]]:
        config = tile if isinstance(tile, VectorTile) else VectorTile(8, 512, 4, 4, 1)
        return [
            [partial(gemv.gate_up_vector, x, weight, config, one) for one in routings],
            [partial(gemv.down_vector, hidden, back, config, one) for one in routings],
        ]

    return bench


def _decode(task: Task, device: str) -> Callable[[Candidate], list[list[Call]]]:
    count, each = task.tokens, SIZES.context // SIZES.page
    pages = torch.randperm(count * each, device=device).view(count, each) + 1
    even = PoolTable(pages[0], pages, (), torch.full((count,), SIZES.context, device=device))
    tables = [even]
    if count > 1:  # as many tokens in all, half of them in one sequence
        tables.append(_uneven(pages.flatten(), count, device))
    shape = (count * each + 1, SIZES.page, SIZES.kv_heads, SIZES.dim)
    rounds = 1 if device == "meta" else max(2, 32 // count)  # so that keys and values leave the L2 cache
    layers = [LayerCache(normal(*shape, device=device), normal(*shape, device=device), "global") for _ in range(rounds)]
    queries = normal(count, SIZES.heads, SIZES.dim, device=device)
    out, starts = torch.empty_like(queries).flatten(1), torch.arange(count + 1, device=device)
    counters = arrival_counters(device)

    def bench(tile: Candidate) -> list[list[Call]]:
        config = tile if isinstance(tile, DecodeTile) else DecodeTile(16, 64, 4, 2)
        return [
            [partial(attention_decode, queries, layer, starts, table, config, out, counters) for layer in layers]
            for table in tables
        ]

    return bench


def _uneven(pages: Tensor, count: int, device: str) -> PoolTable:
    """Return a table of one sequence with half of the pages, and others that share the rest equally."""
    longest = len(pages) // 2
    short = (len(pages) - longest) // (count - 1)
    rows = pages[:longest].expand(count, longest).clone()
    rows[1:, :short] = pages[longest : longest + (count - 1) * short].view(count - 1, short)
    contexts = torch.full((count,), short * SIZES.page, device=device)
    contexts[:1] = longest * SIZES.page
    return PoolTable(rows[0], rows, (), contexts)


def many(make: Callable[[], Matrix], device: str) -> Sequence[Matrix]:
    """Return as many matrices as exceed the L2 cache together; one where nothing runs."""
    return [make()] if device == "meta" else rotated(make)


def _matrix_tile(tile: Candidate) -> Tile:
    return tile if isinstance(tile, Tile) else Tile(64, 64, 64, 1, 4, 4)


def enter(table: Table, task: Task, tile: Candidate) -> None:
    """Put a tile config into the table, at its kernel, format and number of tokens."""
    rows = table[task.kernel][task.weight_format]
    if task.kernel == "vector":  # `decide` sets whether this kernel serves so few tokens
        table["vector"][task.weight_format] = [{"most": rows[0]["most"], **tile._asdict()}]
        return
    entry: dict[str, int | None] = {"most": task.most, **tile._asdict()}
    kept = [row for row in rows if row["most"] != task.most]
    table[task.kernel][task.weight_format] = sorted([*kept, entry], key=lambda row: row["most"] or 1 << 30)


def decide(table: Table, fastest: Mapping[Task, float]) -> None:
    """Enable the matrix-vector kernel for formats where it runs a layer's experts faster than the matrix kernels."""
    for weight_format in FORMATS:
        single = {
            task.kernel: took
            for task, took in fastest.items()
            if task.weight_format == weight_format and task.tokens == 1
        }
        if {"vector", "gate_up", "down"} <= single.keys():
            faster = single["vector"] < single["gate_up"] + single["down"]
            table["vector"][weight_format][0]["most"] = VECTOR_TOKENS if faster else 0


def show(task: Task, timed: Sequence[Timed]) -> None:
    """Print the three best."""
    best = sorted(timed, key=lambda one: one.took)
    print(f"{task}: {len(timed)} timed", flush=True)
    for one in best[:3]:
        print(f"  {one.took * 1e6:>9.1f} us {one.tile}", flush=True)


def save(folder: Path | None, table: Table, times: Sequence[dict[str, object]]) -> None:
    """Write the table, and all times beside it where a folder is given."""
    if folder is None:
        TABLE.write_text(as_text(table))
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.json").write_text(as_text(table))
    gpu = "rehearsal" if REHEARSAL else torch.cuda.get_device_name()
    (folder / "tuning.json").write_text(json.dumps({"gpu": gpu, "times": list(times)}, indent=1) + "\n")


def as_text(table: Table) -> str:
    """Return the table as JSON with one tile config per line."""
    kernels: list[str] = []
    for kernel, forms in table.items():
        blocks = [
            f'    "{weight_format}": [\n' + ",\n".join(f"      {json.dumps(row)}" for row in rows) + "\n    ]"
            for weight_format, rows in forms.items()
        ]
        kernels.append(f'  "{kernel}": {{\n' + ",\n".join(blocks) + "\n  }")
    return "{\n" + ",\n".join(kernels) + "\n}\n"


if __name__ == "__main__":
    main()
