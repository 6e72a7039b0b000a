"""Every kernel that serving launches, compiled for sm_90a without a GPU."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes for Linux only")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from llama4_local.ops.kernels.aot.ahead_of_time import compile_launch, specialize
from llama4_local.ops.kernels.aot.compiled import Built, build_all, check, plans, report
from llama4_local.ops.kernels.aot.machine_code import MachineCode, MachineCodeError, occupancy
from llama4_local.ops.kernels.aot.serving import FORMATS, SHAPES, Shape, matrix_launches
from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.ops.kernels.launch import Launch, recording
from llama4_local.ops.kernels.linear import linear
from llama4_local.ops.kernels.paged_cache import PagedCache
from llama4_local.ops.kernels.tiles import Tile
from llama4_local.ops.kernels.weights import Product
from llama4_local.weights.quantized import Int4Matrix
from long_runs import often

if TYPE_CHECKING:
    from pathlib import Path

MATRIX_KERNELS = {"linear", "gate_up", "down", "attention_prefill", "attention_decode"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Built]]:
    folder = tmp_path_factory.mktemp("cubins")
    return folder, build_all(folder, every=often(4, 1))


def test_no_kernel_spills_and_every_product_runs_on_hoppers_matrix_units(built: tuple[Path, list[Built]]) -> None:
    check(built[1])
    assert {one.name for one in built[1] if one.matmul} == MATRIX_KERNELS
    assert all(one.code.matrix for one in built[1] if one.matmul)
    small = [one for one in built[1] if one.name in MATRIX_KERNELS and not one.matmul]
    assert small
    assert all(one.code.slow_matrix or one.code.matrix for one in small)  # never scalar multiplications


def test_the_manifest_lists_every_cubin(built: tuple[Path, list[Built]]) -> None:
    folder, all_built = built
    kernels = json.loads((folder / "manifest.json").read_text())["kernels"]
    assert len(kernels) == len(all_built) == len(list(folder.glob("*.cubin")))
    for kernel in kernels:
        assert kernel.keys() == {"name", "cubin", "shared", "registers", "spills", "matmul", "config"}
        assert (folder / kernel["cubin"]).read_bytes().startswith(b"\x7fELF")
        assert kernel["spills"] == 0
        assert kernel["shared"] <= 227 * 1024


def test_the_report_counts_the_programs_on_a_multiprocessor(built: tuple[Path, list[Built]]) -> None:
    for entry in report(built[1]):
        assert cast("int", entry["programs_per_multiprocessor"]) >= 1


def test_every_model_format_and_cache_is_among_the_plans() -> None:
    products = [plan for plan in plans() if "PRODUCT" in plan.launch.constants]
    compiled = {
        (model, cast("Product", plan.launch.constants["PRODUCT"]).format) for plan in products for model in plan.models
    }
    assert compiled == {(shape.name, weight_format) for shape in SHAPES for weight_format in FORMATS}
    caches = [
        cast("PagedCache", plan.launch.arguments["cache"]) for plan in plans() if "cache" in plan.launch.arguments
    ]
    assert {cache.keys.dtype for cache in caches} == {torch.bfloat16, torch.float8_e4m3fn}


@pytest.mark.parametrize("tokens", [3, 21, 100, 777])
def test_launches_at_other_sizes_use_the_compiled_binaries(tokens: int) -> None:
    known = {(plan.launch.name, specialize(plan.launch)) for plan in plans()}
    for weight_format in FORMATS:
        for launch in matrix_launches(SHAPES[0], weight_format, tokens, KernelOps()):
            assert (launch.name, specialize(launch)) in known


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("tokens", [16, 17, 64, 300])
def test_from_16_tokens_on_every_product_requires_hoppers_matrix_units_but_small_blocks_of_int4(
    tokens: int, shape: Shape
) -> None:
    for weight_format in FORMATS:
        launched = [
            one for one in matrix_launches(shape, weight_format, tokens, KernelOps()) if one.name in MATRIX_KERNELS
        ]
        assert launched
        for one in launched:
            # Blocks of up to 16 tokens in halves: measured on an H200, gate and up of 64 tokens take 273 us for 336.
            product = cast("Product", one.constants["PRODUCT"])
            assert one.matmul or (product.paired and product.tokens <= 16)


def planned(tile: Tile, tokens: int = 256) -> Launch:
    packed = torch.empty(1024, 512, dtype=torch.uint8, device="meta")
    scales = torch.empty(8, 1024, dtype=torch.bfloat16, device="meta")
    x = torch.empty(tokens, 1024, dtype=torch.bfloat16, device="meta")
    with recording() as launches:
        linear(x, Int4Matrix(packed, scales), tile)
    return launches[0]


def test_a_spill_is_reported() -> None:
    code = compile_launch(planned(Tile(256, 128, 128, 1, 4, 2))).code
    assert any("spills" in problem for problem in code.problems("linear", matmul=True))


def test_a_product_off_the_matrix_units_is_reported() -> None:
    code = compile_launch(planned(Tile(16, 16, 128, 1, 4, 2))).code
    assert any("HGMMA" in problem for problem in code.problems("linear", matmul=True))


SOUND = MachineCode(registers=128, stack=0, shared=1024, matrix=8, slow_matrix=0, local=0, wide_loads=4)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"stack": 8}, "spills"),
        ({"local": 1}, "spills"),
        ({"shared": 227 * 1024 + 1}, "shared"),
        ({"matrix": 0}, "HGMMA"),
        ({"slow_matrix": 2}, "HMMA"),
        ({"wide_loads": 0}, "16-byte"),
    ],
    ids=str,
)
def test_each_rule_can_be_broken(change: dict[str, int], word: str) -> None:
    assert SOUND.problems("linear", matmul=True) == []
    code = replace(SOUND, **change)  # type: ignore[arg-type]
    problems = code.problems("linear", matmul=True)
    assert word in " ".join(problems)
    wrong = Built("linear", "0.cubin", code, True, {"warps": 4}, ("Scout",), tuple(problems))
    with pytest.raises(MachineCodeError, match=word):
        check([wrong])


def test_occupancy_is_bound_by_registers_shared_memory_and_warps() -> None:
    assert occupancy(replace(SOUND, registers=255), 8) == 1
    assert occupancy(replace(SOUND, registers=32, shared=100 * 1024), 4) == 2
    assert occupancy(replace(SOUND, registers=32), 4) == 16
