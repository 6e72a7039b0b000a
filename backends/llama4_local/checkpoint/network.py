"""The network of a checkpoint folder: its config and its tensors, which together decide what is served.

A text-only tool saves a network without its image encoder and leaves the config as it was, or writes the decoder's
config beside all tensors; a vocabulary is padded to a round number, in the tensors and not in the config.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama4_local.checkpoint.headers import find_tensors
from llama4_local.checkpoint.names import is_vision, published, published_name
from llama4_local.config.reader import read_config
from llama4sdk.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama4_local.checkpoint.headers import StoredTensor
    from llama4_local.config.model import ModelConfig

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Network:
    """A folder's network.

    Args:
        config: Its shape, as its tensors have it.
        tensors: Its tensors by published name.
    """

    config: ModelConfig
    tensors: dict[str, StoredTensor]


def read_network(folder: str | Path) -> Network:
    """Read a folder's config and the headers of its files.

    Raises:
        CheckpointError: See `read_config` and `find_tensors`.
    """
    folder = Path(folder)
    stored = find_tensors(folder) if folder.is_dir() and (folder / "config.json").is_file() else {}
    config = _padded(_without_encoder(read_config(folder), stored), stored)
    return Network(config, _by_name(folder, config, stored))


def network_tensors(folder: str | Path, config: ModelConfig) -> dict[str, StoredTensor]:
    """Return the tensors of a folder by published name; see `read_network` for the errors."""
    return _by_name(Path(folder), config, find_tensors(Path(folder)))


def _by_name(folder: Path, config: ModelConfig, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    problems: list[str] = []
    tensors = published(stored, multimodal=config.vision is not None, tied=config.tied, problems=problems)
    if problems:
        raise CheckpointError(folder, problems)
    return tensors


def _without_encoder(config: ModelConfig, stored: Mapping[str, StoredTensor]) -> ModelConfig:
    """Return the config of the decoder alone where no tensor belongs to the image encoder."""
    if config.vision is None or any(is_vision(published_name(name, multimodal=True)) for name in stored):
        return config
    _LOG.info("the config describes an image encoder, and the files hold none: text only is served")
    return replace(config, vision=None, image_token_id=None, image_begin_id=None, image_end_id=None)


def _padded(config: ModelConfig, stored: Mapping[str, StoredTensor]) -> ModelConfig:
    """Return the config with the vocabulary that the embedding has, where that is padded."""
    names = ("model.embed_tokens.weight", "lm_head.weight")
    rows = {
        tensor.shape[0]
        for name, tensor in stored.items()
        if published_name(name, multimodal=False) in names and tensor.shape
    }
    if len(rows) != 1 or max(rows) <= config.text.vocab_size:
        return config
    return replace(config, text=replace(config.text, vocab_size=max(rows)))
