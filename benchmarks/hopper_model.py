"""Scout at full size with random weights made on the GPU: decode and prefill, with and without CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median

import torch
from hopper_inputs import DEVICE, experts, matrix, normal
from hopper_times import Ceilings
from torch import Tensor

from llama4_local.batch import Batch, PoolTable, Segment
from llama4_local.config import ModelConfig, RopeScaling, TextConfig
from llama4_local.kernels.functions import KernelOps
from llama4_local.kernels.sampling import draw
from llama4_local.kernels.tiles import Format
from llama4_local.kv_cache import KvCache, cache_bytes
from llama4_local.model.transformer import Model, forward, logits
from llama4_local.pages import CacheShape
from llama4_local.quantized import Matrix
from llama4_local.reference.sampling import Filters
from llama4_local.weights import AttentionTree, LayerTree, MlpTree, MoeTree, WeightTree

LAYERS, PAGE, CHUNK, CONTEXT = 48, 64, 8192, 4096
SPARE = 6 * 2**30  # bytes left for activations and graphs


def scout(layers: int = LAYERS) -> ModelConfig:
    """Scout's decoder."""
    return ModelConfig(
        TextConfig(
            vocab_size=202_048,
            hidden_size=5120,
            heads=40,
            kv_heads=8,
            head_dim=128,
            expert_size=8192,
            dense_size=16384,
            experts=16,
            rope_layers=tuple((layer + 1) % 4 != 0 for layer in range(layers)),
            moe_layers=(True,) * layers,
            chunk=CHUNK,
            qk_norm=True,
            rope_scaling=RopeScaling(16.0, 1.0, 1.0, 8192),
            max_positions=10_485_760,
        )
    )


def random_scout(form: Format, layers: int = LAYERS) -> WeightTree[Matrix]:
    """Return weights that keep activations near one, made where they stay."""
    return WeightTree(
        normal(202_048, 5120),
        tuple(_layer(form) for _ in range(layers)),
        _ones(),
        normal(202_048, 5120, std=0.014),
        None,
    )


def _layer(form: Format) -> LayerTree[Matrix]:
    gate_up, down = experts(form, 17, 16384, 5120), experts(form, 17, 5120, 8192)
    moe = MoeTree(normal(16, 5120, std=0.014), gate_up, down, MlpTree(gate_up, down))
    return LayerTree(_ones(), AttentionTree(matrix(form, 7168, 5120), matrix(form, 5120, 5120)), _ones(), None, moe)


def _ones() -> Tensor:
    return torch.ones(5120, dtype=torch.bfloat16, device=DEVICE)


def run_model(ceilings: Ceilings, forms: Sequence[Format] = ("int4", "fp8"), *, quick: bool) -> list[dict[str, object]]:
    """Measure int4, then FP8 where it fits into memory.

    Args:
        ceilings: What this GPU does at best; a warm-up runs four layers once.
        forms: Which formats.
        quick: Fewer batches.
    """
    found: list[dict[str, object]] = []
    for form in forms:
        try:
            for one in _measured(form, ceilings, quick=quick):
                found.append(one)
                print(one, flush=True)
        except torch.OutOfMemoryError:
            found.append({"format": form, "error": "does not fit into this GPU's memory"})
        except Exception as error:  # noqa: BLE001 - the other format is still to be measured
            found.append({"format": form, "error": f"{type(error).__name__}: {error}"[:400]})
        torch.cuda.empty_cache()
    return found


@torch.inference_mode()
def _measured(form: Format, ceilings: Ceilings, *, quick: bool) -> Iterator[dict[str, object]]:
    layers = 4 if ceilings.warm else LAYERS
    model = Model.create(scout(layers), random_scout(form, layers), KernelOps())  # type: ignore[arg-type]
    batches = (1, 64) if quick else (1, 8, 64, 256)
    cache = _cache(model, max(batches))
    for size in batches:
        for graph in (False, True):
            took = _decode(model, cache, size, ceilings, graph=graph)
            floor = _floor(form, size) / ceilings.copy
            yield _row(form, f"decode {size} at 4K", took, size, floor, graph=graph)
    for tokens in (2048, 16384):
        took = _prefill(model, cache, tokens, ceilings)
        floor = 2 * tokens * LAYERS * (62.9e6 + 2 * 125.8e6) / (ceilings.fp8 if form == "fp8" else ceilings.bf16)
        yield _row(form, f"prefill {tokens}", took, tokens, floor, graph=False)


def _row(form: str, case: str, took: float, tokens: int, floor: float, *, graph: bool) -> dict[str, object]:
    row: dict[str, object] = {"format": form, "case": case, "graph": graph, "ms": took * 1e3}
    return row | {"tokens_per_second": tokens / took, "fraction": floor / took}


def _floor(form: Format, size: int) -> float:
    """Return the fewest bytes that a step reads: weights of the experts touched on average, head, cache."""
    width = {"int4": 4.125 / 8, "fp8": 1.0, "bf16": 2.0}[form]
    touched = 16 * (1 - (15 / 16) ** size)
    weights = LAYERS * (62.9e6 + 125.8e6 * (1 + touched)) * width + 2.07e9
    return weights + size * CONTEXT * 4096 * LAYERS


def _cache(model: Model, sequences: int) -> KvCache:
    """Return as large a cache as fits, for at most so many sequences; more of them share pages."""
    text = model.config.text
    room = torch.cuda.mem_get_info()[0] - SPARE
    pages = max(sequences * (CONTEXT + PAGE), 16384 + PAGE) // PAGE
    shape = CacheShape(pages, pages, PAGE, CHUNK)
    while cache_bytes(text, shape, 2) > room:
        pages = pages * 7 // 8
        shape = CacheShape(pages, pages, PAGE, CHUNK)
    return KvCache.allocate(text, shape, dtype=torch.bfloat16, device=DEVICE)


def _batch(cache: KvCache, lengths: list[int], contexts: list[int]) -> Batch:
    """Return a step whose sequences take pages in turn, from the beginning again where there are too few."""
    starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    segments = tuple(Segment(s, n, c - n) for s, n, c in zip(starts, lengths, contexts, strict=False))
    tables = {
        "global": _table(cache.shape.global_pages, lengths, contexts),
        "local": _table(cache.shape.local_pages, lengths, [(c - 1) % CHUNK + 1 for c in contexts]),
    }
    positions = torch.cat([torch.arange(c - n, c) for n, c in zip(lengths, contexts, strict=True)]).to(DEVICE)
    tokens = torch.randint(0, 200_000, (sum(lengths),), device=DEVICE)
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


def _decode(model: Model, cache: KvCache, size: int, ceilings: Ceilings, *, graph: bool) -> float:
    batch = _batch(cache, [1] * size, [CONTEXT] * size)
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

    return _seconds(step, graph=graph, warm=ceilings.warm)


def _prefill(model: Model, cache: KvCache, tokens: int, ceilings: Ceilings) -> float:
    steps = [min(CHUNK, tokens - first) for first in range(0, tokens, CHUNK)]
    batches = [_batch(cache, [n], [sum(steps[: i + 1])]) for i, n in enumerate(steps)]

    def run() -> None:
        hidden = [forward(model, batch, cache) for batch in batches]
        logits(model, hidden[-1][-1:])

    return _seconds(run, graph=False, warm=ceilings.warm, repeats=5)


def _seconds(step: Callable[[], None], *, graph: bool, warm: bool, repeats: int = 30) -> float:
    run = step
    step()
    torch.cuda.synchronize()
    if warm:
        return 1.0
    if graph:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            step()
        run = captured.replay
    run()
    times: list[float] = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return median(times)
