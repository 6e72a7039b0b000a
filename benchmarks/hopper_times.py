"""Times each kernel at Scout's shapes, as a fraction of the measured bandwidth or matrix rate.

Many calls on different inputs are captured into one graph and replayed, so that the times hold neither launch gaps nor
hits in the L2 cache; the result is the median of several replays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from hopper_clock import Budget, alive, one_line, seconds
from hopper_comparison import layout
from hopper_inputs import DEVICE, REHEARSAL, SIZES, activations_for, experts, kernels, matrix, normal
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from llama4_local.cache.kv_cache import LayerCache
from llama4_local.ops.batch import Batch, PoolTable, Segment
from llama4_local.ops.filters import Filters
from llama4_local.ops.kernels import gemv, sampling
from llama4_local.ops.kernels.down import down
from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.ops.kernels.gate_up import gate_up
from llama4_local.ops.kernels.linear import linear
from llama4_local.ops.kernels.routing import Routing, dispatch, route
from llama4_local.ops.kernels.tile_table import TRIALS, VECTOR_TOKENS, TileTable
from llama4_local.ops.kernels.tiles import Format
from llama4_local.weights.quantized import Matrix

ROTATE = 300 * 2**20  # bytes that a round of inputs takes: several times the L2 cache
HIDDEN, SIZE, EXPERTS = SIZES.hidden, SIZES.size, SIZES.experts
HEADS, KV_HEADS, DIM = SIZES.heads, SIZES.kv_heads, SIZES.dim
DENSE = {
    "qkv": (SIZES.qkv, HIDDEN),
    "output": (HIDDEN, HEADS * DIM),
    "head": (SIZES.vocab, HIDDEN),
}
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The measured ceilings of a GPU.

    Args:
        copy: Bytes read and written per second by a large copy.
        bf16: Operations per second of a large product in bf16.
        fp8: The same in e4m3; 0 where torch has none.
    """

    copy: float
    bf16: float
    fp8: float


def measure_ceilings() -> Ceilings:
    """Copy 4 GiB, and multiply matrices of 8192, of random numbers."""
    side = 64 if REHEARSAL else 8192
    source = normal(1024 if REHEARSAL else 2**30, dtype=torch.float32)
    target = torch.empty_like(source)
    # Not captured: a copy as a graph's node reaches two thirds of the bandwidth.
    copy = 2 * source.nbytes / seconds([partial(target.copy_, source)], graph=False)
    del source, target
    a, b = normal(side, side), normal(side, side)
    bf16 = 2 * side**3 / seconds([lambda: a @ b] * 4)
    try:
        x, y = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
        one = torch.ones((), device=DEVICE)
        scaled_mm = getattr(torch, "_scaled_mm")  # noqa: B009 - private; there is no public one
        fp8 = 2 * side**3 / seconds([lambda: scaled_mm(x, y.t(), one, one, out_dtype=torch.bfloat16)] * 4)
    except (AttributeError, RuntimeError) as error:
        print(f"no e4m3 product of torch's own to compare with: {one_line(error)}", flush=True)
        fp8 = 0.0
    return Ceilings(copy, bf16, fp8)


def run_kernels(ceilings: Ceilings, budget: Budget, *, quick: bool) -> Iterator[Row]:
    """Time all kernels, the most important first; a row names the ceiling that bounds it, and the fraction reached."""
    for name, measured in everything(ceilings, quick=quick):
        if not budget.allows(f"timing of {name}"):
            continue
        try:
            for result in measured():
                print(line(result), flush=True)
                yield result
        except Exception as problem:  # noqa: BLE001 - the next kernel is timed after any exception
            print(f"FAILED {name}: {one_line(problem)}", flush=True)
            yield {"kernel": name, "case": "", "exception": one_line(problem)}
            if not alive():
                return
        if not REHEARSAL:
            torch.cuda.empty_cache()


def line(result: Row) -> str:
    """Return a row of results as one line of text."""
    if "exception" in result:
        return f"{result['kernel']:<18}{result['exception']}"
    beside = f", torch {result['torch_us']:.1f} us" if result["torch_us"] else ""
    reached = f"{result['us']:>9.1f} us {result['fraction']:>6.1%} of {result['bound']}"
    return f"{result['kernel']:<25}{result['case']:<32}{reached}{beside}"


def everything(ceilings: Ceilings, *, quick: bool) -> Iterator[tuple[str, Callable[[], Iterator[Row]]]]:
    first: list[tuple[Format, int]] = [("int4", 1), ("bf16", 8192), ("int4", 8192), ("fp8", 8192), ("int4", 64)]
    if REHEARSAL:
        first = first[:1]
    counts: tuple[int, ...] = () if REHEARSAL else (1, 64, 2048) if quick else (1, 4, 16, 64, 256, 2048)
    forms: tuple[Format, ...] = ("int4", "bf16", "fp8")
    rest: list[tuple[Format, int]] = [
        (weight_format, tokens) for tokens in counts for weight_format in forms if (weight_format, tokens) not in first
    ]
    for weight_format, tokens in first + rest:
        yield f"experts {weight_format} {tokens}", partial(mixture, ceilings, weight_format, tokens)
        for name in DENSE if tokens <= 256 else ("qkv", "output"):
            yield f"{name} {weight_format} {tokens}", partial(dense, ceilings, weight_format, name, tokens)
        if (weight_format, tokens) == first[-1]:
            yield from attentions(ceilings)
            yield "draw", partial(draw, ceilings)


def attentions(ceilings: Ceilings) -> Iterator[tuple[str, Callable[[], Iterator[Row]]]]:
    sequences = ((1, 100),) if REHEARSAL else ((1, 4096), (8, 4096), (64, 4096), (1, 131_072))
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        for count, context in sequences:
            yield f"decode {count} x {context}", partial(decode, ceilings, dtype, count, context)
        yield "decode uneven", partial(uneven, ceilings, dtype)
        for tokens in (70,) if REHEARSAL else (2048, 8192):
            yield f"prefill {tokens}", partial(prefill, ceilings, dtype, tokens)


def row(
    ceilings: Ceilings,
    kernel: str,
    case: str,
    took: float,
    *,
    read: float,
    flops: float,
    weight_format: str,
    beside: float | None = None,
) -> Row:
    """Return one result; its floor is the larger of the two times that bytes and operations need."""
    rate = ceilings.fp8 if weight_format == "fp8" and ceilings.fp8 else ceilings.bf16
    memory, arithmetic = read / ceilings.copy, flops / rate
    bound = "copy bandwidth" if memory > arithmetic else "matrix rate"
    result: Row = {"kernel": kernel, "case": case, "us": took * 1e6, "bytes": read, "flops": flops}
    fraction = max(memory, arithmetic) / took
    return result | {"bound": bound, "fraction": fraction, "torch_us": None if beside is None else beside * 1e6}


def dense(ceilings: Ceilings, weight_format: Format, name: str, tokens: int) -> Iterator[Row]:
    outputs, inputs = DENSE[name]
    weights = rotated(lambda: matrix(weight_format, outputs, inputs))
    x = normal(tokens, inputs)
    operand, scales, _ = activations_for(x, weight_format)
    tiles = TileTable()
    tile = tiles.linear_tile(weight_format, tokens, outputs, inputs)
    ways = {"linear": [lambda w=w: linear(operand, w, tile, x_scales=scales) for w in weights]}
    if tokens <= VECTOR_TOKENS:
        vector = tiles.linear_vector_tile(weight_format, outputs, inputs)
        ways["gemv"] = [lambda w=w: gemv.linear_vector(x, w, vector) for w in weights]
    beside = None
    if weight_format == "bf16":
        beside = seconds([lambda w=w: torch.nn.functional.linear(x, w) for w in weights if isinstance(w, Tensor)])
    moved = weights[0].nbytes + 2 * tokens * (inputs + outputs)
    flops = 2 * tokens * outputs * inputs
    for kernel, calls in ways.items():
        case = f"{name} {weight_format} {tokens} tokens"
        yield row(
            ceilings, kernel, case, seconds(calls), read=moved, flops=flops, weight_format=weight_format, beside=beside
        )


def mixture(ceilings: Ceilings, weight_format: Format, tokens: int) -> Iterator[Row]:
    weight, back = (
        experts(weight_format, EXPERTS + 1, 2 * SIZE, HIDDEN),
        experts(weight_format, EXPERTS + 1, HIDDEN, SIZE),
    )
    x = normal(tokens, HIDDEN)
    rounds = 8 if tokens <= 256 else 2  # other experts each time
    routings = [route(normal(tokens, EXPERTS, dtype=torch.float32)) for _ in range(rounds)]
    touched = sum(len(routing.experts.unique()) + 1 for routing in routings) / rounds
    ways = {"": grouped(weight_format, tokens, weight, back, x, routings)}
    if tokens <= VECTOR_TOKENS:
        ways[" by gemv"] = vectors(weight_format, weight, back, x, routings)
    beside = grouped_torch(weight, back, x) if weight_format == "bf16" and tokens > VECTOR_TOKENS else (None, None)
    for way, (up, lower) in ways.items():
        for name, calls, matrix_, inputs, outputs, other in (
            ("gate_up", up, weight, HIDDEN, 2 * SIZE, beside[0]),
            ("down", lower, back, SIZE, HIDDEN, beside[1]),
        ):
            moved = matrix_.nbytes * touched / (EXPERTS + 1) + 2 * 2 * tokens * (inputs + outputs / 2)
            flops = 2 * 2 * tokens * inputs * outputs
            case = f"{weight_format} {tokens} tokens"
            took = seconds(calls)
            yield row(
                ceilings, name + way, case, took, read=moved, flops=flops, weight_format=weight_format, beside=other
            )


Calls = list[Callable[[], object]]


def grouped(
    weight_format: Format, tokens: int, weight: Matrix, back: Matrix, x: Tensor, routings: list[Routing]
) -> tuple[Calls, Calls]:
    """Return calls of both grouped products."""
    tiles, slots = TileTable(), [dispatch(routing) for routing in routings]
    operand, scales, _ = activations_for(x, weight_format)
    tile = tiles.tile("gate_up", weight_format, tokens, EXPERTS)
    hidden = gate_up(operand, weight, tile, dispatch=slots[0], x_scales=scales)
    h_operand, h_scales, _ = activations_for(hidden, weight_format)
    down_tile = tiles.tile("down", weight_format, tokens, EXPERTS)
    up: Calls = [lambda s=s: gate_up(operand, weight, tile, dispatch=s, x_scales=scales) for s in slots]
    lower: Calls = [lambda s=s: down(h_operand, back, down_tile, s, x_scales=h_scales) for s in slots]
    return up, lower


def vectors(
    weight_format: Format, weight: Matrix, back: Matrix, x: Tensor, routings: list[Routing]
) -> tuple[Calls, Calls]:
    """Return calls of both products for a handful of tokens."""
    tile = TileTable().vector_tile(weight_format)
    hidden = gemv.gate_up_vector(x, weight, tile, routings[0])
    up: Calls = [lambda r=r: gemv.gate_up_vector(x, weight, tile, r) for r in routings]
    lower: Calls = [lambda r=r: gemv.down_vector(hidden, back, tile, r) for r in routings]
    return up, lower


def grouped_torch(weight: Matrix, back: Matrix, x: Tensor) -> tuple[float | None, float | None]:
    """Time torch's grouped product on as many rows, evenly routed, without SwiGLU or reordering."""
    product = getattr(torch, "_grouped_mm", None)
    if product is None or REHEARSAL or not isinstance(weight, Tensor) or not isinstance(back, Tensor):
        return None, None
    each = max(1, len(x) // EXPERTS)
    ends = [min(len(x), each * (e + 1)) for e in range(EXPERTS - 1)] + [len(x), 2 * len(x)]
    offsets = torch.tensor(ends, dtype=torch.int32, device=DEVICE)
    doubled, hidden = torch.cat([x, x]), normal(2 * len(x), SIZE)
    try:
        up = seconds([lambda: product(doubled, weight, offs=offsets)], graph=False)
        return up, seconds([lambda: product(hidden, back, offs=offsets)], graph=False)
    except RuntimeError as error:
        print(f"torch._grouped_mm: {one_line(error)}", flush=True)
        return None, None


def rotated(make: Callable[[], Matrix]) -> list[Matrix]:
    """Return as many matrices as exceed the L2 cache together."""
    first = make()
    return [first, *(make() for _ in range(min(15, ROTATE // first.nbytes)))]


def pages_batch(lengths: list[int], context: int, page: int = 64) -> tuple[Batch, int]:
    """Return a batch of sequences with disjoint pages, and the number of pages."""
    each = -(-context // page)
    count = len(lengths)
    table = torch.randperm(count * each, device=DEVICE).view(count, each) + 1
    starts = [sum(lengths[:i]) for i in range(count + 1)]
    segments = tuple(Segment(s, n, context - n) for s, n in zip(starts, lengths, strict=False))
    empty = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    contexts = torch.full((count,), context, device=DEVICE)
    pool = PoolTable(empty, table, (context,) * count, contexts)
    return Batch(
        empty, empty, segments, torch.tensor(starts, device=DEVICE), {"global": pool}, empty, None
    ), count * each


def cache(pages: int, dtype: torch.dtype) -> LayerCache:
    return LayerCache(
        normal(pages + 1, 64, KV_HEADS, DIM).to(dtype), normal(pages + 1, 64, KV_HEADS, DIM).to(dtype), "global"
    )


def decode(ceilings: Ceilings, dtype: torch.dtype, sequences: int, context: int) -> Iterator[Row]:
    batch, pages = pages_batch([1] * sequences, context)
    each = 2 * sequences * context * KV_HEADS * DIM * dtype.itemsize
    layers = [cache(pages, dtype) for _ in range(max(2, min(16, ROTATE // each)))]
    queries = normal(sequences, HEADS, DIM)
    beside = None
    if dtype == torch.bfloat16:
        keys, values = (normal(sequences, KV_HEADS, context, DIM) for _ in range(2))
        q = normal(sequences, HEADS, 1, DIM)
        beside = seconds([lambda: scaled_dot_product_attention(q, keys, values, enable_gqa=True)])
    flops = 4 * sequences * context * HEADS * DIM
    case = f"decode {name_of(dtype)} {sequences} x {context}"
    for way, ops in forms().items():
        took = seconds([lambda layer=layer, ops=ops: ops.attention(queries, layer, batch) for layer in layers])
        yield row(ceilings, way, case, took, read=each, flops=flops, weight_format="bf16", beside=beside)


def uneven(ceilings: Ceilings, dtype: torch.dtype) -> Iterator[Row]:
    """A long sequence among short ones."""
    contexts = [150, 20, 20] if REHEARSAL else [100_000] + [500] * 63
    batch = layout([(1, context) for context in contexts], 64)
    each = 2 * sum(contexts) * KV_HEADS * DIM * dtype.itemsize
    layers = [cache(sum(-(-context // 64) for context in contexts), dtype) for _ in range(2)]
    queries = normal(len(contexts), HEADS, DIM)
    case, flops = f"decode {name_of(dtype)} uneven", 4 * sum(contexts) * HEADS * DIM
    for way, ops in forms().items():
        took = seconds([lambda layer=layer, ops=ops: ops.attention(queries, layer, batch) for layer in layers])
        yield row(ceilings, way, case, took, read=each, flops=flops, weight_format="bf16")


def forms() -> dict[str, KernelOps]:
    """Return the kernels of decode attention: those that serve, and those that no GPU has timed yet."""
    tried = {f"attention_decode, {name}": kernels(trials=frozenset({name})) for name in sorted(TRIALS)}
    return {"attention_decode": kernels(), **tried}


def prefill(ceilings: Ceilings, dtype: torch.dtype, tokens: int) -> Iterator[Row]:
    batch, pages = pages_batch([tokens], tokens)
    layer, queries = cache(pages, dtype), normal(tokens, HEADS, DIM)
    took = seconds([lambda: kernels().attention(queries, layer, batch)] * 4)
    q, keys, values = normal(1, HEADS, tokens, DIM), normal(1, KV_HEADS, tokens, DIM), normal(1, KV_HEADS, tokens, DIM)
    beside = seconds([lambda: scaled_dot_product_attention(q, keys, values, is_causal=True, enable_gqa=True)] * 4)
    flops = 2 * tokens * tokens * HEADS * DIM  # half of the square is masked
    read = 2 * tokens * (2 * HEADS + 2 * KV_HEADS) * DIM
    case = f"prefill {name_of(dtype)} {tokens}"
    yield row(ceilings, "attention_prefill", case, took, read=read, flops=flops, weight_format="bf16", beside=beside)


def draw(ceilings: Ceilings, rows: int = 64) -> Iterator[Row]:
    rows, vocab = (2, SIZES.vocab) if REHEARSAL else (rows, SIZES.vocab)
    logits = normal(rows, vocab, dtype=torch.float32, std=4.0)
    filters = Filters(
        torch.full((rows,), 0.6, device=DEVICE),
        torch.zeros(rows, dtype=torch.int64, device=DEVICE),
        torch.full((rows,), 0.9, dtype=torch.float64, device=DEVICE),
        torch.zeros(rows, device=DEVICE),
        True,
    )
    chances = torch.rand(rows, dtype=torch.float64, device=DEVICE)
    took = seconds([lambda: sampling.draw(logits, filters, chances)])
    yield row(ceilings, "draw", f"top_p {rows} rows", took, read=logits.nbytes, flops=0.0, weight_format="bf16")


def name_of(dtype: torch.dtype) -> str:
    return "fp8" if dtype == torch.float8_e4m3fn else "bf16"
