"""The GPU benchmarks' random weights, floors and checks of their own figures, on the CPU."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from llama4_local.weights.quantized import Int4Matrix

pytest.importorskip("triton", reason="Triton comes for Linux only")

SIZE = 2048  # wide enough for a mean of half a scale to outgrow the rest
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def similarity(weights: list[Tensor]) -> float:
    """Mean of the absolute cosines between the tokens of a residual network of these matrices."""
    x = torch.randn(48, SIZE)
    for weight in weights:
        x = torch.nn.functional.normalize(x + x @ weight.t(), dim=-1) * math.sqrt(SIZE)
    cosines = (x @ x.t() / SIZE).abs()
    return float((cosines.sum() - cosines.trace()) / (48 * 47))


@pytest.mark.parametrize("weight_format", ["bf16", "fp8", "int4"])
def test_random_weights_have_mean_0_and_keep_tokens_apart(weight_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    inputs = benchmark("hopper_inputs", monkeypatch)
    matrices = [inputs.exact(inputs.matrix(weight_format, SIZE, SIZE, device="cpu")).float() for _ in range(8)]
    mean = torch.stack([matrix.mean() for matrix in matrices]).mean()
    assert abs(float(mean)) < 0.02 * float(matrices[0].std())
    assert float((torch.randn(64, SIZE) @ matrices[0].t()).std()) == pytest.approx(1, rel=0.15)
    assert similarity(matrices) < 0.1


def test_int4_weights_with_positive_scales_make_tokens_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    inputs = benchmark("hopper_inputs", monkeypatch)
    matrices: list[Tensor] = []
    for _ in range(8):
        matrix = inputs.matrix("int4", SIZE, SIZE, device="cpu")
        matrices.append(Int4Matrix(matrix.packed, matrix.scales.abs()).dequantize())
    assert similarity(matrices) > 0.5


def profile(weight_format: str, gate_up: int, down: int) -> list[dict[str, object]]:
    """A step of 64 sequences and its profile, with the figures of an H200."""
    note = (
        f"_attention_decode_kernel 13855/48, _gate_up_kernel {gate_up}/48, _down_kernel {down}/48, void at::x<2, y 5/2"
    )
    step = (13855 + gate_up + down + 5) / 1e3
    return [
        {"format": weight_format, "case": "decode 64 at 4096", "graph": True, "ms": step},
        {"format": weight_format, "case": "decode 64 at 4096", "graph": False, "ms": 2 * step},
        {"format": weight_format, "case": "profile of decode 64", "note": note},
    ]


KERNELS: list[dict[str, object]] = [
    {"kernel": "gate_up", "case": "int4 64 tokens", "us": 323.1},
    {"kernel": "down", "case": "int4 64 tokens", "us": 167.8},
    {"kernel": "gate_up", "case": "fp8 64 tokens", "us": 339.3},
    {"kernel": "down", "case": "fp8 64 tokens", "us": 174.5},
    {"kernel": "down", "case": "fp8 1 tokens", "exception": "out of memory"},
]


def test_a_profile_that_contradicts_the_kernels_times_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    consistency = benchmark("hopper_consistency", monkeypatch).consistency
    checks = {check["case"]: check["right"] for check in consistency(profile("int4", 7129, 3649), KERNELS, 4096)}
    assert checks == {"int4 decode 64: gate_up": False, "int4 decode 64: down": False, "int4 decode 64: step": True}


def test_a_profile_that_agrees_with_the_kernels_times_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    consistency = benchmark("hopper_consistency", monkeypatch).consistency
    checks = {check["case"]: check["right"] for check in consistency(profile("fp8", 16200, 8274), KERNELS, 4096)}
    assert checks == {"fp8 decode 64: gate_up": True, "fp8 decode 64: down": True, "fp8 decode 64: step": True}


def test_a_profile_that_does_not_sum_to_its_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    consistency = benchmark("hopper_consistency", monkeypatch).consistency
    step, eager, rows = profile("fp8", 16200, 8274)
    checks = consistency([step | {"ms": 60.0}, eager, rows], [], 4096)
    assert [(check["case"], check["right"]) for check in checks] == [("fp8 decode 64: step", False)]


def test_the_floor_follows_the_experts_that_are_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    floor = benchmark("hopper_model", monkeypatch)._floor
    cache = 4096 * 4096 * 48  # bytes of a sequence
    assert floor("int4", 4096, 1.0) == pytest.approx(9.9e9 + cache, rel=0.01)
    assert floor("fp8", 64 * 4096, 15.74) == pytest.approx(106e9 + 64 * cache, rel=0.01)
    assert floor("int4", 64 * 4096, 15.74) - floor("int4", 64 * 4096, 14.74) == pytest.approx(48 * 125.8e6 * 4.125 / 8)


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GH200 480GB", "nvidia_gh200_480gb"),
        ("NVIDIA H20", "nvidia_h20"),
    ],
)
def test_each_card_has_a_results_file_of_its_own(gpu: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert benchmark("hopper", monkeypatch).card_name(gpu) == name
