"""A backend on its way to the first answer: what it waits for, and what it tells when the checkpoint is bad."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest

from llama4_local import LocalBackend
from llama4_local.serving import engine_thread as engine_thread_module
from llama4sdk.errors import BackendMissing, CheckpointError, DeadlineExceeded, LlamaError, ServerFault
from llama4sdk.events import Progress, Started
from llama4sdk.request import Deadlines
from local.small_backends import ENDLESS, asking, at_rest, events_of, saved_chat, serving, until_text


async def test_a_model_that_does_not_fit_into_memory_is_refused_with_what_would(folder: Path) -> None:
    with pytest.raises(LlamaError, match=r"needs .* of weights, .* of cache, .* of workspace"):
        await LocalBackend(folder, memory="3MB").start()


async def test_fault_54_a_cancel_while_the_model_loads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = _slow_loading(monkeypatch)
    async with serving(folder) as backend:
        with anyio.move_on_after(0.05):
            await events_of(backend, asking(sampling=ENDLESS))
        gate.set()
        await at_rest(backend)


def _slow_loading(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let the engine's thread wait for a gate at each report of progress, without deafening it."""
    gate = threading.Event()
    loading = engine_thread_module.EngineThread._loading  # pyright: ignore[reportPrivateUsage]

    def slow(self: engine_thread_module.EngineThread, done: int, total: int) -> None:
        while not gate.wait(0.001):
            loading(self, done, total)
        loading(self, done, total)

    monkeypatch.setattr(engine_thread_module.EngineThread, "_loading", slow)
    return gate


async def test_loading_shows_in_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = _slow_loading(monkeypatch)
    async with serving(folder) as backend, backend.open(asking()) as events:
        async for event in events:
            if isinstance(event, Progress) and event.phase == "loading":
                assert event.unit == "bytes"
                assert event.total
                assert 0 < event.done <= event.total
                break
        gate.set()
        assert await until_text(events)


async def test_the_total_deadline_ends_a_request_while_the_model_loads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = _slow_loading(monkeypatch)
    async with serving(folder) as backend:
        with pytest.raises(DeadlineExceeded) as caught:
            await events_of(backend, asking(deadlines=Deadlines(total=0.05)))
        assert caught.value.phase == "total"
        gate.set()
        await at_rest(backend)


async def test_loading_counts_against_no_first_token_deadline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = _slow_loading(monkeypatch)
    async with serving(folder) as backend:
        reports = 0
        async with backend.open(asking(deadlines=Deadlines(first_token=0.001))) as events:
            while reports < 3:  # each of which comes later than the deadline
                event = await anext(events)
                reports += isinstance(event, Progress) and event.phase == "loading"
        gate.set()
        await at_rest(backend)


async def test_the_first_token_deadline_counts_once_the_model_is_loaded(folder: Path) -> None:
    async with serving(folder) as backend:
        await backend.ready()
        with pytest.raises(DeadlineExceeded) as caught:
            await events_of(backend, asking(deadlines=Deadlines(first_token=1e-9)))
        assert caught.value.phase == "first_token"


async def test_ready_waits_until_the_model_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = _slow_loading(monkeypatch)
    async with serving(folder) as backend:
        with anyio.move_on_after(0.05) as scope:
            await backend.ready()
        assert scope.cancelled_caught
        assert not backend.current_load.ready
        gate.set()
        await backend.ready()
        assert backend.current_load.ready


async def test_ready_raises_the_reason_why_a_model_cannot_be_loaded(tmp_path: Path) -> None:
    saved_chat(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-400] + b"\xff" * 400)  # NaN
    async with serving(tmp_path) as backend:
        with pytest.raises(CheckpointError, match="not finite"):
            await backend.ready()


async def test_closing_while_the_model_loads_ends_the_loading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _slow_loading(monkeypatch)
    async with serving(folder) as backend, backend.open(asking()) as events:
        assert isinstance(await anext(events), Started)
        await anext(events)
        await backend.aclose()
        with pytest.raises(ServerFault, match="closed"):
            await until_text(events)


async def test_a_folder_that_is_not_there_is_an_error_at_start(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "nothing")
    with pytest.raises(CheckpointError):
        await backend.start()
    await backend.aclose()


async def test_a_folder_without_a_tokenizer_is_an_error_at_start(tmp_path: Path) -> None:
    saved_chat(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        await LocalBackend(tmp_path).start()


async def test_fault_64_tensors_that_turn_out_bad_fail_every_request_with_the_reason(tmp_path: Path) -> None:
    saved_chat(tmp_path)
    file = tmp_path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-400:] = b"\xff" * 400  # NaN
    file.write_bytes(content)
    async with serving(tmp_path) as backend:
        for _ in range(2):
            with pytest.raises(CheckpointError, match="not finite"):
                await events_of(backend, asking())


def test_importing_the_package_imports_no_tensor_library() -> None:
    code = "import sys, llama4_local; print(*[m for m in ('torch', 'numpy', 'safetensors') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.strip() == ""


async def test_without_torch_the_error_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llama4_local.serving import readiness

    monkeypatch.setattr(readiness, "find_spec", lambda name: None)  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(BackendMissing, match=r"pip install 'llama4sdk\[local\]'"):
        await LocalBackend(folder).start()
