"""The checkpoint folder: weights, and all that transformers needs beside them, written by us."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llama4_local.checkpoint.writer import save_checkpoint, write_bytes, write_json
from llama4_local.config.writer import generation_to_json
from llama4_local.nano.training.recipe import MAX_TILES, TILE
from llama4_local.nano.training.vocabulary import train_tokenizer
from llama4_local.weights.schema import to_tensors
from llama4sdk.prompting import PromptTemplate, Tokenizer
from llama4sdk.prompting import special_tokens as names
from llama4sdk.prompting.tool_format import declare_tools
from llama4sdk.request import ToolSpec

if TYPE_CHECKING:
    from llama4_local.config.json_file import Json
    from llama4_local.config.model import ModelConfig
    from llama4_local.weights.tree import Weights

_TEMPLATE = Path(__file__).parent / "chat_template.jinja"


def prompt_template(folder: Path) -> PromptTemplate:
    """Return the prompt template of a folder; its tokenizer is trained where there is none yet."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        train_tokenizer().save(str(file))
    return PromptTemplate(Tokenizer.from_file(file), tile=TILE, max_tiles=MAX_TILES)


def write_folder(folder: Path, config: ModelConfig, weights: Weights) -> None:
    """Write weights in bf16 and all configs into a folder that has the tokenizer already."""
    plain = weights.map(lambda tensor: tensor.detach())
    save_checkpoint(folder, config, to_tensors(plain, dtype=torch.bfloat16, device="cpu"))
    write_settings(folder, config)


def write_settings(folder: Path, config: ModelConfig, template: str | None = None) -> None:
    """Write the configs of generation, tokenizer and processor, and the chat template: nano's, or the given one."""
    # Greedy; transformers complains about a temperature where nothing is sampled, so none is written.
    greedy = replace(config.generation, temperature=None)
    generation = generation_to_json(replace(config, generation=greedy))
    write_json(folder / "generation_config.json", {**generation, "do_sample": False})
    tokens: Json = {"bos_token": names.BEGIN_OF_TEXT, "eos_token": names.EOT, "pad_token": names.PAD}
    write_json(folder / "special_tokens_map.json", tokens)
    write_json(
        folder / "tokenizer_config.json",
        {
            **tokens,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.text.max_positions,
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
        },
    )
    write_json(folder / "preprocessor_config.json", _preprocessor())
    write_json(
        folder / "processor_config.json",
        {"processor_class": "Llama4Processor", "patch_size": 14, "pixel_shuffle_ratio": 0.5},
    )
    write_bytes(folder / "chat_template.jinja", (template or chat_template()).encode())


def chat_template() -> str:
    """Return the Jinja template, with the very words by which `PromptTemplate` declares tools."""
    introduction = declare_tools([ToolSpec("a")]).split("\n[")[0]
    return _TEMPLATE.read_text(encoding="utf-8").replace("@INTRODUCTION@", introduction)


def _preprocessor() -> Json:
    return {
        "image_processor_type": "Llama4ImageProcessor",
        "processor_class": "Llama4Processor",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "max_patches": MAX_TILES,
        "resample": 2,
        "rescale_factor": 1 / 255,
        "resize_to_max_canvas": False,
        "size": {"height": TILE, "width": TILE},
    }
