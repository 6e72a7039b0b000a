"""`quantize=` in the local backend, and checkpoints that are published in FP8."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llama4_local import LocalBackend, plan, score
from llama4_local.checkpoint.loader import load_model
from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.config.options import DType, WeightFormat
from llama4_local.serving.progress_bar import packing_bar
from llama4_local.weights.quantized import Fp8Matrix, Int4Matrix
from llama4_local.weights.schema import random_weights
from llama4sdk.errors import CheckpointError, InvalidRequest
from llama4sdk.events import Done, Progress
from local.fp8_checkpoints import saved_fp8
from local.packable import packable, packable_maverick, parts, saved_packable, taken
from local.small_backends import asking, events_of, serving, text_of, tokenizer_file
from local.small_checkpoints import biting_weights, guard, prompt, scout

CONFIGS = {"scout": packable, "maverick": packable_maverick, "guard": lambda: packable(guard())}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return saved_packable(tmp_path / "model")


@pytest.fixture(params=[True, False], ids=["fbgemm", "llm-compressor"])
def fp8_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    config = replace(packable(), dtype="bfloat16")
    saved_fp8(tmp_path, config, biting_weights(config, dtype=torch.bfloat16), fused=bool(request.param))
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_file())
    return tmp_path


def kept(folder: Path, quantize: str = "*") -> int:
    """How many packed layers lie beside a checkpoint."""
    return len(list(folder.glob(f".packed-{quantize}-*/layer-*")))


def phases(events: Sequence[object]) -> list[str]:
    return list(dict.fromkeys(event.phase for event in events if isinstance(event, Progress)))


@pytest.mark.parametrize("quantize", ["int4", "fp8"])
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
async def test_a_checkpoint_is_packed_served_and_read_packed_the_next_time(
    folder: Path, quantize: WeightFormat, dtype: DType
) -> None:
    said: list[str] = []
    for _ in range(2):
        async with serving(folder, quantize=quantize, dtype=dtype) as backend:
            events = await events_of(backend, asking())
        assert isinstance(events[-1], Done)
        said.append(text_of(events))
    assert said[0] == said[1]
    assert kept(folder, quantize) == packable().text.layers


async def test_packing_shows_as_a_phase_of_its_own_and_reading_what_was_packed_does_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama4_local.serving.engine_thread._REPORT_EVERY", 0.0)
    monkeypatch.setattr("llama4_local.checkpoint.reader.stored_bytes", _slowly)
    async with serving(folder, quantize="int4") as backend:
        first = await events_of(backend, asking())
    packing = [event for event in first if isinstance(event, Progress) and event.phase == "packing"]
    assert packing
    assert all(event.unit == "bytes" and event.total and 0 < event.done <= event.total for event in packing)
    assert [event.done for event in packing] == sorted(event.done for event in packing)
    async with serving(folder, quantize="int4") as backend:
        assert "packing" not in phases(await events_of(backend, asking()))


def _slowly(tensor: object) -> int:
    """Take a moment over each tensor, so that a request is there before all are read."""
    import time

    from llama4_local.checkpoint.headers import StoredTensor

    time.sleep(0.003)
    assert isinstance(tensor, StoredTensor)
    return 4 * int(torch.tensor(tensor.shape).prod())


@pytest.mark.parametrize("quantize", ["int4", "fp8"])
@pytest.mark.parametrize("shape", CONFIGS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_planned_weights_are_what_a_packed_network_takes(
    tmp_path: Path, shape: str, quantize: WeightFormat, dtype: DType
) -> None:
    folder = saved_packable(tmp_path, CONFIGS[shape]())
    model = load_model(folder, quantize=quantize, dtype=dtype)
    planned = plan(folder, quantize=quantize, dtype=dtype, memory="1GB", machine="cpu")
    assert planned.weights.total == pytest.approx(taken(model.weights), rel=0.02)


def test_the_planned_parts_of_an_fp8_checkpoint_are_those_that_it_has(fp8_folder: Path) -> None:
    model = load_model(fp8_folder)
    planned = plan(fp8_folder, memory="1GB", machine="cpu").weights
    assert planned.total == pytest.approx(taken(model.weights), rel=0.02)
    moes = [layer.moe for layer in model.weights.layers if layer.moe]
    assert planned.experts == sum(
        part.nbytes for moe in moes for leaf in (moe.gate_up, moe.down) for part in parts(leaf)
    )
    shared = sum(part.nbytes for moe in moes for leaf in (moe.shared.gate_up, moe.shared.down) for part in parts(leaf))
    assert planned.shared == shared
    assert planned.dense == 0


def test_only_the_layers_matrices_are_packed(folder: Path) -> None:
    weights = load_model(folder, quantize="int4", dtype="bfloat16").weights
    packed = [leaf for leaf in weights.leaves() if isinstance(leaf, Int4Matrix)]
    assert len(packed) == packable().text.layers * 6  # qkv, output, experts' and shared gate_up and down
    for leaf in (weights.embedding, weights.head, weights.norm, weights.layers[0].input_norm):
        assert leaf.dtype == torch.bfloat16
    for layer in weights.layers:
        assert layer.moe
        assert layer.moe.router.dtype == torch.bfloat16


async def test_a_memory_for_the_packed_form_alone_is_enough_with_quantize_only(folder: Path) -> None:
    plain, packed = (
        plan(folder, quantize=quantize, memory="1GB", machine="cpu", context=16, step_tokens=16)
        for quantize in (None, "int4")
    )
    memory = round((plain.needed + packed.needed) / 2 * 1.05)
    options = {"memory": memory, "context": 16, "step_tokens": 16, "max_sequences": 1}
    with pytest.raises((CheckpointError, InvalidRequest), match="needs"):
        await LocalBackend(folder, **options).start()  # pyright: ignore[reportArgumentType]
    async with serving(folder, quantize="int4", **options) as backend:
        assert backend.capabilities.context == 16


async def test_what_int4_cannot_pack_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    folder = saved_packable(tmp_path, scout())
    with pytest.raises(InvalidRequest, match="Use fp8 or none"):
        await LocalBackend(folder, quantize="int4").start()
    assert kept(folder) == 0


async def test_an_fp8_checkpoint_is_served_as_it_is(fp8_folder: Path) -> None:
    async with serving(fp8_folder) as backend:
        said = text_of(await events_of(backend, asking()))
    async with serving(fp8_folder, quantize="fp8", dtype="float32") as backend:
        assert isinstance((await events_of(backend, asking()))[-1], Done)
    assert said
    assert kept(fp8_folder) == 0
    moe = load_model(fp8_folder).weights.layers[0].moe
    assert moe
    assert isinstance(moe.gate_up, Fp8Matrix)


async def test_an_fp8_checkpoint_is_not_packed_another_time(fp8_folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="in FP8 already"):
        await LocalBackend(fp8_folder, quantize="int4").start()
    with pytest.raises(InvalidRequest, match="in FP8 already"):
        plan(fp8_folder, quantize="int4", memory="1GB", machine="cpu")
    with pytest.raises(InvalidRequest, match="in FP8 already"):
        score(fp8_folder, [1, 2], quantize="int4")


async def test_fault_64_every_scale_that_an_fp8_checkpoint_lacks_is_listed_at_the_start(fp8_folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(fp8_folder / "model.safetensors")
    gone = [name for name in tensors if name.endswith("_scale")][:2]
    save_file({k: v.clone() for k, v in tensors.items() if k not in gone}, fp8_folder / "new")
    (fp8_folder / "new").replace(fp8_folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        await LocalBackend(fp8_folder).start()
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(("quantize", "limit"), [("fp8", 0.12), ("int4", 0.35)])
def test_scores_of_a_packed_network_are_near_those_of_the_plain_one(
    tmp_path: Path, quantize: WeightFormat, limit: float
) -> None:
    folder, ids = tmp_path, prompt(packable(), 20)
    save_checkpoint(folder, packable(), random_weights(packable(), 0, std=0.08))
    plain, packed = score(folder, ids), score(folder, ids, quantize=quantize)
    assert 0 < float((packed - plain).norm() / plain.norm()) < limit


def test_scores_do_not_depend_on_the_pieces_that_a_prompt_is_cut_into(folder: Path) -> None:
    ids = prompt(packable(), 20)
    whole, cut = score(folder, ids, quantize="int4"), score(folder, ids, quantize="int4", prefill_chunk=3)
    assert torch.allclose(whole, cut, atol=1e-3)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("wanted", "drawn"), [(None, True), (True, True), (False, False)])
def test_a_bar_shows_on_a_terminal_unless_it_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, wanted: bool | None, drawn: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with packing_bar("scout", enabled=wanted) as draw:
        draw(10**9, 2 * 10**9)
        draw(2 * 10**9, 2 * 10**9)
    assert ("packing scout" in terminal.getvalue()) == drawn
    assert ("2.0/2.0 GB" in terminal.getvalue()) == drawn


def test_no_bar_is_drawn_where_nothing_is_packed_or_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, called in ((Terminal(), False), (io.StringIO(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        with packing_bar("scout", enabled=None) as draw:
            if called:
                draw(1, 2)
        assert stream.getvalue() == ""


def test_a_bar_that_is_wanted_needs_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(InvalidRequest, match="pip install"), packing_bar("scout", enabled=True):
        pass
    with packing_bar("scout", enabled=None) as draw:
        draw(1, 2)
