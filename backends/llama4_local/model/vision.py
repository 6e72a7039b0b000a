"""The image encoder: tiles of pixels to tokens as wide as the decoder's, for all tiles at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

from llama4_local.ops.reference.heads import rotate
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.config.model import VisionConfig
    from llama4_local.model.transformer import Model
    from llama4_local.weights.tree import AffineTree, VisionLayerTree

_LAYER_NORM_EPS = 1e-5  # fixed in the published network; its config has no field that reaches it


def encode_tiles(model: Model, pixels: Tensor) -> Tensor:
    """Encode tiles, projector included; differentiable.

    Args:
        model: One with an image encoder.
        pixels: [tiles, channels, size, size], fp32, -1 to 1.

    Returns:
        [tiles, patch_tokens, text hidden].

    Raises:
        InvalidRequest: The model has no image encoder, or takes tiles of another size.
    """
    vision, weights, rotation = model.config.vision, model.weights.vision, model.vision_rope
    if vision is None or weights is None or rotation is None:
        raise InvalidRequest("this checkpoint has no image encoder; send text only")
    tile = (vision.channels, vision.image_size, vision.image_size)
    if tuple(pixels.shape[1:]) != tile:
        raise InvalidRequest(f"tiles must be [tiles, {', '.join(map(str, tile))}], got {tuple(pixels.shape)}")
    x = linear(unfold(pixels.to(model.device, model.dtype), vision.patch_size), weights.patch)
    x = torch.cat([x, weights.class_token.to(x.dtype).expand(len(x), 1, -1)], dim=1) + weights.positions
    x = _norm(x, weights.pre_norm)
    for layer in weights.layers:
        x = x + _attention(vision, _norm(x, layer.input_norm), layer, rotation)
        x = x + _mlp(_norm(x, layer.post_norm), layer)
    x = pixel_shuffle(_norm(x, weights.post_norm)[:, :-1], vision)
    return linear(gelu(linear(gelu(linear(x, weights.adapter_fc1)), weights.adapter_fc2)), weights.projector)


def unfold(pixels: Tensor, patch: int) -> Tensor:
    """Return a tile's patches row by row, each with its channels one after the other.

    Args:
        pixels: [tiles, channels, size, size].
        patch: Side of a patch in pixels.

    Returns:
        [tiles, patches, channels·patch·patch].
    """
    split = pixels.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # tiles, c, row, y, column, x
    return split.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def pixel_shuffle(x: Tensor, vision: VisionConfig) -> Tensor:
    """Join neighbouring patches: [tiles, patches, hidden] to [tiles, patch_tokens, hidden·shuffle²].

    Within a token the patches follow one another row by row.
    """
    grid, side = vision.grid, vision.shuffle
    split = x.reshape(len(x), grid // side, side, grid // side, side, -1)  # tiles, row, y, column, x, h
    return split.transpose(2, 3).flatten(3).flatten(1, 2)


def _attention(vision: VisionConfig, x: Tensor, layer: VisionLayerTree[Tensor], rotation: Tensor) -> Tensor:
    tiles, tokens, _ = x.shape
    heads = _affine(x, layer.qkv).view(tiles * tokens, 3 * vision.heads, vision.head_dim)
    turned, values = heads.split([2 * vision.heads, vision.heads], dim=1)
    turned = rotate(turned.float(), rotation.repeat(tiles, 1, 1)).to(values.dtype)
    whole = torch.cat([turned, values], dim=1).view(tiles, tokens, 3, vision.heads, vision.head_dim)
    queries, keys, values = whole.permute(2, 0, 3, 1, 4)
    seen = scaled_dot_product_attention(queries, keys, values)
    return _affine(seen.transpose(1, 2).flatten(2), layer.output)


def _mlp(x: Tensor, layer: VisionLayerTree[Tensor]) -> Tensor:
    return _affine(gelu(_affine(x, layer.fc1)), layer.fc2)


def _norm(x: Tensor, weights: AffineTree[Tensor]) -> Tensor:
    return layer_norm(x, x.shape[-1:], weights.weight, weights.bias, _LAYER_NORM_EPS)


def _affine(x: Tensor, weights: AffineTree[Tensor]) -> Tensor:
    return linear(x, weights.weight, weights.bias)
