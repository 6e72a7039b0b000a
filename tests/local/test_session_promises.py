"""Sessions that are left, damaged or cut off: each keeps the tokens that it had, or is refused in words."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from safetensors import SafetensorError

from llama4_local import LocalBackend
from llama4_local.checkpoint import sealed_file
from llama4_local.serving.sessions import Session
from llama4sdk.errors import CheckpointError, InvalidRequest
from llama4sdk.events import Done, TextDelta
from local.small_backends import GREEDY, asking, chatting, saved_chat, serving, text_of

LONG = "hello world " * 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_chat(tmp_path_factory.mktemp("checkpoint"), chatting(stop_ids=()))


async def answered(session: Session, text: str) -> str:
    async with session.open(asking(text, GREEDY)) as events:
        return text_of([event async for event in events])


async def pinned(backend: LocalBackend) -> int:
    engine_thread, _ = backend.running()
    return await engine_thread.ask(lambda engine: engine.session_store.pages)


@pytest.mark.parametrize("left_after", [0, 1, 2, 5, 11, 12, "done unread"])
async def test_a_turn_left_at_any_moment_leaves_tokens_and_pins_and_can_be_saved(
    folder: Path, tmp_path: Path, left_after: int | str
) -> None:
    path = tmp_path / "session"
    async with serving(folder) as backend, await backend.session(asking(LONG)) as session:
        expected = await answered(twin := await session.fork(), "more")
        await twin.aclose()
        before, pages = session.tokens, await pinned(backend)
        async with session.open(asking(LONG, replace(GREEDY, max_tokens=40))) as events:
            seen = 0
            async for event in events:
                seen += isinstance(event, TextDelta)
                if seen == left_after:
                    break
                if left_after == "done unread" and seen == 1:
                    await anyio.sleep(0.3)  # the engine finishes meanwhile, and its last events stay unread
                    break
                assert not isinstance(event, Done)
        assert (session.tokens, await pinned(backend)) == (before, pages)
        await session.save(path)
        async with await backend.restore(path) as restored:
            assert restored.tokens == before
            assert await answered(restored, "more") == expected
        assert await answered(session, "more") == expected


async def test_no_damaged_copy_of_a_file_is_restored(folder: Path, tmp_path: Path) -> None:
    path, rng = tmp_path / "session", random.Random(7)
    async with serving(folder) as backend, await backend.session(asking(LONG)) as session:
        await session.save(path)
        good = path.read_bytes()
        for _ in range(250):
            bad = bytearray(good)
            place = rng.randrange(len(bad))
            match rng.randrange(4):
                case 0:
                    bad[place] ^= 1 << rng.randrange(8)
                case 1:
                    del bad[place:]
                case 2:
                    bad[place : place + 64] = bytes(len(bad[place : place + 64]))
                case _:
                    bad[place:place] = rng.randbytes(3)
            if bytes(bad) == good:
                continue
            path.write_bytes(bad)
            with pytest.raises(CheckpointError):
                await backend.restore(path)


async def test_a_full_disk_is_a_checkpoint_error_and_leaves_the_old_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "session"

    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    async with serving(folder) as backend, await backend.session(asking(LONG)) as session:
        await session.save(path)
        good = path.read_bytes()
        monkeypatch.setattr(sealed_file, "save_file", full)
        with pytest.raises(CheckpointError, match="No space left"):
            await session.save(path)
    assert path.read_bytes() == good
    assert os.listdir(tmp_path) == ["session"]  # noqa: PTH208


_KILLED = """
import os, signal, sys, torch
from pathlib import Path
from typing import Any
from llama4_local.checkpoint import sealed_file
real = sealed_file.save_file
def cut(tensors, path, metadata):
    real(tensors, path, metadata)
    os.kill(os.getpid(), signal.SIGKILL)
sealed_file.save_file = cut
sealed_file.write_sealed(Path(sys.argv[1]), "test", {"a": torch.zeros(4)}, {})
"""


def test_a_killed_writer_leaves_nothing_after_the_next_write(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "file"
    assert subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    sealed_file.write_sealed(path, "test", {"a": torch.ones(4)}, {"b": "c"})
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    tensors, metadata = sealed_file.read_sealed(path, "test")
    assert tensors["a"].tolist() == [1.0] * 4
    assert metadata == {"b": "c"}


@pytest.mark.parametrize("path", [5, None, "a\0b", "\ud800"])
async def test_what_is_no_path_is_refused_in_words(folder: Path, path: Any) -> None:
    async with serving(folder) as backend, await backend.session(asking("hi", part="opening")) as session:
        with pytest.raises(InvalidRequest, match="path"):
            await session.save(path)
        with pytest.raises(InvalidRequest, match="path"):
            await backend.restore(path)


async def test_a_session_is_saved_to_files_alone(folder: Path, tmp_path: Path) -> None:
    pipe, long = tmp_path / "pipe", tmp_path / ("x" * 5000)
    os.mkfifo(pipe)
    async with serving(folder) as backend, await backend.session(asking("hi", part="opening")) as session:
        with pytest.raises(CheckpointError, match="no regular file"):
            await session.save(pipe)
        assert pipe.is_fifo()
        await session.save(os.fsencode(tmp_path / "kept"))  # type: ignore[arg-type]
        assert (tmp_path / "kept").is_file()
        for attempt in (session.save, backend.restore):
            with pytest.raises(CheckpointError, match="cannot be"):
                await attempt(long)


async def test_a_pipe_in_place_of_a_session_is_refused_at_once(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    async with serving(folder) as backend:
        with anyio.fail_after(10), pytest.raises(CheckpointError):
            await backend.restore(tmp_path / "pipe")
