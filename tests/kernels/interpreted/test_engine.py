"""The engine over the kernels, in padded steps, at nano's sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

import pytest
import torch

from llama4_local.cache.page_table import CacheShape
from llama4_local.config.model import GenerationConfig, ModelConfig, TextConfig
from llama4_local.engine import warmup
from llama4_local.engine.cuda_graphs import Capture, Rerun
from llama4_local.engine.engine import Engine, EngineLimits
from llama4_local.engine.mailbox import Mailbox
from llama4_local.engine.request import EngineRequest
from llama4_local.model.transformer import Model
from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.ops.kernels.layout import prepare
from llama4_local.ops.kernels.tile_table import TileTable
from llama4_local.ops.kernels.tiles import DecodeTile, Format, VectorTile
from llama4_local.weights.quantize import pack_network
from llama4_local.weights.schema import random_weights
from llama4sdk.request import Sampling
from local.small_backends import CollectingOutbox, Reader
from long_runs import LONG, only_long, thinned

GREEDY = Sampling(temperature=0, max_tokens=3)
RANKED = Sampling(temperature=1.0, top_p=0.9, seed=3, max_tokens=3)


class Numbers:
    """A tokenizer and decoder that writes numbers."""

    def decoder(self) -> Numbers:
        return self

    def push(self, token_ids: Sequence[int], /) -> str:
        return self.decode(token_ids)

    def flush(self) -> str:
        return ""

    def decode(self, token_ids: Iterable[int], /) -> str:
        return " ".join(map(str, token_ids))


def no_warmup_steps(*_: object, **__: object) -> tuple[()]:
    return ()


class FewSplits(TileTable):
    """Serving's tile configs with fewer splits, which take the interpreter minutes."""

    def decode_tile(self, sequences: int, *, e4m3: bool) -> DecodeTile:
        return super().decode_tile(sequences, e4m3=e4m3)._replace(splits=2)

    def vector_tile(self, weight_format: Format) -> VectorTile:
        return super().vector_tile(weight_format)._replace(rows=128, splits=2)


def nano_sized() -> ModelConfig:
    """One layer with RoPE and one without."""
    text = TextConfig(
        vocab_size=256,
        hidden_size=256,
        heads=4,
        kv_heads=2,
        head_dim=64,
        expert_size=128,
        dense_size=256,
        experts=4,
        rope_layers=(True, False),
        moe_layers=(True, True),
        chunk=8,
        qk_norm=True,
    )
    return ModelConfig(text, generation=GenerationConfig())


@cache
def model(weight_format: Format) -> Model:
    config = nano_sized()
    weights = random_weights(config, 5, dtype=torch.bfloat16, std=0.1)
    packed = weights if weight_format == "bf16" else pack_network(weights, weight_format)
    return Model.create(config, prepare(packed), KernelOps(FewSplits()))  # type: ignore[arg-type]


def generated(
    weight_format: Format, capture: Capture | None, prompts: list[list[int]], cache_dtype: torch.dtype | None = None
) -> list[list[int]]:
    outbox = CollectingOutbox()
    limits = EngineLimits(step_tokens=8, max_sequences=4)
    shape = CacheShape(12, 8, 4, 8)
    engine = Engine(model(weight_format), shape, limits, tokenizer=Numbers(), outbox=outbox, cache_dtype=cache_dtype)
    engine.warm_up(capture)
    readers: list[Reader] = []
    for number, ids in enumerate(prompts):
        reader = Reader(Mailbox(10**9, lambda: None))
        outbox.readers[reader.mailbox] = reader
        sampling = RANKED if number == 1 else GREEDY
        reader.engine_request = EngineRequest(
            f"{number}", ids, (), 0, len(ids) + 3, sampling, number, 0, "", reader.mailbox
        )
        engine.submit(reader.engine_request)
        readers.append(reader)
    while not engine.idle:
        engine.step()
    assert [reader.error for reader in readers] == [None] * len(readers)
    return [reader.engine_request.written for reader in readers if reader.engine_request]


@pytest.mark.parametrize("weight_format", ["bf16", "int4", "fp8"] if LONG else ["bf16"])
def test_padded_steps_generate_the_tokens_of_plain_ones(weight_format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "warmup_steps", no_warmup_steps)
    prompts = thinned([[5, 6, 7, 8, 9], [40, 41], [90, 3, 4]], 3)
    assert generated(weight_format, Rerun, prompts) == generated(weight_format, None, prompts)


@only_long("interprets a network for half a minute")
def test_padded_steps_over_an_fp8_cache_generate_the_tokens_of_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "warmup_steps", no_warmup_steps)
    prompts = [[5, 6, 7, 8, 9, 10, 11]]  # the second token of the answer is beyond a chunk edge
    padded = generated("bf16", Rerun, prompts, torch.float8_e4m3fn)
    assert padded == generated("bf16", None, prompts, torch.float8_e4m3fn)
