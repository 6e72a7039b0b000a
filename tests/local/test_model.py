"""The network's functions: what one step may depend on, and what training shares with serving."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from llama4_local.cache.kv_cache import KvCache
from llama4_local.cache.page_table import CacheShape, PageAllocators, SequencePages
from llama4_local.config.invariant import BrokenInvariant
from llama4_local.config.model import ModelConfig, RopeScaling
from llama4_local.model.rope import text_frequencies, text_rope, vision_rope
from llama4_local.model.transformer import Model, forward, logits, temperature
from llama4_local.model.vision import encode_tiles, pixel_shuffle, unfold
from llama4_local.nano.training.forward import causal_attention, training_forward
from llama4_local.ops.batch import SequenceInput, build_batch
from llama4_local.ops.reference.heads import rotate
from llama4_local.ops.reference.moe import experts, mlp
from llama4_local.ops.reference.rows import linear, rms_norm
from llama4_local.scoring import score_with
from llama4_local.weights.schema import random_weights
from llama4sdk.errors import InvalidRequest
from local.small_checkpoints import CHUNK, PATCH, biting_weights, guard, maverick, prompt, scout, text_only, tile_pixels

MAKERS = {"scout": scout, "maverick": maverick, "guard": guard}


@pytest.fixture(scope="module", params=MAKERS)
def model(request: pytest.FixtureRequest) -> Model:
    config = MAKERS[str(request.param)]()
    return Model.create(config, biting_weights(config))


class Server:
    """A cache and the sequences in it: what an engine does, without the engine."""

    def __init__(self, model: Model, pages: int = 60, page_size: int = 4) -> None:
        self.model = model
        chunk = model.config.text.chunk
        shape = CacheShape(pages, 0 if chunk is None else max(1, 240 // page_size), page_size, chunk)
        self.pages = PageAllocators(shape)
        self.cache = KvCache.allocate(model.config.text, shape, dtype=model.dtype)

    @torch.inference_mode()
    def step(self, *parts: tuple[SequencePages, list[int]]) -> Tensor:
        """Run one step and return the scores after each part."""
        for pages, ids in parts:
            self.cache.copy(pages.extend(len(ids)))
        batch = build_batch([SequenceInput(pages, ids) for pages, ids in parts])
        return logits(self.model, forward(self.model, batch, self.cache)[batch.last_rows])

    def fill(self, value: float) -> None:
        for pair in self.cache.storage.values():
            for tensor in pair:
                tensor.fill_(value)


def close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() < 2e-5)


def test_batch_mates_do_not_change_a_sequence(model: Model):
    texts = [prompt(model.config, length, seed=length) for length in (3, 8, 13, 21)]
    alone = [score_with(model, ids) for ids in texts]
    server = Server(model)
    sequences = [server.pages.sequence() for _ in texts]
    for start in range(21):
        parts: list[tuple[SequencePages, list[int]]] = []
        for number, (sequence, ids) in enumerate(zip(sequences, texts, strict=True)):
            room = min(sequence.room_in_chunk() or 3, 1 + (start + number) % 3)
            if sequence.length < len(ids):
                parts.append((sequence, ids[sequence.length : sequence.length + room]))
        if not parts:
            break
        found = server.step(*parts)
        for row, (sequence, _) in enumerate(parts):
            expected = alone[sequences.index(sequence)][sequence.length - 1]
            assert close(found[row], expected)
    assert [sequence.length for sequence in sequences] == [len(ids) for ids in texts]


def test_fault_57_what_pages_held_before_is_never_read(model: Model):
    server = Server(model)
    server.fill(math.nan)
    first, second = prompt(model.config, 6, seed=1), prompt(model.config, 3, seed=2)
    one, other = server.pages.sequence(), server.pages.sequence()
    server.step((one, first[:5]), (other, second[:2]))
    found = server.step((one, first[5:]), (other, second[2:]))
    assert close(found[0], score_with(model, first)[-1])
    assert close(found[1], score_with(model, second)[-1])


def test_fault_57_nan_in_one_row_stays_in_that_row():
    config = scout()
    weights = biting_weights(config)
    weights.embedding[7] = math.nan
    server = Server(Model.create(config, weights))
    sick, sound = server.pages.sequence(), server.pages.sequence()
    server.step((sick, [7, 8, 7]), (sound, [9, 10]))
    found = server.step((sick, [7]), (sound, [11]))
    assert found[0].isnan().any()
    assert close(found[1], score_with(server.model, [9, 10, 11])[-1])


@pytest.mark.parametrize("make", [scout, maverick])
def test_at_a_chunk_edge_no_local_key_or_value_is_needed(make: Any):
    model = Model.create(make(), biting_weights(make()))
    found: list[Tensor] = []
    for scramble in (False, True):
        server = Server(model)
        sequence = server.pages.sequence()
        server.step((sequence, prompt(model.config, CHUNK)))
        if scramble:
            for tensor in server.cache.storage["local"]:
                tensor.fill_(math.nan)
        found.append(server.step((sequence, [1, 2, 3])))
    assert torch.equal(found[0], found[1])


def test_a_fork_goes_its_own_way(model: Model):
    server = Server(model)
    sequence = server.pages.sequence()
    server.step((sequence, [1, 2, 3, 4, 5]))
    twin = sequence.fork()
    server.step((sequence, [6]), (twin, [7]))
    found = server.step((sequence, [8]), (twin, [9]))
    assert close(found[0], score_with(model, [1, 2, 3, 4, 5, 6, 8])[-1])
    assert close(found[1], score_with(model, [1, 2, 3, 4, 5, 7, 9])[-1])


def test_an_image_placeholder_without_features_is_an_ordinary_token(model: Model):
    server = Server(model)
    found = server.step((server.pages.sequence(), [1, PATCH]))
    assert found.isfinite().all()


def test_an_empty_step_and_unmatched_features_are_refused(model: Model):
    server = Server(model)
    sequence = server.pages.sequence()
    with pytest.raises(BrokenInvariant):
        build_batch([])
    with pytest.raises(BrokenInvariant):
        build_batch([SequenceInput(sequence, [1])])
    sequence.extend(2)
    with pytest.raises(BrokenInvariant, match="1 image placeholders but 2 features"):
        build_batch([SequenceInput(sequence, [1, PATCH], torch.zeros(2, 64))], image_token_id=PATCH)


def padded(texts: list[list[int]], filler: int) -> tuple[Tensor, Tensor]:
    longest = max(map(len, texts))
    rows = [ids + [filler] * (longest - len(ids)) for ids in texts]
    return torch.tensor(rows), torch.tensor([len(ids) for ids in texts])


def test_training_sees_what_serving_sees(model: Model):
    config = model.config
    texts = [prompt(config, 20, 1), prompt(config, 31, 2, seed=3), prompt(config, 5, seed=4)]
    pixels = tile_pixels(config, 3)
    features = encode_tiles(model, pixels).flatten(0, 1)
    hidden = training_forward(model, *padded(texts, filler=9), features)
    for row, own in enumerate((pixels[:1], pixels[1:], None)):
        length = len(texts[row])
        assert close(logits(model, hidden[row, :length]), score_with(model, texts[row], pixels=own))
        assert not hidden[row, length:].any()


def test_training_ignores_what_stands_in_the_padding(model: Model):
    texts = [prompt(model.config, 12), prompt(model.config, 4)]
    one, other = (training_forward(model, *padded(texts, filler)) for filler in (1, 200))
    assert torch.equal(one, other)


def test_every_parameter_gets_its_gradient():
    config = maverick()
    weights = biting_weights(config).map(lambda tensor: tensor.requires_grad_())
    model = Model.create(config, weights)
    ids, lengths = padded([prompt(config, 40, 2), prompt(config, 25)], filler=0)
    features = encode_tiles(model, tile_pixels(config, 2)).flatten(0, 1)
    logits(model, training_forward(model, ids, lengths, features)).square().mean().backward()
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in weights.leaves())


def test_a_gradient_points_down_hill():
    config = text_only()
    weights = random_weights(config, 0, std=0.1).map(lambda tensor: tensor.double().requires_grad_())
    model = Model.create(config, weights)
    ids, lengths = padded([prompt(config, 12)], filler=0)

    def loss() -> Tensor:
        return training_forward(model, ids, lengths).double().pow(2).mul(torch.arange(64)).mean()

    loss().backward()
    for leaf in (weights.embedding, weights.layers[0].attention.qkv, weights.layers[3].attention.output):
        assert leaf.grad is not None
        steepness = float(leaf.grad.norm())
        step = 1e-4 * leaf.grad / steepness
        with torch.no_grad():
            before = loss()
            leaf += step
            gained = (loss() - before) / 1e-4
            leaf -= step
        assert gained == pytest.approx(steepness, rel=0.02)


def test_short_bf16_attention_written_out_is_the_fused_one():
    q, k, v = (torch.randn(2, heads, 20, 16) for heads in (10, 2, 2))
    fused = causal_attention(q, k, v)
    written = causal_attention(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert (fused - written.float()).abs().max() < 0.05


def test_a_token_touches_only_the_expert_it_is_routed_to():
    weights = biting_weights(scout()).layers[0].moe
    assert weights is not None
    x = torch.randn(6, 64)
    scores = linear(x, weights.router)
    scores[:, 1] = 100.0
    whole = experts(x, scores, weights)
    for expert in (0, 2, 3):
        weights.gate_up[expert] = math.nan
        weights.down[expert] = math.nan
    assert torch.equal(experts(x, scores, weights), whole)
    assert close(experts(x[:1], scores[:1], weights), whole[:1])


def test_the_score_multiplies_the_experts_input():
    weights = biting_weights(scout()).layers[0].moe
    assert weights is not None
    x = torch.randn(5, 64)
    scores = linear(x, weights.router)
    for row, found in zip(x, experts(x, scores, weights), strict=True):
        logit, chosen = linear(row[None], weights.router).max(dim=-1)
        gate, up = ((row * logit.sigmoid()) @ weights.gate_up[chosen[0]]).chunk(2)
        expected = (torch.nn.functional.silu(gate) * up) @ weights.down[chosen[0]] + mlp(row[None], weights.shared)
        assert close(found, expected)


def test_the_norm_is_taken_in_fp32_and_weighted_after_the_cast():
    x, weight = torch.randn(3, 64).bfloat16() * 30, torch.randn(64).bfloat16()
    wide = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-5)
    assert torch.equal(rms_norm(x, weight, 1e-5), wide.bfloat16() * weight)


@pytest.mark.parametrize("rows", [1, 2, 16, 17])
def test_a_linear_map_is_the_same_for_few_rows_and_many(rows: int):
    x, weight = torch.randn(rows, 24), torch.randn(40, 24)
    with torch.no_grad():
        found = linear(x, weight)
    assert found.is_contiguous()
    assert close(found, x @ weight.T)


def test_rotation_turns_interleaved_pairs():
    angle = torch.tensor([[0.5, 1.0]])
    turned = rotate(torch.tensor([[[1.0, 0.0, 0.0, 1.0]]]), torch.stack([angle.cos(), angle.sin()], dim=-1))
    assert close(turned[0, 0], torch.tensor([math.cos(0.5), math.sin(0.5), -math.sin(1.0), math.cos(1.0)]))


def test_scores_depend_on_distances_only_so_a_table_of_one_chunk_serves_any_position():
    text = scout().text
    rope, direct = text_rope(text), text_rope(replace(text, chunk=None))
    far = 10_485_760 * 7
    positions = torch.arange(far, far + CHUNK)
    q, k = torch.randn(CHUNK, 1, text.head_dim), torch.randn(CHUNK, 1, text.head_dim)

    def scores(rows: Tensor) -> Tensor:
        return rotate(q, rows)[:, 0] @ rotate(k, rows)[:, 0].T

    assert rope.rows(positions).isfinite().all()
    assert close(scores(rope.rows(positions)), scores(direct.rows(positions)))


def test_a_sequence_that_is_twenty_million_tokens_long_can_go_on():
    config = ModelConfig(replace(scout().text, rope_layers=(True,) * 8, chunk=4096))
    model = Model.create(config, biting_weights(config))
    near, far = Server(model, pages=6000, page_size=4096), Server(model, pages=6000, page_size=4096)
    start, end = near.pages.sequence(), far.pages.sequence()
    end.length = 10_485_760 * 2  # as restored at a chunk edge: no local page is needed
    end.global_pages = far.pages.global_pool.take(end.length // 4096)
    assert close(near.step((start, [1, 2, 3])), far.step((end, [1, 2, 3])))


def test_scouts_two_published_ropes_differ_on_35_of_64_pairs():
    text = replace(scout().text, head_dim=128)
    final = text_frequencies(replace(text, rope_scaling=RopeScaling(16.0, 1.0, 1.0, 8192)))
    early = text_frequencies(replace(text, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192)))
    assert int((final != early).sum()) == 35


def test_the_temperature_rises_from_the_first_floor_on():
    text = replace(scout().text, floor_scale=8192)
    found = temperature(text, torch.tensor([0, 8190, 8191, 16383, 10_485_759]))
    assert found is not None
    expected = [1.0, 1.0, 1 + 0.1 * math.log(2), 1 + 0.1 * math.log(3), 1 + 0.1 * math.log(1281)]
    assert found.tolist() == pytest.approx(expected)
    assert temperature(replace(text, temperature_tuning=False), torch.tensor([9000])) is None


def test_patches_follow_one_another_as_in_the_published_unfold():
    pixels = torch.randn(2, 3, 16, 16)
    assert torch.equal(unfold(pixels, 4), torch.nn.functional.unfold(pixels, 4, stride=4).transpose(1, 2))


def test_pixel_shuffle_joins_four_neighbours():
    vision = scout().vision
    assert vision is not None
    x = torch.arange(16.0).view(1, 16, 1)
    assert pixel_shuffle(x, vision)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_the_class_token_is_not_turned():
    vision = scout().vision
    assert vision is not None
    table = vision_rope(vision)
    assert table.shape == (vision.patches + 1, vision.head_dim // 2, 2)
    assert table[-1].tolist() == [[1.0, 0.0]] * (vision.head_dim // 2)


def test_tiles_are_encoded_alike_alone_and_together(model: Model):
    pixels = tile_pixels(model.config, 3)
    together = encode_tiles(model, pixels)
    assert together.shape == (3, 4, 64)
    assert close(torch.cat([encode_tiles(model, tile[None]) for tile in pixels]), together)


def test_tiles_of_another_size_and_text_only_models_are_refused(model: Model):
    with pytest.raises(InvalidRequest, match="tiles must be"):
        encode_tiles(model, torch.zeros(1, 3, 8, 8))
    blind = Model.create(text_only(), biting_weights(text_only()))
    with pytest.raises(InvalidRequest, match="no image encoder"):
        encode_tiles(blind, torch.zeros(1, 3, 16, 16))
