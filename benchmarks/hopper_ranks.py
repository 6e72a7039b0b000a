"""Measures one rank of several on one GPU: its share of Maverick in FP8 and of Scout in bf16, decoding.

The sums over the ranks are left out, since the others are not there: a step is a rank's own work. Its floor are the
bytes that the planner counts for a rank, at the measured bandwidth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from hopper_clock import Budget, one_line
from hopper_inputs import REHEARSAL, SIZES, kernels
from hopper_model import BATCHES, decode_seconds, largest_cache, random_network
from hopper_times import Ceilings, Row

from llama4_local.config.model import ModelConfig
from llama4_local.config.share import Share, check_split
from llama4_local.model.transformer import Model
from llama4_local.ops.kernels.tiles import Format
from llama4_local.planning.published import PUBLISHED
from llama4_local.planning.sizing import Sizing

NETWORKS: tuple[tuple[str, Format], ...] = (("maverick", "fp8"), ("scout", "bf16"))


def run_ranks(ranks: int, ceilings: Ceilings, budget: Budget) -> Iterator[Row]:
    """Measure rank 0 of so many, for each network; one that fails is recorded as such."""
    for name, weight_format in NETWORKS:
        if not budget.allows(f"a rank of {ranks} of {name}", 30):
            continue
        try:
            yield from _measured(name, weight_format, ranks, ceilings)
        except Exception as problem:  # noqa: BLE001 - the other network is measured after any exception
            print(f"FAILED a rank of {name}: {one_line(problem)}", flush=True)
            yield {"model": name, "format": weight_format, "case": "all", "exception": one_line(problem)}
        if not REHEARSAL:
            torch.cuda.empty_cache()


def _measured(name: str, weight_format: Format, ranks: int, ceilings: Ceilings) -> Iterator[Row]:
    config, share = _config(name), Share(0, ranks)
    check_split(config, share)
    sizing = Sizing.of(
        config,
        quantize=None if weight_format == "bf16" else weight_format,
        dtype="bfloat16",
        cache_dtype="auto",
        step_tokens=1,
        reference=False,
        share=share,
    )
    with torch.inference_mode():
        own = share.config(config)
        weights = random_network(own.text, weight_format, share.vocabulary(own.text.vocab_size)[1])
        model = Model.create(own, weights, kernels())  # type: ignore[arg-type]
        cache = largest_cache(model, max(BATCHES))
        for size in BATCHES:
            seconds = decode_seconds(model, cache, size, graph=True)
            floor = sum(sizing.step_bytes(SIZES.context, size)) / ceilings.copy
            row: Row = {"model": name, "format": weight_format, "case": f"decode {size} at {SIZES.context}"}
            row |= {"ranks": ranks, "ms": seconds * 1e3, "floor_ms": floor * 1e3, "fraction": floor / seconds}
            print(line(row), flush=True)
            yield row


def _config(name: str) -> ModelConfig:
    text = PUBLISHED[name].text
    if REHEARSAL:
        layers = 2
        text = replace(
            text,
            vocab_size=SIZES.vocab,
            hidden_size=SIZES.hidden,
            heads=SIZES.heads,
            kv_heads=SIZES.kv_heads,
            head_dim=SIZES.dim,
            expert_size=SIZES.size,
            dense_size=2 * SIZES.size,
            experts=SIZES.experts,
            rope_layers=text.rope_layers[2 : 2 + layers],
            moe_layers=text.moe_layers[:layers],
            chunk=SIZES.chunk,
        )
    return ModelConfig(text, dtype="bfloat16")


def line(row: Row) -> str:
    """Return a row of results as one line of text."""
    title = f"a rank of {row.get('ranks', '?')}: {row['model']} {row['format']} {row['case']}"
    if "ms" not in row:
        return f"{title}: {row.get('exception')}"
    return f"{title:<52}{row['ms']:9.3f} ms, floor {row['floor_ms']:.3f} ms, {row['fraction']:.0%}"
