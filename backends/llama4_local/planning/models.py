"""Finds the network to plan for: by its name, in a folder, or in a `config.json`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from llama4_local.config.json_file import read_json_object
from llama4_local.config.model import ModelConfig
from llama4_local.config.reader import CONFIG_LIMIT, parse_config, read_config
from llama4_local.nano import CHECKPOINT
from llama4_local.planning.published import PUBLISHED
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama4_local.checkpoint.headers import StoredTensor


def find_model(model: str | os.PathLike[str] | ModelConfig) -> tuple[str, ModelConfig]:
    """Return a network's name and shape.

    Args:
        model: `scout`, `maverick`, `guard-4`, `nano`, a checkpoint folder, a `config.json`, or the shape itself.

    Raises:
        CheckpointError: A config that describes no Llama 4.
        InvalidRequest: Neither a known name nor a path that is there.
    """
    if isinstance(model, ModelConfig):
        return "The model", model
    if isinstance(model, str) and model.lower() in PUBLISHED:
        return model.lower(), PUBLISHED[model.lower()]
    if isinstance(model, str) and model.lower() == "nano":
        return "nano", read_config(CHECKPOINT)
    path = Path(model)
    if path.is_dir():
        return path.resolve().name, _config_of(path)
    if path.is_file():
        return path.resolve().parent.name, parse_config(read_json_object(path, limit=CONFIG_LIMIT), source=path)
    known = ", ".join((*PUBLISHED, "nano"))
    raise InvalidRequest(f"There is no model {str(model)[:200]!r}: give {known}, a checkpoint folder or a config.json.")


def _config_of(folder: Path) -> ModelConfig:
    if not _has_tensors(folder):
        return read_config(folder)
    from llama4_local.checkpoint.network import read_network  # with it comes safetensors

    return read_network(folder).config


def _has_tensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def stored_tensors(model: object) -> Mapping[str, StoredTensor] | None:
    """Return the tensors of a checkpoint folder as their headers describe them; None without such files.

    Raises:
        CheckpointError: Files that are damaged.
    """
    if not isinstance(model, str | os.PathLike) or not _has_tensors(Path(model)):
        return None
    from llama4_local.checkpoint.network import read_network

    return read_network(Path(model)).tensors
