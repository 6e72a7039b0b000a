"""Steps that read prompts as graphs: filled up to a few shapes, alone and beside decoding sequences.

`Rerun` stands where a CUDA graph would be and runs the same work over the same tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama4_local.cache.kv_cache import KvCache
from llama4_local.config.model import ModelConfig
from llama4_local.engine import mixed_graphs
from llama4_local.engine.cuda_graphs import Rerun
from llama4_local.engine.engine import EngineLimits
from llama4_local.engine.step_shapes import StepShape, step_shapes
from llama4_local.model.transformer import Model
from llama4_local.ops.batch import Batch
from llama4sdk.request import Sampling
from local.small_backends import Reader, SmallEngine, chatting, check_at_rest, image
from local.small_checkpoints import guard, maverick, prompt, scout
from long_runs import often, thinned

GREEDY = Sampling(temperature=0, max_tokens=6)
SEEDED = Sampling(temperature=1.0, top_p=0.9, seed=7, max_tokens=6)
LIMITS = EngineLimits(step_tokens=48, max_sequences=10)
CHUNK = 64


def chunked(config: ModelConfig) -> ModelConfig:
    """The same network with chunks that are longer than the largest shape."""
    return chatting(replace(config, text=replace(config.text, chunk=CHUNK)), stop_ids=())


NETWORKS = {
    "scout": chunked(scout()),
    "maverick": chunked(maverick()),
    "guard": chatting(guard(), stop_ids=()),
}


def engines(kind: str) -> tuple[SmallEngine, SmallEngine]:
    """One with graphs, and one without."""
    padded, plain = (SmallEngine(NETWORKS[kind], global_pages=256, local_pages=200, limits=LIMITS) for _ in range(2))
    padded.engine.warm_up(Rerun)
    return padded, plain


BOTH = engines("scout")


def no_eager_step(*_: object) -> torch.Tensor:
    raise AssertionError("a step ran without a graph")


@pytest.fixture(autouse=True)
def only_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama4_local.engine.model_runner.forward", no_eager_step)


def texts(small: SmallEngine, prompts: Sequence[list[int]], sampling: Sampling) -> list[str]:
    readers = [small.submit(ids, replace(sampling, seed=n)) for n, ids in enumerate(prompts)]
    small.run()
    assert [reader.error for reader in readers] == [None] * len(readers)
    return [reader.text for reader in readers]


@pytest.mark.parametrize(
    ("kind", "sampling"),
    thinned([("maverick", SEEDED), ("maverick", GREEDY), ("guard", SEEDED), ("guard", GREEDY)], 3),
)
def test_every_prompt_is_read_by_graphs_as_without_them(kind: str, sampling: Sampling) -> None:
    padded, plain = engines(kind)
    for lengths in ([1], [2], [16], [47, 1, 30], [100], [5] * 9 + [70]):
        prompts = [prompt(padded.config, length, seed=n) for n, length in enumerate(lengths)]
        assert texts(padded, prompts, sampling) == texts(plain, prompts, sampling)
    check_at_rest(padded)


@settings(max_examples=often(3, 60), deadline=None)
@given(data=st.data())
def test_prompts_that_come_beside_streams_change_nothing(data: st.DataObject) -> None:
    padded, plain = BOTH
    readers: list[tuple[Reader, list[int]]] = []
    for turn in range(data.draw(st.integers(1, 8), label="turns")):
        for n in range(data.draw(st.integers(0, 3), label="arrivals")):
            ids = prompt(padded.config, data.draw(st.integers(1, 150), label="length"), seed=10 * turn + n)
            readers.append((padded.submit(ids, replace(GREEDY, max_tokens=data.draw(st.integers(1, 9)))), ids))
        for _ in range(data.draw(st.integers(0, 3), label="steps")):
            padded.engine.step()
    padded.run()
    for reader, ids in readers:
        assert reader.done
        assert reader.text == plain.answer(ids, replace(GREEDY, max_tokens=reader.usage.completion_tokens)).text
    check_at_rest(padded)


def test_images_are_read_by_graphs() -> None:
    padded, plain = BOTH
    assert padded.config.vision
    assert padded.config.image_token_id is not None
    ids = [5, *[padded.config.image_token_id] * padded.config.vision.patch_tokens, 6]
    first, second = (padded.answer(ids, tiles=(image(padded.config, 1, seed),)).text for seed in (0, 1))
    assert [first, second] == [plain.answer(ids, tiles=(image(plain.config, 1, seed),)).text for seed in (0, 1)]
    assert first != second


def test_padding_rows_write_to_the_null_page_only() -> None:
    padded, _ = engines("scout")
    cache = padded.engine._cache  # pyright: ignore[reportPrivateUsage]
    for layer in cache.layers:
        layer.keys[1:] = torch.nan
    padded.answer(prompt(padded.config, 17), replace(GREEDY, max_tokens=1))  # in the shape of 24 rows
    written = -(-17 // padded.shape.page_size)
    for layer in cache.layers:
        assert int(layer.keys[1:].isfinite().flatten(1).any(1).sum()) == written
        assert layer.keys[0].isfinite().all()


@pytest.mark.parametrize(("length", "rows"), [(2, 16), (16, 16), (17, 24), (33, 48)])
def test_a_step_takes_the_smallest_shape_that_holds_it(length: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    padded, _ = BOTH
    seen: list[int] = []
    forward = mixed_graphs.forward_embedded

    def noting(model: Model, hidden: torch.Tensor, batch: Batch, cache: KvCache) -> torch.Tensor:
        seen.append(len(hidden))
        return forward(model, hidden, batch, cache)

    monkeypatch.setattr(mixed_graphs, "forward_embedded", noting)
    padded.answer([7, *prompt(padded.config, length - 1, seed=length)], replace(GREEDY, max_tokens=1), salt="another")
    assert seen == [rows]


def test_a_failed_step_leaves_no_stale_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    padded, plain = engines("scout")
    ids = prompt(padded.config, 40)
    with monkeypatch.context() as patch:
        patch.setattr("llama4_local.engine.mixed_graphs.embed", no_eager_step)
        assert padded.answer(ids).error
    assert padded.answer(ids, GREEDY).text == plain.answer(ids, GREEDY).text


def test_shapes_waste_at_most_a_third_of_their_rows_and_hold_every_step() -> None:
    shapes = step_shapes(8192, 64)
    assert shapes[0] == StepShape(16, 8)
    assert shapes[-1] == StepShape(512, 65)
    sizes = sorted({shape.tokens for shape in shapes})
    assert all(next_size <= 3 * size // 2 for size, next_size in pairwise(sizes))
    for tokens in range(1, 513):
        for sequences in range(1, min(tokens, 64) + 1):
            found = next(shape for shape in shapes if shape.holds(tokens, sequences))
            assert found.tokens >= tokens
            assert found.sequences > sequences or found == StepShape(tokens, sequences)


@pytest.mark.parametrize("tokens", [1, 7, 16, 17, 100, 511, 512, 513])
def test_the_largest_shape_is_a_whole_step(tokens: int) -> None:
    assert step_shapes(tokens, 3)[-1] == StepShape(min(tokens, 512), 4)
