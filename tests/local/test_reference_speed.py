"""What makes the CPU path fast changes nothing that it computes, and nothing outside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from llama4_local.cache.kv_cache import LayerCache
from llama4_local.cache.page_table import CacheShape, PageAllocators, SequencePages
from llama4_local.checkpoint import loader
from llama4_local.checkpoint.loader import load_model, load_weights, model_of
from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.ops.batch import Batch, SequenceInput, build_batch
from llama4_local.ops.cpu import library, measuring, products
from llama4_local.ops.cpu.measuring import Choice, choose, is_busy
from llama4_local.ops.cpu.products import Form, Layout
from llama4_local.ops.reference import attention, rows
from llama4_local.ops.reference.attention import paged_attention
from llama4_local.ops.reference.invariant import InvariantOps
from llama4_local.ops.reference.moe import experts
from llama4_local.ops.reference.rows import linear
from llama4_local.scoring import score_with
from llama4_local.weights.expert_stack import ExpertStack
from llama4_local.weights.schema import matrix_shapes
from llama4_local.weights.tree import MlpTree, MoeTree
from llama4sdk import Llama4, Sampling
from local.small_checkpoints import prompt, saved, text_only

PAGE, KV_HEADS, HEADS, WIDTH = 8, 2, 6, 16


@pytest.fixture
def source() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@dataclass
class Cached:
    """A layer's cache with some sequences in it, whose last tokens are due."""

    layer: LayerCache
    sequences: list[SequencePages]

    def batch(self, chosen: list[int]) -> Batch:
        return build_batch([SequenceInput(self.sequences[i], [0]) for i in chosen])

    def attend(self, queries: Tensor, chosen: list[int]) -> Tensor:
        return paged_attention(queries[chosen], self.layer, self.batch(chosen))


def cached(lengths: list[int], source: torch.Generator, *, interleaved: bool = False) -> Cached:
    """Fill a cache; with `interleaved`, no sequence's pages follow one another. Free pages are NaN."""
    pages = PageAllocators(CacheShape(2 * sum(-(-n // PAGE) for n in lengths), 0, PAGE, None))
    sequences = [pages.sequence() for _ in lengths]
    spare = pages.sequence()
    for sequence, length in zip(sequences, lengths, strict=True):
        for start in range(0, length, PAGE):
            sequence.extend(min(PAGE, length - start))
            if interleaved:
                spare.extend(PAGE)
    size = (pages.shape.global_pages + 1, PAGE, KV_HEADS, WIDTH)
    layer = LayerCache(torch.full(size, math.nan), torch.full(size, math.nan), "global")
    for sequence, length in zip(sequences, lengths, strict=True):
        for place in range(length):
            page, offset = sequence.global_pages[place // PAGE], place % PAGE
            layer.keys[page, offset] = torch.randn((KV_HEADS, WIDTH), generator=source)
            layer.values[page, offset] = torch.randn((KV_HEADS, WIDTH), generator=source)
    return Cached(layer, sequences)


@pytest.mark.parametrize("lengths", [[5], [7, 7, 7], [1, 2, 3, 64], [900, 3, 77, 300, 4, 290, 1, 1]])
@pytest.mark.parametrize("interleaved", [False, True])
def test_sequences_of_any_lengths_decoded_together_see_what_each_sees_alone(
    lengths: list[int], interleaved: bool, source: torch.Generator
):
    queries = torch.randn((len(lengths), HEADS, WIDTH), generator=source)
    held = cached(lengths, source, interleaved=interleaved)
    together = held.attend(queries, list(range(len(lengths))))
    alone = torch.cat([held.attend(queries, [i]) for i in range(len(lengths))])
    assert together.isfinite().all()
    assert float((together - alone).abs().max()) <= 1e-6


def test_attention_of_one_token_is_softmax_over_all_its_keys(source: torch.Generator):
    queries = torch.randn((1, HEADS, WIDTH), generator=source)
    held = cached([29], source)
    rows = [(held.sequences[0].global_pages[place // PAGE], place % PAGE) for place in range(29)]
    keys = torch.stack([held.layer.keys[row] for row in rows]).repeat_interleave(HEADS // KV_HEADS, dim=1)
    values = torch.stack([held.layer.values[row] for row in rows]).repeat_interleave(HEADS // KV_HEADS, dim=1)
    weights = (torch.einsum("hd,thd->ht", queries[0], keys) / math.sqrt(WIDTH)).softmax(dim=-1)
    expected = torch.einsum("ht,thd->hd", weights, values).flatten()
    assert float((held.attend(queries, [0])[0] - expected).abs().max()) <= 1e-6


def test_where_pages_lie_changes_no_bit(source: torch.Generator):
    queries = torch.randn((1, HEADS, WIDTH), generator=source)
    found = [
        cached([50], torch.Generator().manual_seed(3), interleaved=interleaved).attend(queries, [0])
        for interleaved in (False, True)
    ]
    assert torch.equal(*found)


def test_reading_the_cache_never_writes_to_it(source: torch.Generator):
    queries = torch.randn((3, HEADS, WIDTH), generator=source)
    held = cached([50, 9, 61], source)
    before = [held.layer.keys.clone(), held.layer.values.clone()]
    held.attend(queries, [0, 1, 2])
    held.attend(queries, [1])
    for kept, now in zip(before, (held.layer.keys, held.layer.values), strict=True):
        assert torch.equal(kept.nan_to_num(7.0), now.nan_to_num(7.0))


def test_a_long_sequence_does_not_make_short_ones_pay(monkeypatch: pytest.MonkeyPatch, source: torch.Generator):
    held = cached([900, 5, 6, 7], source)
    seen: list[int] = []
    whole = attention.scaled_dot_product_attention

    def counting(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        seen.append(keys.shape[0] * keys.shape[2])
        return whole(queries, keys, values, mask)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", counting)
    held.attend(torch.randn((4, HEADS, WIDTH), generator=source), [0, 1, 2, 3])
    assert sum(seen) <= 1.25 * (900 + 5 + 6 + 7)


FORMS: list[tuple[Layout, Form]] = [
    *product(("rows", "columns"), (rows.linear, products.weight_first, products.onednn)),
    *product(("blocks",), (products.onednn, products.onednn_twice)),
    ("rows", products.widened),
    ("rows", products.compiled),
]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 16, 31, 32, 33, 100])
@pytest.mark.parametrize(("layout", "form"), FORMS, ids=lambda of: of if isinstance(of, str) else of.__name__)
def test_every_form_of_a_product_gives_the_same_for_any_number_of_rows(
    count: int, layout: Layout, form: Form, source: torch.Generator
):
    weight = torch.randn((256, 128), generator=source, dtype=torch.float64)
    x = torch.randn((count, 128), generator=source, dtype=torch.float64)
    with torch.inference_mode():
        found = form(x.float(), products.laid_out(weight.float(), layout))
    assert found.is_contiguous()
    assert found.dtype == torch.float32
    assert float((found - x @ weight.t()).abs().max()) < 1e-4


SHAPES = [(256, 128), (128, 256), (512, 128)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_measured_products_are_products_in_every_layout_and_dtype(dtype: torch.dtype, source: torch.Generator):
    choice = choose(SHAPES, dtype, network=10**6)
    for outputs, inputs in SHAPES:
        weight = torch.randn((outputs, inputs), generator=source).to(dtype)
        for stored, count in product(("rows", "columns"), (1, 3, 40)):
            laid = products.laid_out(weight, choice.layout(outputs, inputs, stored))
            x = torch.randn((count, inputs), generator=source).to(dtype)
            with torch.inference_mode():
                found = choice.products.linear(x, laid)
            torch.testing.assert_close(found.double(), x.double() @ weight.double().t(), rtol=2e-2, atol=0.5)


def test_a_build_without_onednn_chooses_among_the_rest(monkeypatch: pytest.MonkeyPatch):
    def absent(*_: object) -> Tensor:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(products, "_linear_pointwise", absent)
    monkeypatch.setattr(measuring, "is_busy", idle)
    choice = choose(SHAPES, torch.float32, network=10**6)
    assert {layout for pair in choice.layouts.values() for layout in pair} <= {"rows", "columns"}
    with torch.inference_mode():
        found = choice.products.linear(torch.ones(3, 128), torch.ones(256, 128))
    assert torch.equal(found, torch.full((3, 256), 128.0))


def busy(times: object, size: int) -> bool:
    return True


def idle(times: object, size: int) -> bool:
    return False


def test_times_of_a_busy_machine_are_recognized():
    steady, size = [[1e-4, 1.1e-4, 9.9e-5], [3e-4, 3.1e-4, 3e-4]], 4 << 20
    assert not is_busy(steady, size)
    assert is_busy([[1e-4, 8e-3, 8e-3], [4e-3, 3e-4, 8e-3]], size)
    assert is_busy([[8e-3, 8e-3, 8e-3], [8e-3, 8e-3, 8e-3]], size)


def without_kernels(dtype: torch.dtype) -> None:
    return None


def test_a_busy_machine_takes_the_kernels_unmeasured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measuring, "is_busy", busy)
    for dtype in (torch.float32, torch.bfloat16):
        choice = choose(SHAPES, dtype, network=10**6)
        if library.machine(dtype) is not None:
            assert choice.layouts == dict.fromkeys(SHAPES, ("rows", "rows"))
            for forms in choice.products.forms.values():
                assert {forms[1], forms[8], forms[32]} == {products.compiled}
                assert forms[products.BEYOND] is (linear if products.natively(dtype) else products.widened)


def test_a_busy_machine_without_kernels_takes_blocks_unmeasured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measuring, "is_busy", busy)
    monkeypatch.setattr(library, "machine", without_kernels)
    choice = choose(SHAPES, torch.float32, network=10**6)
    assert choice == Choice(dict.fromkeys(SHAPES, ("blocks", "blocks")))
    with torch.inference_mode():
        found = choice.products.linear(torch.ones(3, 128), products.laid_out(torch.ones(256, 128), "blocks"))
    assert torch.equal(found, torch.full((3, 256), 128.0))


def foreign(dtype: torch.dtype) -> bool:
    return dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_busy_machine_widens_types_that_its_processor_has_not(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measuring, "natively", foreign)
    monkeypatch.setattr(measuring, "is_busy", busy)
    monkeypatch.setattr(library, "machine", without_kernels)
    choice = choose(SHAPES, dtype, network=10**6)
    assert choice.layouts == dict.fromkeys(SHAPES, ("rows", "rows"))
    for forms in choice.products.forms.values():
        assert forms[1] is linear
        assert {forms[8], forms[32], forms[products.BEYOND]} == {products.widened}


def test_a_type_that_the_processor_has_not_is_never_laid_out_in_columns(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measuring, "natively", foreign)
    monkeypatch.setattr(measuring, "is_busy", idle)
    choice = choose(SHAPES, torch.bfloat16, network=10**6)
    assert {layout for pair in choice.layouts.values() for layout in pair} == {"rows"}


def test_without_time_one_shape_is_measured_and_the_others_are_treated_alike(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measuring, "is_busy", idle)
    choice = choose(SHAPES, torch.float32, network=10**6, patience=0)
    assert set(choice.layouts) == set(SHAPES)


def test_matrices_whose_overhead_outweighs_their_product_are_left_as_they_are():
    assert choose([(16, 64)], torch.float32, network=1024) == Choice()


def test_products_stay_differentiable(source: torch.Generator):
    weight = torch.randn((256, 128), generator=source).requires_grad_()
    x = torch.randn((1, 128), generator=source)
    linear(x, weight).sum().backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad, x.expand(256, -1))


def test_experts_give_the_same_however_they_lie_in_memory(source: torch.Generator):
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source) * 0.1

    shared = MlpTree(draw(128, 96), draw(96, 64))
    plain = MoeTree(draw(4, 96), draw(4, 96, 128), draw(4, 64, 96), shared)
    laid = MoeTree(plain.router, laid_out(plain.gate_up), laid_out(plain.down), shared)
    assert torch.equal(laid.gate_up, plain.gate_up)
    assert laid.gate_up[0].t().is_contiguous()
    for count in (1, 5, 50):
        x = torch.randn((count, 96), generator=source)
        with torch.inference_mode():
            one, other = (experts(x, linear(x, weights.router), weights) for weights in (plain, laid))
        assert float((one - other).abs().max()) < 1e-5


def laid_out(experts: Tensor) -> Tensor:
    """Return experts [experts, in, out] that lie in memory as [experts, out, in]."""
    return experts.transpose(1, 2).contiguous().transpose(1, 2)


@pytest.mark.parametrize("layout", ["rows", "columns", "blocks"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_network_loaded_in_any_layout_computes_the_same(tmp_path: Path, layout: Layout, fused: bool):
    config = text_only()
    save_checkpoint(tmp_path, config, load_model(saved(tmp_path, config), deterministic=True).weights, fused=fused)
    choice = Choice(dict.fromkeys(matrix_shapes(config.text), (layout, layout)))
    weights = load_weights(tmp_path, config, choice=choice)
    moe = weights.layers[0].moe
    assert moe is not None
    assert isinstance(moe.gate_up, ExpertStack) == (layout == "blocks")
    if isinstance(moe.gate_up, Tensor):
        laid = moe.gate_up.transpose(1, 2) if layout == "rows" else moe.gate_up
        assert laid.is_contiguous()
    found = score_with(model_of(config, weights, choice=choice), prompt(config, 20), prefill_chunk=7)
    plain = score_with(model_of(config, load_weights(tmp_path, config)), prompt(config, 20), prefill_chunk=7)
    assert float((found - plain).abs().max()) < 1e-4


def test_a_deterministic_backend_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(*_: object, **__: object) -> Choice:
        raise AssertionError

    monkeypatch.setattr(loader, "choose", refused)
    model = load_model(saved(tmp_path, text_only()), deterministic=True)
    assert isinstance(model.ops, InvariantOps)


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_single_and_fused_experts_are_loaded_to_one_layout(tmp_path: Path, layout: Layout):
    config = text_only()
    choice = Choice(dict.fromkeys(matrix_shapes(config.text), (layout, layout)))
    written = load_model(saved(tmp_path / "fused", config), deterministic=True).weights
    save_checkpoint(tmp_path / "single", config, written, fused=False)
    fused, single = (load_weights(tmp_path / form, config, choice=choice) for form in ("fused", "single"))
    for one, other in zip(fused.leaves(), single.leaves(), strict=True):
        assert isinstance(one, Tensor)
        assert isinstance(other, Tensor)
        assert torch.equal(one, other)
        assert one.stride() == other.stride()


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def settings() -> tuple[object, ...]:
    return (
        torch.get_num_threads(),
        torch.get_num_interop_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_float32_matmul_precision(),
        torch.backends.mkldnn.enabled,
        torch.are_deterministic_algorithms_enabled(),
        torch.random.get_rng_state().tolist(),
    )


async def test_serving_changes_no_global_setting_of_the_host(two_threads: None, tmp_path: Path):
    before = settings()
    saved(tmp_path, text_only())
    score_with(load_model(tmp_path), prompt(text_only(), 20), prefill_chunk=3)
    async with Llama4("local", max_sequences=2) as llama:
        await llama.chat("Hello", sampling=Sampling(max_tokens=3))
    assert settings() == before


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 65, 130])
def test_bf16_products_are_made_in_few_sizes_and_give_each_row_its_own(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    plain = functional.linear

    def noting(x: Tensor, weight: Tensor) -> Tensor:
        made.append(len(x))
        return plain(x, weight)

    monkeypatch.setattr(functional, "linear", noting)
    x, weight = torch.randn(count, 64).bfloat16(), torch.randn(32, 64).bfloat16()
    with torch.inference_mode():
        found = rows.linear(x, weight)
    assert made == [rows.rounded_up(count)]
    torch.testing.assert_close(found.float(), x.float() @ weight.float().t(), rtol=2e-2, atol=2e-1)
    sizes = {rows.rounded_up(number) for number in range(1, 513)}
    assert len(sizes) == 14
