"""The engine over the kernels, in steps of fixed shapes, at nano's sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch

from llama4_local.cache.page_table import CacheShape
from llama4_local.config.model import GenerationConfig, ModelConfig, TextConfig
from llama4_local.engine import model_runner
from llama4_local.engine.cuda_graphs import Capture, Rerun
from llama4_local.engine.engine import Engine, EngineLimits
from llama4_local.engine.mailbox import Mailbox
from llama4_local.engine.request import EngineRequest
from llama4_local.model.transformer import Model
from llama4_local.ops.kernels.choices import Choices
from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.ops.kernels.layout import prepare
from llama4_local.ops.kernels.tiles import DecodeTile, Format, VectorTile
from llama4_local.weights.quantize import pack_network
from llama4_local.weights.schema import random_weights
from llama4sdk.request import Sampling
from local.small_backends import CollectingOutbox, Reader

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


class FewSplits(Choices):
    """The choices of serving, but for splits that would take the interpreter minutes."""

    def decode(self, sequences: int, *, narrow: bool) -> DecodeTile:
        return replace(super().decode(sequences, narrow=narrow), splits=2)

    def vector_tile(self, form: Format) -> VectorTile:
        return replace(super().vector_tile(form), rows=128, splits=2)


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
def model(form: Format) -> Model:
    config = nano_sized()
    weights = random_weights(config, 5, dtype=torch.bfloat16, std=0.1)
    packed = weights if form == "bf16" else pack_network(weights, form)
    return Model.create(config, prepare(packed), KernelOps(FewSplits()))  # type: ignore[arg-type]


def said(
    form: Format, capture: Capture | None, prompts: list[list[int]], cache_dtype: torch.dtype | None = None
) -> list[list[int]]:
    outbox = CollectingOutbox()
    limits = EngineLimits(step_tokens=8, max_sequences=4)
    shape = CacheShape(12, 8, 4, 8)
    engine = Engine(model(form), shape, limits, tokenizer=Numbers(), outbox=outbox, cache_dtype=cache_dtype)
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


@pytest.mark.parametrize("form", ["bf16", "int4", "fp8"])
def test_padded_steps_over_kernels_say_what_plain_ones_say(form: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_runner, "warmup_steps", no_warmup_steps)
    prompts = [[5, 6, 7, 8, 9], [40, 41], [90, 3, 4]]
    assert said(form, Rerun, prompts) == said(form, None, prompts)


def test_padded_steps_over_an_fp8_cache_say_what_plain_ones_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_runner, "warmup_steps", no_warmup_steps)
    prompts = [[5, 6, 7, 8, 9, 10, 11]]  # the second token of the answer is beyond a chunk edge
    narrow = said("bf16", Rerun, prompts, torch.float8_e4m3fn)
    assert narrow == said("bf16", None, prompts, torch.float8_e4m3fn)
