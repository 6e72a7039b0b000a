"""nano-guard's checkpoint folder: weights, tokenizer, configs, and its own chat template."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.nano.training.folder import write_settings
from llama4_local.nano.training.guard.vocabulary import train_guard_tokenizer
from llama4_local.nano.training.recipe import MAX_TILES, TILE
from llama4_local.weights.schema import to_tensors
from llama4sdk.prompting import PromptTemplate, Tokenizer

if TYPE_CHECKING:
    from llama4_local.config.model import ModelConfig
    from llama4_local.weights.tree import Weights

_TEMPLATE = Path(__file__).parent / "chat_template.jinja"


def guard_template(folder: Path) -> PromptTemplate:
    """Return the prompt template of a folder; its tokenizer is trained where there is none yet."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        train_guard_tokenizer().save(str(file))
    source = _TEMPLATE.read_text(encoding="utf-8")
    return PromptTemplate(Tokenizer.from_file(file), tile=TILE, max_tiles=MAX_TILES, chat_template=source)


def write_guard_folder(folder: Path, config: ModelConfig, weights: Weights) -> None:
    """Write weights in bf16, all configs and the chat template into a folder that has the tokenizer already."""
    plain = weights.map(lambda tensor: tensor.detach())
    save_checkpoint(folder, config, to_tensors(plain, dtype=torch.bfloat16, device="cpu"))
    write_settings(folder, config, _TEMPLATE.read_text(encoding="utf-8"))
