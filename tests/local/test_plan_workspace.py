"""The planned workspace is never less than what a step takes, nor much more."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import pytest
import torch

from llama4_local.cache.kv_cache import KvCache, cache_dtype_of
from llama4_local.cache.page_table import PageAllocators
from llama4_local.checkpoint.loader import model_of
from llama4_local.config.formats import MOST_STEP_TOKENS, WeightFormat
from llama4_local.decoding.sampler import ResolvedSampling, SamplerState
from llama4_local.model.transformer import Model, forward, logits
from llama4_local.model.vision import encode_tiles
from llama4_local.ops.batch import SequenceInput, build_batch
from llama4_local.ops.reference.quantized import QuantizedReferenceOps
from llama4_local.planning.sizing import Sizing
from llama4_local.weights.quantize import pack_network
from llama4_local.weights.schema import random_weights
from local.memory_peak import MemoryPeak
from local.packable import packable, packable_maverick
from local.sampled_rows import sample
from local.small_checkpoints import guard, maverick, scout, tile_pixels

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama4_local.config.model import ModelConfig
    from llama4_local.planning.workspace import Workspace

SMALL = {"scout": scout, "maverick": maverick, "guard": guard}
SEQUENCES, CONTEXT = 3, 64


class Run:
    """A small model with its cache, and the workspace planned for it."""

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        quantize: WeightFormat | None = None,
        *,
        cache_dtype: Literal["auto", "fp8"] = "auto",
    ) -> None:
        self.config = config
        weights = random_weights(config, 0, dtype=dtype)
        self.model = model_of(config, pack_network(weights, quantize)) if quantize else Model.create(config, weights)
        self.step = config.text.chunk or CONTEXT
        name = str(dtype).removeprefix("torch.")
        sizing = Sizing.of(
            config, quantize=quantize, dtype=name, cache_dtype=cache_dtype, step_tokens=512, reference=True
        )
        shape = sizing.cache(CONTEXT, SEQUENCES).shape
        self.cache = KvCache.allocate(config.text, shape, dtype=cache_dtype_of(cache_dtype, dtype))
        pages = PageAllocators(shape)
        self.sequences = [pages.sequence() for _ in range(SEQUENCES)]
        planned = replace(sizing, step_tokens=SEQUENCES * self.step)
        self.planned: Workspace = planned.workspace(CONTEXT, SEQUENCES)

    @property
    def planned_packed(self) -> int:
        """Bytes that are planned for the layers of a network with packed matrices."""
        return self.planned.layers + self.planned.gathered + self.planned.unpacked

    def fill(self) -> torch.Tensor:
        """Run every sequence to the end of the context, and return their last hidden states.

        All take part in every step; the last one adds a single token to each, as decoding does.
        """
        for _ in range(CONTEXT // self.step - 1):
            self.run(self.step)
        if self.step > 1:
            self.run(self.step - 1)
        return self.run(1)

    def run(self, count: int) -> torch.Tensor:
        """Add tokens to every sequence in one step, and return their last hidden states."""
        for sequence in self.sequences:
            sequence.extend(count)
        batch = build_batch([SequenceInput(sequence, [5] * count) for sequence in self.sequences])
        return forward(self.model, batch, self.cache)[batch.last_rows]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found = request.param
    assert isinstance(found, torch.dtype)
    return found


@pytest.mark.parametrize("shape", SMALL)
@torch.inference_mode()
def test_layers_take_no_more_than_planned_and_at_least_a_third(shape: str, dtype: torch.dtype) -> None:
    run = Run(SMALL[shape](), dtype)
    with MemoryPeak() as measured:
        run.fill()
    assert measured.peak <= run.planned.layers + run.planned.gathered <= 3 * measured.peak


@pytest.mark.parametrize("shape", SMALL)
@torch.inference_mode()
def test_with_an_fp8_cache_too_layers_take_no_more_than_planned(shape: str, dtype: torch.dtype) -> None:
    run = Run(SMALL[shape](), dtype, cache_dtype="fp8")
    with MemoryPeak() as measured:
        run.fill()
    assert measured.peak <= run.planned.layers + run.planned.gathered <= 3 * measured.peak


@pytest.mark.parametrize("quantize", ["int4", "fp8"])
@pytest.mark.parametrize("make", [packable, packable_maverick])
@torch.inference_mode()
def test_packed_layers_take_no_more_than_planned_and_at_least_a_third(
    make: Callable[[], ModelConfig], quantize: WeightFormat, dtype: torch.dtype
) -> None:
    run = Run(make(), dtype, quantize)
    run.model = replace(run.model, ops=QuantizedReferenceOps(exact_rows=MOST_STEP_TOKENS))
    with MemoryPeak() as measured:
        run.fill()
    assert measured.peak <= run.planned_packed <= 3 * measured.peak


@pytest.mark.parametrize("quantize", ["int4", "fp8"])
@torch.inference_mode()
def test_kernels_that_read_packed_weights_take_less_than_planned(quantize: WeightFormat, dtype: torch.dtype) -> None:
    run = Run(packable(), dtype, quantize)
    with MemoryPeak() as measured:
        run.fill()
    assert 0 < measured.peak <= run.planned_packed


@torch.inference_mode()
def test_choosing_tokens_takes_no_more_than_planned_and_at_least_a_third(dtype: torch.dtype) -> None:
    run = Run(guard(), dtype)
    hidden = run.fill()
    everything = ResolvedSampling(temperature=1, top_k=310, top_p=0.9, min_p=0.1, repetition_penalty=1.1, logprobs=20)
    with MemoryPeak() as measured:
        sample(logits(run.model, hidden), [SamplerState(everything, [1, 2, 3], []) for _ in hidden])
    assert measured.peak <= run.planned.scores <= 3 * measured.peak


@torch.inference_mode()
def test_images_take_no_more_than_planned_and_at_least_a_third(dtype: torch.dtype) -> None:
    run = Run(scout(), dtype)
    with MemoryPeak() as measured:
        encode_tiles(run.model, tile_pixels(run.config, run.config.max_tiles + 1))
    assert measured.peak <= run.planned.images <= 3 * measured.peak
