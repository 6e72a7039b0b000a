"""A plan as tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.planning.sizes import show_bytes, show_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

    from llama4_local.planning.expert_ways import ExpertWays
    from llama4_local.planning.floors import StepFloor
    from llama4_local.planning.planner import Plan

_PARTS = {
    "attention": "attention",
    "experts": "routed experts",
    "shared": "shared experts",
    "dense": "dense feed-forwards",
    "routers": "routers and norms",
    "embedding": "embedding",
    "head": "head",
    "vision": "image encoder",
}


def print_plan(plan: Plan, console: Console) -> None:
    """Print a plan: memory, what would fit, time, and advice."""
    console.print(_title(plan), style="bold")
    console.print(_memory(plan))
    console.print(_verdict(plan), style="bold green" if plan.fits else "bold red")
    for sentence in plan.advice:
        console.print(f"  • {sentence}", highlight=False)
    console.print("\nWhat this memory holds", style="bold")
    console.print(_limits(plan))
    console.print("\nRead for one more token of each sequence, and the least time that takes", style="bold")
    console.print(_times(plan))
    console.print(_speed(plan), style="dim")
    if plan.ranks > 1:
        console.print(_ranks(plan), style="dim")
    if plan.expert_ways:
        console.print("\nExperts over these ranks", style="bold")
        console.print(_experts(plan.expert_ways))
        console.print(_choice(plan.expert_ways), style="dim")


def _title(plan: Plan) -> str:
    kind = f"{plan.quantize or plan.dtype} weights, {plan.cache_dtype} cache"
    ranks = f" · each of {plan.ranks} ranks" if plan.ranks > 1 else ""
    ranks += ", whole experts" if plan.expert_parallel else ""
    return f"{plan.model} · {kind} · {plan.sequences:,} × {plan.context:,} tokens{ranks}"


def _memory(plan: Plan) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("memory")
    table.add_column("bytes", justify="right")
    table.add_column("share", justify="right")
    for name, size, heavy in _rows(plan):
        table.add_row(name, show_bytes(size), f"{size / plan.memory:.1%}", style="bold" if heavy else "dim")
    return table


def _rows(plan: Plan) -> Iterator[tuple[str, int, bool]]:
    """Yield name, bytes and whether it is a sum."""
    yield "weights", plan.weights.total, True
    for part, name in _PARTS.items():
        if size := getattr(plan.weights, part):
            yield f"  {name}", size, False
    yield "cache", plan.cache.total, True
    yield "  global layers", plan.cache.global_pool, False
    if plan.cache.local_pool:
        yield "  chunk-local layers", plan.cache.local_pool, False
    yield "workspace, at most", plan.workspace.total, True
    yield "needed", plan.needed, True
    yield "kept free", plan.reserve, False
    yield "memory", plan.memory, True


def _verdict(plan: Plan) -> str:
    spare = plan.available - plan.needed
    if spare >= 0:
        return f"It fits, with {show_bytes(spare)} to spare."
    return f"It does not fit: {show_bytes(-spare)} too little."


def _limits(plan: Plan) -> Table:
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    each = f"of {plan.sequences:,} sequences" if plan.sequences > 1 else "of one sequence"
    table.add_row(f"longest context {each}", f"{plan.longest_context:,} tokens")
    if plan.sequences > 1:
        table.add_row("longest context of one sequence", f"{plan.longest_single:,} tokens")
    table.add_row(f"most sequences of {plan.context:,} tokens", f"{plan.most_sequences:,}")
    table.add_row("the model is made for", f"{plan.model_context:,} tokens")
    return table


def _times(plan: Plan) -> Table:
    from rich.table import Table

    table = Table()
    links = ("links",) if plan.ranks > 1 else ()
    for name in ("sequences", "weights", "cache", *links, "time", "tokens/s"):
        table.add_column(name, justify="right")
    for step in plan.steps:
        if step.batch <= plan.most_sequences or step.batch == plan.sequences:
            table.add_row(*_time(step, links=plan.ranks > 1))
    return table


def _ranks(plan: Plan) -> str:
    """Say what the links' bytes are, and that no such GPUs have run it."""
    link = plan.machine.link
    speed = f"{show_bytes(link)}/s, without latency" if link else "a speed that is not known, which no time includes"
    served = "" if plan.machine.reference else " Computed: no such GPUs have been measured."
    exchanged = "a sum in each layer, two in dense ones, and experts' rows" if plan.expert_parallel else ""
    return f"Links: what a rank gets from the others, {exchanged or 'two sums in each layer'}, at {speed}.{served}"


def _experts(ways: ExpertWays) -> Table:
    from rich.table import Table

    table = Table()
    for name in ("experts", "weights", "shared experts", "links for a token"):
        table.add_column(name, justify="left" if name == "experts" else "right")
    for name, way in (("slices of each", ways.divided), ("whole (expert_parallel)", ways.whole)):
        table.add_row(name, *map(show_bytes, (way.weights, way.shared, way.link_bytes)))
    return table


def _choice(ways: ExpertWays) -> str:
    """Say in which steps whole experts take less time, by reading and links alone."""
    if ways.whole_from is None:
        return "Whole experts move fewer bytes; whether they take less time in any step is not known here."
    return (
        f"Whole experts take less time in steps of {ways.whole_from:,} tokens and more, slices in shorter ones; "
        "of reading and links alone, experts equally likely."
    )


def _speed(plan: Plan) -> str:
    if plan.bandwidth is None:
        return "Give --bandwidth for times."
    return f"At {plan.context:,} tokens and {show_bytes(plan.bandwidth)}/s ({plan.bandwidth_source})."


def _time(step: StepFloor, *, links: bool) -> tuple[str, ...]:
    speed = step.tokens_per_second
    return (
        f"{step.batch:,}",
        show_bytes(step.weight_bytes),
        show_bytes(step.cache_bytes),
        *((show_bytes(step.link_bytes),) if links else ()),
        "–" if step.seconds is None else show_time(step.seconds),
        "–" if speed is None else f"{speed:,.0f}",
    )
