"""Small checkpoints as they are published in int4."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from llama4_local.checkpoint.headers import SINGLE_FILE
from llama4_local.checkpoint.writer import save_checkpoint
from local.small_checkpoints import biting_weights
from local.test_published_quantized import W4A16, is_linear, pack

if TYPE_CHECKING:
    from pathlib import Path

    from llama4_local.config.model import ModelConfig
    from llama4_local.weights.tree import Weights

GROUP = 32


def saved_int4(
    folder: Path,
    config: ModelConfig,
    weights: Weights | None = None,
    *,
    order: str = "none",
    group: int = GROUP,
    head: bool = False,
) -> Path:
    """Save a network as llm-compressor packs it.

    Args:
        folder: Where.
        config: Its shape.
        weights: Its tensors; random ones where left out.
        order: Whether there are groups of inputs, and which: `none`, `sorted`, `unwritten` or `activation`.
        group: Inputs that share a scale; 0 for one scale for each output.
        head: Whether the output head is packed too.
    """
    save_checkpoint(folder, config, weights or biting_weights(config), fused=False)
    found: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / SINGLE_FILE).items():
        if not (is_linear(name) or ".feed_forward.up" in name or (head and "lm_head" in name)):
            found[name] = tensor
            continue
        outputs, inputs = tensor.shape
        own = group or inputs
        groups = torch.arange(inputs, dtype=torch.int32) // own
        if order == "activation":
            groups = groups[torch.randperm(inputs, generator=torch.Generator().manual_seed(1))]
        scales = torch.stack([tensor[:, groups == g].abs().amax(1) / 7 for g in range(inputs // own)], dim=1)
        scales = scales.to(torch.bfloat16)
        integers = (tensor / scales[:, groups.long()].float()).round().clamp(-8, 7).to(torch.int8)
        shape = torch.tensor([outputs, inputs])
        found |= {f"{name}_packed": pack(integers), f"{name}_scale": scales, f"{name}_shape": shape}
        if order != "none":
            found[f"{name}_g_idx"] = torch.full_like(groups, -1) if order == "unwritten" else groups
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / SINGLE_FILE)
    content = json.loads((folder / "config.json").read_text())
    packing = W4A16 | ({"group_size": group} if group else {"strategy": "channel", "group_size": None})
    content["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": packing}},
    }
    (folder / "config.json").write_text(json.dumps(content))
    return folder
