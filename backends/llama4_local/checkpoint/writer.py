"""Saves a network as a folder that transformers loads as it stands."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save

from llama4_local.checkpoint.headers import INDEX_FILE, SINGLE_FILE
from llama4_local.config.writer import config_to_json, generation_to_json
from llama4_local.weights.schema import named_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.config.json_file import Json
    from llama4_local.config.model import ModelConfig
    from llama4_local.weights.tree import Weights


def save_checkpoint(
    folder: str | Path,
    config: ModelConfig,
    weights: Weights,
    *,
    shards: int = 1,
    fused: bool = True,
) -> None:
    """Write weights, `config.json` and `generation_config.json`.

    Each file appears whole or not at all, the config last; other files in the folder stay.

    Args:
        folder: Made where it does not exist.
        config: The network's shape and defaults.
        weights: Its tensors, in the type they shall be stored in.
        shards: Number of weight files; more than one come with an index.
        fused: Whether all experts of a layer share a tensor, as published, or each has its own.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = named_tensors(config, weights)
    _write_tensors(folder, tensors if fused else _split_experts(tensors), shards)
    generation = generation_to_json(config)
    if generation:
        write_json(folder / "generation_config.json", generation)
    write_json(folder / "config.json", config_to_json(config))


def write_json(path: Path, content: Json) -> None:
    """Write a JSON file that appears whole or not at all."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, even if the machine stops in between."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _write_tensors(folder: Path, tensors: dict[str, Tensor], shards: int) -> None:
    owned = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    if shards == 1:
        write_bytes(folder / SINGLE_FILE, save(owned, metadata={"format": "pt"}))
        return
    index: dict[str, str] = {}
    names = list(owned)
    for number in range(shards):
        file_name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        own = {name: owned[name] for name in names[number::shards]}
        write_bytes(folder / file_name, save(own, metadata={"format": "pt"}))
        index |= dict.fromkeys(own, file_name)
    total = sum(tensor.nbytes for tensor in owned.values())
    write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": index})


def _split_experts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    single: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        prefix, kind = name.rsplit(".", 1)
        if not prefix.endswith(".experts"):
            single[name] = tensor
            continue
        parts = ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
        for expert, matrix in enumerate(tensor):
            for part, piece in zip(parts, matrix.chunk(len(parts), dim=1), strict=True):
                single[f"{prefix}.{expert}.{part}.weight"] = piece.t()
    return single
