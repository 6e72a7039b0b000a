"""The first stage of training: the picture encoder alone learns what is where.

A linear map, thrown away afterwards, reads from the features of a picture's overview tile which colour and
which form lies in each ninth of it. That gives nine answers per picture at a fraction of the cost of a pass
through the whole network, which then finds features that are easy to read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from llama4_local.model.transformer import Model
from llama4_local.model.vision import encode_tiles
from llama4_local.nano.data.sample import split_of
from llama4_local.nano.optimizer import Optimizer
from llama4_local.nano.pictures import COLOURS, PLACES, SHAPES, Scene, draw, random_scene
from llama4sdk.images import tile

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.config import ModelConfig
    from llama4_local.weights import Weights

_PICTURES = 64
_RATE = 2e-3
_WARMUP = 50
_WAYS = 2  # pictures are drawn in this many tasks


@dataclass(frozen=True, slots=True)
class Seen:
    """Overview tiles with what is in each ninth: 0 for nothing, else one more than the index."""

    pixels: Tensor  # [pictures, 3, side, side], fp32
    colours: Tensor  # [pictures, 9]
    forms: Tensor  # [pictures, 9]


def open_eyes(
    config: ModelConfig, weights: Weights, *, seed: int, minutes: float, report: Callable[[str], None]
) -> None:
    """Train the picture encoder in place, for so many minutes.

    Args:
        config: The network's shape.
        weights: Leaves that need gradients; only those of the picture encoder change.
        seed: Decides the pictures.
        minutes: How long.
        report: Gets a line now and then.
    """
    if weights.vision is None or config.vision is None:
        return
    device = weights.embedding.device
    source = torch.Generator().manual_seed(seed)
    width = config.vision.patch_tokens * config.text.hidden_size
    classes = len(COLOURS) + len(SHAPES) + 2
    head = (torch.randn(len(PLACES) * classes, width, generator=source) * width**-0.5).to(device).requires_grad_()
    leaves: list[Tensor] = []
    weights.vision.map(leaves.append)
    others = {str(index): tensor for index, tensor in enumerate([*leaves, head])}
    optimizer = Optimizer.create({}, others, weight_decay=0.01)
    began, step, side = time.monotonic(), 0, config.vision.image_size
    with ThreadPoolExecutor(_WAYS) as pool:
        coming = _draw(pool, f"{seed} eyes {step}", side, config.max_tiles)
        while (share := (time.monotonic() - began) / (60 * minutes)) < 1:
            seen = coming()
            coming = _draw(pool, f"{seed} eyes {step + 1}", side, config.max_tiles)
            loss, right = _loss(Model.create(config, weights), head, seen)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(others.values()), 1.0)
            optimizer.step(_RATE * min(1.0, (step + 1) / _WARMUP) * min(1.0, 2 * (1 - share)), step + 1)
            for tensor in others.values():
                tensor.grad = None
            step += 1
            if step % 50 == 0:
                report(f"eyes step {step} loss {float(loss.detach()):.4f} shapes right {right:.3f}")


def _loss(model: Model, head: Tensor, seen: Seen) -> tuple[Tensor, float]:
    """Return the loss, and the share of shapes whose colour and form are both right."""
    features = encode_tiles(model, seen.pixels)
    # The decoder reads features after a norm, so only their direction counts.
    features = functional.rms_norm(features, features.shape[-1:])
    scores = functional.linear(features.flatten(1), head).unflatten(1, (len(PLACES), -1))
    colours, forms = scores.split([len(COLOURS) + 1, len(SHAPES) + 1], dim=2)
    loss = functional.cross_entropy(colours.flatten(0, 1), seen.colours.flatten().to(scores.device))
    loss = loss + functional.cross_entropy(forms.flatten(0, 1), seen.forms.flatten().to(scores.device))
    there = seen.colours > 0
    right = (colours.argmax(2).cpu() == seen.colours) & (forms.argmax(2).cpu() == seen.forms)
    return loss, float(right[there].float().mean())


def _draw(pool: Executor, seed: str, side: int, max_tiles: int) -> Callable[[], Seen]:
    """Start to draw pictures; what is returned waits for them."""
    share = _PICTURES // _WAYS
    parts = [pool.submit(_drawn, Random(f"{seed} {way}"), share, side, max_tiles) for way in range(_WAYS)]

    def joined() -> Seen:
        done = [part.result() for part in parts]
        levels = np.concatenate([levels for levels, _, _ in done])
        pixels = (torch.from_numpy(levels).float() / 255 - 0.5) / 0.5
        colours = torch.tensor([row for _, rows, _ in done for row in rows])
        forms = torch.tensor([row for _, _, rows in done for row in rows])
        return Seen(pixels, colours, forms)

    return joined


def _drawn(rng: Random, count: int, side: int, max_tiles: int) -> tuple[np.ndarray, list[list[int]], list[list[int]]]:
    levels: list[np.ndarray] = []
    colours: list[list[int]] = []
    forms: list[list[int]] = []
    while len(levels) < count:
        scene = Scene(()) if rng.random() < 0.05 else random_scene(rng)
        if scene.shapes and split_of(scene.key) == "test":
            continue
        levels.append(tile(draw(rng, scene), tile=side, max_tiles=max_tiles).levels[-1])
        shapes = {shape.place: shape for shape in scene.shapes}
        places = range(len(PLACES))
        colours.append([1 + list(COLOURS).index(shapes[at].colour) if at in shapes else 0 for at in places])
        forms.append([1 + SHAPES.index(shapes[at].form) if at in shapes else 0 for at in places])
    return np.stack(levels), colours, forms
