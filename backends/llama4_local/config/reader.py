"""Reads a checkpoint's JSON files into a `ModelConfig`.

Configs come in two forms: the published ones carry `rope_theta` and `rope_scaling`, newer writers put
both into `rope_parameters`. Text-only checkpoints (`Llama4ForCausalLM`) have the decoder's fields at the
top. Absent fields mean what they mean to transformers' `Llama4Config`, since its writer leaves out
whatever equals its defaults. `auto_map` and other pointers to code are never followed.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama4_local.config.fields import LAYER_LIMIT, Fields
from llama4_local.config.generation import read_generation
from llama4_local.config.json_file import read_json_object
from llama4_local.config.model import (
    ModelConfig,
    RopeScaling,
    TextConfig,
    VisionConfig,
    config_problems,
)
from llama4_local.config.other_forms import other_form
from llama4_local.config.quantization import stored_format
from llama4sdk.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama4_local.config.json_file import Json

CONFIG_LIMIT = 4 * 2**20
_EXPERT_LIMIT = 4096
_IMAGE_TOKENS = (200_092, 200_080, 200_081)  # <|patch|>, <|image_start|>, <|image_end|> as published


def read_config(folder: str | Path) -> ModelConfig:
    """Read `config.json`, and the generation and processor configs where the folder has them.

    Raises:
        CheckpointError: No such folder, no readable `config.json`, or one that describes no network
            this backend can run; every problem is listed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(folder, ["there is no such folder; give one in Hugging Face form"])
    if not (folder / "config.json").is_file():
        raise CheckpointError(folder, [_missing_config(folder)])
    return parse_config(
        read_json_object(folder / "config.json", limit=CONFIG_LIMIT),
        generation=_optional(folder / "generation_config.json"),
        processor=_processor(folder),
        modelopt=_optional(folder / "hf_quant_config.json"),
        source=folder,
    )


def parse_config(
    data: Mapping[str, object],
    *,
    generation: Mapping[str, object] | None = None,
    processor: Mapping[str, object] | None = None,
    modelopt: Mapping[str, object] | None = None,
    source: object = "config.json",
) -> ModelConfig:
    """Turn the content of `config.json` into a `ModelConfig`.

    Args:
        data: Content of `config.json`, in either form.
        generation: Content of `generation_config.json`.
        processor: Content of the image processor's config.
        modelopt: Content of ModelOpt's `hf_quant_config.json`.
        source: What errors name.

    Raises:
        CheckpointError: As `read_config`.
    """
    problems: list[str] = []
    top = Fields(data, "", problems)
    _check_kind(top)
    stored = stored_format(top, Fields(modelopt or {}, "hf_quant_config", problems))
    text_only = "text_config" not in top
    text_fields = top if text_only else top.section("text_config")
    text = _text(text_fields)
    # Absent, it would mean transformers' defaults, which contradict one another.
    vision = None if text_only or "vision_config" not in top else _vision(top.section("vision_config"))
    image_ids = [
        top.whole(f"{name}_token_index", default, low=0)
        for name, default in zip(("image", "boi", "eoi"), _IMAGE_TOKENS, strict=True)
    ]
    problems += [] if problems else config_problems(text, vision, image_ids[0])
    tiles = Fields(processor or {}, "processor", problems).whole("max_patches", 16, high=1024)
    stops = read_generation(Fields(generation or {}, "generation_config", problems), top, text_fields)
    dtype = top.text("dtype") or top.text("torch_dtype") or text_fields.text("dtype")
    tied = top.flag("tie_word_embeddings", default=False) or text_fields.flag("tie_word_embeddings", default=False)
    if problems:
        raise CheckpointError(source, problems)
    decoder = ModelConfig(text, generation=stops, dtype=dtype, fp8=stored == "fp8", int4=stored == "int4", tied=tied)
    if vision is None:
        return decoder
    begin_and_end = {"image_begin_id": image_ids[1], "image_end_id": image_ids[2]}
    return replace(decoder, vision=vision, image_token_id=image_ids[0], **begin_and_end, max_tiles=tiles)


def _missing_config(folder: Path) -> str:
    if (folder / "params.json").is_file():
        return "this is Meta's own form (params.json, pickled weights); give the Hugging Face form instead"
    return other_form(folder) or "config.json is missing; give a folder in Hugging Face form"


def _optional(path: Path) -> Json | None:
    return read_json_object(path, limit=CONFIG_LIMIT) if os.path.lexists(path) else None


def _processor(folder: Path) -> Json | None:
    preprocessor = _optional(folder / "preprocessor_config.json")
    if preprocessor is None:
        preprocessor = _optional(folder / "processor_config.json") or {}
    inner = preprocessor.get("image_processor")
    return inner if isinstance(inner, dict) else preprocessor  # pyright: ignore[reportUnknownVariableType]


def _check_kind(top: Fields) -> None:
    kind = top.text("model_type")
    if kind not in {"llama4", "llama4_text"}:
        top.refuse("model_type", "must be llama4 or llama4_text: this backend runs only Llama 4")


def _text(fields: Fields) -> TextConfig:
    layers = fields.whole("num_hidden_layers", 48, high=LAYER_LIMIT)
    heads = fields.whole("num_attention_heads", 40, high=2**16)
    hidden = fields.whole("hidden_size", 5120)
    _check_fixed(fields)
    rope = _rope_layers(fields, layers)
    return TextConfig(
        vocab_size=fields.whole("vocab_size", 202_048),
        hidden_size=hidden,
        heads=heads,
        kv_heads=fields.whole("num_key_value_heads", 8 if heads % 8 == 0 else heads, high=2**16),
        head_dim=fields.whole("head_dim", 128, high=2**16),
        expert_size=fields.whole("intermediate_size", 8192),
        dense_size=fields.whole("intermediate_size_mlp", 16_384),
        experts=fields.whole("num_local_experts", 16, low=0, high=_EXPERT_LIMIT),
        rope_layers=rope,
        moe_layers=_moe_layers(fields, layers),
        chunk=_chunk(fields, rope),
        qk_norm=fields.flag("use_qk_norm", default=True),
        rope_scaling=_rope_scaling(fields),
        rope_theta=_rope_theta(fields, 500_000.0),
        norm_eps=fields.number("rms_norm_eps", 1e-5, zero=True),
        max_positions=fields.whole("max_position_embeddings", 131_072),
        temperature_tuning=fields.flag("attn_temperature_tuning", default=True),
        floor_scale=fields.whole("floor_scale", 8192),
        attn_scale=fields.number("attn_scale", 0.1, zero=True),
    )


def _check_fixed(fields: Fields) -> None:
    fields.must_be("num_experts_per_tok", 1, "routing is top-1 in Llama 4")
    fields.must_be("hidden_act", "silu", "the feed-forward is SwiGLU")
    fields.must_be("attention_bias", False, "projections have no bias in Llama 4")


def _rope_layers(fields: Fields, layers: int) -> tuple[bool, ...]:
    given = fields.whole_list("no_rope_layers")  # despite its name, 1 marks a layer that rotates
    if given:
        if len(given) < layers:
            fields.refuse("no_rope_layers", f"must have an entry for each of the {layers} layers")
            return (True,) * layers
        return tuple(bool(flag) for flag in given[:layers])
    interval = fields.whole("no_rope_layer_interval", 4)
    return tuple((layer + 1) % interval != 0 for layer in range(layers))


def _moe_layers(fields: Fields, layers: int) -> tuple[bool, ...]:
    given = fields.whole_list("moe_layers")
    if given is not None:
        return tuple(layer in given for layer in range(layers))
    if fields.whole("num_local_experts", 16, low=0) == 0:
        return (False,) * layers
    step = fields.whole("interleave_moe_layer_step", 1)
    return tuple((layer + 1) % step == 0 for layer in range(layers))


def _chunk(fields: Fields, rope: tuple[bool, ...]) -> int | None:
    chunk = fields.whole_or_none("attention_chunk_size", 8192)
    kinds = fields.values.get("layer_types")
    usual = ["chunked_attention" if flag else "full_attention" for flag in rope]
    if chunk is not None and kinds is not None and kinds != usual:
        fields.refuse("layer_types", "must be chunked on RoPE layers and full on the others")
    return chunk


def _rope(fields: Fields) -> Fields:
    """Return the object with the rotary parameters, under whichever name and at whichever depth it lies."""
    # `rope_scaling` counts where both are there, as in transformers.
    rope = fields.section("rope_scaling" if fields.values.get("rope_scaling") else "rope_parameters")
    kinds = [kind for kind in ("chunked_attention", "full_attention") if isinstance(rope.values.get(kind), dict)]
    return rope.section(kinds[0]) if kinds else rope  # only chunked layers rotate, where kinds are told apart


def _rope_theta(fields: Fields, default: float) -> float:
    return _rope(fields).number("rope_theta", fields.number("rope_theta", default))


def _rope_scaling(fields: Fields) -> RopeScaling | None:
    rope = _rope(fields)
    kind = rope.text("rope_type") or rope.text("type") or "default"
    if kind not in {"default", "llama3"}:
        rope.refuse("rope_type", "must be default or llama3")
    if kind != "llama3":
        return None
    for key in ("factor", "low_freq_factor", "high_freq_factor"):
        if key not in rope:
            rope.refuse(key, "must stand beside the rope_type llama3")
    return RopeScaling(
        factor=rope.number("factor", 8.0),
        low_freq_factor=rope.number("low_freq_factor", 1.0),
        high_freq_factor=rope.number("high_freq_factor", 4.0),
        original_max_positions=rope.whole("original_max_position_embeddings", 8192),
    )


def _vision(fields: Fields) -> VisionConfig:
    adapter = fields.whole("projector_output_dim", 4096)
    fields.must_be("projector_input_dim", adapter, "the adapter keeps one width")
    fields.must_be("vision_output_dim", adapter, "the projector takes what the adapter gives")
    fields.must_be("hidden_act", "gelu", "the encoder's activation is exact GELU")
    return VisionConfig(
        hidden_size=fields.whole("hidden_size", 768),
        layers=fields.whole("num_hidden_layers", 34, high=LAYER_LIMIT),
        heads=fields.whole("num_attention_heads", 16, high=2**16),
        mlp_size=fields.whole("intermediate_size", 5632),
        image_size=_side(fields, "image_size", 448),
        patch_size=_side(fields, "patch_size", 14),
        adapter_size=adapter,
        channels=fields.whole("num_channels", 3, high=64),
        pixel_shuffle=fields.number("pixel_shuffle_ratio", 0.5),
        rope_theta=_rope_theta(fields, 10_000.0),
    )


def _side(fields: Fields, key: str, default: int) -> int:
    if not isinstance(fields.values.get(key), list):
        return fields.whole(key, default, high=2**16)
    sides = fields.whole_list(key) or [0]
    if sides[0] < 1 or any(side != sides[0] for side in sides):
        fields.refuse(key, "must be one size, or the same twice")
        return default
    return sides[0]
