"""The charts of the documentation, from `benchmarks/results/*.json` and the planner."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import llama4_local
from docs_parts.bars import Bar, Chart, Group, Mark

if TYPE_CHECKING:
    from pathlib import Path

    from llama4_local.config.formats import WeightFormat

_FORMATS: tuple[tuple[str, WeightFormat | None], ...] = (("bf16", None), ("FP8", "fp8"), ("int4", "int4"))
_SHOWN_MEMORY = 230  # GB: Scout in bf16; Maverick is beyond it in all but int4


def charts(results: Path) -> dict[str, Chart]:
    """Return every chart by its name."""
    cpu = _read(results, "local_cpu")
    gpus = {name: _read(results, name.lower()) for name in ("H200", "H100")}
    return {
        "memory": memory(),
        "gpu-answers": gpu_answers(gpus),
        "gpu-prompts": gpu_prompts(gpus),
        "cpu": cpu_speed(cpu),
        "cpu-first-token": cpu_first_token(cpu),
        "overhead": overhead(_read(results, "stream_overhead")),
    }


def memory() -> Chart:
    """The memory that each model takes with 8,192 tokens, beside that of GPUs."""
    groups: list[Group] = []
    for model, title in (("guard-4", "Llama Guard 4"), ("scout", "Scout"), ("maverick", "Maverick")):
        sizes = [
            (label, llama4_local.plan(model, quantize=kind, context=8192).needed / 1e9) for label, kind in _FORMATS
        ]
        bars = [Bar(label, size, f"{size:.0f} GB") for label, size in sizes if size <= _SHOWN_MEMORY]
        groups.append(Group(title, tuple(bars)))
    marks = (Mark("24", 24), Mark("80", 80), Mark("141 GB", 141))
    return Chart(
        "Memory that each model takes with a context of 8,192 tokens, in GB", tuple(groups), _SHOWN_MEMORY, marks
    )


def gpu_answers(gpus: dict[str, Any]) -> Chart:
    """Tokens per second of Scout on GPUs, by the number of answers at once."""
    groups: list[Group] = []
    for batch, heading in ((1, "One answer"), (8, "8 answers at once"), (64, "64 answers at once")):
        rates = [(*shown, _case(*shown, gpus, f"decode {batch} at 4096", graph=True)) for shown in _shown(gpus)]
        bars = [
            Bar(f"{label(kind)}, {gpu}", row["tokens_per_second"], f"{row['tokens_per_second']:,.0f} tok/s", series)
            for series, (gpu, kind, row) in enumerate(rates)
            if row is not None
        ]
        groups.append(Group(heading, tuple(bars)))
    return _on_one_scale("Scout on one GPU: tokens per second of all answers together", groups)


def gpu_prompts(gpus: dict[str, Any]) -> Chart:
    """Seconds that a prompt takes on GPUs."""
    groups: list[Group] = []
    for tokens in (2048, 16384):
        rates = [(*shown, _case(*shown, gpus, f"prefill {tokens}", graph=False)) for shown in _shown(gpus)]
        bars = [
            Bar(f"{label(kind)}, {gpu}", row["ms"], f"{row['ms'] / 1000:.2f} s", series)
            for series, (gpu, kind, row) in enumerate(rates)
            if row is not None
        ]
        groups.append(Group(f"Prompt of {tokens:,} tokens", tuple(bars)))
    return _on_one_scale("Scout on one GPU: seconds to read a prompt", groups)


def cpu_speed(measured: dict[str, Any]) -> Chart:
    """Tokens per second of a small network on a CPU, beside other runtimes."""
    headings = {"alone": "One answer", "together": "8 answers at once", "prefill": "Prompt of 1,024 tokens"}
    groups = [Group(heading, tuple(_runtimes(measured, figure, "tok/s", 1))) for figure, heading in headings.items()]
    return Chart("A network of 0.2 GB a token on two cores: tokens per second", tuple(groups))


def cpu_first_token(measured: dict[str, Any]) -> Chart:
    """Milliseconds to the first token on a CPU, and what a cached beginning saves."""
    seconds = measured["first_token_seconds"]
    cached = [
        Bar("computed", seconds["computed"], f"{1000 * seconds['computed']:.0f} ms"),
        Bar("cached", seconds["cached"], f"{1000 * seconds['cached']:.0f} ms", 2),
    ]
    short = Group("A short prompt", tuple(_runtimes(measured, "first_token", "ms", 1000)))
    tokens = measured["options"]["prefix"]
    return Chart(
        "The same network: milliseconds to the first token",
        (short, Group(f"A prompt whose first {tokens:,} tokens are", tuple(cached))),
    )


def overhead(measured: dict[str, Any]) -> Chart:
    """Microseconds of CPU time that a streamed chunk takes in the client's process."""
    costs = measured["median_us_per_chunk"]
    shown = {
        "floor": ("httpx and json", 1),
        "client": ("llama4sdk", 0),
        "openai_create": ("openai create", 1),
        "openai_stream": ("openai stream", 1),
    }
    bars = [
        Bar(name, costs[key], f"{costs[key]:.0f} µs", series) for key, (name, series) in shown.items() if key in costs
    ]
    return Chart("CPU time for one streamed chunk", (Group("CPU time for one streamed chunk", tuple(bars)),))


def label(kind: str) -> str:
    """Return a weight format as the pages write it."""
    return {"fp8": "FP8"}.get(kind, kind)


def _on_one_scale(title: str, groups: list[Group]) -> Chart:
    return Chart(title, tuple(groups), max(bar.value for group in groups for bar in group.bars))


def _shown(gpus: dict[str, Any]) -> list[tuple[str, str]]:
    return [(gpu, kind) for gpu in gpus for kind in ("int4", "fp8") if f"model_{kind}" in gpus[gpu]]


def _case(gpu: str, kind: str, gpus: dict[str, Any], case: str, *, graph: bool) -> dict[str, Any] | None:
    rows = gpus[gpu][f"model_{kind}"]
    return next((row for row in rows if row["case"] == case and row["graph"] is graph), None)


def _runtimes(measured: dict[str, Any], figure: str, unit: str, times: float) -> list[Bar]:
    names: dict[str, str] = {"llama4_local": "llama4sdk", "llama_cpp": "llama.cpp"}
    values: dict[str, float] = {runtime: figures[figure] * times for runtime, figures in measured["figures"].items()}
    return [
        Bar(names.get(runtime, runtime), value, f"{value:,.0f} {unit}", int(runtime != "llama4_local"))
        for runtime, value in values.items()
    ]


def _read(results: Path, name: str) -> dict[str, Any]:
    return json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
