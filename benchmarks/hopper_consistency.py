"""Checks the measurements of a results file against each other.

A step's profile gives the microseconds of each kernel within the network; the kernels' own timings give them at the
same shapes with evenly routed tokens. Both must agree, and the profile must sum to the step's time. They do not where
random weights make a network's tokens alike, so that they are routed to few experts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

Row = Mapping[str, object]

LIMIT = 0.2  # relative difference

# Kernels with one shape in a step that are timed together, and the case of their timing under the first one's name.
TIMED = {
    ("gate_up",): "{format} {tokens} tokens",
    ("down",): "{format} {tokens} tokens",
    ("attention_decode", "attention_merge"): "decode bf16 {tokens} x {context}",
}


def consistency(model: Sequence[Row], kernels: Sequence[Row], context: int) -> Iterator[dict[str, object]]:
    """Yield a check for each pair of measurements of the same work.

    Args:
        model: Rows of one format: steps with their times, and profiles.
        kernels: Rows of single kernels.
        context: Tokens that each sequence of a step attends to.
    """
    timed = {(row["kernel"], row["case"]): _number(row["us"]) for row in kernels if "us" in row}
    steps = {row["case"]: _number(row["ms"]) * 1e3 for row in model if row.get("graph") and "ms" in row}
    for row in model:
        match = re.fullmatch(r"profile of decode (\d+)", str(row["case"]))
        spent = profile_of(row)
        if match is None or not spent:
            continue
        case = {"format": row["format"], "tokens": match[1], "context": context}
        for names, pattern in TIMED.items():
            alone = timed.get((names[0], pattern.format(**case)))
            if row.get("pages_shared") and names[0] == "attention_decode":
                continue  # sequences that share pages for lack of memory find some of them in the L2 cache
            if alone is not None and names[0] in spent:  # the second launch may be part of the first
                within = sum(spent[name][0] / spent[name][1] for name in names if name in spent)
                yield _check(f"{row['format']} decode {match[1]}: {names[0]}", within, alone)
        step = steps.get(f"decode {match[1]} at {context}")
        if step is not None:
            yield _check(f"{row['format']} decode {match[1]}: step", sum(us for us, _ in spent.values()), step)


def profile_of(row: Row) -> dict[str, tuple[float, int]]:
    """Return the microseconds and launches of each kernel in a profile's row, by the kernel's name."""
    entries = re.findall(r"(?:^|, )_?([^,]+?) (\d+)/(\d+)(?=,|$)", str(row.get("note", "")))
    return {name.removesuffix("_kernel"): (float(us), int(launches)) for name, us, launches in entries}


def _check(case: str, profile: float, alone: float) -> dict[str, object]:
    difference = abs(profile - alone) / max(profile, alone)
    check: dict[str, object] = {"kernel": "consistency", "case": case, "profile_us": profile, "timed_us": alone}
    return check | {"error": difference, "limit": LIMIT, "right": difference <= LIMIT}


def _number(value: object) -> float:
    if isinstance(value, (int, float)):
        return float(value)
    raise TypeError(f"a measurement must be a number, got {value!r}")
