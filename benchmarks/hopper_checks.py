"""Compares every kernel with its twin in fp64, on a GPU, with fresh random inputs and poisoned outputs."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator
from functools import partial

import torch
from hopper_clock import Budget, alive, one_line
from hopper_comparison import Case, Comparison, layout
from hopper_gather import gathered_by_a_graph
from hopper_inputs import (
    DEVICE,
    FORMATS,
    REHEARSAL,
    activations_for,
    exact,
    exact_expert,
    experts,
    kernels,
    matrix,
    normal,
)
from hopper_trials import trials
from torch import Tensor

from llama4_local.cache.kv_cache import LayerCache
from llama4_local.ops.filters import Filters
from llama4_local.ops.heads import HeadTransform
from llama4_local.ops.kernels import gemv, sampling
from llama4_local.ops.kernels.activations import quantize_rows
from llama4_local.ops.kernels.down import down
from llama4_local.ops.kernels.gate_up import gate_up
from llama4_local.ops.kernels.heads import qkv_epilogue
from llama4_local.ops.kernels.linear import linear
from llama4_local.ops.kernels.norms import add_rms_norm
from llama4_local.ops.kernels.routing import Dispatch, dispatch, route, route_and_dispatch
from llama4_local.ops.kernels.tile_table import VECTOR_TOKENS, TileTable
from llama4_local.ops.kernels.tiles import Format
from llama4_local.ops.reference import sampling as reference_sampling
from llama4_local.ops.reference.functions import ReferenceOps
from llama4_local.ops.reference.rows import rms_norm, swiglu
from llama4_local.weights.quantized import Matrix
from llama4_local.weights.tree import MlpTree, MoeTree

# Norm of the difference over the norm: rounding to bf16 costs 1.7e-3, e4m3 sums on the matrix units some more.
LIMITS = {"bf16": 4e-3, "int4": 4e-3, "fp8": 5e-3}
PARTS_LIMITS = {"bf16": 1e-4, "int4": 1e-4, "fp8": 2e-3}
TOKENS = (1, 5) if REHEARSAL else (1, 3, 5, 17, 64, 300, 2048)
# Not multiples of any tile, but of 16, as every published size is: other binaries serve those.
OUT, IN, HIDDEN, SIZE, EXPERTS = (208, 256, 128, 128, 3) if REHEARSAL else (1184, 1024, 1024, 640, 16)


def run_checks(budget: Budget, *, quick: bool) -> Iterator[dict[str, object]]:
    """Compare everything; each call draws other numbers.

    An exception is recorded as a failed comparison. Checks end early only where the GPU takes no more work.
    """
    seed = secrets.randbits(32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills fresh memory with NaN
    torch.utils.deterministic.fill_uninitialized_memory = True  # pyright: ignore[reportAttributeAccessIssue]
    try:
        for name, case in everything(TOKENS[::2] if quick else TOKENS):
            if not budget.allows(f"check of {name}"):
                return
            for row in _compared(name, case):
                yield row | {"seed": seed}
            if not alive():
                return
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def _compared(name: str, case: Callable[[], Iterator[Comparison]]) -> Iterator[dict[str, object]]:
    try:
        for one in case():
            off = error(one.got, one.expected)
            print(f"{'ok   ' if off <= one.limit else 'WRONG'} {one.kernel:<18}{one.case:<32}{off:.2e}", flush=True)
            row: dict[str, object] = {"kernel": one.kernel, "case": one.case, "error": off, "limit": one.limit}
            yield row | {"right": off <= one.limit}
    except Exception as problem:  # noqa: BLE001 - the next kernel is checked after any exception
        print(f"WRONG {name}: {one_line(problem)}", flush=True)
        yield {"kernel": name, "case": "", "right": False, "exception": one_line(problem)}


def error(got: Tensor, expected: Tensor) -> float:
    """Return the relative error; NaN counts as infinite."""
    off = float((got.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))
    return off if math.isfinite(off) else math.inf


def everything(token_counts: tuple[int, ...]) -> Iterator[Case]:
    """Yield groups of comparisons: each kernel is one, so that an exception ends the comparisons of one kernel only."""
    yield "norm", norms
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        yield f"attention {dtype}", partial(attention, dtype)
        yield f"heads {dtype}", partial(epilogue, dtype)
    for weight_format in FORMATS:
        for tokens in token_counts:
            yield f"linear {weight_format} {tokens} tokens", partial(products, weight_format, tokens)
            yield f"gate_up and down {weight_format} {tokens} tokens", partial(mixtures, weight_format, tokens)
            if tokens <= VECTOR_TOKENS:
                yield f"gemv {weight_format} {tokens} tokens", partial(few, weight_format, tokens)
            yield f"moe {weight_format} {tokens} tokens", partial(whole, weight_format, tokens)
        yield f"neighbours {weight_format}", partial(neighbours, weight_format)
    yield "draw", draws
    yield from trials()
    yield "gather", gathers


def gathers() -> Iterator[Comparison]:
    for tokens in (1, 64):
        yield Comparison("gather", f"in a graph, {tokens} tokens", *gathered_by_a_graph(tokens, IN), 0.0)


def products(weight_format: Format, tokens: int) -> Iterator[Comparison]:
    weight, x = matrix(weight_format, OUT, IN), normal(tokens, IN)
    for deterministic in (False, True):
        operand, scales, worth = activations_for(x, weight_format)
        tile = TileTable(deterministic).tile("linear", weight_format, tokens)
        got = linear(operand, weight, tile, x_scales=scales)
        limit = PARTS_LIMITS[weight_format] if tile.splits > 1 else LIMITS[weight_format]
        case = f"{weight_format} {tokens} tokens{' fixed' if deterministic else ''}"
        yield Comparison("linear", case, got.sum(0) if tile.splits > 1 else got, worth @ exact(weight).t(), limit)


def mixtures(weight_format: Format, tokens: int) -> Iterator[Comparison]:
    weight, back = stacks(weight_format)
    x, logits = normal(tokens, HIDDEN), normal(tokens, EXPERTS, dtype=torch.float32)
    routing, slots = route(logits), route_and_dispatch(logits)
    yield Comparison("route", f"{tokens} tokens", routing.experts.long() + 1, logits.argmax(-1) + 1, 0.0)
    yield Comparison("dispatch", f"{tokens} tokens", slots.order + 1, dispatch(routing).order + 1, 0.0)
    for deterministic in (False, True):
        tiles = TileTable(deterministic)
        case = f"{weight_format} {tokens} tokens{' fixed' if deterministic else ''}"
        operand, scales, worth = activations_for(x, weight_format)
        tile = tiles.tile("gate_up", weight_format, tokens, EXPERTS)
        hidden_rows = gate_up(operand, weight, tile, dispatch=slots, x_scales=scales)
        yield Comparison("gate_up", case, hidden_rows, exact_hidden(worth, weight, slots), LIMITS[weight_format])
        operand, scales, worth = activations_for(hidden_rows, weight_format)
        tile = tiles.tile("down", weight_format, tokens, EXPERTS)
        parts = down(operand, back, tile, slots, x_scales=scales).float().unflatten(0, (2, -1)).sum(1)
        yield Comparison("down", case, parts, exact_parts(worth, back, slots), LIMITS[weight_format])


def stacks(weight_format: Format) -> tuple[Matrix, Matrix]:
    return experts(weight_format, EXPERTS + 1, 2 * SIZE, HIDDEN), experts(weight_format, EXPERTS + 1, HIDDEN, SIZE)


def few(weight_format: Format, tokens: int) -> Iterator[Comparison]:
    """The matrix-vector kernel, whether the tile table enables it for this format or not."""
    weight, x = matrix(weight_format, OUT, IN), normal(tokens, IN)
    tile, case = TileTable().vector_tile(weight_format), f"{weight_format} {tokens} tokens"
    expected = x.double() @ exact(weight).t()
    yield Comparison("gemv", case, gemv.linear_vector(x, weight, tile).sum(0), expected, PARTS_LIMITS["bf16"])
    weight, back = stacks(weight_format)
    x, routing = normal(tokens, HIDDEN), route(normal(tokens, EXPERTS, dtype=torch.float32))
    hidden = gemv.gate_up_vector(x, weight, tile, routing)
    pairs = list(enumerate(zip(routing.experts.tolist(), routing.scores.double(), strict=True)))
    routed_rows = [swiglu(exact_expert(weight, expert) @ (x[i].double() * score)) for i, (expert, score) in pairs]
    shared_rows = [swiglu(exact_expert(weight, EXPERTS) @ row) for row in x.double()]
    yield Comparison("gate_up by gemv", case, hidden, torch.stack(routed_rows + shared_rows), LIMITS["bf16"])
    parts = gemv.down_vector(hidden, back, tile, routing).float().unflatten(0, (2, -1)).sum(1)
    rows = hidden.double()
    back_routed = [exact_expert(back, expert) @ rows[i] for i, (expert, _) in pairs]
    back_shared = [exact_expert(back, EXPERTS) @ row for row in rows[tokens:]]
    expected = torch.stack([torch.stack(back_routed), torch.stack(back_shared)])
    yield Comparison("down by gemv", case, parts, expected, LIMITS["bf16"])


def whole(weight_format: Format, tokens: int) -> Iterator[Comparison]:
    """The mixture as a layer calls it, router included."""
    weight, back = stacks(weight_format)
    router, x = normal(EXPERTS, HIDDEN, std=HIDDEN**-0.5), normal(tokens, HIDDEN)
    got = kernels().moe(x, MoeTree(router, weight, back, MlpTree(weight, back))).float().sum(0)
    logits, top_1 = (x.double() @ router.double().t()).max(-1)
    rows = x.double()
    expected = swiglu(rows @ exact_expert(weight, EXPERTS).t()) @ exact_expert(back, EXPERTS).t()
    for expert in range(EXPERTS):
        own = (top_1 == expert).nonzero().squeeze(-1)
        scored = rows[own] * logits[own].sigmoid()[:, None]
        expected[own] += swiglu(scored @ exact_expert(weight, expert).t()) @ exact_expert(back, expert).t()
    # FP8 rounds activations to three bits, twice; other formats round the hidden activations to bf16.
    yield Comparison(
        "moe",
        f"{weight_format} {tokens} tokens",
        got,
        expected,
        0.08 if weight_format == "fp8" else 2 * LIMITS[weight_format],
    )


def exact_hidden(worth: Tensor, weight: Matrix, slots: Dispatch) -> Tensor:
    rows = [
        swiglu((worth[slots.order[a:b].long()] * slots.scores[a:b, None].double()) @ exact_expert(weight, g).t())
        for g, a, b in groups(slots)
    ]
    return torch.cat(rows)


def exact_parts(worth: Tensor, weight: Matrix, slots: Dispatch) -> Tensor:
    out = torch.zeros(2, len(worth) // 2, exact_expert(weight, 0).shape[0], dtype=torch.float64, device=DEVICE)
    for g, a, b in groups(slots):
        out[int(g == slots.groups - 1), slots.order[a:b].long()] = worth[a:b] @ exact_expert(weight, g).t()
    return out


def groups(slots: Dispatch) -> list[tuple[int, int, int]]:
    offsets = slots.offsets.tolist()
    return list(zip(range(slots.groups), offsets[:-1], offsets[1:], strict=True))


def neighbours(weight_format: Format) -> Iterator[Comparison]:
    """Rows must be the same bits whatever else is in the batch."""
    weight, x = matrix(weight_format, OUT, IN), normal(200, IN)
    tile = TileTable(deterministic=True).tile("linear", weight_format, 1)
    all_rows, all_scales, _ = activations_for(x, weight_format)
    together = linear(all_rows, weight, tile, x_scales=all_scales)
    for row in (0, 77, 199)[: 1 if REHEARSAL else 3]:
        own = slice(row, row + 1)
        scales = None if all_scales is None else all_scales[own].clone()
        alone = linear(all_rows[own].clone(), weight, tile, x_scales=scales)
        yield Comparison("linear", f"{weight_format} row {row} alone", alone[:, 0], together[:, row], 0.0)


def attention(dtype: torch.dtype) -> Iterator[Comparison]:
    cases = {
        "decode": [(1, 1), (1, 63), (1, 64), (1, 65), (1, 4097)],
        "prefill": [(100, 100), (129, 700), (2, 8192)],
        "mixed": [(1, 300), (77, 500), (1, 8192), (513, 513)],
    }
    if REHEARSAL:
        cases = {"decode": [(1, 1), (1, 65)], "mixed": [(1, 70), (20, 90)]}
    for name, sequences in cases.items():
        batch = layout(sequences, 64)
        pages = 1 + sum(-(-context // 64) for _, context in sequences)
        layer = LayerCache(normal(pages, 64, 8, 128).to(dtype), normal(pages, 64, 8, 128).to(dtype), "global")
        queries = normal(sum(n for n, _ in sequences), 40, 128)
        wide = LayerCache(layer.keys.float().double(), layer.values.float().double(), "global")
        expected = ReferenceOps().attention(queries.double(), wide, batch)
        for deterministic in (False, True):
            got = kernels(deterministic=deterministic).attention(queries, layer, batch)
            yield Comparison("attention", f"{name} {dtype}{' fixed' if deterministic else ''}", got, expected, 6e-3)


def epilogue(dtype: torch.dtype) -> Iterator[Comparison]:
    tokens, heads, kv_heads, dim = 37, 40, 8, 128
    slots = torch.randperm(512, device=DEVICE)[:tokens] + 64
    angles = torch.rand(tokens, dim // 2, device=DEVICE) * math.tau
    rotation = torch.stack([angles.cos(), angles.sin()], -1)
    plans = {
        "rope": HeadTransform(heads, kv_heads, dim, rotation, 1e-5),
        "nope": HeadTransform(heads, kv_heads, dim, query_scale=1 + torch.rand(tokens, device=DEVICE)),
    }
    for name, plan in plans.items():
        qkv = normal(4, tokens, (heads + 2 * kv_heads) * dim, dtype=torch.float32)
        own = LayerCache(normal(10, 64, kv_heads, dim).to(dtype), normal(10, 64, kv_heads, dim).to(dtype), "global")
        other = LayerCache(own.keys.float().double(), own.values.float().double(), "global")
        queries = qkv_epilogue(qkv, plan, own, slots)
        expected = ReferenceOps().qkv_epilogue(qkv.sum(0), plan, other, slots)
        yield Comparison("heads", f"{name} queries {dtype}", queries, expected, LIMITS["bf16"])
        limit = LIMITS["bf16"] if dtype == torch.bfloat16 else 0.04  # three bits of mantissa
        for kind, got, exact_values in (("keys", own.keys, other.keys), ("values", own.values, other.values)):
            rows = got.float().flatten(0, 1)[slots]
            yield Comparison("heads", f"{name} {kind} {dtype}", rows, exact_values.flatten(0, 1)[slots], limit)


def norms() -> Iterator[Comparison]:
    for parts in (1, 2, 8):
        update, residual = normal(parts, 50, 5120, dtype=torch.float32), normal(50, 5120)
        weight = normal(5120)
        normed, total = add_rms_norm(update, residual, weight, 1e-5)
        yield Comparison(
            "norm", f"{parts} parts, sum", total, update.double().sum(0) + residual.double(), LIMITS["bf16"]
        )
        expected = rms_norm(total.double(), weight.double(), 1e-5)
        yield Comparison("norm", f"{parts} parts", normed, expected, 2 * LIMITS["bf16"])
    x = normal(50, 8192)
    values, scales = quantize_rows(x)
    yield Comparison("quantize_rows", "8192 wide", values.float().double() * scales.double()[:, None], x, 0.04)


def draws() -> Iterator[Comparison]:
    vocab = 9000 if REHEARSAL else 202_048
    cases = (
        ("plain", 16, 4.0, 0, 1.0, False),
        ("top_k", 16, 4.0, 40, 1.0, True),
        ("top_p", 16, 4.0, 0, 0.9, True),
        ("top_p, one row", 1, 4.0, 0, 0.9, True),
        ("top_p after top_k", 64, 4.0, 1000, 0.9, True),
        ("top_p, nearly flat", 16, 0.05, 0, 0.9, True),
        ("top_p, most ruled out", 16, 4.0, 0, 0.95, True),
    )
    for name, rows, std, top_k, top_p, ranked in cases:
        rows = min(rows, 4) if REHEARSAL else rows
        logits = normal(rows, vocab, dtype=torch.float32, std=std)
        if "ruled out" in name:
            logits[torch.rand_like(logits) < 0.999] = float("-inf")
        chances = torch.rand(rows, dtype=torch.float64, device=DEVICE)
        filters = Filters(
            torch.full((rows,), 0.8, device=DEVICE),
            torch.full((rows,), top_k, device=DEVICE),
            torch.full((rows,), top_p, dtype=torch.float64, device=DEVICE),
            torch.zeros(rows, device=DEVICE),
            ranked,
        )
        got, _ = sampling.draw(logits, filters, chances)
        expected = reference_sampling.draw(logits, filters, chances)
        # A draw on the edge between two tokens may fall to either side: exponentials differ in their last bit.
        same = (got == expected).double().mean()
        yield Comparison("draw", name, same, torch.ones_like(same), 1.01 / max(rows, 2))
