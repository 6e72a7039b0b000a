from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from kernel_inputs import experts
from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.weights.tree import MlpTree, MoeTree

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def test_counting_ops_count_the_routed_experts_and_change_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    ops = importlib.import_module("hopper_routing").CountingOps()
    router = torch.zeros(4, 128, dtype=torch.bfloat16)
    router[torch.arange(4), torch.arange(4)] = 1
    up, down = experts("bf16", 5, 128, 128), experts("bf16", 5, 128, 64)
    weights = MoeTree(router, up, down, MlpTree(up, down))
    x = torch.randn(6, 128).to(torch.bfloat16)
    x[:, :4] = 0
    x[torch.arange(6), torch.tensor([2, 0, 2, 2, 0, 2])] = 9
    assert torch.equal(ops.moe(x, weights), KernelOps().moe(x, weights))
    ops.moe(x[:1], weights)
    assert ops.touched == [2, 1]
