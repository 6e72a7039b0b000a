"""The same layers over whole padded sequences, without a cache, for training.

Only valid tokens go through the layers, side by side; attention alone sees the padded form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from llama4_local.model.transformer import HeadTransforms, embed, run_layers
from llama4_local.ops.reference.heads import split_heads

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.model.transformer import Attend, Layer, Model

_WRITTEN_OUT = 512  # tokens, up to which all scores of a sequence are held at once


def training_forward(
    model: Model,
    token_ids: Tensor,
    lengths: Tensor,
    image_features: Tensor | None = None,
    run: Layer | None = None,
) -> Tensor:
    """Return the last hidden states of sequences padded on the right; differentiable throughout.

    Args:
        model: Its weights may need gradients, and be wrapped in autocast.
        token_ids: [sequences, longest], int64, best on the CPU; what stands past a sequence's length is ignored.
        lengths: [sequences], int64, each at least 1, on the same device.
        image_features: [placeholders, hidden], what replaces the placeholder tokens in row-major order;
            None treats them as ordinary tokens.
        run: What runs a layer, see `run_layers`.

    Returns:
        [sequences, longest, hidden], normalised, ready for `logits`; zero at padding.

    Raises:
        ValueError: Features that do not match the placeholders in number.
    """
    count, longest = token_ids.shape
    valid = torch.arange(longest, device=token_ids.device) < lengths[:, None]
    rows = valid.flatten().nonzero().flatten()
    flat = token_ids.flatten()[rows]
    places = moved(_placeholders(model, flat, image_features), model.device)
    rows, flat = moved(rows, model.device), moved(flat, model.device)
    hidden = embed(model, flat, places, image_features)
    plans = HeadTransforms.create(model, rows % longest)
    hidden = run_layers(model, hidden, padded_attention(model, plans, rows, (count, longest)), run)
    return _scatter(hidden, rows, (count, longest))


def padded_attention(model: Model, plans: HeadTransforms, rows: Tensor, shape: tuple[int, int]) -> Attend:
    """Return attention over sequences of [count, longest] slots, of which `rows` are in use.

    Causal; on chunk-local layers within each chunk. Padding on the right is never seen by valid tokens.
    """
    text = model.config.text

    def attend(layer: int, qkv: Tensor) -> Tensor:
        heads = split_heads(qkv, plans.of(layer))
        chunk = text.chunk if text.is_local(layer) else None
        q, k, v = (_fold(_scatter(part, rows, shape), chunk).transpose(1, 2) for part in heads)
        seen = causal_attention(q, k, v).transpose(1, 2)
        whole = seen.reshape(shape[0], -1, seen.shape[2] * seen.shape[3])[:, : shape[1]]
        return whole.flatten(0, 1).index_select(0, rows)

    return attend


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without waiting for what the device has still to do."""
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return causal attention of q [count, heads, longest, head_dim] to fewer key and value heads."""
    longest = q.shape[2]
    if q.dtype == torch.bfloat16 and longest <= _WRITTEN_OUT and q.device.type == "cpu":
        return _written_out(q, k, v)
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def _written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    # On CPUs the fused backward pass takes twice as long as these two products for short bf16 sequences.
    count, kv_heads, longest, head_dim = k.shape
    group = q.shape[1] // kv_heads
    ahead = torch.full((longest, longest), -torch.inf, dtype=q.dtype).triu(1).repeat(group, 1)
    grouped = (q * head_dim**-0.5).reshape(count * kv_heads, group * longest, head_dim)
    scores = torch.baddbmm(ahead.expand(len(grouped), -1, -1), grouped, k.flatten(0, 1).transpose(1, 2))
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(q.shape)


def _placeholders(model: Model, flat: Tensor, features: Tensor | None) -> Tensor:
    if features is None:
        return flat[:0]
    rows = (flat == model.config.image_token_id).nonzero().flatten()
    if len(rows) != len(features):
        raise ValueError(f"{len(rows)} image placeholders but {len(features)} features")
    return rows


def _scatter(x: Tensor, rows: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return x [rows, ...] at its places in [count, longest, ...], zero elsewhere."""
    flat = x.new_zeros((shape[0] * shape[1], *x.shape[1:])).index_copy(0, rows, x)
    return flat.unflatten(0, shape)


def _fold(x: Tensor, chunk: int | None) -> Tensor:
    """Return x [count, longest, ...] with each chunk as a sequence of its own."""
    longest = x.shape[1]
    if chunk is None or longest <= chunk:
        return x
    missing = -longest % chunk
    return pad(x, (0, 0, 0, 0, 0, missing)).unflatten(1, (-1, chunk)).flatten(0, 1)
