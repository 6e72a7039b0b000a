"""`plan`: what a model takes on a machine, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from llama4_local.config import formats
from llama4_local.config.share import Share, checked_ranks, checked_share, divides
from llama4_local.planning.advice import CHANGES, Gap, advise
from llama4_local.planning.expert_ways import ExpertWays, compare
from llama4_local.planning.floors import StepFloor, step_floor
from llama4_local.planning.machines import DEFAULT, machine_named
from llama4_local.planning.models import find_model, stored_tensors
from llama4_local.planning.sizes import parse_bandwidth, parse_memories, parse_tokens, show_bytes
from llama4_local.planning.sizing import Sizing
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    import os
    from collections.abc import Collection

    from llama4_local.config.formats import DType, HeadType, WeightFormat
    from llama4_local.config.model import ModelConfig
    from llama4_local.planning.cache import CacheBytes
    from llama4_local.planning.machines import Machine
    from llama4_local.planning.network import WeightBytes
    from llama4_local.planning.sizing import CacheFormat
    from llama4_local.planning.workspace import Workspace

RESERVE = Fraction(1, 25)  # of the memory: what driver, libraries and gaps between allocations take
_LIBRARIES = 24_000_000  # bytes that a CPU's compiled products take, where that is more
_TINY = 100_000_000  # bytes of a memory up to which little is compiled
_USUAL_CONTEXT = 131_072
_BATCHES = (1, 8, 64)


@dataclass(frozen=True, slots=True)
class Plan:
    """The memory and speed of a model on a machine. All sizes in bytes; of several ranks, those of each.

    Rank 0 is planned for: it alone has the image encoder.

    Args:
        model: Its name.
        machine: Where it is to run.
        memory: Memory that there is.
        reserve: Of this, what is left to driver, libraries and allocator.
        quantize: How matrices are packed.
        dtype: Type of plain weights and activations.
        cache_dtype: Type of the cache.
        context: Tokens of each sequence.
        sequences: Sequences at once.
        weights: Bytes of the weights, by part.
        cache: Bytes of the cache, by pool.
        workspace: Bytes that a step works with at most, by part.
        model_context: Tokens that the model is made for.
        longest_context: Most tokens of each sequence that memory holds; 0 where none fits.
        longest_single: The same for one sequence alone.
        most_sequences: Most sequences of `context` tokens that memory holds; 0 where none fits.
        bandwidth: Bytes per second of the memory; None where it is not known.
        bandwidth_source: Where that figure comes from.
        steps: The least time per step, for several batches of sequences of `context` tokens.
        advice: What to change, where it does not fit.
        ranks: Number of ranks that divide the network.
        expert_parallel: Whether they have whole experts.
        expert_ways: Both ways to divide the experts among so many ranks; None where they cannot be chosen between.
    """

    model: str
    machine: Machine
    memory: int
    reserve: int
    quantize: WeightFormat | None
    dtype: str
    cache_dtype: str
    context: int
    sequences: int
    weights: WeightBytes
    cache: CacheBytes
    workspace: Workspace
    model_context: int
    longest_context: int
    longest_single: int
    most_sequences: int
    bandwidth: int | None
    bandwidth_source: str
    steps: tuple[StepFloor, ...]
    advice: tuple[str, ...]
    ranks: int = 1
    expert_parallel: bool = False
    expert_ways: ExpertWays | None = None

    @property
    def needed(self) -> int:
        """Bytes of weights, cache and workspace."""
        return self.weights.total + self.cache.total + self.workspace.total

    @property
    def available(self) -> int:
        """Bytes that they may take."""
        return self.memory - self.reserve

    @property
    def cache_room(self) -> int:
        """Bytes that the cache may take; none where weights and workspace fill the memory."""
        return max(0, self.available - self.weights.total - self.workspace.total)

    @property
    def fits(self) -> bool:
        """Whether they do."""
        return self.needed <= self.available

    @property
    def explanation(self) -> str:
        """The plan in a sentence, and what to change where it does not fit."""
        parts = ((self.weights, "weights"), (self.cache, "cache"), (self.workspace, "workspace"))
        sizes = ", ".join(f"{show_bytes(part.total)} of {name}" for part, name in parts)
        each = f" on each of {self.ranks} ranks" if self.ranks > 1 else ""
        verdict = (
            f"{self.model} needs {show_bytes(self.needed)}{each} ({sizes}) for "
            f"{self.sequences:,} × {self.context:,} tokens; "
            f"{show_bytes(self.available)} of {show_bytes(self.memory)} can be used."
        )
        return " ".join((verdict, *self.advice))


def plan(
    model: str | os.PathLike[str] | ModelConfig,
    *,
    memory: int | str | None = None,
    quantize: WeightFormat | None = None,
    cache_dtype: CacheFormat = "auto",
    context: int | str | None = None,
    sequences: int = 1,
    dtype: DType = "auto",
    machine: str = DEFAULT,
    bandwidth: float | str | None = None,
    step_tokens: int | None = None,
    tensor_parallel: int | None = None,
    head_dtype: HeadType = "auto",
    expert_parallel: bool = False,
) -> Plan:
    """Work out what a model takes, whether it fits, and how fast it can be at best; nothing is loaded.

    Args:
        model: `scout`, `maverick`, `guard-4`, `nano`, a checkpoint folder, a `config.json`, or a config.
        memory: Bytes there are, or a string like `141GB` or `80GiB`; for several ranks like `8x80GB`. By default what
            the machine has, each of them.
        quantize: How matrices are packed.
        cache_dtype: Type of the cache; `auto` for that of the activations.
        context: Tokens of each sequence, or a string like `128K` (128,000) or `1Mi` (1,048,576); by default the
            model's own, and at most 131,072.
        sequences: Sequences at once.
        dtype: Type of plain weights and activations; `auto` for what the config says.
        machine: What it runs on: `h200`, `h100`, …, or `cpu`.
        bandwidth: Bytes per second of its memory, or a string like `4.3TB/s`, in place of the machine's own.
        step_tokens: Most tokens in a step; by default what the engine takes there.
        tensor_parallel: Ranks that divide the network, each on a machine of its own; by default as many as `memory`
            names.
        head_dtype: `fp8` where the head is packed, too.
        expert_parallel: Whether they have whole experts; see `LocalBackend`.

    Raises:
        CheckpointError: A config that describes no Llama 4.
        InvalidRequest: A name or size that means nothing, or no memory given where the machine's is not known.
    """
    name, config = find_model(model)
    place = machine_named(machine)
    if bandwidth is not None:
        place = replace(place, bandwidth=parse_bandwidth(bandwidth), source="as given")
    ranks, each = _ranks(memory, tensor_parallel, place)
    share = checked_share(ranks, expert_parallel)
    tensors = stored_tensors(model) if config.stored != "plain" else None

    def sizing(share: Share) -> Sizing:
        return Sizing.of(
            config,
            quantize=quantize,
            dtype=dtype,
            cache_dtype=cache_dtype,
            step_tokens=parse_tokens(step_tokens or usual_step_tokens(place), name="step_tokens"),
            reference=place.reference,
            tensors=tensors,
            share=share,
            head_dtype=head_dtype,
        )

    result = make_plan(
        name,
        sizing(share),
        place,
        memory=each,
        context=_context(context, name, config),
        sequences=parse_tokens(sequences, name="sequences"),
    )
    slices, whole = (replace(share, whole_experts=way) for way in (False, True))
    if ranks == 1 or not all(divides(config, way, quantize=result.quantize) for way in (slices, whole)):
        return result
    return replace(result, expert_ways=compare(sizing(slices), sizing(whole), place))


def make_plan(
    name: str,
    sizing: Sizing,
    machine: Machine,
    *,
    memory: int,
    context: int,
    sequences: int,
    changes: Collection[str] = CHANGES,
) -> Plan:
    """Put a plan together from what has been checked; see `plan`."""
    reserve = max(int(memory * RESERVE), min(_LIBRARIES, max(0, memory - _TINY) // 4))
    usable = memory - reserve
    fits = sizing.needed(context, sequences) <= usable
    gap = Gap(sizing, machine, usable, context, sequences, reserve / memory if memory else float(RESERVE), changes)
    return Plan(
        model=name,
        machine=machine,
        memory=memory,
        reserve=reserve,
        quantize=sizing.quantize,
        dtype=sizing.dtype,
        cache_dtype=sizing.cache_dtype,
        context=context,
        sequences=sequences,
        weights=sizing.weights(),
        cache=sizing.cache(context, sequences),
        workspace=sizing.workspace(context, sequences),
        model_context=sizing.config.text.max_positions,
        longest_context=sizing.longest_context(usable, sequences),
        longest_single=sizing.longest_context(usable, 1),
        most_sequences=sizing.most_sequences(usable, context),
        bandwidth=machine.bandwidth,
        bandwidth_source=f"{machine.name}, {machine.source}",
        steps=_floors(sizing, context, sequences, machine),
        advice=() if fits else advise(gap),
        ranks=sizing.share.size,
        expert_parallel=sizing.share.whole_experts,
    )


def _floors(sizing: Sizing, context: int, sequences: int, machine: Machine) -> tuple[StepFloor, ...]:
    return tuple(step_floor(sizing, context, batch, machine) for batch in sorted({*_BATCHES, sequences}))


def usual_step_tokens(machine: Machine) -> int:
    """Return the most tokens that the engine takes in a step unless it is told otherwise."""
    return formats.usual_step_tokens("cpu" if machine.reference else "cuda")


def usual_context(config: ModelConfig) -> int:
    """Return the context that is planned for unless another is given."""
    return min(config.text.max_positions, _USUAL_CONTEXT)


def _ranks(memory: int | str | None, ranks: int | None, machine: Machine) -> tuple[int, int]:
    """Return the number of ranks, and the bytes of memory of each."""
    if ranks is not None:
        checked_ranks(ranks)
    if memory is not None:
        return parse_memories(memory, ranks)
    if machine.memory is None:
        raise InvalidRequest(f"How much memory the {machine.name} has is not known here; give it, as in memory='16GB'.")
    return ranks or 1, machine.memory


def _context(context: int | str | None, name: str, config: ModelConfig) -> int:
    tokens = usual_context(config) if context is None else parse_tokens(context)
    if tokens > config.text.max_positions:
        raise InvalidRequest(
            f"{name} is made for {config.text.max_positions:,} tokens; a context of {tokens:,} is more."
        )
    return tokens
