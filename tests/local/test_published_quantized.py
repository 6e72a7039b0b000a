"""Checkpoints that others published quantized: what compressed-tensors packs, and ModelOpt's form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file, save_file

from llama4_local.checkpoint.headers import SINGLE_FILE
from llama4_local.checkpoint.loader import load_model
from llama4_local.checkpoint.network import read_network
from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.config.model import ModelConfig
from llama4_local.config.reader import read_config
from llama4_local.planning.models import find_model, stored_tensors
from llama4_local.planning.stored import stored_weight_bytes
from llama4_local.scoring import score
from llama4_local.weights.quantized import Fp8Matrix, Int4Matrix, Matrix
from llama4_local.weights.tree import WeightTree
from llama4sdk.errors import CheckpointError, InvalidRequest
from local.small_checkpoints import biting_weights, prompt, scout, tile_pixels

Tensors = dict[str, torch.Tensor]
Json = dict[str, Any]
W4A16: Json = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}
LINEAR = (".self_attn.", ".feed_forward.experts.", ".shared_expert.", ".feed_forward.gate", ".feed_forward.down")


def wide_scout() -> ModelConfig:
    """Scout with matrices that groups of 128 divide."""
    config = scout()
    text = replace(config.text, hidden_size=128, heads=8, kv_heads=2, head_dim=32, expert_size=256, dense_size=256)
    return replace(config, text=text)


def is_linear(name: str) -> bool:
    return name.startswith("language_model.model.layers") and any(word in name for word in LINEAR)


def plain(folder: Path) -> Tensors:
    """Save the plain network with experts that lie alone, and return its tensors."""
    save_checkpoint(folder, wide_scout(), biting_weights(wide_scout()), fused=False)
    return load_file(folder / SINGLE_FILE)


def saved(folder: Path, tensors: Tensors, quantization: Json | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_checkpoint(folder, wide_scout(), biting_weights(wide_scout()), fused=False)
    (folder / SINGLE_FILE).unlink()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / SINGLE_FILE)
    if quantization is not None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | {"quantization_config": quantization}))
    return folder


def pair_int4(folder: Path, order: str, words: tuple[str, ...] = ()) -> tuple[Path, Path]:
    """Return folders packed by compressed-tensors, and unpacked by it again."""
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**W4A16))
    source = torch.Generator().manual_seed(7)
    packed: Tensors = {}
    wide: Tensors = {}
    for name, tensor in plain(folder / "plain").items():
        if not is_linear(name) and not any(word in name for word in words):
            packed[name] = wide[name] = tensor
            continue
        inputs, module = tensor.shape[1], name.removesuffix(".weight")
        groups = torch.arange(inputs, dtype=torch.int32) // 128
        if order != "none":
            alike = order == "shared"
            groups = groups[torch.randperm(inputs, generator=torch.Generator().manual_seed(1) if alike else source)]
        scales = torch.stack([tensor[:, groups == g].abs().amax(1) / 7 for g in range(inputs // 128)], dim=1)
        state: Tensors = {"weight": tensor, "weight_scale": scales}
        if order != "none":
            state["weight_g_idx"] = groups
            columns = groups.argsort(stable=True)
            own = PackedQuantizationCompressor.compress({"weight": tensor[:, columns], "weight_scale": scales}, scheme)
            sorted_wide = PackedQuantizationCompressor.decompress(dict(own), scheme)["weight"]
            unsorted = torch.empty_like(tensor)
            unsorted[:, columns] = sorted_wide
            back = columns.argsort()
            integers = unpack(own["weight_packed"], inputs)[:, back]
            own["weight_packed"] = pack(integers)
            own["weight_g_idx"] = groups
            wide[name] = unsorted
        else:
            own = PackedQuantizationCompressor.compress(state, scheme)
            wide[name] = PackedQuantizationCompressor.decompress(dict(own), scheme)["weight"]
        packed |= {f"{module}.{part}": part_of for part, part_of in own.items()}
    quantization = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": W4A16}},
    }
    return saved(folder / "packed", packed, quantization), saved(folder / "wide", wide)


def unpack(words: torch.Tensor, inputs: int) -> torch.Tensor:
    from compressed_tensors.compressors.pack_quantized.base import unpack_from_int32

    return unpack_from_int32(words, 4, torch.Size((words.shape[0], inputs)))


def pack(integers: torch.Tensor) -> torch.Tensor:
    from compressed_tensors.compressors.pack_quantized.base import pack_to_int32

    return pack_to_int32(integers, 4)


def agree(packed: Path, wide: Path) -> None:
    config = wide_scout()
    ids, tiles = prompt(config, 20, 1), tile_pixels(config, 1).numpy()
    torch.testing.assert_close(score(packed, ids, tiles=tiles), score(wide, ids, tiles=tiles), atol=1e-3, rtol=0)


def packed_matrices(folder: Path) -> list[Matrix]:
    leaves = cast("WeightTree[Matrix]", load_model(folder).weights).leaves()
    return [leaf for leaf in leaves if isinstance(leaf, Int4Matrix | Fp8Matrix)]


@pytest.mark.parametrize("order", ["none", "shared", "each its own"])
def test_w4a16_answers_as_the_library_that_packed_it_unpacks_it(tmp_path: Path, order: str):
    agree(*pair_int4(tmp_path, order))


def test_w4a16_stays_packed_in_memory(tmp_path: Path):
    folder, _ = pair_int4(tmp_path, "none")
    network = read_network(folder)
    assert len(packed_matrices(folder)) == 6 * network.config.text.layers
    stored = sum(path.nbytes for name, path in load_file(folder / SINGLE_FILE).items() if "_packed" in name)
    assert sum(cast("Int4Matrix", matrix).packed.nbytes for matrix in packed_matrices(folder)) == stored


@pytest.mark.parametrize("words", [("embed_tokens",), ("lm_head",)])
def test_packed_embeddings_and_heads_are_unpacked(tmp_path: Path, words: tuple[str, ...]):
    agree(*pair_int4(tmp_path, "none", words))


def test_the_planner_counts_what_is_loaded(tmp_path: Path):
    folder, _ = pair_int4(tmp_path, "none")
    assert find_model(folder)[1].stored == "int4"
    tensors = stored_tensors(folder)
    assert tensors is not None
    weights = cast("WeightTree[Matrix]", load_model(folder).weights)
    assert stored_weight_bytes(tensors, 4).total == sum(leaf.nbytes for leaf in weights.leaves())


def test_int4_is_not_packed_a_second_time(tmp_path: Path):
    folder, _ = pair_int4(tmp_path, "none")
    load_model(folder, quantize="int4")
    with pytest.raises(InvalidRequest, match="already"):
        load_model(folder, quantize="fp8")


@pytest.mark.parametrize("damage", ["scale", "g_idx", "packed"])
def test_packed_matrices_that_do_not_fit_are_named(tmp_path: Path, damage: str):
    folder, _ = pair_int4(tmp_path, "shared")
    whole = load_file(folder / SINGLE_FILE)
    name = f"language_model.model.layers.0.self_attn.q_proj.weight_{damage}"
    whole[name] = whole[name][:-1].clone()
    save_file(whole, folder / SINGLE_FILE)
    with pytest.raises(CheckpointError, match=f"q_proj.weight_{damage}"):
        load_model(folder)


def modelopt_fp8(folder: Path, *, per_channel: bool, static: bool, words: tuple[str, ...] = ()) -> tuple[Path, Path]:
    """Return folders in FP8 with one scale for a matrix or for each output, and unpacked again."""
    packed: Tensors = {}
    wide: Tensors = {}
    for name, tensor in plain(folder / "plain").items():
        if not is_linear(name) and not (name.startswith(words or "none") and tensor.ndim == 2):
            packed[name] = wide[name] = tensor
            continue
        scale = (tensor.abs().amax(1, keepdim=True) if per_channel else tensor.abs().amax()) / 448
        values = (tensor / scale).to(torch.float8_e4m3fn)
        packed |= {name: values, f"{name}_scale": scale}
        wide[name] = values.float() * scale
        if static:
            packed[name.replace(".weight", ".input_scale")] = torch.tensor(0.01)
        if ".k_proj." in name:
            packed[name.replace(".weight", ".k_scale")] = torch.tensor(1.0)
    return saved(folder / "packed", packed), saved(folder / "wide", wide)


MODELOPT = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}


def test_an_image_encoder_in_fp8_is_unpacked(tmp_path: Path):
    encoder = ("vision_model.model.layers", "multi_modal_projector", "patch_embedding")
    agree(*modelopt_fp8(tmp_path, per_channel=False, static=False, words=encoder))


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("static", [True, False])
def test_fp8_answers_as_its_numbers_times_their_scales(tmp_path: Path, per_channel: bool, static: bool):
    packed, wide = modelopt_fp8(tmp_path, per_channel=per_channel, static=static)
    (packed / "hf_quant_config.json").write_text(json.dumps(MODELOPT))
    assert read_config(packed).fp8
    agree(packed, wide)
    assert packed_matrices(packed)


def test_fused_experts_of_modelopt_have_one_scale(tmp_path: Path):
    packed: Tensors = {}
    wide: Tensors = {}
    save_checkpoint(tmp_path / "fused", wide_scout(), biting_weights(wide_scout()))
    for name, tensor in load_file(tmp_path / "fused" / SINGLE_FILE).items():
        packed[name] = wide[name] = tensor
        if ".experts." in name:
            scale = tensor.abs().amax() / 448
            packed[name] = (tensor / scale).to(torch.float8_e4m3fn)
            packed |= {f"{name}_weight_scale": scale, f"{name}_input_scale": torch.tensor(0.1)}
            wide[name] = packed[name].float() * scale
    agree(saved(tmp_path / "packed", packed), saved(tmp_path / "wide", wide))


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
        {"quant_method": "compressed-tensors", "format": "int-quantized"},
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": W4A16 | {"num_bits": 8}}},
        },
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        {},
    ],
)
def test_other_forms_are_refused_with_one_that_works(tmp_path: Path, quantization: Json):
    folder = saved(tmp_path / "other", plain(tmp_path / "plain"), quantization)
    if not quantization:
        (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
        content = json.loads((folder / "config.json").read_text())
        del content["quantization_config"]
        (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="W4A16") as caught:
        read_config(folder)
    assert len(caught.value.problems) == 1


def test_gguf_is_refused_with_a_form_that_works(tmp_path: Path):
    folder = saved(tmp_path / "gguf", plain(tmp_path / "plain"))
    (folder / SINGLE_FILE).rename(folder / "model.gguf")
    with pytest.raises(CheckpointError, match="GGUF"):
        read_network(folder)
