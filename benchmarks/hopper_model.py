"""Measures Scout at full size with random weights made on the GPU: decode and prefill, with and without CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import torch
from hopper_admission import run_admission
from hopper_clock import Budget, alive, one_line, seconds
from hopper_inputs import DEVICE, REHEARSAL, SIZES, experts, kernels, matrix, normal
from hopper_longest import longest
from hopper_routing import CountingOps
from hopper_times import Ceilings, Row
from torch import Tensor

from llama4_local.cache.kv_cache import KvCache, cache_bytes
from llama4_local.cache.page_table import CacheShape
from llama4_local.config.model import ModelConfig, RopeScaling, TextConfig
from llama4_local.model.transformer import Model, forward, logits
from llama4_local.ops.batch import Batch, PoolTable, Segment
from llama4_local.ops.filters import Filters
from llama4_local.ops.kernels.sampling import draw
from llama4_local.ops.kernels.tile_table import TRIALS
from llama4_local.ops.kernels.tiles import Format, Trial
from llama4_local.weights.quantized import Matrix
from llama4_local.weights.tree import AttentionTree, LayerTree, MlpTree, MoeTree, Weights, WeightTree

LAYERS, PAGE, CHUNK, CONTEXT = SIZES.layers, SIZES.page, SIZES.chunk, SIZES.context
BATCHES = (2,) if REHEARSAL else (1, 8, 64, 256)
PROMPTS = (40, 140) if REHEARSAL else (2048, 16384)
SPARE = 6 * 2**30  # bytes left for activations and graphs
NEEDED = {"int4": 66 * 10**9, "fp8": 124 * 10**9, "bf16": 230 * 10**9}  # bytes of weights, and some cache


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement of the network.

    Args:
        name: Its name in the results.
        tokens: Tokens of a step.
        graph: Whether the step is replayed as a CUDA graph.
        measure: Returns the seconds.
        floor: Seconds that bytes or operations take at the measured ceilings.
        touched: Mean of the routed experts that a layer of the step reads; None for prompts.
    """

    name: str
    tokens: int
    graph: bool
    measure: Callable[[], float]
    floor: float
    touched: float | None = None


def scout() -> ModelConfig:
    """Scout's decoder."""
    return ModelConfig(
        TextConfig(
            vocab_size=SIZES.vocab,
            hidden_size=SIZES.hidden,
            heads=SIZES.heads,
            kv_heads=SIZES.kv_heads,
            head_dim=SIZES.dim,
            expert_size=SIZES.size,
            dense_size=2 * SIZES.size,
            experts=SIZES.experts,
            rope_layers=tuple((layer + 1) % 4 != 0 for layer in range(LAYERS)),
            moe_layers=(True,) * LAYERS,
            chunk=CHUNK,
            qk_norm=True,
            rope_scaling=RopeScaling(16.0, 1.0, 1.0, 8192),
            max_positions=10_485_760,
        )
    )


def random_network(text: TextConfig, weight_format: Format, head: int) -> WeightTree[Matrix]:
    """Return weights that keep activations near one, made on the device; `head` are the rows of the head."""
    return WeightTree(
        normal(text.vocab_size, text.hidden_size),
        tuple(_layer(text, weight_format, mixture=mixture) for mixture in text.moe_layers),
        _ones(text),
        normal(head, text.hidden_size, std=text.hidden_size**-0.5),
        None,
    )


def _layer(text: TextConfig, weight_format: Format, *, mixture: bool) -> LayerTree[Matrix]:
    width, hidden = text.heads * text.head_dim, text.hidden_size
    attention = AttentionTree(matrix(weight_format, sum(text.qkv_rows), hidden), matrix(weight_format, hidden, width))
    if not mixture:
        size = text.dense_size
        mlp = MlpTree(matrix(weight_format, 2 * size, hidden), matrix(weight_format, hidden, size))
        return LayerTree(_ones(text), attention, _ones(text), mlp, None)
    count, size = text.experts, text.expert_size
    gate_up, down = experts(weight_format, count + 1, 2 * size, hidden), experts(weight_format, count + 1, hidden, size)
    router = normal(count, hidden, std=hidden**-0.5)
    moe = MoeTree(router, gate_up, down, MlpTree(gate_up, down))
    return LayerTree(_ones(text), attention, _ones(text), None, moe)


def _ones(text: TextConfig) -> Tensor:
    return torch.ones(text.hidden_size, dtype=torch.bfloat16, device=DEVICE)


def run_model(weight_format: Format, ceilings: Ceilings, budget: Budget, *, quick: bool) -> Iterator[Row]:
    """Measure one format, where it fits into memory: decoding first, then prompts."""
    total = torch.cuda.mem_get_info()[1] if not REHEARSAL else NEEDED[weight_format]
    if total < NEEDED[weight_format]:
        note = f"needs {NEEDED[weight_format] / 1e9:.0f} GB of {total / 1e9:.0f}: not measured"
        print(f"Scout in {weight_format} {note}", flush=True)
        yield {"format": weight_format, "case": "all", "note": note}
        return
    try:
        yield from _measured(weight_format, ceilings, budget, quick=quick)
    except Exception as problem:  # noqa: BLE001 - earlier measurements are kept
        print(f"FAILED Scout in {weight_format}: {one_line(problem)}", flush=True)
        yield {"format": weight_format, "case": "all", "exception": one_line(problem)}
    if not REHEARSAL and alive():
        torch.cuda.empty_cache()


def _measured(weight_format: Format, ceilings: Ceilings, budget: Budget, *, quick: bool) -> Iterator[Row]:
    before = 0 if REHEARSAL else torch.cuda.memory_allocated()
    with torch.inference_mode():
        weights = random_network(scout().text, weight_format, SIZES.vocab)
        taken = 0 if REHEARSAL else torch.cuda.memory_allocated() - before
        model = Model.create(scout(), weights, kernels())  # type: ignore[arg-type]
        fixed = Model.create(scout(), weights, kernels(deterministic=True))  # type: ignore[arg-type]
        tried: dict[Trial, Model] = {
            name: Model.create(scout(), weights, kernels(trials=frozenset({name})))  # type: ignore[arg-type]
            for name in sorted(TRIALS)
        }
    yield from _usual(weight_format, model, fixed, tried, ceilings, budget, BATCHES[::2] if quick else BATCHES)
    if not REHEARSAL:
        torch.cuda.empty_cache()  # of the other measurements' cache
    if budget.allows(f"Scout {weight_format} longest context", 5):
        with torch.inference_mode():
            result = longest(weight_format, model, ceilings, _step_at, taken)
        print(line(result), flush=True)
        yield result


def _usual(
    weight_format: Format,
    model: Model,
    fixed: Model,
    tried: Mapping[Trial, Model],
    ceilings: Ceilings,
    budget: Budget,
    batches: Sequence[int],
) -> Iterator[Row]:
    """Measure decoding of each batch, prompts, and profiles."""
    with torch.inference_mode():
        cache = largest_cache(model, max(batches))
        touched = {size: experts_touched(model.weights, cache, size) for size in batches}
    kept = cache.shape.global_pages * PAGE
    floors = {size: _floor(weight_format, min(size * CONTEXT, kept), touched[size]) / ceilings.copy for size in batches}
    rate = ceilings.fp8 if weight_format == "fp8" and ceilings.fp8 else ceilings.bf16

    def decode(run: Model, size: int, name: str, *, graph: bool) -> Case:
        return Case(
            name, size, graph, partial(decode_seconds, run, cache, size, graph=graph), floors[size], touched[size]
        )

    cases = [
        decode(model, size, f"decode {size} at {CONTEXT}", graph=graph) for size in batches for graph in (True, False)
    ]
    cases += [
        decode(own, size, f"decode {size} at {CONTEXT}, trial {name}", graph=True)
        for name, own in tried.items()
        for size in batches[:3]
    ]
    cases += [decode(fixed, size, f"decode {size} at {CONTEXT}, deterministic", graph=True) for size in batches[:3]]
    cases += [
        Case(f"prefill {tokens}", tokens, False, partial(_prefill, model, cache, tokens), _operations(tokens) / rate)
        for tokens in PROMPTS
    ]
    for case in cases:
        if budget.allows(f"Scout {weight_format} {case.name}", 5):
            yield _attempt(weight_format, case)
    yield from run_admission(weight_format, model, cache, budget)
    for size in () if REHEARSAL else batches[:3:2]:
        if budget.allows(f"Scout {weight_format} profile of decode {size}", 5):
            yield _profile(weight_format, model, cache, size) | {"pages_shared": size * CONTEXT > kept}


def experts_touched(weights: Weights, cache: KvCache, size: int, steps: int = 3) -> float:
    """Return the mean number of routed experts that a MoE layer reads in a step of so many sequences."""
    ops = CountingOps()
    step = _step(Model.create(scout(), weights, ops), cache, size)  # type: ignore[arg-type]
    for _ in range(steps):
        step()
    return fmean(ops.touched)


def _profile(weight_format: Format, model: Model, cache: KvCache, size: int) -> Row:
    """Return each kernel's microseconds and launches in one step."""
    from torch.profiler import ProfilerActivity, profile

    case = f"profile of decode {size}"
    try:
        with torch.inference_mode():
            step = _step(model, cache, size)
            step()
            torch.cuda.synchronize()
            with profile(activities=[ProfilerActivity.CUDA]) as seen:
                step()
                torch.cuda.synchronize()
        spent = {one.key[:60]: (round(float(one.self_device_time_total), 1), one.count) for one in seen.key_averages()}
    except Exception as problem:  # noqa: BLE001 - the profiler fails on some machines with CUDA
        return {"format": weight_format, "case": case, "exception": one_line(problem)}
    most = sorted(((took, count, name) for name, (took, count) in spent.items()), reverse=True)[:25]
    note = ", ".join(f"{name} {took:.0f}/{count}" for took, count, name in most if took)
    print(f"Scout {weight_format} {case}, us/launches: {note}", flush=True)
    return {"format": weight_format, "case": case, "note": note}


def _attempt(weight_format: Format, case: Case) -> Row:
    try:
        with torch.inference_mode():
            result = _row(weight_format, case, case.measure())
    except Exception as problem:
        print(f"FAILED Scout {weight_format} {case.name}: {one_line(problem)}", flush=True)
        if not alive():
            raise
        return {"format": weight_format, "case": case.name, "graph": case.graph, "exception": one_line(problem)}
    print(line(result), flush=True)
    return result


def line(result: Row) -> str:
    """Return a row of results as one line of text."""
    title = f"Scout {result['format']:<5}{result['case']:<32}"
    if "ms" not in result:
        return title + str(result.get("exception") or result.get("note"))
    experts_read = f", {result['experts_touched']:.1f} experts" if "experts_touched" in result else ""
    return (
        f"{title}{result['ms']:>9.2f} ms {result['tokens_per_second']:>9.0f} tok/s "
        f"{result['fraction']:>6.1%} of the floor{' (graph)' if result['graph'] else ''}{experts_read}"
    )


def _operations(tokens: int) -> float:
    """Return the operations of a prompt's matrix products."""
    text = SIZES
    attention = text.hidden * (text.qkv + text.heads * text.dim)
    return 2.0 * tokens * text.layers * (attention + 2 * 3 * text.hidden * text.size)


def _row(weight_format: Format, case: Case, seconds_taken: float) -> Row:
    row: Row = {"format": weight_format, "case": case.name, "graph": case.graph, "ms": seconds_taken * 1e3}
    row |= {"tokens_per_second": case.tokens / seconds_taken, "fraction": case.floor / seconds_taken}
    return row if case.touched is None else row | {"experts_touched": case.touched}


def _floor(weight_format: Format, tokens: int, touched: float) -> float:
    """Return the fewest bytes that a step reads: attention, routed and shared experts, head, cache.

    tokens: Cached tokens that it attends to, each counted once where sequences share pages for lack of memory.
    """
    width = {"int4": 4.125 / 8, "fp8": 1.0, "bf16": 2.0}[weight_format]
    weights = LAYERS * (62.9e6 + 125.8e6 * (1 + touched)) * width + 2.07e9
    return weights + tokens * 4096 * LAYERS


def largest_cache(model: Model, sequences: int) -> KvCache:
    """Return the largest cache that fits, for at most so many sequences, which share pages where it is too small."""
    text = model.config.text
    if not REHEARSAL:
        torch.cuda.empty_cache()
    room = torch.cuda.mem_get_info()[0] - SPARE if not REHEARSAL else 1e9
    pages = max(sequences * (CONTEXT + PAGE), max(PROMPTS) + PAGE) // PAGE
    shape = CacheShape(pages, pages, PAGE, CHUNK)
    while cache_bytes(text, shape, 2) > room:
        pages = pages * 7 // 8
        shape = CacheShape(pages, pages, PAGE, CHUNK)
    cache = KvCache.allocate(text, shape, dtype=torch.bfloat16, device=DEVICE)
    for tensor in (tensor for pair in cache.storage.values() for tensor in pair):
        tensor.normal_()  # zeros would run faster than real keys and values
    return cache


def _batch(cache: KvCache, lengths: list[int], contexts: list[int]) -> Batch:
    """Return a step whose sequences take pages in turn, and share them where there are too few."""
    starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    segments = tuple(Segment(s, n, c - n) for s, n, c in zip(starts, lengths, contexts, strict=False))
    tables = {
        "global": _table(cache.shape.global_pages, lengths, contexts),
        "local": _table(cache.shape.local_pages, lengths, [(c - 1) % CHUNK + 1 for c in contexts]),
    }
    positions = torch.cat([torch.arange(c - n, c) for n, c in zip(lengths, contexts, strict=True)]).to(DEVICE)
    tokens = torch.randint(0, SIZES.vocab, (sum(lengths),), device=DEVICE)
    empty = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    return Batch(tokens, positions, segments, torch.tensor(starts, device=DEVICE), tables, empty, None)  # type: ignore[arg-type]


def _table(pages: int, lengths: list[int], contexts: list[int]) -> PoolTable:
    each = max(-(-context // PAGE) for context in contexts)
    rows = (torch.arange(len(lengths))[:, None] * each + torch.arange(each)) % pages + 1
    places = [
        rows[i, at // PAGE] * PAGE + at % PAGE
        for i, (n, c) in enumerate(zip(lengths, contexts, strict=True))
        for at in [torch.arange(c - n, c)]
    ]
    held = torch.tensor(contexts, device=DEVICE)
    return PoolTable(torch.cat(places).to(DEVICE), rows.to(DEVICE), tuple(contexts), held)


def decode_seconds(model: Model, cache: KvCache, size: int, *, graph: bool) -> float:
    """Return the seconds of a step that gives each of so many sequences a token, the draw included."""
    return seconds([_step(model, cache, size)], 20, graph=graph)


def _step(model: Model, cache: KvCache, size: int) -> Callable[[], None]:
    return _step_at(model, cache, [CONTEXT] * size)


def _step_at(model: Model, cache: KvCache, contexts: list[int]) -> Callable[[], None]:
    size = len(contexts)
    batch = _batch(cache, [1] * size, contexts)
    rules = Filters(
        torch.full((size,), 0.6, device=DEVICE),
        torch.zeros(size, dtype=torch.int64, device=DEVICE),
        torch.full((size,), 0.9, dtype=torch.float64, device=DEVICE),
        torch.zeros(size, device=DEVICE),
        True,
    )
    chances = torch.rand(size, dtype=torch.float64, device=DEVICE)

    def step() -> None:
        scores = logits(model, forward(model, batch, cache))
        batch.token_ids.copy_(draw(scores, rules, chances)[0])  # feeds the next step without leaving the device

    return step


def _prefill(model: Model, cache: KvCache, tokens: int) -> float:
    steps = [min(CHUNK, tokens - first) for first in range(0, tokens, CHUNK)]
    batches = [_batch(cache, [n], [sum(steps[: i + 1])]) for i, n in enumerate(steps)]

    def run() -> None:
        hidden = [forward(model, batch, cache) for batch in batches]
        logits(model, hidden[-1][-1:])

    return seconds([run], 3, graph=False)
