"""The table of replicas on Ray, from the results of `benchmarks/replicas.py`."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_UNITS = ("tokens_per_second", "caller_cpu_us_per_token", "server_cpu_us_per_token", "other_cpu_ms_per_second")
_TITLES = ("", "tokens/s", "caller, µs per token", "server or replicas, µs per token", "others, ms per second")
_SUMMARY = ("ray_adds_cpu_us_per_token", "two_replicas_to_one", "two_replicas_to_one_with_all_streams")
_ITEMS = {"1": "one token", "8": "eight tokens"}


def replicas(results: Path) -> str:
    """Return the table, and below it how it was measured.

    Args:
        results: The file of the results.
    """
    measured: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    lines = [f"| {' | '.join(_TITLES)} |", "|" + " --- |" * len(_TITLES)]
    for way, figures in measured["figures"].items():
        cells = [_shown(figures.get(unit)) for unit in _UNITS]
        lines.append(f"| {_title(way, measured['streams'])} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n" + _below(measured) + "\n"


def _title(way: str, streams: int) -> str:
    """Return a row's title."""
    match way.split(", "):
        case ["generator", item]:
            return f"Ray's streaming generator, {_ITEMS[item.split()[0]]} to an item"
        case ["wire", replicas, *all_streams]:
            twice = replicas.startswith("2") or all_streams
            return f"`RayBackend`, {replicas}, {streams * 2 if twice else streams} streams"
        case _:
            return f"a server without Ray, {streams} streams"


def _below(measured: dict[str, Any]) -> str:
    """Return the sentences below the table."""
    added, twofold, batched = (_shown(measured[name]) for name in _SUMMARY)
    load = f" Beside them: {measured['load']}." if "load" in measured else ""
    text = (
        f"CPU time on {measured['cpus']} cores of an {measured['processor']}, nano on one thread for each replica, "
        f"{measured['tokens']} tokens for each stream: medians and quartiles of {measured['rounds']} rounds of "
        f"`benchmarks/replicas.py`.{load} Ray adds {added} µs to what a token costs the caller. Two replicas give "
        f"{twofold} times the tokens of one with half the streams, and {batched} times those of one with all of them."
    )
    return "\n".join(textwrap.wrap(text, 125))


def _shown(figure: dict[str, Any] | None) -> str:
    """Return a median with its quartiles; empty where it was not measured."""
    if figure is None:
        return ""
    low, high = figure["quartiles"]
    return f"{figure['median']:,} ({low:,}–{high:,})"
