"""Times each kernel at Scout's shapes: what it reaches of the measured bandwidth or matrix rate.

Many calls on different inputs are captured into one graph and replayed, so that neither launch gaps nor the
L2 cache flatter or spoil the numbers; the median of several replays counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from hopper_inputs import DEVICE, FORMATS, activations_for, experts, matrix, normal
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from llama4_local.batch import Batch, PoolTable, Segment
from llama4_local.kernels import gemv, sampling
from llama4_local.kernels.choices import VECTOR_TILES, Choices
from llama4_local.kernels.down import down
from llama4_local.kernels.functions import KernelOps
from llama4_local.kernels.gate_up import gate_up
from llama4_local.kernels.linear import linear
from llama4_local.kernels.routing import choose, route
from llama4_local.kernels.tiles import Format
from llama4_local.kv_cache import LayerCache
from llama4_local.quantized import Matrix
from llama4_local.reference.sampling import Filters

ROTATE = 300 * 2**20  # bytes that a round of inputs takes: several times the L2 cache
HIDDEN, SIZE, EXPERTS, HEADS, KV_HEADS, DIM = 5120, 8192, 16, 40, 8, 128
DENSE = {"qkv": (7168, 5120), "output": (5120, 5120), "head": (202_048, 5120)}


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What this GPU does at best.

    Args:
        copy: Bytes read and written per second by a large copy.
        bf16: Operations per second of a large product in bf16.
        fp8: The same in e4m3; 0 where torch has none.
        warm: Nothing is timed: every call is made once, so that its kernels are compiled.
    """

    copy: float
    bf16: float
    fp8: float
    warm: bool = False

    def seconds(self, calls: Sequence[Callable[[], object]]) -> float:
        """Return the median time of one call."""
        if not self.warm:
            return seconds(calls)
        calls[0]()
        return 1.0


@dataclass(frozen=True, slots=True)
class Share:
    """The part of the cases that one of several processes goes through.

    Args:
        index: Which process.
        count: Of how many.
    """

    index: int = 0
    count: int = 1


def seconds(calls: Sequence[Callable[[], object]], replays: int = 9) -> float:
    """Return the median time of one call."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    times: list[float] = []
    for _ in range(replays):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return median(times) / len(calls)


def measure_ceilings() -> Ceilings:
    """Copy 4 GiB, and multiply matrices of 8192, of random numbers."""
    source = torch.randint(0, 256, (4 * 2**30,), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / seconds([partial(target.copy_, source)])
    del source, target
    a, b = normal(8192, 8192), normal(8192, 8192)
    bf16 = 2 * 8192**3 / seconds([lambda: a @ b] * 4)
    try:
        x, y = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
        one = torch.ones((), device=DEVICE)
        scaled_mm = getattr(torch, "_scaled_mm")  # noqa: B009 - private, and the only one there is
        fp8 = 2 * 8192**3 / seconds([lambda: scaled_mm(x, y.t(), one, one, out_dtype=torch.bfloat16)] * 4)
    except (AttributeError, RuntimeError):
        fp8 = 0.0
    return Ceilings(copy, bf16, fp8)


def run_kernels(
    ceilings: Ceilings, *, quick: bool, until: float = math.inf, share: Share | None = None
) -> list[dict[str, object]]:
    """Time everything; a row says which ceiling bounds it and how much of it was reached, or what went wrong.

    Args:
        ceilings: What this GPU does at best.
        quick: Fewer numbers of tokens.
        until: When to stop, as `time.monotonic` has it; what is left out then is named.
        share: Which cases; all of them when left out.
    """
    found: list[dict[str, object]] = []
    share = share or Share()
    for number, (name, case) in enumerate(cases(ceilings, (1, 64, 2048) if quick else (1, 4, 16, 64, 256, 2048, 8192))):
        if number % share.count != share.index:
            continue
        if time.monotonic() > until:
            found.append({"kernel": name, "case": "", "error": "left out: no time left"})
            continue
        try:
            found += case()
        except Exception as error:  # noqa: BLE001 - one kernel that fails leaves the others to be measured
            found.append({"kernel": name, "case": "", "error": f"{type(error).__name__}: {error}"[:400]})
        print(found[-1], flush=True)
        torch.cuda.empty_cache()
    return found


Case = Callable[[], list[dict[str, object]]]


def cases(ceilings: Ceilings, counts: tuple[int, ...]) -> Iterator[tuple[str, Case]]:
    """Yield what there is to time, what matters most first."""
    for form in FORMATS[::-1]:
        for tokens in counts:
            yield f"mixture {form} {tokens}", lambda f=form, t=tokens: list(mixture(ceilings, f, t))
            for name in DENSE if tokens <= 256 else ("qkv", "output"):
                yield f"{name} {form} {tokens}", lambda f=form, n=name, t=tokens: [dense(ceilings, f, n, t)]
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        for sequences, context in ((1, 4096), (8, 4096), (64, 4096), (1, 131_072)):
            yield "attention_decode", lambda d=dtype, s=sequences, c=context: [decode(ceilings, d, s, c)]
        for tokens in (2048, 8192):
            yield "attention_prefill", lambda d=dtype, t=tokens: [prefill(ceilings, d, t)]
    yield "draw", lambda: [draw(ceilings)]


def row(
    ceilings: Ceilings,
    kernel: str,
    case: str,
    took: float,
    *,
    read: float,
    flops: float,
    form: str,
    beside: float | None,
) -> dict[str, object]:
    """Return one result; its floor is the larger of the two times that bytes and operations need."""
    rate = ceilings.fp8 if form == "fp8" and ceilings.fp8 else ceilings.bf16
    memory, arithmetic = read / ceilings.copy, flops / rate
    bound = "copy bandwidth" if memory > arithmetic else "matrix rate"
    found: dict[str, object] = {"kernel": kernel, "case": case, "us": took * 1e6, "bytes": read, "flops": flops}
    fraction = max(memory, arithmetic) / took
    return found | {"bound": bound, "fraction": fraction, "torch_us": None if beside is None else beside * 1e6}


def dense(ceilings: Ceilings, form: Format, name: str, tokens: int) -> dict[str, object]:
    outputs, inputs = DENSE[name]
    weights = rotated(lambda: matrix(form, outputs, inputs))
    x = normal(tokens, inputs)
    narrow, scales, _ = activations_for(x, form)
    choices = Choices()
    if choices.vector(tokens):
        vector = choices.linear_vector(form, outputs, inputs)
        calls = [lambda w=w: gemv.linear_vector(x, w, vector) for w in weights]
    else:
        tile = choices.linear(form, tokens, outputs, inputs)
        calls = [lambda w=w: linear(narrow, w, tile, x_scales=scales) for w in weights]
    took = ceilings.seconds(calls)
    beside = None
    if form == "bf16":
        beside = ceilings.seconds(
            [lambda w=w: torch.nn.functional.linear(x, w) for w in weights if isinstance(w, Tensor)]
        )
    moved = weights[0].nbytes + 2 * tokens * (inputs + outputs)
    flops = 2 * tokens * outputs * inputs
    case = f"{name} {form} {tokens} tokens"
    kernel = "gemv" if choices.vector(tokens) else "linear"
    return row(ceilings, kernel, case, took, read=moved, flops=flops, form=form, beside=beside)


def mixture(ceilings: Ceilings, form: Format, tokens: int) -> Iterator[dict[str, object]]:
    weight, back = experts(form, EXPERTS + 1, 2 * SIZE, HIDDEN), experts(form, EXPERTS + 1, HIDDEN, SIZE)
    x = normal(tokens, HIDDEN)
    rounds = 8 if tokens <= 256 else 2  # other experts each time
    choice_sets = [choose(normal(tokens, EXPERTS, dtype=torch.float32)) for _ in range(rounds)]
    touched = sum(len(choice.experts.unique()) + 1 for choice in choice_sets) / rounds
    choices, case = Choices(), f"{form} {tokens} tokens"
    if choices.vector(tokens):
        vector = VECTOR_TILES[form]
        up = ceilings.seconds([lambda c=c: gemv.gate_up_vector(x, weight, vector, c) for c in choice_sets])
        hidden = gemv.gate_up_vector(x, weight, vector, choice_sets[0])
        lower = ceilings.seconds([lambda c=c: gemv.down_vector(hidden, back, vector, c) for c in choice_sets])
    else:
        routings = [route(choice) for choice in choice_sets]
        narrow, scales, _ = activations_for(x, form)
        tile = choices.tile("gate_up", form, tokens, EXPERTS)
        up = ceilings.seconds([lambda r=r: gate_up(narrow, weight, tile, routing=r, x_scales=scales) for r in routings])
        hidden = gate_up(narrow, weight, tile, routing=routings[0], x_scales=scales)
        h_narrow, h_scales, _ = activations_for(hidden, form)
        cut = choices.tile("down", form, tokens, EXPERTS)
        lower = ceilings.seconds([lambda r=r: down(h_narrow, back, cut, r, x_scales=h_scales) for r in routings])
    beside = grouped_torch(ceilings, weight, back, x, hidden) if form == "bf16" and tokens > 4 else (None, None)
    for name, took, matrix_, inputs, outputs, other in (
        ("gate_up", up, weight, HIDDEN, 2 * SIZE, beside[0]),
        ("down", lower, back, SIZE, HIDDEN, beside[1]),
    ):
        moved = matrix_.nbytes * touched / (EXPERTS + 1) + 2 * 2 * tokens * (inputs + outputs / 2)
        flops = 2 * 2 * tokens * inputs * outputs
        yield row(ceilings, name, case, took, read=moved, flops=flops, form=form, beside=other)


def grouped_torch(
    ceilings: Ceilings, weight: Matrix, back: Matrix, x: Tensor, hidden: Tensor
) -> tuple[float | None, float | None]:
    """Time torch's grouped product on as many rows, evenly routed, without SwiGLU or reordering."""
    grouped = getattr(torch, "_grouped_mm", None)
    if grouped is None or not isinstance(weight, Tensor) or not isinstance(back, Tensor):
        return None, None
    each = max(1, len(x) // EXPERTS)
    ends = [min(len(x), each * (e + 1)) for e in range(EXPERTS - 1)] + [len(x), 2 * len(x)]
    offsets = torch.tensor(ends, dtype=torch.int32, device=DEVICE)
    doubled = torch.cat([x, x])
    try:
        up = ceilings.seconds([lambda: grouped(doubled, weight, offs=offsets)])
        return up, ceilings.seconds([lambda: grouped(hidden, back, offs=offsets)])
    except RuntimeError:
        return None, None


def rotated(make: Callable[[], Matrix]) -> list[Matrix]:
    """Return so many matrices that together they leave the L2 cache."""
    first = make()
    return [first, *(make() for _ in range(min(15, ROTATE // first.nbytes)))]


def pages_batch(lengths: list[int], context: int, page: int = 64) -> tuple[Batch, int]:
    """Return a batch over pages of their own, and how many pages there are."""
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


def decode(ceilings: Ceilings, dtype: torch.dtype, sequences: int, context: int) -> dict[str, object]:
    batch, pages = pages_batch([1] * sequences, context)
    each = 2 * sequences * context * KV_HEADS * DIM * dtype.itemsize
    layers = [cache(pages, dtype) for _ in range(max(2, min(16, ROTATE // each)))]
    queries = normal(sequences, HEADS, DIM)
    took = ceilings.seconds([lambda layer=layer: KernelOps().attention(queries, layer, batch) for layer in layers])
    beside = None
    if dtype == torch.bfloat16:
        keys, values = (normal(sequences, KV_HEADS, context, DIM) for _ in range(2))
        q = normal(sequences, HEADS, 1, DIM)
        beside = ceilings.seconds([lambda: scaled_dot_product_attention(q, keys, values, enable_gqa=True)])
    flops = 4 * sequences * context * HEADS * DIM
    case = f"decode {name_of(dtype)} {sequences} x {context}"
    return row(ceilings, "attention_decode", case, took, read=each, flops=flops, form="bf16", beside=beside)


def prefill(ceilings: Ceilings, dtype: torch.dtype, tokens: int) -> dict[str, object]:
    batch, pages = pages_batch([tokens], tokens)
    layer, queries = cache(pages, dtype), normal(tokens, HEADS, DIM)
    took = ceilings.seconds([lambda: KernelOps().attention(queries, layer, batch)] * 4)
    q, keys, values = normal(1, HEADS, tokens, DIM), normal(1, KV_HEADS, tokens, DIM), normal(1, KV_HEADS, tokens, DIM)
    beside = ceilings.seconds(
        [lambda: scaled_dot_product_attention(q, keys, values, is_causal=True, enable_gqa=True)] * 4
    )
    flops = 2 * tokens * tokens * HEADS * DIM  # half of the square is masked
    read = 2 * tokens * (2 * HEADS + 2 * KV_HEADS) * DIM
    case = f"prefill {name_of(dtype)} {tokens}"
    return row(ceilings, "attention_prefill", case, took, read=read, flops=flops, form="bf16", beside=beside)


def draw(ceilings: Ceilings, rows: int = 64, vocab: int = 202_048) -> dict[str, object]:
    logits = normal(rows, vocab, dtype=torch.float32, std=4.0)
    filters = Filters(
        torch.full((rows,), 0.6, device=DEVICE),
        torch.zeros(rows, dtype=torch.int64, device=DEVICE),
        torch.full((rows,), 0.9, dtype=torch.float64, device=DEVICE),
        torch.zeros(rows, device=DEVICE),
        True,
    )
    chances = torch.rand(rows, dtype=torch.float64, device=DEVICE)
    took = ceilings.seconds([lambda: sampling.draw(logits, filters, chances)])
    return row(ceilings, "draw", f"top_p {rows} rows", took, read=logits.nbytes, flops=0.0, form="bf16", beside=None)


def name_of(dtype: torch.dtype) -> str:
    return "fp8" if dtype == torch.float8_e4m3fn else "bf16"
