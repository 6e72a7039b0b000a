"""Small checkpoints as they are published in FP8."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.weights.quantize import quantize_fp8
from llama4_local.weights.schema import named_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from llama4_local.config.model import ModelConfig
    from llama4_local.weights.tree import Weights

FBGEMM = {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}
LLM_COMPRESSOR = {"quant_method": "compressed-tensors", "format": "float-quantized"}


def saved_fp8(folder: Path, config: ModelConfig, weights: Weights, *, fused: bool) -> Path:
    """Save routed experts, and here shared ones, in e4m3, and the rest as it is.

    Args:
        folder: Made where it does not exist.
        config: The network's shape.
        weights: Its tensors.
        fused: Whether experts are fused, as by fbgemm, or lie alone, as by llm-compressor.
    """
    save_checkpoint(folder, config, weights)
    found: dict[str, Tensor] = {}
    for name, tensor in named_tensors(config, weights).items():
        if ".experts." in name:
            found |= _fused(name, tensor) if fused else _single(name, tensor)
        elif "shared_expert" in name:
            matrix = quantize_fp8(tensor)
            found |= {name: matrix.values, f"{name}_scale": matrix.scales[:, None]}
        else:
            found[name] = tensor.clone()
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / "model.safetensors")
    content = json.loads((folder / "config.json").read_text())
    content["quantization_config"] = FBGEMM if fused else LLM_COMPRESSOR
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def _fused(name: str, tensor: Tensor) -> dict[str, Tensor]:
    matrix = quantize_fp8(tensor.transpose(1, 2))
    values = matrix.values.view(torch.uint8).transpose(1, 2).contiguous().view(matrix.values.dtype)
    return {name: values, f"{name}_scale": matrix.scales[:, None] if "gate_up" in name else matrix.scales[..., None]}


def _single(name: str, tensor: Tensor) -> dict[str, Tensor]:
    parts = ("gate_proj", "up_proj") if "gate_up" in name else ("down_proj",)
    found: dict[str, Tensor] = {}
    for expert, both in enumerate(tensor):
        for part, piece in zip(parts, both.chunk(len(parts), dim=1), strict=True):
            single = f"{name.rsplit('.', 1)[0]}.{expert}.{part}.weight"
            matrix = quantize_fp8(piece.t())
            found |= {single: matrix.values, f"{single}_scale": matrix.scales[:, None].bfloat16()}
    return found
