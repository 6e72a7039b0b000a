"""Checkpoints that others published quantized: what compressed-tensors packs, and ModelOpt's form."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file, save_file

from llama4_local.checkpoint.headers import SINGLE_FILE, find_tensors
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
from local.memory_peak import MemoryPeak
from local.packable import taken
from local.small_checkpoints import biting_weights, prompt, scout, tile_pixels
from long_runs import often, thinned

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


@pytest.mark.parametrize("order", thinned(["none", "shared", "each its own"], 2))
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


@pytest.mark.parametrize("order", ["each its own", "none"][: often(1, 2)])
def test_w4a16_is_loaded_within_the_packed_form_and_one_layer(tmp_path: Path, order: str):
    folder, _ = pair_int4(tmp_path, order)
    with MemoryPeak(mapped=[(folder / SINGLE_FILE).stat().st_size]) as measured:
        weights = cast("WeightTree[Matrix]", load_model(folder).weights)
    layer = replace(weights, embedding=weights.norm, head=weights.norm, layers=weights.layers[-1:], vision=None)
    assert measured.peak - taken(weights) < taken(layer)


@pytest.mark.parametrize("per_channel", [True, False][: often(1, 2)])
def test_fp8_is_loaded_within_the_packed_form_and_one_layer(tmp_path: Path, per_channel: bool):
    folder, _ = modelopt_fp8(tmp_path, per_channel=per_channel, static=True)
    (folder / "hf_quant_config.json").write_text(json.dumps(MODELOPT))
    with MemoryPeak(mapped=[(folder / SINGLE_FILE).stat().st_size]) as measured:
        weights = cast("WeightTree[Matrix]", load_model(folder).weights)
    layer = replace(weights, embedding=weights.norm, head=weights.norm, layers=weights.layers[-1:], vision=None)
    assert measured.peak - taken(weights) < taken(layer)


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


@pytest.mark.parametrize(
    ("per_channel", "static"), thinned([(True, True), (True, False), (False, True), (False, False)], 3)
)
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


RECORDED = cast("dict[str, Json]", json.loads(Path(__file__).with_name("modelopt_exports.json").read_text()))


def unpacked(tensors: Tensors) -> Tensors:
    """What an export of ModelOpt's means: each number times its matrix's scale, its expert's, or its output's."""
    wide: Tensors = {}
    for name, tensor in tensors.items():
        if name.endswith("_scale"):
            continue
        scale = tensors.get(f"{name}_scale", tensors.get(f"{name}_weight_scale", torch.tensor(1.0)))
        wide[name] = tensor.float() * scale.reshape(-1, *(1,) * (tensor.ndim - 1) * scale.ndim)
    return wide


def as_recorded(folder: Path, recorded: Json) -> tuple[Path, Path]:
    """Return folders with the names, shapes, types and config of an export, its layers all like its first."""
    source = torch.Generator().manual_seed(3)
    names = cast("dict[str, tuple[str, list[int]]]", recorded["tensors"])
    text = "language_model.lm_head.weight" not in names
    config = wide_scout()
    shared = {} if text else {n: t for n, t in plain(folder / "plain").items() if n.startswith(("vision", "multi"))}
    tensors = dict(shared)
    for name, (kind, shape) in names.items():
        for layer in range(config.text.layers) if ".layers." in name else range(1):
            if kind == "F32":
                tensor = torch.rand(shape, generator=source) * 0.001 + 0.001
            else:
                tensor = torch.randn(shape, generator=source) * (60 if kind == "F8_E4M3" else 0.5)
            dtype = {"F8_E4M3": torch.float8_e4m3fn, "BF16": torch.bfloat16, "F32": torch.float32}[kind]
            tensors[name.replace("layers.0.", f"layers.{layer}.")] = tensor.to(dtype)
    packed, wide = (
        saved(folder / "packed", tensors, recorded["quantization_config"]),
        saved(folder / "wide", unpacked(tensors)),
    )
    (packed / "hf_quant_config.json").write_text(json.dumps(recorded["hf_quant_config"]))
    if text:
        for own in (packed, wide):
            content = json.loads((own / "config.json").read_text())
            only = content["text_config"] | {key: content[key] for key in ("quantization_config",) if key in content}
            (own / "config.json").write_text(json.dumps(only | {"architectures": ["Llama4ForCausalLM"]}))
    return packed, wide


@pytest.mark.parametrize("form", list(RECORDED)[: often(1, 3)])
def test_what_modelopt_was_seen_to_export_is_read(tmp_path: Path, form: str):
    packed, wide = as_recorded(tmp_path, RECORDED[form])
    assert read_config(packed).fp8
    ids = prompt(wide_scout(), 20)
    torch.testing.assert_close(score(packed, ids), score(wide, ids), atol=1e-3, rtol=0)
    assert len(packed_matrices(packed)) == 6 * wide_scout().text.layers


@pytest.mark.parametrize("form", RECORDED)
def test_modelopt_exports_what_was_recorded(tmp_path: Path, form: str):
    pytest.importorskip("modelopt", reason="NVIDIA's exporter is not installed: pip install nvidia-modelopt")
    packed = exported(tmp_path, form)
    found = {
        name: [stored.dtype, list(stored.shape)]
        for name, stored in find_tensors(packed).items()
        if ("layers.0." in name or ".layers." not in name) and not name.startswith(("vision", "multi"))
    }
    assert found == RECORDED[form]["tensors"]
    tensors = load_file(packed / SINGLE_FILE)
    (tmp_path / "wide").mkdir()
    save_file(unpacked(tensors), tmp_path / "wide" / SINGLE_FILE)
    content = json.loads((packed / "config.json").read_text())
    assert content.pop("quantization_config") | {"producer": {}} == RECORDED[form]["quantization_config"] | {
        "producer": {}
    }
    (tmp_path / "wide" / "config.json").write_text(json.dumps(content))
    ids = prompt(wide_scout(), 20)
    torch.testing.assert_close(score(packed, ids), score(tmp_path / "wide", ids), atol=1e-3, rtol=0)


def exported(folder: Path, form: str) -> Path:
    """Let ModelOpt quantize and export a network that transformers loaded."""
    import modelopt.torch.quantization as mtq  # pyright: ignore[reportMissingImports]
    from modelopt.torch.export import export_hf_checkpoint  # pyright: ignore[reportMissingImports]
    from transformers import Llama4ForCausalLM, Llama4ForConditionalGeneration

    save_checkpoint(folder / "plain", wide_scout(), biting_weights(wide_scout(), dtype=torch.bfloat16))
    kind: Any = Llama4ForCausalLM if "text" in form else Llama4ForConditionalGeneration
    model = kind.from_pretrained(folder / "plain", dtype=torch.bfloat16, attn_implementation="eager")
    model.config.architectures = [kind.__name__]
    ids = torch.tensor([prompt(wide_scout(), 16)])
    parts: list[Any] = [getattr(mtq, name) for name in re.findall(r"FP8_[A-Z_]+CFG", form)]
    how = parts[0] | {"quant_cfg": [rule for part in parts for rule in part["quant_cfg"]]}

    def calibrated(own: Any) -> None:
        own(input_ids=ids)

    with torch.inference_mode():
        export_hf_checkpoint(mtq.quantize(model, how, calibrated), export_dir=folder / "exported")
    return folder / "exported"


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
