"""Every kernel against its twin in fp64, on a GPU, with fresh random inputs and poisoned outputs."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from hopper_inputs import DEVICE, FORMATS, activations_for, exact, exact_expert, experts, matrix, normal
from torch import Tensor

from llama4_local.batch import Batch, PoolTable, Segment
from llama4_local.heads import HeadPlan
from llama4_local.kernels import gemv, sampling
from llama4_local.kernels.activations import quantize_rows
from llama4_local.kernels.choices import Choices
from llama4_local.kernels.down import down
from llama4_local.kernels.functions import KernelOps
from llama4_local.kernels.gate_up import gate_up
from llama4_local.kernels.heads import qkv_epilogue
from llama4_local.kernels.linear import linear
from llama4_local.kernels.norms import add_rms_norm
from llama4_local.kernels.routing import Routing, choose, route
from llama4_local.kernels.tiles import Format
from llama4_local.kv_cache import LayerCache
from llama4_local.quantized import Matrix
from llama4_local.reference import sampling as reference_sampling
from llama4_local.reference.functions import ReferenceOps
from llama4_local.reference.rows import rms_norm, swiglu
from llama4_local.weights import MlpTree, MoeTree

# Norm of the difference over the norm: rounding to bf16 costs 1.7e-3, e4m3 sums on the matrix units some more.
LIMITS = {"bf16": 4e-3, "int4": 4e-3, "fp8": 5e-3}
PARTS_LIMITS = {"bf16": 1e-4, "int4": 1e-4, "fp8": 2e-3}
TOKENS = (1, 3, 5, 17, 64, 300, 2048)


@dataclass(frozen=True, slots=True)
class Found:
    """One comparison."""

    kernel: str
    case: str
    got: Tensor
    wanted: Tensor
    limit: float


def run_checks(*, quick: bool) -> list[dict[str, object]]:
    """Compare everything; each call draws other numbers."""
    seed = secrets.randbits(32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills fresh memory with NaN
    torch.utils.deterministic.fill_uninitialized_memory = True  # pyright: ignore[reportAttributeAccessIssue]
    found: list[dict[str, object]] = []
    for one in everything(TOKENS[::2] if quick else TOKENS):
        off = error(one.got, one.wanted)
        row: dict[str, object] = {"kernel": one.kernel, "case": one.case, "error": off, "limit": one.limit}
        found.append(row | {"right": off <= one.limit, "seed": seed})
        print(f"{'ok   ' if off <= one.limit else 'WRONG'} {one.kernel:<18}{one.case:<32}{off:.2e}", flush=True)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    return found


def error(got: Tensor, wanted: Tensor) -> float:
    """Return the relative error; NaN counts as infinite."""
    off = float((got.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-30))
    return off if math.isfinite(off) else math.inf


def everything(token_counts: tuple[int, ...]) -> Iterator[Found]:
    for form in FORMATS:
        for tokens in token_counts:
            yield from products(form, tokens)
            yield from mixtures(form, tokens)
        yield from neighbours(form)
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        yield from attention(dtype)
        yield from epilogue(dtype)
    yield from norms()
    yield from draws()


def products(form: Format, tokens: int) -> Iterator[Found]:
    weight, x = matrix(form, 1184, 1024), normal(tokens, 1024)
    for deterministic in (False, True):
        choices = Choices(deterministic)
        if not choices.vector(tokens):
            narrow, scales, worth = activations_for(x, form)
            tile = choices.tile("linear", form, tokens)
            got = linear(narrow, weight, tile, x_scales=scales)
            limit = PARTS_LIMITS[form] if tile.splits > 1 else LIMITS[form]
            whole = got.sum(0) if tile.splits > 1 else got
            case = f"{form} {tokens} tokens{' fixed' if deterministic else ''}"
            yield Found("linear", case, whole, worth @ exact(weight).t(), limit)
    if tokens <= 4:
        got = gemv.linear_vector(x, weight, Choices().vector_tile(form))
        yield Found("gemv", f"{form} {tokens} tokens", got.sum(0), x.double() @ exact(weight).t(), PARTS_LIMITS["bf16"])


def mixtures(form: Format, tokens: int) -> Iterator[Found]:
    count, hidden, size = 16, 1024, 640
    weight, back = experts(form, count + 1, 2 * size, hidden), experts(form, count + 1, hidden, size)
    x, logits = normal(tokens, hidden), normal(tokens, count, dtype=torch.float32)
    choice = choose(logits)
    yield Found("choose", f"{tokens} tokens", choice.experts.long() + 1, logits.argmax(-1) + 1, 0.0)
    routing = route(choice)
    narrow, scales, worth = activations_for(x, form)
    tile = Choices().tile("gate_up", form, tokens, count)
    hidden_rows = gate_up(narrow, weight, tile, routing=routing, x_scales=scales)
    case = f"{form} {tokens} tokens"
    yield Found("gate_up", case, hidden_rows, wanted_hidden(worth, weight, routing), LIMITS[form])
    narrow, scales, worth = activations_for(hidden_rows, form)
    tile = Choices().tile("down", form, tokens, count)
    parts = down(narrow, back, tile, routing, x_scales=scales).float().unflatten(0, (2, -1)).sum(1)
    yield Found("down", case, parts, wanted_parts(worth, back, routing), LIMITS[form])
    if tokens <= 4:
        yield from few(form, x, weight, back)


def few(form: Format, x: Tensor, weight: Matrix, back: Matrix) -> Iterator[Found]:
    """The whole mixture for a handful of tokens, which the vector kernels serve."""
    router = normal(16, 1024)
    got = KernelOps().moe(x, MoeTree(router, weight, back, MlpTree(weight, back))).float().sum(0)
    logits, chosen = (x.double() @ router.double().t()).max(-1)
    rows: list[Tensor] = []
    for row, score, expert in zip(x.double(), logits.sigmoid(), chosen.tolist(), strict=True):
        routed = exact_expert(back, expert) @ swiglu(exact_expert(weight, expert) @ (row * score))
        rows.append(routed + exact_expert(back, 16) @ swiglu(exact_expert(weight, 16) @ row))
    yield Found("moe by gemv", f"{form} {len(x)} tokens", got, torch.stack(rows), 2 * LIMITS[form])


def wanted_hidden(worth: Tensor, weight: Matrix, routing: Routing) -> Tensor:
    slots = [
        swiglu((worth[routing.order[a:b].long()] * routing.scores[a:b, None].double()) @ exact_expert(weight, g).t())
        for g, a, b in groups(routing)
    ]
    return torch.cat(slots)


def wanted_parts(worth: Tensor, weight: Matrix, routing: Routing) -> Tensor:
    last = len(routing.offsets) - 2
    out = torch.zeros(2, len(worth) // 2, exact_expert(weight, 0).shape[0], dtype=torch.float64, device=DEVICE)
    for g, a, b in groups(routing):
        out[int(g == last), routing.order[a:b].long()] = worth[a:b] @ exact_expert(weight, g).t()
    return out


def groups(routing: Routing) -> list[tuple[int, int, int]]:
    offsets = routing.offsets.tolist()
    return list(zip(range(len(offsets)), offsets[:-1], offsets[1:], strict=False))


def neighbours(form: Format) -> Iterator[Found]:
    """Rows must be the same bits whatever else is in the batch."""
    weight, x = matrix(form, 1184, 1024), normal(200, 1024)
    tile = Choices(deterministic=True).tile("linear", form, 1)
    all_narrow, all_scales, _ = activations_for(x, form)
    together = linear(all_narrow, weight, tile, x_scales=all_scales)
    for row in (0, 77, 199):
        own = slice(row, row + 1)
        scales = None if all_scales is None else all_scales[own].clone()
        alone = linear(all_narrow[own].clone(), weight, tile, x_scales=scales)
        yield Found("linear", f"{form} row {row} alone", alone[:, 0], together[:, row], 0.0)


def layout(sequences: list[tuple[int, int]], page: int) -> Batch:
    """A batch of (new tokens, context) pairs over shuffled pages."""
    counts = [-(-context // page) for _, context in sequences]
    free = (torch.randperm(sum(counts)) + 1).tolist()
    pages = torch.zeros(len(sequences), max(counts), dtype=torch.int64)
    for i, count in enumerate(counts):
        pages[i, :count] = torch.tensor([free.pop() for _ in range(count)])
    starts = [sum(n for n, _ in sequences[:i]) for i in range(len(sequences) + 1)]
    contexts = tuple(context for _, context in sequences)
    empty = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    table = PoolTable(empty, pages.to(DEVICE), contexts, torch.tensor(contexts, device=DEVICE))
    segments = tuple(Segment(start, n, c - n) for start, (n, c) in zip(starts, sequences, strict=False))
    return Batch(empty, empty, segments, torch.tensor(starts, device=DEVICE), {"global": table}, empty, None)


def attention(dtype: torch.dtype) -> Iterator[Found]:
    cases = {
        "decode": [(1, 1), (1, 63), (1, 64), (1, 65), (1, 4097)],
        "prefill": [(100, 100), (129, 700), (2, 8192)],
        "mixed": [(1, 300), (77, 500), (1, 8192), (513, 513)],
    }
    for name, sequences in cases.items():
        batch = layout(sequences, 64)
        pages = 1 + sum(-(-context // 64) for _, context in sequences)
        layer = LayerCache(normal(pages, 64, 8, 128).to(dtype), normal(pages, 64, 8, 128).to(dtype), "global")
        queries = normal(sum(n for n, _ in sequences), 40, 128)
        wide = LayerCache(layer.keys.double(), layer.values.double(), "global")
        wanted = ReferenceOps().attention(queries.double(), wide, batch)
        for deterministic in (False, True):
            got = KernelOps(Choices(deterministic)).attention(queries, layer, batch)
            yield Found("attention", f"{name} {dtype}{' fixed' if deterministic else ''}", got, wanted, 6e-3)


def epilogue(dtype: torch.dtype) -> Iterator[Found]:
    tokens, heads, kv_heads, dim = 37, 40, 8, 128
    slots = torch.randperm(512, device=DEVICE)[:tokens] + 64
    angles = torch.rand(tokens, dim // 2, device=DEVICE) * math.tau
    rotation = torch.stack([angles.cos(), angles.sin()], -1)
    plans = {
        "rope": HeadPlan(heads, kv_heads, dim, rotation, 1e-5),
        "nope": HeadPlan(heads, kv_heads, dim, query_scale=1 + torch.rand(tokens, device=DEVICE)),
    }
    for name, plan in plans.items():
        qkv = normal(4, tokens, (heads + 2 * kv_heads) * dim, dtype=torch.float32)
        own = LayerCache(normal(10, 64, kv_heads, dim).to(dtype), normal(10, 64, kv_heads, dim).to(dtype), "global")
        other = LayerCache(own.keys.double(), own.values.double(), "global")
        queries = qkv_epilogue(qkv, plan, own, slots)
        wanted = ReferenceOps().qkv_epilogue(qkv.sum(0), plan, other, slots)
        yield Found("heads", f"{name} queries {dtype}", queries, wanted, LIMITS["bf16"])
        limit = LIMITS["bf16"] if dtype == torch.bfloat16 else 0.04  # three bits of mantissa
        for kind, got, exact_values in (("keys", own.keys, other.keys), ("values", own.values, other.values)):
            rows = got.flatten(0, 1)[slots].float()
            yield Found("heads", f"{name} {kind} {dtype}", rows, exact_values.flatten(0, 1)[slots], limit)


def norms() -> Iterator[Found]:
    for parts in (1, 2, 8):
        update, residual = normal(parts, 50, 5120, dtype=torch.float32), normal(50, 5120)
        weight = normal(5120)
        normed, total = add_rms_norm(update, residual, weight, 1e-5)
        yield Found("norm", f"{parts} parts, sum", total, update.double().sum(0) + residual.double(), LIMITS["bf16"])
        wanted = rms_norm(total.float(), weight.float(), 1e-5)
        yield Found("norm", f"{parts} parts", normed, wanted, 2 * LIMITS["bf16"])
    x = normal(50, 8192)
    values, scales = quantize_rows(x)
    yield Found("quantize_rows", "8192 wide", values.double() * scales.double()[:, None], x, 0.04)


def draws() -> Iterator[Found]:
    rows, vocab = 16, 202_048
    logits = normal(rows, vocab, dtype=torch.float32, std=4.0)
    chances = torch.rand(rows, dtype=torch.float64, device=DEVICE)
    for name, top_k, top_p, ranked in (("plain", 0, 1.0, False), ("top_k", 40, 1.0, True), ("top_p", 0, 0.9, True)):
        filters = reference_sampling.Filters(
            torch.full((rows,), 0.8, device=DEVICE),
            torch.full((rows,), top_k, device=DEVICE),
            torch.full((rows,), top_p, dtype=torch.float64, device=DEVICE),
            torch.zeros(rows, device=DEVICE),
            ranked,
        )
        got, _ = sampling.draw(logits, filters, chances)
        wanted = reference_sampling.draw(logits, filters, chances)
        # A draw on the edge between two tokens may fall to either side: exponentials differ in their last bit.
        same = (got == wanted).double().mean()
        yield Found("draw", name, same, torch.ones_like(same), 0.07)
