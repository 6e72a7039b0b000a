"""Writes a `ModelConfig` as the `config.json` that transformers loads, in the published form."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama4_local.config.json_file import Json
    from llama4_local.config.model import ModelConfig, TextConfig, VisionConfig


def config_to_json(config: ModelConfig) -> Json:
    """Return the content of `config.json`; `parse_config` of it gives an equal `ModelConfig`.

    Generation defaults go into a file of their own, see `generation_to_json`.
    """
    dtype: Json = {} if config.dtype is None else {"dtype": config.dtype}
    if config.vision is None:
        return {"architectures": ["Llama4ForCausalLM"], **_text(config.text), **dtype}
    return {
        "architectures": ["Llama4ForConditionalGeneration"],
        "model_type": "llama4",
        "boi_token_index": config.image_begin_id,
        "eoi_token_index": config.image_end_id,
        "image_token_index": config.image_token_id,
        "tie_word_embeddings": False,
        "text_config": _text(config.text),
        "vision_config": _vision(config.vision),
        **dtype,
    }


def generation_to_json(config: ModelConfig) -> Json:
    """Return the content of `generation_config.json`, without what the config leaves open."""
    defaults = config.generation
    content: Json = {
        "bos_token_id": defaults.bos_token_id,
        "eos_token_id": list(defaults.eos_token_ids) or None,
        "do_sample": None if defaults.temperature is None else defaults.temperature > 0,
        "temperature": defaults.temperature,
        "top_p": defaults.top_p,
        "top_k": defaults.top_k,
        "min_p": defaults.min_p,
        "repetition_penalty": defaults.repetition_penalty,
        "max_new_tokens": defaults.max_tokens,
    }
    return {key: value for key, value in content.items() if value is not None}


def _text(text: TextConfig) -> Json:
    scaling = text.rope_scaling
    return {
        "model_type": "llama4_text",
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "head_dim": text.head_dim,
        "intermediate_size": text.expert_size,
        "intermediate_size_mlp": text.dense_size,
        "num_local_experts": text.experts,
        "num_experts_per_tok": 1,
        "no_rope_layers": [int(flag) for flag in text.rope_layers],
        "moe_layers": [layer for layer, flag in enumerate(text.moe_layers) if flag],
        "attention_chunk_size": text.chunk,
        "use_qk_norm": text.qk_norm,
        "rope_theta": text.rope_theta,
        "rope_scaling": None if scaling is None else _scaling(asdict(scaling)),
        "rms_norm_eps": text.norm_eps,
        "max_position_embeddings": text.max_positions,
        "attn_temperature_tuning": text.temperature_tuning,
        "floor_scale": text.floor_scale,
        "attn_scale": text.attn_scale,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        # transformers would take 1 and 2 for these, which are ordinary tokens here.
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _scaling(values: Json) -> Json:
    return {
        "rope_type": "llama3",
        "original_max_position_embeddings": values.pop("original_max_positions"),
        **values,
    }


def _vision(vision: VisionConfig) -> Json:
    return {
        "model_type": "llama4_vision_model",
        "hidden_size": vision.hidden_size,
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.heads,
        "intermediate_size": vision.mlp_size,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "num_channels": vision.channels,
        "projector_input_dim": vision.adapter_size,
        "projector_output_dim": vision.adapter_size,
        "vision_output_dim": vision.adapter_size,
        "pixel_shuffle_ratio": vision.pixel_shuffle,
        "rope_theta": vision.rope_theta,
        "hidden_act": "gelu",
    }
