"""Steps over ranks as graphs: every rank replays the same shape, and answers are those of eager steps.

`Rerun` stands where a CUDA graph would be and runs the same work over the same tensors; ranks are threads over gloo.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama4_local.config.model import ModelConfig
from llama4_local.engine import eager_runner
from llama4_local.engine.cuda_graphs import Capture, Graph, Rerun
from llama4_local.engine.rank_graphs import GraphStep, RankGraphs
from llama4_local.model.ranks import RankLost
from llama4_local.ops.reference.functions import ReferenceOps
from local.divisible import SHAPES
from local.rank_threads import model_over_threads
from local.small_backends import Reader, SmallEngine, chatting, check_at_rest, image
from local.small_checkpoints import prompt
from local.test_device_steps import ADJUSTED, GREEDY, LIMITS, SEEDED, FollowsWritten, reports
from long_runs import LONG, often

# Steps have up to 16 tokens, and chunks 8, so that steps larger than any shape run eagerly.
KINDS = [("scout", 2), ("maverick", 2), ("guard", 2), ("scout", 4), ("maverick", 4)] if LONG else [("maverick", 2)]
TIE = 2e-5  # of log-probabilities
Replays = dict[int, list[tuple[int, int, bool]]]


def small(name: str) -> ModelConfig:
    """Return a network of the last layers of a shape."""
    config, count = chatting(SHAPES[name], stop_ids=()), 8 if LONG else 2
    text = config.text
    kinds = {"rope_layers": text.rope_layers[-count:], "moe_layers": text.moe_layers[-count:]}
    return replace(config, text=replace(text, **kinds))


class Pair:
    """An engine with graphs and one without, over the same ranks."""

    def __init__(self, config: ModelConfig, ranks: int = 2, *, whole: bool = False, capture: Capture = Rerun) -> None:
        self.model = model_over_threads(config, ranks, whole_experts=whole, capture=capture)
        self.config = self.model.config
        self.graphs, self.eager = (SmallEngine(self.config, model=self.model, limits=LIMITS) for _ in range(2))
        self.progress: list[tuple[int, int]] = []

    def warm_up(self, capture: Capture = Rerun) -> None:
        self.graphs.engine.warm_up(capture, lambda done, total: self.progress.append((done, total)))


@contextmanager
def paired(pair: Pair, capture: Capture | None = Rerun) -> Generator[Pair]:
    try:
        if capture is not None:
            pair.warm_up(capture)
        yield pair
    finally:
        assert pair.model.ranks
        pair.model.ranks.close()


@pytest.fixture(scope="module", params=KINDS, ids=str)
def pair(request: pytest.FixtureRequest) -> Generator[Pair]:
    name, ranks = request.param
    with paired(Pair(small(name), ranks)) as made:
        yield made


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> Replays:
    """The shapes that each rank replays."""
    seen: Replays = {rank: [] for rank in range(4)}
    real = RankGraphs._replayed  # pyright: ignore[reportPrivateUsage]

    def noting(self: RankGraphs, step: GraphStep, features: torch.Tensor | None) -> torch.Tensor:
        shape = self.shapes[step.shape]
        seen[self._ranks.share.rank].append((shape.tokens, shape.sequences, shape.decoding))  # pyright: ignore
        return real(self, step, features)

    monkeypatch.setattr(RankGraphs, "_replayed", noting)
    return seen


def texts(engine: SmallEngine, prompts: Sequence[list[int]]) -> list[str]:
    readers: list[Reader] = []
    for n, ids in enumerate(prompts):
        sampling = replace(SEEDED if n % 2 else GREEDY, max_tokens=3 + n)
        readers.append(engine.submit(ids, sampling, mask=FollowsWritten() if n == 2 else None))
        if n == len(prompts) // 2:
            for _ in range(3):
                engine.engine.step()
    engine.run()
    assert [reader.error for reader in readers] == [None] * len(readers)
    return [reader.text for reader in readers]


def agree(pair: Pair, replays: Replays) -> None:
    """Check that all ranks of a pair have replayed the same shapes."""
    assert pair.model.ranks
    assert replays[0]
    assert all(replays[rank] == replays[0] for rank in range(pair.model.ranks.size))


def test_prompts_beside_streams_are_answered_as_by_eager_steps(
    pair: Pair, replayed: Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, eager = eager_runner.forward, list[int]()

    def noting(*arguments: object) -> torch.Tensor:
        eager.append(len(replayed[0]))
        return forward(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(eager_runner, "forward", noting)
    prompts = [prompt(pair.config, length, seed=length) for length in (1, 9, 4, 4, 30, 25, 20)]
    found = texts(pair.graphs, prompts)
    assert {decoding for *_, decoding in replayed[0]} == {True, False}
    between = any(0 < before < len(replayed[0]) for before in eager)  # steps that no shape holds
    assert between == (pair.config.text.chunk is not None)
    agree(pair, replayed)
    assert found == texts(pair.eager, prompts)
    check_at_rest(pair.graphs)


@pytest.mark.parametrize("kinds", [list(ADJUSTED)[:5], list(ADJUSTED)[5:]] if LONG else [["penalties", "report"]])
def test_rows_with_penalties_and_reports_have_the_scores_of_eager_steps(
    pair: Pair, replayed: Replays, kinds: list[str]
) -> None:
    def answered(engine: SmallEngine) -> list[Reader]:
        readers = [
            engine.submit(prompt(pair.config, 3 + n, seed=n), replace(ADJUSTED[kind], max_tokens=5))
            for n, kind in enumerate(kinds)
        ]
        engine.run()
        return readers

    found, wanted = answered(pair.graphs), answered(pair.eager)
    assert [reader.text for reader in found] == [reader.text for reader in wanted]
    for own, other in zip(map(reports, found), map(reports, wanted), strict=True):
        assert [token for token, _ in own] == [token for token, _ in other]
        assert [score for _, score in own] == pytest.approx([score for _, score in other], abs=1e-4)
    agree(pair, replayed)


def test_images_travel_with_the_steps_that_read_them(pair: Pair, replayed: Replays) -> None:
    assert pair.config.vision
    assert pair.config.image_token_id is not None
    ids = [5, *[pair.config.image_token_id] * pair.config.vision.patch_tokens, 6]
    tiles = [(image(pair.config, 1, seed),) for seed in (0, 1)]
    first, second = (pair.graphs.answer(ids, tiles=each).text for each in tiles)
    assert [first, second] == [pair.eager.answer(ids, tiles=each).text for each in tiles]
    assert first != second
    assert any(not decoding for *_, decoding in replayed[0])
    agree(pair, replayed)


@settings(max_examples=often(1, 40), deadline=None)
@given(data=st.data())
def test_requests_that_come_and_go_change_nothing(pair: Pair, data: st.DataObject) -> None:
    readers: list[tuple[Reader, list[int], int]] = []
    for turn in range(data.draw(st.integers(2, 6), label="turns")):
        for _ in range(data.draw(st.integers(0, 2), label="arrivals")):
            ids = prompt(pair.config, data.draw(st.integers(1, 30), label="length"), seed=turn)
            most = data.draw(st.integers(1, 8), label="tokens")
            readers.append((pair.graphs.submit(ids, replace(GREEDY, max_tokens=most)), ids, most))
        for _ in range(data.draw(st.integers(0, 4), label="steps")):
            pair.graphs.engine.step()
        if readers and data.draw(st.booleans(), label="cancel"):
            order = readers.pop()[0].engine_request
            assert order
            pair.graphs.engine.cancel(order)
    pair.graphs.run()
    for reader, ids, most in readers:
        found = written(reader)
        other = pair.eager.answer(ids, replace(GREEDY, max_tokens=most, logprobs=2))
        pairs = enumerate(zip(found, written(other), strict=True))
        parting = next((place for place, (mine, theirs) in pairs if mine != theirs), None)
        if parting is not None:  # of the random prompts some have two tokens that fp32 does not tell apart
            (_, _), (_, first), (_, second) = reports(other)[3 * parting : 3 * parting + 3]
            assert first - second < TIE
    check_at_rest(pair.graphs)


def written(reader: Reader) -> list[int]:
    """Return the tokens of an answer."""
    assert reader.engine_request
    return list(reader.engine_request.written)


def test_every_shape_is_captured_on_every_rank_once_from_the_largest_on_and_progress_is_shown() -> None:
    captured: dict[str, list[int]] = {"first": [], "second": []}

    def noting(place: str) -> Capture:
        def capture(work: Callable[[], None]) -> Graph:
            captured[place].append(len(captured[place]))
            return Rerun(work)

        return capture

    with paired(Pair(one_layer(), capture=noting("second")), noting("first")) as pair:
        runner = pair.graphs.engine._runner  # pyright: ignore[reportPrivateUsage]
        assert isinstance(runner, eager_runner.EagerRunner)
        graphs = runner._graphs  # pyright: ignore[reportPrivateUsage]
        assert graphs
        assert len(captured["first"]) == len(captured["second"]) == len(graphs.shapes)
        sizes = [graphs.shapes[place].tokens for place in graphs.falling]
        assert sizes == sorted(sizes, reverse=True)
        assert pair.progress[-1] == (len(pair.progress) - 1,) * 2
        assert [done for done, _ in pair.progress] == list(range(len(pair.progress)))
        pair.graphs.engine.close()
        assert not graphs._graphs  # pyright: ignore[reportPrivateUsage]


def one_layer() -> ModelConfig:
    config = small("guard")
    return replace(config, text=replace(config.text, rope_layers=(True,), moe_layers=(False,)))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("when", ["captured", "replayed"])
def test_a_rank_that_fails_in_a_graph_ends_the_engine(rank: int, when: str) -> None:
    def fails(_: Callable[[], None]) -> Graph:
        if when == "captured":
            raise RuntimeError("operation not permitted when stream is capturing")
        return Rerun(_fail)

    own, theirs = (fails, Rerun) if rank == 0 else (Rerun, fails)
    made, lost = Pair(one_layer(), capture=theirs), threading.Event()
    with paired(made, None):
        assert made.model.ranks
        made.model.ranks.when_lost(lost.set)
        with pytest.raises(RankLost, match=r"failed with|has ended") as caught:
            made.warm_up(own)
        assert not caught.value.retryable
        assert lost.wait(20)
        with pytest.raises(RankLost):
            made.model.ranks.check()


def _fail() -> None:
    raise RuntimeError("launch failure")


def test_rank_0_that_fails_amid_an_eager_step_ends_the_engine_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Pair(one_layer())

    def out_of_memory(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    with paired(made, None):
        made.eager.submit([1, 2, 3])
        monkeypatch.setattr(ReferenceOps, "attention", out_of_memory)
        with pytest.raises(RankLost):
            made.eager.engine.step()


def test_ranks_with_whole_experts_have_no_graphs() -> None:
    config = small("scout")
    with paired(Pair(config, whole=True)) as pair:
        prompts = [prompt(pair.config, 5)]
        assert texts(pair.graphs, prompts) == texts(pair.eager, prompts)
        assert pair.graphs.engine._runner._graphs is None  # pyright: ignore
