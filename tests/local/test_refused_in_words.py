"""Devices, folders and files that cannot be used: one `LlamaError` in words, at once."""

from __future__ import annotations

import os
from decimal import Decimal
from inspect import signature
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import torch

from llama4_local import LocalBackend
from llama4sdk.errors import CheckpointError, InvalidRequest, LlamaError
from llama4sdk.messages import conversation
from llama4sdk.request import Request
from local.small_backends import chatting, saved_chat


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_chat(tmp_path_factory.mktemp("checkpoint"), chatting(stop_ids=()))


@pytest.mark.parametrize("device", ["tpu!", "gpu", "mps", "meta", "xpu", "cuda:99", "", "cpu:x", 7, None])
async def test_a_device_that_is_not_there_is_refused_with_those_that_are(folder: Path, device: Any) -> None:
    with pytest.raises(InvalidRequest, match="device"):
        backend = LocalBackend(folder, device=device)
        try:
            await backend.start()
        finally:
            await backend.aclose()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
async def test_cuda_without_cuda_says_what_to_use(folder: Path) -> None:
    backend = LocalBackend(folder, device="cuda")
    with pytest.raises(InvalidRequest, match="device='cpu'"):
        await backend.start()
    await backend.aclose()


def test_too_many_threads_are_refused(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="threads"):
        LocalBackend(folder, threads=10**9)


async def test_a_pipe_in_place_of_a_weight_file_is_refused_at_once(tmp_path: Path) -> None:
    folder = saved_chat(tmp_path / "model", chatting(stop_ids=()))
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    backend = LocalBackend(folder)
    with anyio.fail_after(10), pytest.raises(CheckpointError, match="no regular file"):
        await backend.start()
    await backend.aclose()


@pytest.mark.parametrize("path", ["/no/such/folder", "x" * 5000, "/dev/null", "a\0b"])
async def test_a_folder_that_cannot_be_read_is_one_error(path: str) -> None:
    with pytest.raises(LlamaError):
        backend = LocalBackend(path)
        try:
            await backend.start()
        finally:
            await backend.aclose()


ODD_VALUES: list[Any] = [
    *(
        np.array([1, 2]),
        np.bool_(True),
        np.float32(0.5),
        Decimal("0.5"),
        b"a",
        1j,
        {1},
        float("nan"),
        object(),
        int,
        ...,
    ),
]


@pytest.mark.parametrize("name", [name for name in signature(LocalBackend).parameters if name != "prompt_template"])
def test_every_option_refuses_odd_values_of_odd_types(name: str) -> None:
    for value in ODD_VALUES:
        options: dict[str, Any] = {name: value}
        with pytest.raises(InvalidRequest, match=name) as caught:
            LocalBackend(**options)
        assert len(str(caught.value)) < 300


def test_the_part_of_a_request_is_text() -> None:
    odd: dict[str, Any] = {"part": np.array([1, 2])}
    with pytest.raises(InvalidRequest, match="part"):
        Request(conversation("hello"), **odd)
