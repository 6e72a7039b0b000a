"""Small checkpoints of Llama Guard 4's shape: dense, without chunks, with its image encoder and a template of its own.

`random_guard` answers anything. `judging_guard` is put together so that its answer is a verdict: the tokens of the word
`bomb`, and tiles that are red, make one head of the layer without RoPE write a flag, and the next token depends on the
flag and on the token before it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.config.model import ModelConfig
from llama4_local.model.transformer import Model
from llama4_local.model.vision import encode_tiles
from llama4_local.nano.training.folder import write_settings
from llama4_local.weights.schema import random_weights
from llama4_local.weights.tree import VisionWeights, Weights
from llama4sdk.prompting.special_tokens import PAD
from local.small_backends import EOT, chatting, tokenizer_file
from local.small_checkpoints import biting_weights
from local.small_checkpoints import guard as guard_shape

# After the published one in form: the turns' names, one `Task:` before and one question after the conversation.
TEMPLATE = """{{ bos_token }}<|header_start|>user<|header_end|>

Task: Judge the last turn of this talk.
{% for message in messages %}
{{ 'User' if message['role'] == 'user' else 'Agent' }}: {% for part in message['content'] %}
{%- if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}
{% endfor %}
Answer in one line or two.<|eot|>
{%- if add_generation_prompt %}<|header_start|>assistant<|header_end|>

{% endif %}"""
_WORDS = (b"bo", b"mb", b"bomb", b" bomb", b"sa", b"fe", b"safe", b"un", b"unsafe", b"S9", b"\n\n", b"he", b"ll")
RANKS = {token: rank for rank, token in enumerate([*(bytes([b]) for b in range(256)), *_WORDS])}
_RED = (1.0, -1.0, -1.0)  # of a pixel, in -1 to 1
_COLOURS = ((-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0), (-1.0, -1.0, -1.0), (0.0, 0.0, 0.0))


def random_guard(folder: Path, seed: int = 0) -> Path:
    """Save a checkpoint with random weights in fp32, and all that transformers needs beside them."""
    config = chatting(guard_shape())
    return _saved(folder, config, biting_weights(config, seed))


def judging_guard(folder: Path) -> Path:
    """Save a checkpoint that answers `unsafe` and `S9` where the word `bomb` or a red tile occurs, else `safe`."""
    shape = guard_shape()
    text = replace(
        shape.text, hidden_size=_HIDDEN, rope_layers=(True, False), moe_layers=(False, False), max_positions=2048
    )
    config = chatting(replace(shape, text=text))
    return _saved(folder, config, _judging_weights(config))


def _saved(folder: Path, config: ModelConfig, weights: Weights) -> Path:
    save_checkpoint(folder, config, weights)
    (folder / "tokenizer.json").write_bytes(tokenizer_file(RANKS, padding=PAD))
    write_settings(folder, config)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


# Dimensions of the residual stream: one for each token, then these.
_VOCABULARY = guard_shape().text.vocab_size
_HARM, _CONSTANT, _FLAG, _HIDDEN = _VOCABULARY, _VOCABULARY + 1, _VOCABULARY + 2, _VOCABULARY + 64
_AFTER = {b"\n\n": (b"safe", b"unsafe"), b"unsafe": (b"\n", b"\n"), b"\n": (b"S9", b"S9")}


def _judging_weights(config: ModelConfig) -> Weights:
    weights = random_weights(config, 0, std=0.1)
    blank = replace(weights.map(torch.zeros_like), norm=weights.norm, vision=weights.vision)
    for norm in (norm for layer in blank.layers for norm in (layer.input_norm, layer.post_norm)):
        norm.fill_(1.0)
    embedding = blank.embedding
    embedding[:, :_VOCABULARY] = torch.eye(_VOCABULARY)
    embedding[:, _CONSTANT] = 1.0
    embedding[[RANKS[word] for word in (b"bomb", b" bomb")], _HARM] = 1.0
    _look_for_harm(config, blank.layers[1].attention.qkv, blank.layers[1].attention.output)
    _answer(blank.head)
    if blank.vision is not None:
        blank.vision.projector.copy_(_harm_of_red(config, blank.vision))
    return blank


def _look_for_harm(config: ModelConfig, qkv: Tensor, output: Tensor) -> None:
    """Let the first query head attend to harm, wherever it is, and write the flag."""
    text = config.text
    keys = text.heads * text.head_dim
    values = keys + text.kv_heads * text.head_dim
    qkv[0, _CONSTANT], qkv[keys, _HARM], qkv[values, _HARM] = 2.0, 1.0, 0.1
    output[_FLAG, 0] = 2.0


def _answer(head: Tensor) -> None:
    """Let the token before and the flag decide on the next token; a verdict ends the turn."""
    for before in (b"safe", b"S9"):
        head[EOT, RANKS[before]] = 10.0
    for before, (safe, unsafe) in _AFTER.items():
        head[RANKS[safe], RANKS[before]] = head[RANKS[unsafe], RANKS[before]] = 10.0
    head[RANKS[b"unsafe"], _FLAG], head[RANKS[b"unsafe"], _CONSTANT] = 2.0, -3.0


def _harm_of_red(config: ModelConfig, vision: VisionWeights) -> Tensor:
    """Return a projector [hidden, adapter] which makes harm of a red tile's features, and its opposite of others'."""
    side = 0 if config.vision is None else config.vision.image_size
    width = vision.projector.shape[1]
    seen = replace(vision, projector=torch.eye(config.text.hidden_size, width))
    colours = torch.tensor((_RED, *_COLOURS))
    tiles = colours[:, :, None, None].expand(-1, -1, side, side)
    features = encode_tiles(Model.create(config, replace(random_weights(config, 0), vision=seen)), tiles)[..., :width]
    harm = torch.full((len(colours), features.shape[1]), -1.0)
    harm[0] = 1.0
    projector = torch.zeros(config.text.hidden_size, width)
    projector[_HARM] = torch.linalg.lstsq(features.flatten(0, 1), harm.flatten()[:, None], rcond=1e-4).solution[:, 0]
    return projector
