"""Configs in all their published forms become one frozen value, or one error that lists everything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llama4_local.config.model import ModelConfig, RopeScaling, TextConfig, VisionConfig
from llama4_local.config.reader import parse_config, read_config
from llama4_local.config.writer import config_to_json, generation_to_json
from llama4sdk.errors import CheckpointError
from local.small_checkpoints import guard, maverick, scout, text_only

Json = dict[str, Any]


def published_scout(**text: object) -> Json:
    """A config of the published form, with the fields that matter."""
    return {
        "architectures": ["Llama4ForConditionalGeneration"],
        "boi_token_index": 200080,
        "eoi_token_index": 200081,
        "image_token_index": 200092,
        "model_type": "llama4",
        "text_config": {
            "model_type": "llama4_text",
            "attention_chunk_size": 8192,
            "attn_temperature_tuning": 4,
            "bos_token_id": 200000,
            "eos_token_id": [200001, 200007, 200008],
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 5120,
            "intermediate_size": 8192,
            "intermediate_size_mlp": 16384,
            "interleave_moe_layer_step": 1,
            "max_position_embeddings": 10485760,
            "no_rope_layers": [],
            "num_attention_heads": 40,
            "num_experts_per_tok": 1,
            "num_hidden_layers": 48,
            "num_key_value_heads": 8,
            "num_local_experts": 16,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 16.0,
                "high_freq_factor": 1.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "use_qk_norm": True,
            "vocab_size": 202048,
            **text,
        },
        "torch_dtype": "bfloat16",
        "vision_config": {
            "model_type": "llama4_vision_model",
            "hidden_act": "gelu",
            "hidden_size": 1408,
            "image_size": 336,
            "intermediate_size": 5632,
            "num_attention_heads": 16,
            "num_hidden_layers": 34,
            "patch_size": 14,
            "pixel_shuffle_ratio": 0.5,
            "projector_input_dim": 4096,
            "projector_output_dim": 4096,
            "rope_theta": 10000,
            "vision_output_dim": 4096,
        },
    }


def problems_of(data: Json) -> str:
    with pytest.raises(CheckpointError) as caught:
        parse_config(data)
    return "\n".join(caught.value.problems)


def test_the_published_form_of_scout_is_understood():
    config = parse_config(published_scout())
    text, vision = config.text, config.vision
    assert vision is not None
    assert (text.layers, text.heads, text.kv_heads, text.head_dim) == (48, 40, 8, 128)
    assert text.global_layers == tuple(range(3, 48, 4))
    assert all(text.moe_layers)
    assert text.chunk == 8192
    assert text.rope_scaling == RopeScaling(16.0, 1.0, 1.0, 8192)
    assert text.temperature_tuning
    assert text.qk_norm
    assert (vision.patches, vision.patch_tokens, vision.head_dim) == (576, 144, 88)
    assert config.generation.eos_token_ids == (200001, 200007, 200008)
    assert (config.image_token_id, config.dtype, config.max_tiles) == (200092, "bfloat16", 16)


def test_the_newer_form_with_rope_parameters_means_the_same():
    old = published_scout()
    new = published_scout()
    text, vision = new["text_config"], new["vision_config"]
    text["rope_parameters"] = {"rope_theta": text.pop("rope_theta"), **text.pop("rope_scaling")}
    vision["rope_parameters"] = {"rope_theta": vision.pop("rope_theta"), "rope_type": "default"}
    new["dtype"] = new.pop("torch_dtype")
    assert parse_config(new) == parse_config(old)


@pytest.mark.parametrize("make", [scout, maverick, guard, text_only])
def test_a_written_config_reads_back_equal(make: Any):
    config: ModelConfig = make()
    read = parse_config(config_to_json(config), generation=generation_to_json(config))
    assert read == config


def test_maverick_has_experts_on_odd_layers_only():
    config = parse_config(published_scout(interleave_moe_layer_step=2, num_local_experts=128, use_qk_norm=False))
    assert config.text.moe_layers == (False, True) * 24
    assert not config.text.qk_norm


def test_guard_without_experts_or_chunks_is_dense_and_global():
    config = parse_config(
        published_scout(
            num_local_experts=0, moe_layers=[], attention_chunk_size=None, intermediate_size_mlp=8192, rope_scaling=None
        )
    )
    assert not any(config.text.moe_layers)
    assert config.text.chunk is None
    assert config.text.local_layers == ()
    assert config.text.rope_layers[:4] == (True, True, True, False)


def test_zero_experts_without_a_list_of_layers_mean_a_dense_network():
    assert not any(parse_config(published_scout(num_local_experts=0)).text.moe_layers)


def test_a_text_only_config_has_its_fields_at_the_top():
    data = published_scout()["text_config"] | {"architectures": ["Llama4ForCausalLM"]}
    config = parse_config(data)
    assert config.vision is None
    assert config.image_token_id is None
    assert config.text.hidden_size == 5120


def test_generation_and_processor_files_are_read(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(published_scout()))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7, "temperature": 0.6, "top_p": 0.9}')
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"max_patches": 4}}')
    config = read_config(tmp_path)
    assert config.generation.eos_token_ids == (7,)
    assert (config.generation.temperature, config.generation.top_p) == (0.6, 0.9)
    assert config.generation.bos_token_id == 200000
    assert config.max_tiles == 4


def test_all_problems_come_at_once():
    data = published_scout(hidden_size=0, num_attention_heads="many", rms_norm_eps=float("nan"), num_experts_per_tok=2)
    data["vision_config"]["patch_size"] = [14, 16]
    found = problems_of(data)
    for name in ("hidden_size", "num_attention_heads", "rms_norm_eps", "num_experts_per_tok", "patch_size"):
        assert name in found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_attention_heads": 41}, "multiple of key/value heads"),
        ({"head_dim": 127}, "even"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_local_experts": 10**6}, "num_local_experts"),
        ({"rope_theta": 10**5000}, "rope_theta"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "low_freq_factor must stand"),
        ({"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ({"layer_types": ["full_attention"] * 48}, "layer_types"),
        ({"attention_bias": True}, "attention_bias"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"moe_layers": [0], "num_local_experts": 0}, "num_local_experts is 0"),
        ({"vocab_size": 1000}, "image_token_index"),
        ({"eos_token_id": "end"}, "eos_token_id"),
    ],
)
def test_a_config_that_cannot_be_run_says_why(change: Json, said: str):
    assert said in problems_of(published_scout(**change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_attention_heads": 15}, "vision heads"),
        ({"patch_size": 13}, "must divide image_size"),
        ({"pixel_shuffle_ratio": 0.3}, "pixel_shuffle_ratio"),
        ({"image_size": 14}, "cannot be joined"),
        ({"intermediate_size": 100}, "adapter"),
        ({"vision_output_dim": 7680}, "vision_output_dim"),
    ],
)
def test_an_image_encoder_that_does_not_fit_together_says_why(change: Json, said: str):
    data = published_scout()
    data["vision_config"] |= change
    assert said in problems_of(data)


def test_another_architecture_is_refused():
    assert "only Llama 4" in problems_of({"model_type": "llama"})


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "bitsandbytes"},
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        {"quant_method": ["fbgemm_fp8"]},
        "fbgemm_fp8",
    ],
)
def test_a_quantized_checkpoint_of_another_kind_is_refused_with_the_alternative(quantization: object):
    assert "bf16" in problems_of(published_scout() | {"quantization_config": quantization})


@pytest.mark.parametrize(
    "quantization",
    [{"quant_method": "fbgemm_fp8"}, {"quant_method": "compressed-tensors", "format": "float-quantized"}],
)
def test_a_checkpoint_in_fp8_is_known_by_its_config(quantization: Json):
    plain = parse_config(published_scout())
    assert parse_config(published_scout() | {"quantization_config": quantization}) == replace(plain, fp8=True)
    assert not plain.fp8


CACHE_ALONE: list[Json] = [
    {},
    {"quant_method": "compressed-tensors", "format": "dense", "config_groups": {}, "kv_cache_scheme": {"num_bits": 8}},
    {"quant_method": "modelopt", "quant_algo": None, "kv_cache_quant_algo": "FP8"},
    {"quant_method": "modelopt", "quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}},
]


@pytest.mark.parametrize("quantization", CACHE_ALONE, ids=str)
def test_a_scheme_of_the_cache_alone_leaves_plain_weights(quantization: Json):
    plain = parse_config(published_scout())
    assert parse_config(published_scout() | {"quantization_config": quantization}) == plain


def test_sizes_made_by_hand_are_checked_too():
    text = TextConfig(10, 8, 3, 2, 4, 8, 8, 2, (True,), (True, False), 8, qk_norm=True)
    with pytest.raises(CheckpointError) as caught:
        ModelConfig(text)
    assert len(caught.value.problems) == 2


def test_a_vision_grid_counts_its_tokens():
    vision = VisionConfig(32, 1, 4, 128, 56, 14, 64)
    assert (vision.grid, vision.patches, vision.shuffle, vision.patch_tokens) == (4, 16, 2, 4)


@pytest.mark.parametrize(
    "content",
    [b"{", b"[1]", b'"x"', b"\xff\xfe", b'{"a": 1, "a": 2}', b'{"a":' * 100_000, b"{" + b" " * 5_000_000 + b"}"],
)
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError):
        read_config(tmp_path)


def test_a_missing_folder_and_a_missing_config_are_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no such folder"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        read_config(tmp_path)
    (tmp_path / "params.json").touch()
    with pytest.raises(CheckpointError, match="Hugging Face form"):
        read_config(tmp_path)


def test_fault_65_auto_map_never_runs_code(tmp_path: Path):
    canary = tmp_path / "canary"
    (tmp_path / "modeling.py").write_text(f"open({str(canary)!r}, 'w').close()")
    data = published_scout() | {"auto_map": {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(data))
    assert read_config(tmp_path) == parse_config(published_scout())
    assert not canary.exists()
