"""The first stage of training: the image encoder alone learns what is where.

A linear map, thrown away afterwards, reads two things from the features. From each token of each tile: which
colour and which form lies there. From the tokens of the overview tile together: which colour and which form
lies in each ninth of the image. That gives dozens of answers per image at a fraction of the cost of a
pass through the whole network, which then finds features that are easy to read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from llama4_local.model.transformer import Model
from llama4_local.model.vision import encode_tiles
from llama4_local.nano.training.data.sample import split_of
from llama4_local.nano.training.feeding import Feed
from llama4_local.nano.training.forward import moved
from llama4_local.nano.training.images import COLOURS, PLACES, SHAPES, Placed, Scene, Shape, draw_placed, random_scene
from llama4_local.nano.training.optimizer import Optimizer
from llama4sdk.images import fitted_size, tile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from torch import Tensor

    from llama4_local.config.model import ModelConfig
    from llama4_local.weights.tree import Weights

_RATE = 2e-3
_WARMUP = 50
_TOKEN = 28  # pixels along the side of what one token stands for
_UNCLEAR = -100  # a label that counts for nothing, as PyTorch's cross-entropy has it
_CLASSES = (len(COLOURS) + 1, len(SHAPES) + 1)  # 0 for nothing
_THERE = 0.3  # a shape lies in a token if so much of the smaller of the two is covered

_Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Seen:
    """Tiles with what is in them; labels are (colour, form), 0 for nothing, else one more than the index."""

    levels: Tensor  # [tiles, 3, side, side], uint8
    tokens: Tensor  # [tiles, tokens, 2]
    overviews: Tensor  # [images]: the overview tile of each image
    ninths: Tensor  # [images, 9, 2]

    @property
    def pixels(self) -> Tensor:
        """The tiles as the network takes them: fp32, -1 to 1."""
        return (self.levels.float() / 255 - 0.5) / 0.5

    def to(self, device: torch.device) -> Seen:
        """Return the same on another device."""
        return Seen(*(moved(part, device) for part in (self.levels, self.tokens, self.overviews, self.ninths)))


@dataclass(frozen=True, slots=True)
class _Heads:
    tokens: Tensor  # [classes, hidden]
    ninths: Tensor  # [9·classes, tokens·hidden]


def open_eyes(
    config: ModelConfig, weights: Weights, *, seed: int, minutes: float, images: int, pool: Executor,
    makers: int, report: Callable[[str], None],
) -> None:  # fmt: skip
    """Train the image encoder in place, for so many minutes.

    Args:
        config: The network's shape.
        weights: Leaves that need gradients; only those of the image encoder change.
        seed: Decides the images.
        minutes: How long.
        images: Images in a step.
        pool: Where they are drawn.
        makers: How many workers it has.
        report: Gets a line now and then.
    """
    if weights.vision is None or config.vision is None:
        return
    leaves: list[Tensor] = []
    weights.vision.map(leaves.append)
    heads = _heads(config, seed, weights.embedding.device)
    trained = {str(index): tensor for index, tensor in enumerate([*leaves, heads.tokens, heads.ninths])}
    optimizer = Optimizer.create({}, trained, weight_decay=0.01)
    began, step, side = time.monotonic(), 0, config.vision.image_size
    feed = Feed(pool, makers, partial(drawn, seed, images, side, config.max_tiles))
    while (share := (time.monotonic() - began) / (60 * minutes)) < 1:
        loss, right = _loss(Model.create(config, weights), heads, feed.take().to(weights.embedding.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        optimizer.step(_RATE * min(1.0, (step + 1) / _WARMUP) * min(1.0, 1.5 * (1 - share)))
        for tensor in trained.values():
            tensor.grad = None
        step += 1
        if step % 50 == 0:
            report(f"eyes step {step} loss {float(loss.detach()):.4f} shapes right {float(right):.3f}")
    feed.close()


def _heads(config: ModelConfig, seed: int, device: torch.device) -> _Heads:
    source = torch.Generator().manual_seed(seed)
    hidden = config.text.hidden_size
    wide = hidden * (config.vision.patch_tokens if config.vision else 1)
    tokens = torch.randn(sum(_CLASSES), hidden, generator=source) * hidden**-0.5
    ninths = torch.randn(len(PLACES) * sum(_CLASSES), wide, generator=source) * wide**-0.5
    return _Heads(tokens.to(device).requires_grad_(), ninths.to(device).requires_grad_())


def _loss(model: Model, heads: _Heads, seen: Seen) -> tuple[Tensor, Tensor]:
    """Return the loss, and the share of shapes that are right in their ninth, in colour and form."""
    features = encode_tiles(model, seen.pixels)
    # The decoder reads features after a norm, so only their direction counts.
    features = functional.rms_norm(features, features.shape[-1:])
    in_tokens, _ = _read(functional.linear(features, heads.tokens), seen.tokens)
    whole = functional.linear(features[seen.overviews].flatten(1), heads.ninths).unflatten(1, (len(PLACES), -1))
    in_ninths, right = _read(whole, seen.ninths)
    return in_tokens + in_ninths, right


def _read(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    parts = list(zip(scores.split(_CLASSES, dim=-1), labels.unbind(-1), strict=True))
    losses = [
        functional.cross_entropy(part.flatten(0, -2), label.flatten(), ignore_index=_UNCLEAR) for part, label in parts
    ]
    good = torch.stack([part.argmax(-1) == label for part, label in parts]).all(0)
    there = labels[..., 0] > 0
    return torch.stack(losses).sum(), (good & there).sum() / there.sum()


def drawn(seed: int, count: int, side: int, max_tiles: int, step: int) -> Seen:
    """Return a step's images; the same for the same seed and step.

    Args:
        seed: Any whole number.
        count: How many.
        side: Pixels along the side of a tile.
        max_tiles: Most tiles of an image, the overview aside.
        step: Number of the step.
    """
    images = _drawn(Random(f"{seed} eyes {step}"), count, side, max_tiles)
    overviews = np.cumsum([len(image.levels) for image in images]) - 1
    tokens = [labels for image in images for labels in image.tokens]
    return Seen(
        torch.from_numpy(np.concatenate([image.levels for image in images])),
        torch.tensor(tokens),
        torch.from_numpy(overviews),
        torch.tensor([image.ninths for image in images]),
    )


_Labels = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Image:
    levels: np.ndarray  # [tiles, 3, side, side]
    tokens: list[_Labels]  # by tile
    ninths: _Labels


def _drawn(rng: Random, count: int, side: int, max_tiles: int) -> list[_Image]:
    images: list[_Image] = []
    while len(images) < count:
        scene = Scene(()) if rng.random() < 0.05 else random_scene(rng)
        if scene.shapes and split_of(scene.key) == "test":
            continue
        image, placed = draw_placed(rng, scene)
        tiles = tile(image, tile=side, max_tiles=max_tiles)
        fitted = fitted_size(*image.size, tiles.rows, tiles.cols, side)
        scale = fitted[0] / image.width, fitted[1] / image.height
        corners = [(col * side, row * side) for row in range(tiles.rows) for col in range(tiles.cols)]
        tokens = [_in_tile(placed, scale, corner, side) for corner in corners]
        if len(corners) > 1:
            tokens.append(_in_tile(placed, (side / image.width, side / image.height), (0, 0), side))
        there = {each.shape.place: _label(each.shape) for each in placed}
        images.append(_Image(tiles.levels, tokens, [there.get(place, (0, 0)) for place in range(len(PLACES))]))
    return images


def _label(shape: Shape) -> tuple[int, int]:
    return 1 + list(COLOURS).index(shape.colour), 1 + SHAPES.index(shape.form)


def _in_tile(placed: Sequence[Placed], scale: tuple[float, float], corner: tuple[int, int], side: int) -> _Labels:
    """Return the labels of a tile's tokens, row by row; the tile's top left lies at `corner` of the canvas."""
    boxes = [(_box(each, scale, corner), _label(each.shape)) for each in placed]
    labels: _Labels = []
    for top in range(0, side, _TOKEN):
        for left in range(0, side, _TOKEN):
            own = (left, top, left + _TOKEN, top + _TOKEN)
            covers = sorted(((_covered(box, own), label) for box, label in boxes), reverse=True)
            clear = [label for share, label in covers if share >= _THERE]
            faint = any(0.02 < share < _THERE for share, _ in covers)
            unclear = len(clear) > 1 or (not clear and faint)
            labels.append((_UNCLEAR, _UNCLEAR) if unclear else clear[0] if clear else (0, 0))
    return labels


def _box(placed: Placed, scale: tuple[float, float], corner: tuple[int, int]) -> _Box:
    x, y = placed.x * scale[0] - corner[0], placed.y * scale[1] - corner[1]
    across, down = placed.radius * scale[0], placed.radius * scale[1]
    return x - across, y - down, x + across, y + down


def _covered(one: _Box, other: _Box) -> float:
    """Return which share of the smaller box the two have in common."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    if across <= 0 or down <= 0:
        return 0.0
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return across * down / smaller
