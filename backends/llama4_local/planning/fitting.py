"""The check before a model is loaded: better a clear refusal than a process that dies of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.config.share import checked_share
from llama4_local.planning.machines import MACHINES, Machine
from llama4_local.planning.planner import make_plan, usual_context, usual_step_tokens
from llama4_local.planning.sizes import show_bytes
from llama4_local.planning.sizing import Sizing
from llama4sdk.errors import CheckpointError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from llama4_local.checkpoint.headers import StoredTensor
    from llama4_local.config.model import ModelConfig
    from llama4_local.planning.planner import Plan


def check_fits(
    config: ModelConfig,
    memory: int,
    *,
    name: str = "The model",
    context: int | None = None,
    sequences: int = 1,
    quantize: str | None = None,
    dtype: str = "auto",
    cache_dtype: str = "auto",
    device: str = "cpu",
    step_tokens: int | None = None,
    cache: int | None = None,
    changes: Collection[str] = ("context", "memory"),
    tensors: Mapping[str, StoredTensor] | None = None,
    ranks: int = 1,
    head_dtype: str = "auto",
    expert_parallel: bool = False,
) -> Plan:
    """Refuse a model that cannot run in the memory there is, before any of it is loaded.

    Args:
        config: The network.
        memory: Bytes that are free now, for all ranks together.
        name: What errors call it; a checkpoint's folder, say.
        context: Tokens that each sequence must be able to have; by default one chunk of attention, or what the
            model has where that is less.
        sequences: Sequences that must fit at once.
        quantize: How matrices are packed.
        dtype: Type of plain weights and activations.
        cache_dtype: Type of the cache.
        device: Kind of torch device: `cpu`, or that of a GPU.
        step_tokens: Most tokens in a step.
        cache: Bytes that the cache is going to take, where that has been decided.
        changes: What the caller can change, for the advice; see `advice.CHANGES`.
        tensors: Those of a checkpoint that is in FP8, and is loaded as it is.
        ranks: Number of ranks, which share the memory equally.
        head_dtype: `fp8` where the head is packed.
        expert_parallel: Whether they have whole experts.

    Returns:
        The plan of one rank; its `cache_room` is what the rank's cache may take.

    Raises:
        CheckpointError: Not even the shortest sequence fits beside the weights.
        InvalidRequest: What is asked for does not fit; less would.
    """
    machine = MACHINES["cpu"] if device == "cpu" else Machine(device, memory, None, "not given")
    sizing = Sizing.of(
        config,
        quantize=quantize,
        dtype=dtype,
        cache_dtype=cache_dtype,
        step_tokens=step_tokens or usual_step_tokens(machine),
        reference=machine.reference,
        tensors=tensors,
        share=checked_share(ranks, expert_parallel),
        head_dtype=head_dtype,
    )
    memory //= ranks
    tokens = context or min(config.text.max_positions, config.text.chunk or usual_context(config))
    plan = make_plan(name, sizing, machine, memory=memory, context=tokens, sequences=sequences, changes=changes)
    if plan.longest_single == 0:
        raise CheckpointError(name, [plan.explanation], backend="local")
    if not plan.fits:
        raise InvalidRequest(plan.explanation, backend="local")
    if cache is not None and cache > plan.cache_room:
        raise InvalidRequest(_too_large(plan, cache), backend="local")
    return plan


def _too_large(plan: Plan, cache: int) -> str:
    return (
        f"A cache of {show_bytes(cache)} does not fit: {plan.model} leaves {show_bytes(plan.cache_room)} for it beside "
        f"{show_bytes(plan.weights.total)} of weights and {show_bytes(plan.workspace.total)} of workspace, out of "
        f"{show_bytes(plan.available)} that can be used."
    )
