"""Rearranges a network's weights in memory into the layout of the matrix kernels.

A checkpoint is loaded in this layout, see `checkpoint/assembler.py`; these functions are for networks in memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llama4_local.weights.quantized import Int4Matrix, Matrix
from llama4_local.weights.tree import MlpTree, MoeTree, WeightTree
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from llama4_local.weights.tree import LayerTree


def prepare(weights: WeightTree[Matrix]) -> WeightTree[Matrix]:
    """Return the network with each layer's shared expert stored behind the routed ones.

    Plain experts keep their shape, [experts + 1, in, out], and lie in memory as [experts + 1, out, in]. The
    reference functions take the result as well. Layers in this layout are returned unchanged.

    Raises:
        InvalidRequest: A shared expert in another format than the routed ones.
    """
    return replace(weights, layers=tuple(_prepare_layer(layer) for layer in weights.layers))


def _prepare_layer(layer: LayerTree[Matrix]) -> LayerTree[Matrix]:
    return layer if layer.moe is None else replace(layer, moe=stack_experts(layer.moe))


def stack_experts(moe: MoeTree[Matrix]) -> MoeTree[Matrix]:
    """Return a mixture whose expert tensors hold the shared expert last; `shared` becomes a view of them."""
    # A rank of whole experts has fewer of them than the router.
    if moe.gate_up.shape[0] == moe.router.shape[0] + 1 or _address(_last(moe.gate_up)) == _address(moe.shared.gate_up):
        return moe
    gate_up = _append(moe.gate_up, moe.shared.gate_up)
    down = _append(moe.down, moe.shared.down)
    return MoeTree(moe.router, gate_up, down, MlpTree(_last(gate_up), _last(down)))


def _append(experts: Matrix, shared: Matrix) -> Matrix:
    if isinstance(experts, Tensor) and isinstance(shared, Tensor):
        return torch.cat([experts.transpose(1, 2), shared[None]]).transpose(1, 2)
    if isinstance(experts, Int4Matrix) and isinstance(shared, Int4Matrix):
        if experts.order is not None or shared.order is not None:
            raise InvalidRequest("The kernels take no activation order (weight_g_idx); serve it with device='cpu'.")
        return Int4Matrix(
            torch.cat([experts.packed, shared.packed[None]]), torch.cat([experts.scales, shared.scales[None]])
        )
    if isinstance(experts, Tensor | Int4Matrix) or isinstance(shared, Tensor | Int4Matrix):
        raise InvalidRequest(
            "The kernels take a layer's shared expert in the format of its routed ones, and this checkpoint has them "
            "in different ones; serve it with device='cpu'."
        )
    values = torch.cat([experts.values.view(torch.uint8), shared.values.view(torch.uint8)[None]])
    return replace(
        experts,
        values=values.view(torch.float8_e4m3fn),
        scales=torch.cat([experts.scales, shared.scales[None]]),
    )


def _address(matrix: Matrix) -> int:
    if isinstance(matrix, Tensor):
        return matrix.data_ptr()
    return (matrix.packed if isinstance(matrix, Int4Matrix) else matrix.values).data_ptr()


def _last(experts: Matrix) -> Matrix:
    return experts[-1].t() if isinstance(experts, Tensor) else experts[-1]
