from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernel_inputs import (
    FORMATS,
    ROUNDED,
    WHOLE,
    activations,
    error,
    exact,
    exact_expert,
    experts,
    matrix,
    operand,
    swiglu,
    tile,
)
from llama4_local.ops.kernels.down import down
from llama4_local.ops.kernels.gate_up import gate_up
from llama4_local.ops.kernels.gemv import down_vector, gate_up_vector, linear_vector
from llama4_local.ops.kernels.routing import Dispatch, dispatch, route, route_and_dispatch
from llama4_local.ops.kernels.tiles import Format, VectorTile
from llama4_local.weights.quantized import Matrix
from long_runs import thinned

EXPERTS, HIDDEN, SIZE = 5, 128, 64
VECTOR = VectorTile(16, 64, 2, 4, 1)


def logits_for(routed: list[int], experts_count: int = EXPERTS) -> Tensor:
    logits = torch.randn(len(routed), experts_count).clamp(-1, 1)
    logits[torch.arange(len(routed)), routed] = torch.rand(len(routed)) + 1.5
    return logits


def groups(slots: Dispatch) -> list[tuple[int, int, int]]:
    """(group, first slot, slot after its last)."""
    offsets = slots.offsets.tolist()
    return list(zip(range(slots.groups), offsets[:-1], offsets[1:], strict=True))


def exact_hidden(worth: Tensor, weight: Matrix, slots: Dispatch) -> Tensor:
    """SwiGLU of gate and up for each slot, in fp64."""
    rows: list[Tensor] = []
    for group, first, last in groups(slots):
        x = worth[slots.order[first:last].long()] * slots.scores[first:last, None].double()
        rows.append(swiglu(x @ exact_expert(weight, group).t()))
    return torch.cat(rows)


def exact_parts(worth: Tensor, weight: Matrix, slots: Dispatch) -> Tensor:
    """The routed and the shared expert's outputs for each token, [2, tokens, out], in fp64."""
    out = torch.zeros(2, len(worth) // 2, exact_expert(weight, 0).shape[0], dtype=torch.float64)
    for group, first, last in groups(slots):
        tokens = slots.order[first:last].long()
        out[int(group == slots.groups - 1), tokens] = worth[first:last] @ exact_expert(weight, group).t()
    return out


ROUTINGS = {
    "one token": [3],
    "all on one expert": [2] * 21,
    "experts without tokens": [0, 4, 4, 0, 4],
    "ragged ends": [0] * 17 + [1] * 16 + [3] * 15 + [4],
}


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("routed", ROUTINGS.values(), ids=ROUTINGS.keys())
def test_gate_up_applies_its_expert_to_every_slot(weight_format: Format, routed: list[int]) -> None:
    weight = experts(weight_format, EXPERTS + 1, 2 * SIZE, HIDDEN)
    slots = dispatch(route(logits_for(routed)))
    x, scales, worth = operand(activations(len(routed), HIDDEN), weight_format)
    hidden = gate_up(x, weight, tile(), dispatch=slots, x_scales=scales)
    assert error(hidden, exact_hidden(worth, weight, slots)) < ROUNDED


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("splits", thinned([2, 1], 2))
@pytest.mark.parametrize("routed", ROUTINGS.values(), ids=ROUTINGS.keys())
def test_down_returns_the_tokens_order(weight_format: Format, splits: int, routed: list[int]) -> None:
    weight = experts(weight_format, EXPERTS + 1, 96, 128)
    slots = dispatch(route(logits_for(routed)))
    hidden, scales, worth = operand(activations(2 * len(routed), 128), weight_format)
    parts = down(hidden, weight, tile(splits=splits), slots, x_scales=scales)
    sums = parts.float().unflatten(0, (2, splits)).sum(1)
    assert error(sums, exact_parts(worth, weight, slots)) < (WHOLE if splits > 1 else ROUNDED)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_gate_up_of_experts_narrower_than_a_tile(weight_format: Format) -> None:
    weight = experts(weight_format, 3, 2 * 40, HIDDEN)
    slots = dispatch(route(logits_for([0, 1, 1], 2)))
    x, scales, worth = operand(activations(3, HIDDEN), weight_format)
    hidden = gate_up(x, weight, tile(), dispatch=slots, x_scales=scales)
    assert error(hidden, exact_hidden(worth, weight, slots)) < ROUNDED


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("tokens", [1, 18])
def test_gate_up_of_a_plain_feed_forward_is_one_group(weight_format: Format, tokens: int) -> None:
    weight = matrix(weight_format, 2 * 40, HIDDEN)
    x, scales, worth = operand(activations(tokens, HIDDEN), weight_format)
    got = gate_up(x, weight, tile(), x_scales=scales)
    assert error(got, swiglu(worth @ exact(weight).t())) < ROUNDED


@pytest.mark.parametrize("weight_format", FORMATS)
def test_a_token_through_gate_up_and_down_is_independent_of_its_neighbours(weight_format: Format) -> None:
    weight = experts(weight_format, EXPERTS + 1, 2 * SIZE, HIDDEN)
    back = experts(weight_format, EXPERTS + 1, 96, SIZE)
    own, others = activations(1, HIDDEN), activations(25, HIDDEN)
    own_logits, other_logits = logits_for([1]), logits_for([1] * 9 + [0] * 8 + [4] * 8)

    def run(x: Tensor, logits: Tensor) -> Tensor:
        slots = dispatch(route(logits))
        x_rows, scales, _ = operand(x, weight_format)
        hidden = gate_up(x_rows, weight, tile(), dispatch=slots, x_scales=scales)
        hidden, hidden_scales, _ = operand(hidden, weight_format)
        return down(hidden, back, tile(splits=2), slots, x_scales=hidden_scales)

    alone = run(own, own_logits)
    crowd = run(
        torch.cat([others[:20], own, others[20:]]), torch.cat([other_logits[:20], own_logits, other_logits[20:]])
    )
    assert torch.equal(alone[:, 0], crowd[:, 20])


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("tokens", thinned([1, 3, 4], 3))
def test_gemv_reads_the_experts_of_few_tokens(weight_format: Format, tokens: int) -> None:
    weight = experts(weight_format, EXPERTS + 1, 2 * 40, HIDDEN)
    back = experts(weight_format, EXPERTS + 1, 96, 64)
    routing = route(logits_for([4, 0, 4, 2][:tokens]))
    x = activations(tokens, HIDDEN)
    hidden = gate_up_vector(x, weight, VECTOR, routing)
    groups = [*routing.experts.tolist(), *[EXPERTS] * tokens]
    scores = torch.cat([routing.scores, torch.ones(tokens)]).double()
    rows = x.double().repeat(2, 1) * scores[:, None]
    expected = torch.stack([swiglu(exact_expert(weight, e) @ row) for e, row in zip(groups, rows, strict=True)])
    assert error(hidden, expected) < ROUNDED

    middle = activations(2 * tokens, 64)
    parts = down_vector(middle, back, VECTOR, routing)
    expected = torch.stack([exact_expert(back, e) @ row.double() for e, row in zip(groups, middle, strict=True)])
    assert error(parts.unflatten(0, (2, 2)).sum(1).flatten(0, 1), expected) < WHOLE


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("inputs", thinned([192, 128], 2))
def test_gemv_matches_its_twin(weight_format: Format, inputs: int) -> None:
    weight, x = matrix(weight_format, 50, inputs), activations(3, inputs)
    expected = x.double() @ exact(weight).t()
    assert error(linear_vector(x, weight, VECTOR).sum(0), expected) < WHOLE
    alone = linear_vector(x[1:2], weight, VECTOR)
    assert torch.equal(alone[:, 0], linear_vector(x, weight, VECTOR)[:, 1])


@pytest.mark.parametrize("weight_format", FORMATS)
def test_gemv_of_a_plain_feed_forward_matches_its_twin(weight_format: Format) -> None:
    weight, x = matrix(weight_format, 2 * 40, HIDDEN), activations(2, HIDDEN)
    assert error(gate_up_vector(x, weight, VECTOR), swiglu(x.double() @ exact(weight).t())) < ROUNDED


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 150])
@pytest.mark.parametrize("count", [1, 5, 16, 128])
def test_dispatch_sorts_tokens_by_expert_and_keeps_their_order(tokens: int, count: int) -> None:
    logits = torch.randn(tokens, count)
    routing = route(logits)
    best, top_1 = logits.max(dim=-1)
    assert torch.equal(routing.experts.long(), top_1)
    assert torch.allclose(routing.scores, best.sigmoid(), rtol=1e-6)
    order = torch.argsort(top_1, stable=True)
    counts = torch.bincount(top_1, minlength=count)
    for slots in (dispatch(routing), route_and_dispatch(logits)):
        assert torch.equal(slots.order.long(), torch.cat([order, torch.arange(tokens)]))
        assert torch.equal(slots.scores, torch.cat([routing.scores[order], torch.ones(tokens)]))
        assert slots.offsets.tolist() == [0, *counts.cumsum(0).tolist(), 2 * tokens]


def test_route_takes_the_first_of_equal_experts_and_a_valid_one_for_nan() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0], [float("nan")] * 3, [float("-inf")] * 3])
    experts_of = route(logits).experts
    assert experts_of[0] == 1
    assert int(experts_of.min()) >= 0
    assert int(experts_of.max()) < 3


def test_route_sums_the_parts_of_its_logits() -> None:
    parts = torch.randn(3, 10, 5)
    top_1 = ((parts[0] + parts[1]) + parts[2]).argmax(-1)
    assert torch.equal(route(parts).experts.long(), top_1)
    assert torch.equal(route_and_dispatch(parts).order[:10].long(), torch.argsort(top_1, stable=True))


def test_dispatch_gives_a_slot_to_a_token_without_a_finite_logit() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0], [float("nan")] * 3, [float("-inf")] * 3])
    assert sorted(route_and_dispatch(logits).order.tolist()) == [0, 0, 1, 1, 2, 2]
