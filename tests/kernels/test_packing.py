from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from llama4_local.checkpoint.fp8 import is_fp8, load_fp8
from llama4_local.checkpoint.headers import find_tensors
from llama4_local.checkpoint.plain import load_checkpoint
from llama4_local.checkpoint.quantizing import load_quantizing
from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.config.formats import WeightFormat
from llama4_local.config.model import ModelConfig, TextConfig
from llama4_local.ops.kernels.layout import prepare
from llama4_local.weights.quantize import pack_network
from llama4_local.weights.quantized import Fp8Matrix, Int4Matrix
from llama4_local.weights.schema import named_tensors, random_weights
from llama4_local.weights.tree import WeightTree
from llama4sdk.errors import CheckpointError, InvalidRequest
from local.fp8_checkpoints import saved_fp8


def config(hidden: int = 128) -> ModelConfig:
    return ModelConfig(
        TextConfig(
            vocab_size=96,
            hidden_size=hidden,
            heads=5,
            kv_heads=1,
            head_dim=32,
            expert_size=64,
            dense_size=96,
            experts=3,
            rope_layers=(True, False),
            moe_layers=(True, False),
            chunk=8,
            qk_norm=True,
        )
    )


@pytest.fixture(params=[(1, True), (3, True), (2, False)], ids=["one file", "shards", "single experts"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    shards, fused = request.param
    save_checkpoint(tmp_path, config(), random_weights(config(), 0, dtype=torch.bfloat16), shards=shards, fused=fused)
    return tmp_path


def same(one: WeightTree[object], other: WeightTree[object]) -> bool:
    def wide(leaf: object) -> Tensor:
        return leaf if isinstance(leaf, Tensor) else leaf.dequantize()  # type: ignore[attr-defined,no-any-return]

    return all(torch.equal(wide(a), wide(b)) for a, b in zip(one.leaves(), other.leaves(), strict=True))


@pytest.mark.parametrize("kind", ["int4", "fp8"])
def test_streaming_packs_what_packing_in_memory_does(folder: Path, kind: WeightFormat) -> None:
    got = load_quantizing(folder, config(), kind)
    plain = load_checkpoint(folder, config())
    if kind == "fp8":
        assert same(got, prepare(pack_network(plain, kind)))
    assert got.layers[0].moe
    assert tuple(got.layers[0].moe.gate_up.shape) == (4, 128, 128)
    for layer in got.layers:
        assert isinstance(layer.attention.qkv, Int4Matrix if kind == "int4" else Fp8Matrix)
    assert torch.equal(got.head, plain.head) if isinstance(got.head, Tensor) else False


def test_a_second_start_reads_the_packed_form(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_quantizing(folder, config(), "int4")

    def refuse(*_: object) -> None:
        raise AssertionError("packed twice")

    monkeypatch.setattr("llama4_local.checkpoint.quantizing.packer", refuse)
    assert same(first, load_quantizing(folder, config(), "int4"))


def test_another_checkpoint_or_format_does_not_meet_the_packed_form(folder: Path) -> None:
    before = load_quantizing(folder, config(), "int4")
    save_checkpoint(folder, config(), random_weights(config(), 1, dtype=torch.bfloat16), fused=True)
    for file in folder.glob("model-*.safetensors"):
        file.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    assert not same(before, load_quantizing(folder, config(), "int4"))
    assert len(list(folder.glob(".packed-*"))) == 2


def test_a_run_that_is_stopped_is_gone_on_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if list(folder.glob(".packed-*/layer-00000.safetensors")):
            raise Stopped

    with pytest.raises(Stopped):
        load_quantizing(folder, config(), "int4", progress=stop)
    assert [file.name for file in folder.glob(".packed-*/*")] == ["layer-00000.safetensors"]
    first = next(folder.glob(".packed-*/layer-00000.safetensors")).stat()
    load_quantizing(folder, config(), "int4")
    assert next(folder.glob(".packed-*/layer-00000.safetensors")).stat().st_mtime_ns == first.st_mtime_ns


def test_a_file_that_is_cut_short_is_packed_again(folder: Path) -> None:
    whole = load_quantizing(folder, config(), "int4")
    expected = whole.map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf.dequantize())
    file = next(folder.glob(".packed-*/layer-00001.safetensors"))
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-100])
    assert same(expected, load_quantizing(folder, config(), "int4"))
    assert file.read_bytes() == content


def test_leavings_of_a_killed_process_are_cleared_away(folder: Path) -> None:
    load_quantizing(folder, config(), "int4")
    packed = next(folder.glob(".packed-*"))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (packed / f".layer-00000.safetensors.{gone.pid}.part").write_bytes(b"half")
    (packed / "layer-00001.safetensors").unlink()
    load_quantizing(folder, config(), "int4")
    assert not list(packed.glob(".*"))


def test_a_folder_that_cannot_be_written_to_is_packed_every_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llama4_local.checkpoint.sealed_file.save_file", full)
    got = load_quantizing(folder, config(), "int4")
    assert not list(folder.glob(".packed-*/*"))
    monkeypatch.undo()
    assert same(got, load_quantizing(folder, config(), "int4", keep=False))


def test_progress_counts_every_byte_once_each_time(folder: Path) -> None:
    total = sum(tensor.numel() * 2 for tensor in named_tensors(config(), load_checkpoint(folder, config())).values())

    def counted() -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        load_quantizing(folder, config(), "int4", progress=lambda done, all_: seen.append((done, all_)))
        return seen

    for seen in (counted(), counted()):
        assert seen[-1] == (total, total)
        assert seen == sorted(seen)


def test_values_that_are_not_finite_are_listed_and_nothing_is_kept_of_them(tmp_path: Path) -> None:
    weights = random_weights(config(), 0, dtype=torch.bfloat16)
    weights.layers[1].attention.output[0, 0] = float("nan")
    save_checkpoint(tmp_path, config(), weights)
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.o_proj"):
        load_quantizing(tmp_path, config(), "int4")
    assert [file.name for file in tmp_path.glob(".packed-*/*")] == ["layer-00000.safetensors"]


def test_inputs_that_no_group_divides_are_refused(tmp_path: Path) -> None:
    odd = config(hidden=80)
    save_checkpoint(tmp_path, odd, random_weights(odd, 0, dtype=torch.bfloat16))
    with pytest.raises(InvalidRequest, match="fp8"):
        load_quantizing(tmp_path, odd, "int4")


def fp8_folder(tmp_path: Path, *, fused: bool) -> tuple[Path, WeightTree[Tensor]]:
    weights = random_weights(config(), 0, dtype=torch.bfloat16)
    return saved_fp8(tmp_path, config(), weights, fused=fused), weights


@pytest.mark.parametrize("fused", [True, False], ids=["fbgemm", "llm-compressor"])
def test_a_checkpoint_in_fp8_is_loaded_as_it_is(tmp_path: Path, fused: bool) -> None:
    folder, weights = fp8_folder(tmp_path, fused=fused)
    assert is_fp8(find_tensors(folder))
    got = load_fp8(folder, config())
    moe, expected = got.layers[0].moe, weights.layers[0].moe
    assert moe
    assert expected
    for mine, theirs in ((moe.gate_up, expected.gate_up), (moe.down, expected.down)):
        assert isinstance(mine, Fp8Matrix)
        difference = mine.dequantize() - theirs.float().transpose(1, 2)
        assert float(difference.norm() / theirs.float().norm()) < 0.04
    assert isinstance(moe.shared.gate_up, Fp8Matrix)
    assert torch.equal(got.layers[1].attention.qkv, weights.layers[1].attention.qkv)  # type: ignore[arg-type]


def test_scales_that_are_missing_or_do_not_fit_are_all_listed(tmp_path: Path) -> None:
    folder, _ = fp8_folder(tmp_path, fused=True)
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    names = sorted(name for name in tensors if name.endswith("_scale"))
    del tensors[names[0]]
    tensors[names[1]] = torch.ones(7)
    tensors["stray_scale"] = torch.ones(1)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_fp8(folder, config())
    for part in (names[0], names[1], "stray_scale"):
        assert part in str(caught.value)


def test_the_activation_bound_comes_from_the_config(tmp_path: Path) -> None:
    folder, _ = fp8_folder(tmp_path, fused=True)
    path = folder / "config.json"
    path.write_text(path.read_text().replace("1200.0", "600.0"))
    moe = load_fp8(folder, config()).layers[0].moe
    assert moe
    assert isinstance(moe.gate_up, Fp8Matrix)
    assert moe.gate_up.bound == 600.0
