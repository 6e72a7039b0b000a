"""Loading takes the room of its result and of one layer at most, in whatever form a checkpoint is published."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama4_local.checkpoint import loader
from llama4_local.checkpoint.fp8 import load_fp8
from llama4_local.checkpoint.headers import SINGLE_FILE, find_tensors
from llama4_local.checkpoint.loader import load_model, load_weights
from llama4_local.checkpoint.plain import load_checkpoint
from llama4_local.checkpoint.reader import is_finite, stored_bytes
from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.config.model import ModelConfig
from llama4_local.config.reader import read_config
from llama4_local.ops.interface import Ops
from llama4_local.ops.kernels.layout import prepare
from llama4_local.ops.reference.quantized import QuantizedReferenceOps
from llama4_local.weights.quantized import Fp8Matrix, Matrix
from llama4_local.weights.schema import named_tensors, random_weights
from llama4_local.weights.tree import MoeTree, WeightTree
from llama4sdk.errors import CheckpointError, InvalidRequest
from local.fp8_checkpoints import saved_fp8
from local.memory_peak import MemoryPeak
from local.packable import parts, taken
from local.small_checkpoints import maverick, text_only

FORMS = ("bf16", "bf16, single experts", "fbgemm", "llm-compressor")


class KernelLayout(QuantizedReferenceOps):
    """Functions that want weights laid out as the kernels do, anywhere."""

    @property
    def prepared_weights(self) -> bool:
        return True


@pytest.fixture
def as_for_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(device: str | torch.device, **settings: object) -> Ops:
        return KernelLayout()

    monkeypatch.setattr(loader, "select_ops", choose)


def published(folder: Path, form: str, config: ModelConfig) -> Path:
    """Save a random network in a form."""
    weights = random_weights(config, 0, dtype=torch.bfloat16)
    if form.startswith("bf16"):
        save_checkpoint(folder, config, weights, shards=3, fused="single" not in form)
        return folder
    return saved_fp8(folder, config, weights, fused=form == "fbgemm")


def loaded(folder: Path, *, stacked: bool = False, device: str = "cpu") -> WeightTree[Matrix]:
    config = read_config(folder)
    if (folder / SINGLE_FILE).exists():
        return load_fp8(folder, config, stacked=stacked, device=device)
    return load_checkpoint(folder, config, stacked=stacked, device=device)


def peak_of(folder: Path) -> MemoryPeak:
    """Measure without what is mapped of a checkpoint: the system takes it back when it needs to."""
    return MemoryPeak(mapped=[file.stat().st_size for file in folder.glob("*.safetensors")])


def layer_bytes(weights: WeightTree[Matrix]) -> int:
    """Return the bytes of the last layer's own tensors."""
    return taken(replace(weights, embedding=weights.norm, head=weights.norm, layers=weights.layers[-1:], vision=None))


def mixture(weights: WeightTree[Matrix]) -> MoeTree[Matrix]:
    found = weights.layers[-1].moe
    assert found is not None
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("as_for_kernels")
def test_weights_for_the_kernels_are_loaded_within_one_layer_more_than_they_take(tmp_path: Path, form: str) -> None:
    folder = published(tmp_path, form, text_only())
    with peak_of(folder) as measured:
        model = load_model(folder, dtype="bfloat16")
    beyond = measured.peak - taken(model.weights)
    assert beyond < layer_bytes(model.weights)
    assert mixture(model.weights).gate_up.shape[0] == text_only().text.experts + 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["as stored", "converted"])
def test_weights_for_the_cpu_are_loaded_within_one_layer_more_than_they_take(
    tmp_path: Path, form: str, dtype: torch.dtype
) -> None:
    folder = published(tmp_path, form, text_only())
    with peak_of(folder) as measured:
        weights = load_weights(folder, text_only(), dtype=dtype)
    assert measured.peak - taken(weights) < layer_bytes(weights)


def test_what_is_used_as_it_is_stored_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    folder = published(tmp_path, "bf16", text_only())
    with peak_of(folder) as measured:
        weights = load_weights(folder, text_only())
    assert measured.peak < 0.5 * taken(weights)


@pytest.mark.parametrize("form", FORMS)
def test_a_network_for_another_device_takes_an_experts_room_here(tmp_path: Path, form: str) -> None:
    folder = published(tmp_path, form, text_only())
    with peak_of(folder) as measured:
        weights = loaded(folder, stacked=True, device="meta")
    assert {part.device.type for leaf in weights.leaves() for part in parts(leaf)} == {"meta"}
    text = text_only().text
    expert = 2 * 2 * text.hidden_size * text.expert_size
    assert measured.peak <= 2 * expert


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is mapped")
@pytest.mark.parametrize("form", FORMS)
def test_one_file_at_a_time_is_mapped_for_what_is_copied(tmp_path: Path, form: str) -> None:
    folder = published(tmp_path, form, text_only())
    config, counts = text_only(), list[int]()

    def look(done: int, total: int) -> None:
        counts.append(len(mapped_files(folder)))

    load = load_fp8 if (folder / SINGLE_FILE).exists() else load_checkpoint
    weights = load(folder, config, device="meta", progress=look)
    assert weights.layers
    assert set(counts) == {1}
    assert not mapped_files(folder)


def mapped_files(folder: Path) -> set[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[-1] for line in lines if str(folder) in line}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("config", [text_only(), maverick()], ids=["every layer mixed", "every second"])
def test_what_is_laid_out_while_it_is_read_is_what_prepare_makes(
    tmp_path: Path, form: str, config: ModelConfig
) -> None:
    folder = published(tmp_path, form, config)
    got, wanted = loaded(folder, stacked=True), prepare(loaded(folder))
    for mine, theirs in zip(got.leaves(), wanted.leaves(), strict=True):
        assert type(mine) is type(theirs)
        for one, other in zip(parts(mine), parts(theirs), strict=True):
            assert one.stride() == other.stride()
            assert torch.equal(bits(one), bits(other))
    assert all(one.moe is other.moe for one, other in zip(prepare(got).layers, got.layers, strict=True))
    assert taken(got) == taken(wanted)


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor


@pytest.mark.parametrize("form", FORMS)
def test_progress_counts_every_byte_once(tmp_path: Path, form: str) -> None:
    folder = published(tmp_path, form, text_only())
    seen: list[tuple[int, int]] = []
    load_weights(folder, text_only(), progress=lambda done, total: seen.append((done, total)))
    stored = sum(map(stored_bytes, find_tensors(folder).values()))
    assert seen[-1] == (stored, stored)
    assert seen == sorted(set(seen))


def test_nan_in_e4m3_is_found_and_nothing_else_is_taken_for_it() -> None:
    for code in range(256):
        tensor = torch.tensor([0x7E, 0, code, 0xFE, 0x80], dtype=torch.uint8).view(torch.float8_e4m3fn)
        assert is_finite(tensor) == bool(tensor.float().isfinite().all()), hex(code)


@pytest.mark.parametrize("fused", [True, False], ids=["fbgemm", "llm-compressor"])
def test_fault_64_all_values_that_are_not_finite_come_in_one_error(tmp_path: Path, fused: bool) -> None:
    folder = saved_fp8(tmp_path, text_only(), random_weights(text_only(), 0, dtype=torch.bfloat16), fused=fused)
    tensors = load_file(folder / SINGLE_FILE)
    spoilt = [
        next(name for name in tensors if ".experts." in name and "down_proj" in name and "scale" not in name),
        next(name for name in tensors if "shared_expert" in name and name.endswith("_scale")),
        "model.norm.weight",
    ]
    tensors[spoilt[0]].view(torch.uint8).view(-1)[-1] = 0xFF
    for name in spoilt[1:]:
        tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, folder / SINGLE_FILE)
    with pytest.raises(CheckpointError) as caught:
        load_fp8(folder, text_only(), stacked=True)
    assert {problem.split()[0] for problem in caught.value.problems} == set(spoilt)


@pytest.mark.parametrize("plain", ["shared_expert", "shared_expert.down_proj", "shared_expert.up_proj"])
def test_a_shared_expert_in_another_format_stays_alone(tmp_path: Path, plain: str) -> None:
    weights = random_weights(text_only(), 0, dtype=torch.bfloat16)
    folder = saved_fp8(tmp_path, text_only(), weights, fused=True)
    tensors = load_file(folder / SINGLE_FILE)
    for name in [name for name in tensors if plain in name and not name.endswith("_scale")]:
        del tensors[f"{name}_scale"]
        tensors[name] = named_tensors(text_only(), weights)[name].clone()
    save_file(tensors, folder / SINGLE_FILE)
    moe, wanted = mixture(load_fp8(folder, text_only(), stacked=True)), weights.layers[-1].moe
    assert wanted is not None
    assert moe.gate_up.shape[0] == moe.down.shape[0] == text_only().text.experts
    for mine, theirs in ((moe.shared.gate_up, wanted.shared.gate_up), (moe.shared.down, wanted.shared.down)):
        got = mine if isinstance(mine, Tensor) else mine.dequantize()
        assert float((got - theirs).float().norm() / theirs.float().norm()) < 0.04
    assert isinstance(moe.gate_up, Fp8Matrix)
    assert isinstance(moe.shared.gate_up, Tensor if plain != "shared_expert.down_proj" else Fp8Matrix)


@pytest.mark.usefixtures("as_for_kernels")
def test_the_kernels_refuse_such_a_shared_expert_and_say_where_it_is_served(tmp_path: Path) -> None:
    weights = random_weights(text_only(), 0, dtype=torch.bfloat16)
    folder = saved_fp8(tmp_path, text_only(), weights, fused=True)
    tensors = load_file(folder / SINGLE_FILE)
    for name in [name for name in tensors if "shared_expert" in name and not name.endswith("_scale")]:
        del tensors[f"{name}_scale"]
        tensors[name] = named_tensors(text_only(), weights)[name].clone()
    save_file(tensors, folder / SINGLE_FILE)
    with pytest.raises(InvalidRequest, match="device='cpu'"):
        load_model(folder, dtype="bfloat16")


def test_experts_of_which_some_are_in_fp8_are_read_as_plain_ones(tmp_path: Path) -> None:
    weights = random_weights(text_only(), 0, dtype=torch.bfloat16)
    folder = saved_fp8(tmp_path, text_only(), weights, fused=False)
    tensors = load_file(folder / SINGLE_FILE)
    name = next(name for name in tensors if "layers.7." in name and ".experts.1.down_proj" in name)
    name = name.removesuffix("_scale")
    wanted = weights.layers[7].moe
    assert wanted is not None
    tensors[name] = wanted.down[1].t().contiguous()
    del tensors[f"{name}_scale"]
    save_file(tensors, folder / SINGLE_FILE)
    down = mixture(load_fp8(folder, text_only())).down
    assert isinstance(down, Tensor)
    assert torch.equal(down[1], wanted.down[1])
    assert float((down[0] - wanted.down[0]).float().norm() / wanted.down[0].float().norm()) < 0.04
