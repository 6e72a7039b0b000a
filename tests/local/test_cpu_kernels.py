"""The compiled kernels for CPUs compute what the reference does, a row alike in any company and on any threads."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from llama4_local.cache.kv_cache import LayerCache
from llama4_local.ops.cpu import functions, library, machine
from llama4_local.ops.cpu.attention import SPLIT
from llama4_local.ops.cpu.experts import MOST_ROWS
from llama4_local.ops.cpu.functions import CpuOps, QuantizedCpuOps
from llama4_local.ops.cpu.measuring import choose
from llama4_local.ops.cpu.products import BEYOND, BUCKETS, Products, by_rows, compiled
from llama4_local.ops.heads import HeadTransform
from llama4_local.ops.reference import moe, rows
from llama4_local.ops.reference.functions import ReferenceOps
from llama4_local.ops.reference.quantized import QuantizedReferenceOps
from llama4_local.weights.quantize import quantize_fp8, quantize_int4
from llama4_local.weights.quantized import Fp8Matrix, Int4Matrix, Matrix, Packed
from llama4_local.weights.tree import MlpTree, MoeTree

DTYPES = [torch.float32, torch.bfloat16]
pytestmark = pytest.mark.skipif(library.machine(torch.float32) is None, reason="no kernels on this machine")


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


class Source:
    """Draws tensors."""

    def __init__(self, dtype: torch.dtype, seed: int = 0) -> None:
        self._dtype = dtype
        self._source = torch.Generator().manual_seed(seed)

    def draw(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=self._source) * scale).to(self._dtype)


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Compare with the reference: both round sums, in bf16 to 8 bits."""
    scale = float(expected.double().abs().max()) or 1.0
    difference = float((found.double() - expected.double()).abs().max()) / scale
    assert difference <= (2e-2 if dtype == torch.bfloat16 else 5e-6)


def alone_and_together(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Each row's result is the same bits alone, beside others, and on one thread."""
    together = function(x)
    for row in range(len(x)):
        assert torch.equal(function(x[row : row + 1]), together[row : row + 1])
    with threads(1):
        assert torch.equal(function(x), together)
    with threads(3):
        assert torch.equal(function(x), together)


@contextmanager
def threads(count: int) -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 1), (5, 7), (6, 16), (9, 33), (64, 96), (130, 64), (7, 200)])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 11, 70])
def test_a_product_of_any_shape(dtype: torch.dtype, shape: tuple[int, int], count: int):
    source = Source(dtype)
    weight, x = source.draw(*shape), source.draw(count, shape[1])
    found = library.multiply(x, weight)
    assert found.dtype == dtype
    close(found, x.double() @ weight.double().t(), dtype)
    alone_and_together(lambda of: library.multiply(of, weight), x[:9])


def packed_in(kind: str, group: int, outputs: int, inputs: int) -> Packed:
    weight = Source(torch.float32).draw(outputs, inputs)
    return quantize_int4(weight, group) if kind == "int4" else quantize_fp8(weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "group"), [("int4", 64), ("int4", 128), ("fp8", 0)])
@pytest.mark.parametrize(("outputs", "inputs"), [(4, 128), (6, 256), (129, 384)])
@pytest.mark.parametrize("count", [1, 3, 4, 7, 32])
def test_products_with_packed_matrices(
    dtype: torch.dtype, kind: str, group: int, outputs: int, inputs: int, count: int
):
    weight = packed_in(kind, group, outputs, inputs)
    x = Source(dtype, seed=1).draw(count, inputs)
    assert library.takes_packed(x, weight)
    close(library.multiply_packed(x, weight), x.double() @ weight.dequantize().double().t(), dtype)
    alone_and_together(lambda of: library.multiply_packed(of, weight), x[:7])


def test_every_number_of_a_packed_type_is_read_as_it_is():
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    finite = torch.where(numbers.float().isnan(), torch.zeros(()), numbers.float()).to(torch.float8_e4m3fn)
    weight = Fp8Matrix(finite.expand(4, 256).contiguous(), torch.tensor([1.0, 2.0, 0.5, 2.0**-20]))
    eye = torch.eye(256)
    assert torch.equal(library.multiply_packed(eye, weight), weight.dequantize().t())
    whole = Int4Matrix(torch.arange(256, dtype=torch.uint8).view(4, 64), torch.full((1, 4), -0.5, dtype=torch.bfloat16))
    assert torch.equal(library.multiply_packed(torch.eye(128), whole), whole.dequantize().t())


def test_packed_matrices_that_no_kernel_reads_are_unpacked():
    x = Source(torch.float32).draw(3, 128)
    narrow = packed_in("int4", 32, 8, 128)
    assert isinstance(narrow, Int4Matrix)
    order = torch.randperm(128, generator=torch.Generator().manual_seed(0))[None].to(torch.int32)
    wide = packed_in("int4", 64, 8, 128)
    assert isinstance(wide, Int4Matrix)
    turned = replace(wide, order=order, ends=(8,))
    ops = QuantizedCpuOps(torch.float32)
    for weight in (narrow, turned, replace(wide, scales=wide.scales.half()), wide.rows(0, 3)):
        assert not library.takes_packed(x, weight)
        torch.testing.assert_close(ops.linear(x, weight), x @ weight.dequantize().t(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["int4", "fp8"])
@pytest.mark.parametrize("count", [1, 6, 70])
def test_packed_feed_forwards_are_those_of_the_reference(dtype: torch.dtype, kind: str, count: int):
    source = Source(torch.float32)
    matrices = [source.draw(5, 256, 128), source.draw(5, 128, 128), source.draw(256, 128), source.draw(128, 128)]
    gate_up, down, *shared = [quantize_int4(each, 64) if kind == "int4" else quantize_fp8(each) for each in matrices]
    weights: MoeTree[Matrix] = MoeTree(source.draw(5, 128).to(dtype), gate_up, down, MlpTree(*shared))
    x = source.draw(count, 128).to(dtype)
    expected = QuantizedReferenceOps(exact_rows=count).moe(x, weights)
    close(QuantizedCpuOps(dtype).moe(x, weights), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("hidden", "inner", "experts"), [(16, 4, 1), (64, 33, 4), (40, 5, 16), (96, 128, 128)])
@pytest.mark.parametrize("count", [1, 2, 5, 16, MOST_ROWS])
def test_feed_forwards(dtype: torch.dtype, hidden: int, inner: int, experts: int, count: int):
    source = Source(dtype)
    shared = MlpTree(source.draw(2 * inner + 2, hidden, scale=0.2), source.draw(hidden, inner + 1, scale=0.2))
    gate_up, down = source.draw(experts, 2 * inner, hidden, scale=0.2), source.draw(experts, hidden, inner, scale=0.2)
    weights = MoeTree(source.draw(experts, hidden), gate_up.transpose(1, 2), down.transpose(1, 2), shared)
    x = source.draw(count, hidden)
    scores = rows.linear(x, weights.router)

    def mixed(of: Tensor) -> Tensor:
        own = scores[[place for row in of for place in range(count) if torch.equal(row, x[place])]]
        return library.mixture(of, own, gate_up, down, *(shared.gate_up, shared.down))

    close(mixed(x), moe.experts(x, scores, weights), dtype)
    close(library.mlp(x, shared.gate_up, shared.down), moe.mlp(x, shared), dtype)
    alone_and_together(mixed, x[:6])
    alone_and_together(lambda of: library.mlp(of, shared.gate_up, shared.down), x[:6])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [8, 64, 72, 1024])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_norms(dtype: torch.dtype, size: int, scale: float):
    source = Source(dtype)
    x, residual, weight = source.draw(9, size, scale=scale), source.draw(9, size, scale=scale), source.draw(size)
    close(library.rms_norm(x, weight, 1e-5), rows.rms_norm(x, weight, 1e-5), dtype)
    found, total = library.add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(total, x + residual)
    close(found, rows.rms_norm(total, weight, 1e-5), dtype)
    alone_and_together(lambda of: library.rms_norm(of, weight, 1e-5), x)


def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> LayerCache:
    return LayerCache(torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype), "global")


def heads_plan(count: int, *, turned: bool, normed: bool, scaled: bool, width: int = 32) -> HeadTransform:
    source = Source(torch.float32, seed=1)
    angles = source.draw(count, width // 2)
    return HeadTransform(
        heads=6,
        kv_heads=2,
        head_dim=width,
        rotation=torch.stack((angles.cos(), angles.sin()), dim=-1) if turned else None,
        norm_eps=1e-6 if normed else None,
        query_scale=source.draw(count).abs() + 1 if scaled else None,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("turned", "normed", "scaled"), list(product([True, False], repeat=3)))
@pytest.mark.parametrize("count", [1, 7, 400])
def test_heads_and_the_cache(dtype: torch.dtype, turned: bool, normed: bool, scaled: bool, count: int):
    plan = heads_plan(count, turned=turned, normed=normed, scaled=scaled)
    qkv = Source(dtype).draw(count, 10 * 32)
    slots = torch.randperm(500, generator=torch.Generator().manual_seed(2))[:count]
    layers = [zeros((63, 8, 2, 32), dtype) for _ in range(2)]
    expected = ReferenceOps().qkv_epilogue(qkv, plan, layers[0], slots)
    found = library.transform_heads(qkv, plan, layers[1], slots)
    assert found.shape == expected.shape
    close(found, expected, dtype)
    close(layers[1].keys, layers[0].keys, dtype)
    assert torch.equal(layers[1].values, layers[0].values)


PAGE = 8


def paged(lengths: list[int], kv_heads: int, width: int, source: Source) -> tuple[LayerCache, Tensor]:
    """A cache whose pages lie anywhere, NaN where no key was written, and the pages of each sequence."""
    counts = [-(-length // PAGE) for length in lengths]
    order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(5)) + 1
    nan = torch.full((sum(counts) + 1, PAGE, kv_heads, width), math.nan)
    layer = LayerCache(nan.to(source.draw(1).dtype), nan.clone().to(source.draw(1).dtype), "global")
    pages = torch.zeros((len(lengths), max(counts)), dtype=torch.int64)
    for row, (length, own) in enumerate(zip(lengths, order.split(counts), strict=True)):
        pages[row, : len(own)] = own
        for cached in (layer.keys, layer.values):
            filled = torch.full((len(own) * PAGE, kv_heads, width), math.nan).to(cached.dtype)
            filled[:length] = source.draw(length, kv_heads, width)
            cached[own] = filled.view(-1, PAGE, kv_heads, width)
    return layer, pages


def softmax_attention(queries: Tensor, layer: LayerCache, pages: Tensor, lengths: list[int]) -> Tensor:
    """Attention in fp64, one sequence after the other."""
    out: list[Tensor] = []
    for query, own, length in zip(queries.double(), pages, lengths, strict=True):
        keys, values = (cached[own].flatten(0, 1)[:length].double() for cached in (layer.keys, layer.values))
        group = query.shape[0] // keys.shape[1]
        keys, values = (each.repeat_interleave(group, dim=1) for each in (keys, values))
        weights = (torch.einsum("hd,thd->ht", query, keys) / math.sqrt(query.shape[1])).softmax(dim=-1)
        out.append(torch.einsum("ht,thd->hd", weights, values).flatten())
    return torch.stack(out)


LENGTHS = [[1], [3], [9], [SPLIT], [SPLIT + 1, 2, 5], [700, 1, SPLIT - 1, 40, 2 * SPLIT]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(("kv_heads", "group", "width"), [(2, 3, 32), (1, 16, 16), (3, 1, 128), (2, 5, 64)])
def test_attention(dtype: torch.dtype, lengths: list[int], kv_heads: int, group: int, width: int):
    source = Source(dtype)
    layer, pages = paged(lengths, kv_heads, width, source)
    queries = source.draw(len(lengths), kv_heads * group, width)
    counts = torch.tensor(lengths)
    found = library.attend(queries, layer, pages, counts, max(lengths))
    close(found, softmax_attention(queries, layer, pages, lengths), dtype)
    for row, length in enumerate(lengths):
        own = slice(row, row + 1)
        assert torch.equal(library.attend(queries[own], layer, pages[own], counts[own], length), found[own])
    with threads(3):
        assert torch.equal(library.attend(queries, layer, pages, counts, max(lengths)), found)


def test_scores_far_apart_keep_their_weights():
    source = Source(torch.float32)
    layer, pages = paged([600], 1, 16, source)
    layer.keys.mul_(200)
    queries = source.draw(1, 2, 16)
    found = library.attend(queries, layer, pages, torch.tensor([600]), 600)
    close(found, softmax_attention(queries, layer, pages, [600]), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_a_number_stays_in_its_row(dtype: torch.dtype):
    source = Source(dtype)
    weight, x = source.draw(8, 32), source.draw(5, 32)
    clean = library.multiply(x, weight)
    x[1, 3], x[2, 0] = math.nan, math.inf
    found = library.multiply(x, weight)
    assert found[1].isnan().all()
    assert not found[2].isfinite().any()
    assert torch.equal(found[[0, 3, 4]], clean[[0, 3, 4]])
    gate_up, down = source.draw(3, 12, 32), source.draw(3, 32, 6)
    scores = source.draw(5, 3)
    scores[3] = math.nan
    mixed = library.mixture(x, scores, gate_up, down, gate_up[0].clone(), down[0].clone())
    assert mixed[1].isnan().all()
    assert mixed[3].isnan().all()
    assert mixed[[0, 4]].isfinite().all()


def test_a_key_that_is_not_a_number_is_not_hidden():
    source = Source(torch.float32)
    layer, pages = paged([300, 20], 1, 16, source)
    queries, lengths = source.draw(2, 2, 16), torch.tensor([300, 20])
    clean = library.attend(queries, layer, pages, lengths, 300)
    layer.keys[pages[0, 2], 3, 0, 5] = math.nan
    found = library.attend(queries, layer, pages, lengths, 300)
    assert found[0].isnan().all()
    assert torch.equal(found[1], clean[1])


def test_rounding_to_bf16_is_to_the_nearest_even():
    halves = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-14, 2.0**-130, -0.0, 1.5])
    high = halves.to(torch.bfloat16)
    x = torch.cat((high, (halves - high.float()).to(torch.bfloat16)))[None]  # their sums are the halves, exact in fp32
    weight = torch.eye(len(halves), dtype=torch.bfloat16).repeat(1, 2)
    assert torch.equal(library.multiply(x, weight)[0], halves.to(torch.bfloat16))


def test_functions_take_the_reference_where_kernels_do_not_fit():
    ops = CpuOps(Products({(8, 20, "rows"): by_rows(dict.fromkeys((*BUCKETS, BEYOND), compiled))}), torch.float32)
    source = Source(torch.float32)
    weight = source.draw(8, 20)
    for x in (source.draw(0, 20), source.draw(20, 3).t(), source.draw(3, 20).double(), source.draw(40, 20)):
        torch.testing.assert_close(ops.linear(x, weight.to(x.dtype)), x @ weight.to(x.dtype).t())
    narrow = source.draw(2, 20)
    torch.testing.assert_close(ops.rms_norm(narrow, torch.ones(20), 1e-5), rows.rms_norm(narrow, torch.ones(20), 1e-5))
    eighths = zeros((3, 8, 2, 32), torch.float8_e4m3fn)
    plan = heads_plan(2, turned=True, normed=True, scaled=False)
    assert not library.transforms(source.draw(2, 320), plan, eighths)
    assert not library.attends(source.draw(2, 6, 32), eighths)
    assert not library.attends(
        source.draw(2, 34, 32), LayerCache(eighths.keys.float(), eighths.values.float(), "local")
    )


def test_gradients_are_not_lost_in_a_kernel():
    with torch.inference_mode(mode=False), torch.enable_grad():
        weight = torch.randn((8, 16), requires_grad=True)
        ops = CpuOps(Products({(8, 16, "rows"): by_rows(dict.fromkeys((*BUCKETS, BEYOND), compiled))}), torch.float32)
        ops.linear(torch.ones((1, 16)), weight).sum().backward()
        assert weight.grad is not None
        x = torch.ones((2, 16), requires_grad=True)
        ops.rms_norm(x, torch.ones(16), 1e-5).sum().backward()
        assert x.grad is not None


@pytest.mark.parametrize("missing", ["llvmlite", "openmp", "fma"])
def test_without_what_they_need_there_are_no_kernels(missing: str, monkeypatch: pytest.MonkeyPatch):
    def refused(*_: object) -> object:
        raise machine.UnavailableError(missing)

    monkeypatch.setattr(machine, {"llvmlite": "_llvm", "openmp": "_openmp", "fma": "_target"}[missing], refused)
    library.machine.cache_clear()
    library.layer_machine.cache_clear()
    try:
        assert library.machine(torch.float32) is None
        assert library.layer_machine(torch.float32) is None
        assert not library.takes(torch.ones((1, 16)))
        torch.testing.assert_close(compiled(torch.ones((1, 16)), torch.ones((8, 16))), torch.full((1, 8), 16.0))
        choice = choose([(256, 128)], torch.float32, network=10**6)
        assert all(form is not compiled for forms in choice.products.forms.values() for form in forms)
    finally:
        library.machine.cache_clear()
        library.layer_machine.cache_clear()


def test_a_kernel_shares_the_threads_of_pytorch():
    kernels = library.machine(torch.float32)
    assert kernels is not None
    openmp = machine._openmp()  # pyright: ignore[reportPrivateUsage]
    assert ctypes.cast(openmp.omp_get_max_threads, ctypes.c_void_p).value
    assert openmp.omp_get_max_threads() == torch.get_num_threads()
    with threads(1):
        assert openmp.omp_get_max_threads() == 1


def test_the_mixture_of_a_served_network_is_one_kernel(monkeypatch: pytest.MonkeyPatch):
    source = Source(torch.float32)
    gate_up, down = source.draw(4, 256, 64), source.draw(4, 64, 128)
    shared = MlpTree(source.draw(256, 64), source.draw(64, 128))
    weights = MoeTree(source.draw(4, 64), gate_up.transpose(1, 2), down.transpose(1, 2), shared)
    ops = CpuOps(Products({(256, 64, "rows"): by_rows(dict.fromkeys((*BUCKETS, BEYOND), compiled))}), torch.float32)
    seen: list[int] = []
    whole = functions.library.mixture

    def counting(x: Tensor, *others: Tensor) -> Tensor:
        seen.append(len(x))
        return whole(x, *others)

    monkeypatch.setattr(functions.library, "mixture", counting)
    for count in (1, 8, MOST_ROWS, MOST_ROWS + 1):
        x = source.draw(count, 64)
        close(ops.moe(x, weights), ReferenceOps().moe(x, weights), torch.float32)
    assert seen == [1, 8, MOST_ROWS]
