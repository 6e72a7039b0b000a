"""Positions beyond ten million: a small chunk, a huge origin, and a session's file to get there with a small cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import log
from pathlib import Path

import pytest
import torch

from llama4_local.backend import LocalBackend
from llama4_local.cache.page_table import CacheShape, PageAllocators
from llama4_local.cache.session_store import SessionState
from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.config.invariant import BrokenInvariant
from llama4_local.config.model import ModelConfig
from llama4_local.serving.session_file import SavedSession, read_session, write_session
from llama4sdk.errors import CheckpointError
from llama4sdk.events import Done, TextDelta
from llama4sdk.messages import conversation
from llama4sdk.request import Request, Sampling
from local.small_backends import asking, chatting, saved_chat, serving, tokenizer_file
from local.small_checkpoints import CHUNK, biting_weights, scout

FAR = 10_485_760 * 3 + 5 * CHUNK  # of so many tokens no cache is made
LONG = "hello world " * 12
SAMPLING = Sampling(temperature=0, max_tokens=12, logprobs=1)


def tuned(*, tuning: bool = True) -> ModelConfig:
    """Temperature rises every 8192 positions, as in the published models."""
    config = chatting(stop_ids=())
    return replace(config, text=replace(config.text, floor_scale=8192, temperature_tuning=tuning))


def as_if_far(folder: Path) -> Path:
    """Save a network that near the beginning does what `tuned` does at `FAR`: its queries are larger by that much."""
    config = tuned(tuning=False)
    weights = biting_weights(config)
    factor = 1 + config.text.attn_scale * log((FAR + 1) // 8192 + 1)
    queries = config.text.heads * config.text.head_dim
    for index, layer in enumerate(weights.layers):
        if not config.text.rope_layers[index]:
            layer.attention.qkv[:queries] *= factor
    save_checkpoint(folder, config, weights)
    (folder / "tokenizer.json").write_bytes(tokenizer_file())
    return folder


async def said(source: object, *prompts: str) -> tuple[str, list[float], int]:
    """The answer's text, its log-probabilities, and how many tokens were in the cache."""
    messages = conversation([{"role": "user", "content": prompt} for prompt in prompts])
    async with source.open(Request(messages, sampling=SAMPLING)) as events:  # type: ignore[attr-defined]
        found = [event async for event in events]
    deltas = [event for event in found if isinstance(event, TextDelta)]
    done = found[-1]
    assert isinstance(done, Done)
    assert done.usage
    logprobs = [one.logprob for delta in deltas for one in delta.logprobs]
    return "".join(delta.text for delta in deltas), logprobs, done.usage.cached_tokens


async def saved_with(folder: Path, path: Path, change: Callable[[SavedSession], SavedSession]) -> None:
    """Save a session of `LONG`, and change what its file says."""
    async with serving(folder) as backend, await backend.session(asking(LONG)) as session:
        await session.save(path)
    write_session(path, change(read_session(path)))


# Products are timed at a start and may round otherwise at the next one, but not so.
exactly = partial(serving, deterministic=True)


def moved(session: SavedSession) -> SavedSession:
    """The same tokens at `FAR`; what was computed near the beginning is computed again there."""
    state = SessionState(session.state.keys[:, :0], session.state.values[:, :0])
    return replace(session, origin=FAR, state=state)


async def rope_rows(backend: LocalBackend) -> int:
    worker, _ = backend.running()
    table = await worker.ask(lambda engine: engine._model.rope.table)  # pyright: ignore[reportPrivateUsage]
    assert table is not None
    return len(table)


async def test_a_restored_session_goes_on_beyond_thirty_million_tokens(tmp_path: Path) -> None:
    path = tmp_path / "session"
    folder = saved_chat(tmp_path / "model", tuned())
    await saved_with(folder, path, moved)
    async with serving(as_if_far(tmp_path / "oracle")) as oracle:
        expected, scores, _ = await said(oracle, LONG, "more")
    async with serving(folder) as backend:
        assert backend.capabilities.context == scout().text.max_positions < FAR
        assert await rope_rows(backend) == CHUNK
        async with await backend.restore(path) as session:
            text, found, cached = await said(session, "more")
            assert (text, cached) == (expected, 0)
            assert found == pytest.approx(scores, abs=1e-3)
        near, near_scores, _ = await said(backend, LONG, "more")
    assert near != text or near_scores != pytest.approx(found, abs=1e-3)  # there the temperature is another


async def test_a_far_session_is_saved_with_its_place_and_goes_on_exactly(tmp_path: Path) -> None:
    path = tmp_path / "session"
    folder = saved_chat(tmp_path / "model", tuned())
    await saved_with(folder, path, moved)
    async with exactly(folder) as backend, await backend.restore(path) as session:
        await said(session, "more")
        await session.save(path)
        expected = [(await said(session, text))[:2] for text in ("and more", "and more")]
        kept = session.tokens
    assert read_session(path).origin == FAR
    async with exactly(folder) as backend, await backend.restore(path) as session, await session.fork() as twin:
        for one in (session, twin):
            first = await said(one, "and more")
            assert [first[:2], (await said(one, "and more"))[:2]] == expected
            assert first[2] >= CHUNK
        assert session.tokens == kept


async def test_without_temperature_a_far_place_changes_nothing(tmp_path: Path) -> None:
    folder = saved_chat(tmp_path / "model", tuned(tuning=False))
    await saved_with(folder, tmp_path / "near", lambda session: session)
    await saved_with(folder, tmp_path / "far", lambda session: replace(session, origin=FAR))
    async with serving(folder) as backend:
        async with await backend.restore(tmp_path / "near") as session:
            expected = await said(session, "more")
        async with await backend.restore(tmp_path / "far") as session:
            assert await said(session, "more") == expected
    assert expected[2] >= CHUNK


async def test_a_session_that_begins_within_a_chunk_is_refused(tmp_path: Path) -> None:
    folder = saved_chat(tmp_path / "model", tuned())
    for origin in (FAR + 1, -CHUNK, 2**50):
        await saved_with(folder, tmp_path / "session", lambda session, at=origin: replace(session, origin=at))
        async with serving(folder) as backend:
            with pytest.raises(CheckpointError, match="position"):
                await backend.restore(tmp_path / "session")


@pytest.mark.parametrize("origin", [-CHUNK, 1])
def test_a_sequence_begins_at_a_chunk_edge(origin: int) -> None:
    with pytest.raises(BrokenInvariant, match="multiple of the chunk"):
        PageAllocators(CacheShape(4, 4, 4, CHUNK)).sequence(origin)


def test_the_temperature_at_far_positions_is_exact() -> None:
    from llama4_local.model.transformer import temperature

    text = tuned().text
    found = temperature(text, torch.tensor([8190, 8191, FAR, 2**40]))
    assert found is not None
    assert found.tolist() == pytest.approx(
        [1 + 0.1 * log((position + 1) // 8192 + 1) for position in (8190, 8191, FAR, 2**40)], rel=1e-6
    )
