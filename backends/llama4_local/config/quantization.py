"""The format in which a checkpoint says that its matrices are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama4_local.config.fields import Fields
    from llama4_local.config.formats import MatrixFormat

_READ = "compressed-tensors W4A16 or FP8, ModelOpt FP8 and fbgemm FP8 are read, and bf16 with quantize='int4'"

_MODELOPT = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN")  # one scale for a matrix; one for each output, one for each expert


def stored_format(config: Fields, modelopt: Fields) -> MatrixFormat:
    """Return the format of a checkpoint's matrices; other kinds are refused with one that works.

    Args:
        config: Content of `config.json`.
        modelopt: Content of ModelOpt's `hf_quant_config.json`, empty where there is none.
    """
    key = next(
        (key for key in ("quantization_config", "compression_config") if key in config and config.values[key] != {}),
        None,
    )
    if key is None:
        own = modelopt.section("quantization")
        return _modelopt(own) if own.values else "plain"
    quantization = config.section(key)
    method = (quantization.text("quant_method") or "").lower()
    if method == "fbgemm_fp8":
        return "fp8"
    if method == "modelopt":
        return _modelopt(quantization if "quant_algo" in quantization.values else quantization.section("quantization"))
    if method == "compressed-tensors":
        return _compressed(quantization)
    quantization.refuse("quant_method", f"is of a kind that is not read: {_READ}")
    return "plain"


def _modelopt(fields: Fields) -> MatrixFormat:
    if (fields.text("quant_algo") or "").upper() in _MODELOPT:
        return "fp8"
    if (
        "quant_algo" not in fields and "kv_cache_quant_algo" in fields
    ):  # the cache alone, in scales that are passed over
        return "plain"
    fields.refuse("quant_algo", f"is of a kind that is not read: {_READ}")
    return "plain"


def _compressed(fields: Fields) -> MatrixFormat:
    form = fields.text("format")
    if form == "dense" and fields.values.get("config_groups") in (None, {}):  # a scheme of the cache alone
        return "plain"
    if form == "float-quantized":
        return "fp8"
    if form != "pack-quantized":
        fields.refuse("format", f"is of a kind that is not read: {_READ}")
        return "plain"
    groups = fields.section("config_groups")
    if not groups.values:
        fields.refuse("config_groups", f"must describe the packed integers; {_READ}")
    for name in groups.values:
        weights = groups.section(name).section("weights")
        weights.must_be("num_bits", 4, f"integers have 4 bits; {_READ}")
        weights.must_be("symmetric", True, f"zero points are not read; {_READ}")
    return "int4"
