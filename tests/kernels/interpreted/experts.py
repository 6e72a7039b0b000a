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
    narrowed,
    swiglu,
    tile,
)
from llama4_local.ops.kernels.down import down
from llama4_local.ops.kernels.gate_up import gate_up
from llama4_local.ops.kernels.gemv import down_vector, gate_up_vector, linear_vector
from llama4_local.ops.kernels.routing import Routing, choose, route, routed
from llama4_local.ops.kernels.tiles import Format, VectorTile
from llama4_local.weights.quantized import Matrix

EXPERTS, HIDDEN, SIZE = 5, 128, 64
VECTOR = VectorTile(16, 64, 2, 4, 1)


def logits_for(chosen: list[int], experts_count: int = EXPERTS) -> Tensor:
    logits = torch.randn(len(chosen), experts_count).clamp(-1, 1)
    logits[torch.arange(len(chosen)), chosen] = torch.rand(len(chosen)) + 1.5
    return logits


def groups(routing: Routing) -> list[tuple[int, int, int]]:
    """(group, first slot, slot after its last)."""
    offsets = routing.offsets.tolist()
    return list(zip(range(len(offsets)), offsets[:-1], offsets[1:], strict=False))


def wanted_hidden(worth: Tensor, weight: Matrix, routing: Routing) -> Tensor:
    """What gate and up make of each slot, in fp64."""
    slots: list[Tensor] = []
    for group, (first, last) in enumerate(
        zip(routing.offsets[:-1].tolist(), routing.offsets[1:].tolist(), strict=True)
    ):
        x = worth[routing.order[first:last].long()] * routing.scores[first:last, None].double()
        slots.append(swiglu(x @ exact_expert(weight, group).t()))
    return torch.cat(slots)


def wanted_parts(worth: Tensor, weight: Matrix, routing: Routing) -> Tensor:
    """What routed and shared experts add to each token, [2, tokens, out], in fp64."""
    count = len(worth) // 2
    out = torch.zeros(2, count, exact_expert(weight, 0).shape[0], dtype=torch.float64)
    for group, (first, last) in enumerate(
        zip(routing.offsets[:-1].tolist(), routing.offsets[1:].tolist(), strict=True)
    ):
        tokens = routing.order[first:last].long()
        out[int(group == len(routing.offsets) - 2), tokens] = worth[first:last] @ exact_expert(weight, group).t()
    return out


ROUTINGS = {
    "one token": [3],
    "all on one expert": [2] * 21,
    "experts without tokens": [0, 4, 4, 0, 4],
    "ragged ends": [0] * 17 + [1] * 16 + [3] * 15 + [4],
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("chosen", ROUTINGS.values(), ids=ROUTINGS.keys())
def test_every_slot_meets_its_expert(form: Format, chosen: list[int]) -> None:
    weight = experts(form, EXPERTS + 1, 2 * SIZE, HIDDEN)
    routing = route(choose(logits_for(chosen)))
    x, scales, worth = narrowed(activations(len(chosen), HIDDEN), form)
    hidden = gate_up(x, weight, tile(), routing=routing, x_scales=scales)
    assert error(hidden, wanted_hidden(worth, weight, routing)) < ROUNDED


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("chosen", ROUTINGS.values(), ids=ROUTINGS.keys())
def test_experts_answer_in_the_tokens_order(form: Format, splits: int, chosen: list[int]) -> None:
    weight = experts(form, EXPERTS + 1, 96, 128)
    routing = route(choose(logits_for(chosen)))
    hidden, scales, worth = narrowed(activations(2 * len(chosen), 128), form)
    parts = down(hidden, weight, tile(splits=splits), routing, x_scales=scales)
    sums = parts.float().unflatten(0, (2, splits)).sum(1)
    assert error(sums, wanted_parts(worth, weight, routing)) < (WHOLE if splits > 1 else ROUNDED)


@pytest.mark.parametrize("form", FORMATS)
def test_an_expert_need_not_be_as_wide_as_a_tile(form: Format) -> None:
    weight = experts(form, 3, 2 * 40, HIDDEN)
    routing = route(choose(logits_for([0, 1, 1], 2)))
    x, scales, worth = narrowed(activations(3, HIDDEN), form)
    hidden = gate_up(x, weight, tile(), routing=routing, x_scales=scales)
    assert error(hidden, wanted_hidden(worth, weight, routing)) < ROUNDED


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("tokens", [1, 18])
def test_a_plain_feed_forward_is_one_group(form: Format, tokens: int) -> None:
    weight = matrix(form, 2 * 40, HIDDEN)
    x, scales, worth = narrowed(activations(tokens, HIDDEN), form)
    got = gate_up(x, weight, tile(), x_scales=scales)
    assert error(got, swiglu(worth @ exact(weight).t())) < ROUNDED


@pytest.mark.parametrize("form", FORMATS)
def test_a_token_does_not_depend_on_its_neighbours(form: Format) -> None:
    weight = experts(form, EXPERTS + 1, 2 * SIZE, HIDDEN)
    back = experts(form, EXPERTS + 1, 96, SIZE)
    own, others = activations(1, HIDDEN), activations(25, HIDDEN)
    own_logits, other_logits = logits_for([1]), logits_for([1] * 9 + [0] * 8 + [4] * 8)

    def run(x: Tensor, logits: Tensor) -> Tensor:
        routing = route(choose(logits))
        narrow, scales, _ = narrowed(x, form)
        hidden, hidden_scales, _ = narrowed(gate_up(narrow, weight, tile(), routing=routing, x_scales=scales), form)
        return down(hidden, back, tile(splits=2), routing, x_scales=hidden_scales)

    alone = run(own, own_logits)
    crowd = run(
        torch.cat([others[:20], own, others[20:]]), torch.cat([other_logits[:20], own_logits, other_logits[20:]])
    )
    assert torch.equal(alone[:, 0], crowd[:, 20])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("tokens", [1, 3, 4])
def test_few_tokens_read_their_experts_directly(form: Format, tokens: int) -> None:
    weight = experts(form, EXPERTS + 1, 2 * 40, HIDDEN)
    back = experts(form, EXPERTS + 1, 96, 64)
    choice = choose(logits_for([4, 0, 4, 2][:tokens]))
    x = activations(tokens, HIDDEN)
    hidden = gate_up_vector(x, weight, VECTOR, choice)
    chosen = [*choice.experts.tolist(), *[EXPERTS] * tokens]
    scores = torch.cat([choice.scores, torch.ones(tokens)]).double()
    rows = x.double().repeat(2, 1) * scores[:, None]
    wanted = torch.stack([swiglu(exact_expert(weight, e) @ row) for e, row in zip(chosen, rows, strict=True)])
    assert error(hidden, wanted) < ROUNDED

    middle = activations(2 * tokens, 64)
    parts = down_vector(middle, back, VECTOR, choice)
    wanted = torch.stack([exact_expert(back, e) @ row.double() for e, row in zip(chosen, middle, strict=True)])
    assert error(parts.unflatten(0, (2, 2)).sum(1).flatten(0, 1), wanted) < WHOLE


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("inputs", [128, 192])
def test_a_vector_product_is_its_twins(form: Format, inputs: int) -> None:
    weight, x = matrix(form, 50, inputs), activations(3, inputs)
    wanted = x.double() @ exact(weight).t()
    assert error(linear_vector(x, weight, VECTOR).sum(0), wanted) < WHOLE
    alone = linear_vector(x[1:2], weight, VECTOR)
    assert torch.equal(alone[:, 0], linear_vector(x, weight, VECTOR)[:, 1])


@pytest.mark.parametrize("form", FORMATS)
def test_a_plain_feed_forward_has_a_vector_form(form: Format) -> None:
    weight, x = matrix(form, 2 * 40, HIDDEN), activations(2, HIDDEN)
    assert error(gate_up_vector(x, weight, VECTOR), swiglu(x.double() @ exact(weight).t())) < ROUNDED


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 150])
@pytest.mark.parametrize("count", [1, 5, 16, 128])
def test_tokens_are_sorted_by_expert_and_keep_their_order(tokens: int, count: int) -> None:
    logits = torch.randn(tokens, count)
    choice = choose(logits)
    best, chosen = logits.max(dim=-1)
    assert torch.equal(choice.experts.long(), chosen)
    assert torch.allclose(choice.scores, best.sigmoid(), rtol=1e-6)
    order = torch.argsort(chosen, stable=True)
    counts = torch.bincount(chosen, minlength=count)
    for routing in (route(choice), routed(logits)):
        assert torch.equal(routing.order.long(), torch.cat([order, torch.arange(tokens)]))
        assert torch.equal(routing.scores, torch.cat([choice.scores[order], torch.ones(tokens)]))
        assert routing.offsets.tolist() == [0, *counts.cumsum(0).tolist(), 2 * tokens]


def test_equal_logits_go_to_the_first_expert_and_no_logit_leads_astray() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0], [float("nan")] * 3, [float("-inf")] * 3])
    choice = choose(logits)
    assert choice.experts[0] == 1
    assert int(choice.experts.min()) >= 0
    assert int(choice.experts.max()) < 3


def test_router_logits_may_come_in_parts() -> None:
    parts = torch.randn(3, 10, 5)
    chosen = ((parts[0] + parts[1]) + parts[2]).argmax(-1)
    assert torch.equal(choose(parts).experts.long(), chosen)
    assert torch.equal(routed(parts).order[:10].long(), torch.argsort(chosen, stable=True))


def test_a_token_that_chooses_nothing_still_gets_a_slot() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0], [float("nan")] * 3, [float("-inf")] * 3])
    assert sorted(routed(logits).order.tolist()) == [0, 0, 1, 1, 2, 2]
