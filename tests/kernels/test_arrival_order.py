# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""The order in memory around an arrival, in machine code: what `kernels/arrivals.py` promises, and what breaks it."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes for Linux only")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

import triton
import triton.language as tl

from llama4_local.ops.kernels.aot.ahead_of_time import Compiled, compile_launch
from llama4_local.ops.kernels.aot.machine_code import arrival_faults, dump, instructions
from llama4_local.ops.kernels.aot.serving import SHAPES, attention_launches
from llama4_local.ops.kernels.arrivals import arrival_counters, arrives_last
from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.ops.kernels.launch import Launch, recording
from llama4_local.ops.kernels.launch import launch as launcher
from llama4_local.ops.kernels.tile_table import TileTable
from long_runs import only_long


@triton.jit
def _finish(parts, out, last):
    if last:
        place = tl.arange(0, 1024)
        tl.store(out + place, tl.load(parts + place) + tl.load(parts + place + 1024))


@triton.jit
def _arriving_kernel(parts, out, counter):
    place = tl.arange(0, 1024)
    tl.store(parts + tl.program_id(0) * 1024 + place, place.to(tl.float32))
    _finish(parts, out, arrives_last(counter, 2))


@triton.jit
def _unordered_kernel(parts, out, counter):
    place = tl.arange(0, 1024)
    tl.store(parts + tl.program_id(0) * 1024 + place, place.to(tl.float32))
    _finish(parts, out, tl.atomic_add(counter, 1, sem="relaxed", scope="gpu") == 1)


@dataclass(frozen=True)
class Stages:
    """A compiled launch, and the compiler's text of it before and after layouts are chosen."""

    compiled: Compiled
    ttir: str
    ttgir: str


def compiled(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> Stages:
    texts: dict[str, Any] = {}
    own = triton.compile

    def kept(*arguments: Any, **options: Any) -> Any:
        result = own(*arguments, **options)
        texts.update(result.asm)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(triton, "compile", kept)
        return Stages(compile_launch(launch), texts["ttir"], texts["ttgir"])


def recorded(kernel: Any) -> Launch:
    parts = torch.empty(2048, device="meta")
    with recording() as launches:
        launcher(kernel, (2,))(parts, parts, arrival_counters("meta"))
    return launches[0]


def test_an_arrival_is_ordered_behind_stores_and_before_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = compiled(recorded(_arriving_kernel), monkeypatch)
    assert stages.compiled.code.unordered == ()
    # Triton 3.9 adds a barrier of its own in front of such an addition, 3.6 does not: the source has one.
    assert re.search(r"\.barrier\b.*tt\.atomic_rmw add, acq_rel, gpu", stages.ttir, re.DOTALL)


def test_a_relaxed_arrival_is_reported() -> None:
    faults = " ".join(compile_launch(recorded(_unordered_kernel)).code.problems("arriving", matmul=False))
    assert "no fence before an arrival" in faults
    assert "does not drop the L1 cache" in faults


RIGHT = ["STG.E", "BAR.SYNC", "MEMBAR.ALL.GPU", "ATOMG.E.ADD.STRONG.GPU", "CCTL.IVALL", "BAR.SYNC", "LDG.E"]


@pytest.mark.parametrize("missing", [1, 2, 4, 5])
def test_each_step_of_the_order_is_needed(missing: int) -> None:
    assert arrival_faults(RIGHT) == ()
    assert arrival_faults(RIGHT[:missing] + RIGHT[missing + 1 :])


@pytest.mark.parametrize("place", [1, 2, 5, 6])
def test_the_order_itself_matters(place: int) -> None:
    swapped = [*RIGHT[: place - 1], RIGHT[place], RIGHT[place - 1], *RIGHT[place + 1 :]]
    assert arrival_faults(swapped)
    assert arrival_faults([RIGHT[0], RIGHT[1], "MEMBAR.ALL.CTA", *RIGHT[3:]])  # a fence for one program alone


OPERATIONS = re.compile(r"\b(FFMA|FADD|FMUL|MUFU\.EX2|MUFU\.RCP|FMNMX)\b")


def arithmetic(code: list[str]) -> Counter[str]:
    return Counter(match[1] for match in map(OPERATIONS.search, code) if match)


@only_long("compiles for a minute")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("sequences", [1, 8])
def test_merging_inside_attention_is_the_second_launchs_arithmetic_in_its_layout(
    sequences: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters, trial = arrival_counters("meta"), TileTable(trials=frozenset({"merge"}))
    inside, separate = (
        attention_launches(SHAPES[0], dtype, sequences, KernelOps(trial, own))[-1] for own in (counters, None)
    )
    assert (inside.name, separate.name) == ("attention_decode", "attention_merge")
    parts = f"{inside.constants['WIDTH']}x128xf32"
    got, beside = compiled(inside, monkeypatch), compiled(separate, monkeypatch)

    assert not got.compiled.code.problems("attention_decode", matmul=True)
    assert got.compiled.code.unordered == ()
    assert layouts(got.ttgir, parts) == layouts(beside.ttgir, parts)
    code = [text for _, text in instructions(dump(got.compiled.cubin, "--dump-sass"))]
    behind = code[next(place for place, text in enumerate(code) if "ATOMG" in text) :]
    own = [text for _, text in instructions(dump(beside.compiled.cubin, "--dump-sass"))]
    heads = SHAPES[0].heads // SHAPES[0].kv_heads
    assert arithmetic(behind) == Counter({name: heads * count for name, count in arithmetic(own).items()})
    assert all("STRONG.GPU" in text for text in behind if "LDG" in text)  # parts come from the L2 cache


def layouts(ttgir: str, block: str) -> set[str]:
    """Return the layouts in which blocks of a type are reduced."""
    named = dict(re.findall(r"^(#\w+) = (.*)$", ttgir, re.MULTILINE))
    used = re.findall(rf"\(tensor<{block}, (#\w+)>\) -> ", ttgir)
    assert used
    return {named[name] for name in used}
