"""Sessions: gone on from, forked, saved at a chunk edge, restored in another process."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file

from llama4_local import LocalBackend
from llama4_local.checkpoint.sealed_file import write_sealed
from llama4_local.serving.sessions import Session
from llama4sdk.errors import CheckpointError, InvalidRequest, Overloaded
from llama4sdk.events import Done, Event, TextDelta
from llama4sdk.messages import Image, UserMessage, conversation
from llama4sdk.request import Request
from local.small_backends import GREEDY, asking, chatting, saved_chat, serving, text_of
from local.small_checkpoints import CHUNK, guard

LONG = "hello world " * 12
FORM = "llama4_local session 3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_chat(tmp_path_factory.mktemp("checkpoint"), chatting(stop_ids=()))


async def said(session: Session, text: str, **options: int) -> tuple[str, Done]:
    """What the session answers."""
    async with session.open(asking(text, replace(GREEDY, **options))) as events:
        return _text([event async for event in events])


def _text(events: list[Event]) -> tuple[str, Done]:
    done = events[-1]
    assert isinstance(done, Done)
    return text_of(events), done


def cached(done: Done) -> int:
    assert done.usage
    return done.usage.cached_tokens


async def held(backend: LocalBackend) -> int:
    worker, _ = backend.running()
    return await worker.ask(lambda engine: engine.session_store.pages)


async def test_a_session_computes_only_what_is_new(folder: Path) -> None:
    async with serving(folder) as backend, await backend.session(asking(LONG)) as session:
        before = session.tokens
        _, done = await said(session, "more")
        assert cached(done) >= before - CHUNK
        assert done.usage
        assert session.tokens == done.usage.total_tokens + 1  # and the end of the turn


async def test_a_session_says_what_the_whole_conversation_says(folder: Path) -> None:
    whole = Request(
        conversation([{"role": "user", "content": LONG}, {"role": "user", "content": "more"}]), sampling=GREEDY
    )
    async with serving(folder) as backend:
        async with backend.open(whole) as events:
            expected = text_of([event async for event in events])
        async with await backend.session(asking(LONG)) as session:
            assert (await said(session, "more"))[0] == expected


async def test_forks_go_their_own_ways_and_agree_with_a_session_that_never_forked(folder: Path) -> None:
    async with serving(folder) as backend:
        async with await backend.session(asking(LONG)) as session:
            straight = [(await said(session, text))[0] for text in ("left", "again")]
        async with await backend.session(asking(LONG)) as session, await session.fork() as twin:
            right = (await said(twin, "right"))[0]
            left = [(await said(session, text))[0] for text in ("left", "again")]
        assert left == straight
        assert right != left[0]
        assert await held(backend) == 0


async def test_a_session_takes_one_request_at_a_time(folder: Path) -> None:
    async with serving(folder) as backend, await backend.session(asking(LONG)) as session:
        async with session.open(asking("one")) as events:
            await anext(events)
            with pytest.raises(InvalidRequest, match="fork"):
                await said(session, "two")
            with pytest.raises(InvalidRequest, match="fork"):
                await session.fork()
        before = session.tokens
        assert (await said(session, "three"))[0]
        assert session.tokens > before


async def test_a_request_that_is_left_early_leaves_the_session_as_it_was(folder: Path) -> None:
    async with serving(folder) as backend, await backend.session(asking(LONG)) as session:
        before = session.tokens
        twin = await session.fork()
        async with session.open(asking("one", replace(GREEDY, max_tokens=200))) as events:
            await _first_text(events)
        assert session.tokens == before
        assert (await said(session, "two"))[0] == (await said(twin, "two"))[0]
        await twin.aclose()


async def _first_text(events: AsyncIterator[Event]) -> None:
    async for event in events:
        if isinstance(event, TextDelta):
            return


async def test_what_a_session_keeps_is_not_given_up_and_comes_back_in_the_end(folder: Path) -> None:
    async with serving(folder, context=300, max_sequences=1) as backend:
        session = await backend.session(asking(LONG))
        kept = await held(backend)
        assert kept
        for n in range(4):
            async with backend.open(asking(f"{n}" * 80)) as events:
                assert [event async for event in events]
        _, done = await said(session, "more", max_tokens=2)
        assert cached(done) >= session.tokens // 2
        await session.aclose()
        await session.aclose()
        assert await held(backend) == 0
        with pytest.raises(InvalidRequest, match="closed"):
            await said(session, "more")


async def test_fault_55_sessions_that_fill_the_cache_leave_an_error_and_no_deadlock(folder: Path) -> None:
    async with serving(folder, context=200, max_sequences=1) as backend:
        sessions = [await backend.session(asking(LONG))]
        with pytest.raises(Overloaded):
            for n in range(20):
                sessions.append(await backend.session(asking(f"{n} {LONG}", cache_salt=str(n))))
        for session in sessions:
            await session.aclose()
        async with backend.open(asking(LONG)) as events:
            assert isinstance([event async for event in events][-1], Done)


@pytest.mark.parametrize("length", [4 * CHUNK, 4 * CHUNK + 5])
async def test_a_restored_session_goes_on_as_if_nothing_had_been(folder: Path, tmp_path: Path, length: int) -> None:
    async with serving(folder) as backend, await _of_length(backend, length) as session:
        await session.save(tmp_path / "session")
        expected = [(await said(session, text))[0] for text in ("more", "and more")]
    async with serving(folder) as other, await other.restore(tmp_path / "session") as restored:
        assert restored.tokens == length
        (first, done), (second, _) = await said(restored, "more"), await said(restored, "and more")
    assert [first, second] == expected
    assert cached(done) == 4 * CHUNK


async def _of_length(backend: LocalBackend, tokens: int) -> Session:
    """A session of exactly so many tokens."""
    frame = len(backend.prompt_template.render("", answer=False).token_ids)
    session = await backend.session(asking("xyz" * 100 if tokens < frame else ("x?" * tokens)[: tokens - frame]))
    assert session.tokens == tokens
    return session


_CONTINUING = """
import asyncio, sys
from llama4_local import LocalBackend
from llama4_local.checkpoint.sealed_file import write_sealed
from llama4sdk.events import TextDelta
from llama4sdk.messages import conversation
from llama4sdk.request import Request, Sampling

async def main():
    backend = LocalBackend(sys.argv[1])
    await backend.start()
    session = await backend.restore(sys.argv[2])
    request = Request(conversation("more"), sampling=Sampling(temperature=0, max_tokens=12))
    async with session.open(request) as events:
        texts = [event.text async for event in events if isinstance(event, TextDelta)]
    await session.aclose()
    await backend.aclose()
    sys.stdout.buffer.write("".join(texts).encode())

asyncio.run(main())
"""


async def test_a_session_is_restored_in_a_new_process(folder: Path, tmp_path: Path) -> None:
    async with serving(folder) as backend, await backend.session(asking(LONG)) as session:
        await session.save(tmp_path / "session")
        expected = (await said(session, "more"))[0]
    done = await anyio.run_process([sys.executable, "-c", _CONTINUING, str(folder), str(tmp_path / "session")])
    assert done.stdout.decode() == expected
    assert not done.stderr


async def test_only_global_layers_are_saved(folder: Path, tmp_path: Path) -> None:
    async with serving(folder) as backend, await _of_length(backend, 40 * CHUNK) as session:
        await session.save(tmp_path / "session")
        text = backend.running()[1].config.text
    full = 2 * text.layers * text.kv_heads * text.head_dim * 4 * 40 * CHUNK
    assert (tmp_path / "session").stat().st_size <= 0.3 * full
    assert os.listdir(tmp_path) == ["session"]  # noqa: PTH208 - nothing else is left lying about


async def test_a_model_without_chunks_keeps_its_sessions_too(tmp_path: Path) -> None:
    folder = saved_chat(tmp_path / "guard", chatting(guard(), stop_ids=()))
    async with serving(folder) as backend, await backend.session(asking(LONG)) as session:
        await session.save(tmp_path / "session")
        expected = (await said(session, "more"))[0]
    async with serving(folder) as backend, await backend.restore(tmp_path / "session") as restored:
        assert (await said(restored, "more"))[0] == expected


@pytest.mark.parametrize("words", [0, 40])
async def test_images_before_and_after_the_edge_are_remembered(folder: Path, tmp_path: Path, words: int) -> None:
    image = Image(Pillow.new("RGB", (60, 60), "red"))
    shown = Request((UserMessage([image, "x " * words]),), sampling=GREEDY)
    async with serving(folder) as backend, await backend.session(shown) as session:
        await session.save(tmp_path / "session")
        expected = await said(session, "what is it?")
    async with serving(folder) as backend, await backend.restore(tmp_path / "session") as restored:
        found = await said(restored, "what is it?")
    assert found[0] == expected[0]
    assert found[1].usage
    assert expected[1].usage
    assert found[1].usage.image_tokens == expected[1].usage.image_tokens > 0
    assert any(name.startswith("levels") for name in load_file(tmp_path / "session")) == (words == 0)


async def test_a_session_of_another_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    other = saved_chat(tmp_path / "other", chatting(stop_ids=()), seed=5)
    async with serving(folder) as backend, await backend.session(asking(LONG)) as session:
        await session.save(tmp_path / "session")
    async with serving(other) as backend:
        with pytest.raises(CheckpointError, match="another checkpoint"):
            await backend.restore(tmp_path / "session")


async def test_a_session_in_another_dtype_is_refused(folder: Path, tmp_path: Path) -> None:
    async with serving(folder) as backend, await backend.session(asking(LONG)) as session:
        await session.save(tmp_path / "session")
    async with serving(folder, dtype="bfloat16") as backend:
        with pytest.raises(InvalidRequest, match="dtype"):
            await backend.restore(tmp_path / "session")
        assert await held(backend) == 0


async def test_fault_66_a_file_that_lies_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "session"
    async with serving(folder) as backend, await backend.session(asking(LONG)) as session:
        await session.save(path)
        good = path.read_bytes()
        tensors = load_file(path)
        for bad in (b"", b"\xff" * 100, good[:200], good.replace(b"llama4_local session 3", b"llama4_local session 4")):
            path.write_bytes(bad)
            with pytest.raises(CheckpointError):
                await backend.restore(path)
        with pytest.raises(CheckpointError):
            await backend.restore(tmp_path / "nothing")
        metadata = _metadata(good)
        del metadata["seal"]
        for broken in (
            {**tensors, "keys": torch.full_like(tensors["keys"], torch.nan)},
            {**tensors, "keys": tensors["keys"][0]},
            {**tensors, "token_ids": tensors["token_ids"][:3]},
            {**tensors, "token_ids": tensors["token_ids"] + 100_000},
            {**tensors, "token_ids": tensors["token_ids"].float() * torch.inf},
            {**tensors, "token_ids": tensors["token_ids"].long() << 40},
            {name: tensor for name, tensor in tensors.items() if name != "values"},
        ):
            write_sealed(path, FORM, broken, metadata)
            with pytest.raises(CheckpointError):
                await backend.restore(path)
        for lie in (
            {"image_tokens": "-5"},
            {"image_tokens": "1e999"},
            {"image_tokens": "9" * 5000},
            {"origin": "-1"},
            {"origin": str(CHUNK + 1)},
            *({"images": images} for images in ("{}", "7", "[7]", "[[1]]", '[["a", 1, 1, "d"]]', "[[1, 1, 1, 5]]")),
            *({"images": f'[[{tiles}, 1, 1, "d"]]'} for tiles in ("-1", "1", "1e9", "true", "NaN", "10000000000000")),
            {"images": "[" * 100_000},
            {"fingerprint": "other"},
        ):
            write_sealed(path, FORM, tensors, {**metadata, **lie})
            with pytest.raises(CheckpointError):
                await backend.restore(path)
        write_sealed(path, FORM, tensors, {**metadata, "images": r'[[1, 1, 1, "\ud800"]]'})
        with pytest.raises(CheckpointError, match="hexadecimal"):
            await backend.restore(path)
        short = {name: tensors[name][:1] for name in ("keys", "values")}
        write_sealed(path, FORM, {**tensors, **short}, metadata)
        with pytest.raises(InvalidRequest):
            await backend.restore(path)
        path.write_bytes(good)
        async with await backend.restore(path) as restored:
            assert (await said(restored, "more"))[0]


def _metadata(content: bytes) -> dict[str, str]:
    import json

    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header["__metadata__"]


async def test_a_session_that_cannot_be_written_says_so(folder: Path, tmp_path: Path) -> None:
    async with serving(folder) as backend, await backend.session(asking(LONG)) as session:
        with pytest.raises(CheckpointError, match="cannot be written"):
            await session.save(tmp_path / "no" / "folder" / "session")


async def test_restored_computation_does_not_reach_other_requests(folder: Path, tmp_path: Path) -> None:
    async with serving(folder) as backend, await backend.session(asking(LONG)) as session:
        await session.save(tmp_path / "session")
    async with (
        serving(folder) as backend,
        await backend.restore(tmp_path / "session"),
        backend.open(asking(LONG)) as events,
    ):
        assert cached(_text([event async for event in events])[1]) == 0


async def test_sessions_need_the_prefix_cache(folder: Path) -> None:
    async with serving(folder, prefix_caching=False) as backend:
        assert not backend.capabilities.sessions
        with pytest.raises(InvalidRequest, match="prefix_caching"):
            await backend.session(asking())


async def test_fault_61_a_session_dropped_without_closing_lets_go(folder: Path) -> None:
    async with serving(folder) as backend:
        kept = [await backend.session(asking(LONG))]
        with pytest.warns(ResourceWarning, match="without aclose"):
            _drop(kept)
        assert await held(backend) == 0


def _drop(kept: list[Session]) -> None:
    kept.clear()
    gc.collect()


async def test_a_session_closed_while_being_answered_holds_nothing_afterwards(folder: Path) -> None:
    async with serving(folder) as backend:
        session = await backend.session(asking(LONG))
        async with session.open(asking("one")) as events:
            await _first_text(events)
            await session.aclose()
            rest = [event async for event in events]
        assert isinstance(rest[-1], Done)  # the answer still comes to its end
        assert await held(backend) == 0


async def test_a_session_outlives_its_backend_in_peace(folder: Path) -> None:
    async with serving(folder) as backend:
        session = await backend.session(asking(LONG))
    with pytest.raises(InvalidRequest, match="closed"):
        await said(session, "more")
    await session.aclose()
