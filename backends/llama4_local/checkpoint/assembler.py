"""Reads a checkpoint's tensors straight to their places in a network.

Room for a whole matrix is made once, all experts of a layer in one, and each tensor is copied into it and dropped. So
loading takes what its result takes and one tensor more, one expert where experts are fused.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from llama4_local.checkpoint.pack_quantized import is_int4, read_int4
from llama4_local.checkpoint.reader import is_finite
from llama4_local.config.formats import STORED_E4M3, STORED_NAMES
from llama4_local.ops.cpu.measuring import Choice
from llama4_local.ops.cpu.products import laid_out
from llama4_local.weights.expert_stack import ExpertStack
from llama4_local.weights.quantize import stack
from llama4_local.weights.quantized import Fp8Matrix, Int4Matrix
from llama4_local.weights.schema import single_names, single_parts
from llama4_local.weights.tree import LayerTree, MlpTree, MoeTree, WeightTree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4_local.checkpoint.reader import MappedFiles, TensorReader
    from llama4_local.config.formats import MatrixFormat
    from llama4_local.weights.quantized import Matrix
    from llama4_local.weights.schema import TensorParts

Room = Tensor | Fp8Matrix

_STORED: dict[torch.dtype, str] = {getattr(torch, name): stored for name, stored in STORED_NAMES.items()}


@dataclass(frozen=True, slots=True)
class Assembler:
    """Puts a network together; matrices in e4m3 stay so, the rest becomes `dtype`.

    Args:
        source: Reads the tensors, and notes what is wrong with their values.
        dtype: Of what is not in e4m3.
        device: Where the network goes.
        bound: See `Fp8Matrix`.
        stacked: Whether each layer's shared expert lies behind the routed ones, in the same tensor, as
            `kernels.layout.prepare` has it; those of another format than the routed ones stay alone.
        mapped: Where given, tensors that are right as they lie in their files stay there.
        choice: The layouts of plain matrices; as they are stored where left out.
    """

    source: TensorReader
    dtype: torch.dtype
    device: str
    bound: float | None = None
    stacked: bool = False
    mapped: MappedFiles | None = None
    choice: Choice = field(default_factory=Choice)

    def network(self, schema: WeightTree[TensorParts]) -> WeightTree[Matrix]:
        """Read a whole network, layer by layer."""
        return WeightTree(
            self.plain(schema.embedding),
            tuple(self.layer(layer) for layer in schema.layers),
            self.plain(schema.norm),
            self._laid(self.plain(schema.head)),
            schema.vision.map(self.plain) if schema.vision else None,
        )

    def layer(self, schema: LayerTree[TensorParts]) -> LayerTree[Matrix]:
        """Read one layer."""
        dense = replace(schema, moe=None).map(self.weight)
        return dense if schema.moe is None else replace(dense, moe=self._mixture(schema.moe))

    def weight(self, pieces: TensorParts) -> Matrix:
        """Read what a product is made with in its layout; vectors are left as `matrix` reads them."""
        return self._laid(self.matrix(pieces))

    def _laid(self, matrix: Matrix) -> Matrix:
        if not isinstance(matrix, Tensor) or matrix.ndim != 2:
            return matrix
        outputs, inputs = matrix.shape
        return laid_out(matrix, self.choice.layout(outputs, inputs, "rows"))

    def matrix(self, pieces: TensorParts) -> Matrix:
        """Read one matrix or vector, whose rows are those of its pieces."""
        names = _names(pieces)
        if self._int4(names):
            return self._read_int4(names)
        return self._joined(pieces, narrow=self._narrow(names))

    def plain(self, pieces: TensorParts) -> Tensor:
        """Read what serving multiplies unpacked: an embedding, a head, an image encoder, packed or not."""
        return cast("Tensor", self._joined(pieces, narrow=False))

    def _joined(self, pieces: TensorParts, *, narrow: bool) -> Room:
        names = _names(pieces)
        left = self._as_stored(names[0]) if len(names) == 1 else None
        if left is not None:
            return left
        rows = sum(piece.shape[0] for piece in pieces)
        room = self._room((rows, *pieces[0].shape[1:]), narrow=narrow)
        self._fill(room, pieces)
        return room

    def _int4(self, names: Sequence[str]) -> bool:
        return all(is_int4(self.source.tensors, name) for name in names)

    def _read_int4(self, names: Sequence[str]) -> Int4Matrix:
        # The kernels take scales in bf16, which is the type that checkpoints of published size have.
        return read_int4(self.source, names, self.device, torch.bfloat16 if self.stacked else None)

    def _mixture(self, schema: MoeTree[TensorParts]) -> MoeTree[Matrix]:
        router, shared = self._laid(self.plain(schema.router)), schema.shared
        pairs = (schema.gate_up, shared.gate_up), (schema.down, shared.down)
        if self.stacked and all(
            self._format(self._expert_names(own)) == self._format(_names(one)) for own, one in pairs
        ):
            gate_up, down = (self._experts(own, one) for own, one in pairs)
            return MoeTree(router, gate_up, down, MlpTree(_last(gate_up), _last(down)))
        return MoeTree(router, self._laid_out(schema.gate_up), self._laid_out(schema.down), shared.map(self.weight))

    def _laid_out(self, pieces: TensorParts) -> Matrix:
        """Read a layer's experts in their layout; see `_experts`."""
        name, (count, inputs, outputs) = pieces[0].name, pieces[0].shape
        packed = self._format(self._expert_names(pieces)) != "plain"
        stored = "columns" if name in self.source.tensors else "rows"
        layout = stored if packed else self.choice.layout(outputs, inputs, stored)
        if layout == stored:
            return self._experts(pieces)
        matrices = (laid_out(self._expert(pieces, expert), layout) for expert in range(count))
        if layout == "blocks":
            return cast("Matrix", ExpertStack(tuple(matrices)))  # which only the reference functions see
        room = self._room((count, outputs, inputs) if layout == "rows" else (count, inputs, outputs), narrow=False)
        stack = cast("Tensor", room)
        for expert, matrix in enumerate(matrices):
            stack[expert].copy_(matrix if layout == "rows" else matrix.t())
        return stack.transpose(1, 2) if layout == "rows" else stack

    def _expert(self, pieces: TensorParts, expert: int) -> Tensor:
        """Read one plain expert, [out, in]."""
        name = pieces[0].name
        if name in self.source.tensors:
            return self._wide(name, expert).to(self.device).t()
        return torch.cat([self._wide(single).to(self.device) for single in single_names(name, expert)])

    def _int4_experts(self, pieces: TensorParts, shared: TensorParts) -> Matrix:
        name, count = pieces[0].name, pieces[0].shape[0]
        singles = [single_names(name, expert) for expert in range(count)] + ([_names(shared)] if shared else [])
        return stack((self._read_int4(names) for names in singles), len(singles))

    def _experts(self, pieces: TensorParts, shared: TensorParts = ()) -> Matrix:
        """Read a layer's experts, and the shared one's pieces behind them.

        Returns:
            [experts, out, in] in e4m3; plain ones are [experts, in, out], and lie in memory as [experts, out, in]
            wherever they are not left as they are stored.
        """
        name, (count, inputs, outputs) = pieces[0].name, pieces[0].shape
        fused = name in self.source.tensors
        if self._int4(self._expert_names(pieces)):
            return self._int4_experts(pieces, shared)
        left = self._as_stored(name) if fused and not shared else None
        if left is not None:
            return left
        room = self._room((count + bool(shared), outputs, inputs), narrow=self._narrow(self._expert_names(pieces)))
        for expert in range(count):
            if fused:
                self._fill_transposed(room[expert], name, expert)
            else:
                self._fill(room[expert], single_parts(pieces[0], expert))
        if fused and isinstance(room, Fp8Matrix):
            scales = self.source.lend(scale_name(name)).float().flatten()
            each = scales.reshape(count, -1) if scales.numel() >= count else scales.reshape(1, 1)
            room.scales[:count].copy_(each.expand(count, outputs))
        if shared:
            self._fill(room[-1], shared)
        return room.transpose(1, 2) if isinstance(room, Tensor) else room

    def _expert_names(self, pieces: TensorParts) -> list[str]:
        """Return the stored names of a layer's experts, under which they are fused or alone."""
        name, count = pieces[0].name, pieces[0].shape[0]
        if name in self.source.tensors:
            return [name]
        return [single for expert in range(count) for single in single_names(name, expert)]

    def _format(self, names: Sequence[str]) -> MatrixFormat:
        return "int4" if self._int4(names) else "fp8" if self._narrow(names) else "plain"

    def _narrow(self, names: Sequence[str]) -> bool:
        stored = (self.source.tensors.get(name) for name in names)
        return all(tensor is not None and tensor.dtype == STORED_E4M3 for tensor in stored)

    def _as_stored(self, name: str) -> Tensor | None:
        """Return a tensor that is right as it lies in its file; None where it is not, or has to be copied."""
        stored = self.source.tensors.get(name)
        if self.mapped is None or stored is None or stored.dtype != _STORED.get(self.dtype):
            return None
        return self.source.share(name, self.mapped)

    def _room(self, shape: tuple[int, ...], *, narrow: bool) -> Room:
        if not narrow:
            return torch.empty(shape, dtype=self.dtype, device=self.device)
        values = torch.empty(shape, dtype=torch.float8_e4m3fn, device=self.device)
        return Fp8Matrix(values, torch.empty(shape[:-1], dtype=torch.float32, device=self.device), self.bound)

    def _fill(self, room: Room, pieces: TensorParts) -> None:
        """Read tensors into the rows of a matrix [out, in], or the entries of a vector, one after the other."""
        start = 0
        for piece in pieces:
            name, stop = piece.name, start + piece.shape[0]
            if isinstance(room, Fp8Matrix):
                room.values[start:stop].copy_(self.source.lend(name))
                room.scales[start:stop].copy_(self._scales(name))
            else:
                room[start:stop].copy_(self._wide(name))
            start = stop

    def _fill_transposed(self, room: Room, name: str, expert: int) -> None:
        """Read one of fused experts, [in, out], into a matrix [out, in]; of scales nothing."""
        # Sent first, transposed there: on a GPU in no time.
        if isinstance(room, Fp8Matrix):
            part = self.source.lend(name, expert).view(torch.uint8)
            room.values.view(torch.uint8).copy_(part.to(self.device).t())
        else:
            room.copy_(self._wide(name, expert).to(self.device).t())

    def _wide(self, name: str, index: int | None = None) -> Tensor:
        """Return a tensor, or one entry of it, in the wanted type."""
        if is_int4(self.source.tensors, name):
            return self._read_int4([name]).dequantize(self.dtype)
        part = self.source.lend(name, index)
        if part.dtype == torch.float8_e4m3fn:  # joined with others that are not
            part = part.float() * self._scales(name).reshape(-1, *(1,) * (part.ndim - 1))
        wide = part.to(dtype=self.dtype)
        if torch.finfo(wide.dtype).max < torch.finfo(part.dtype).max and not is_finite(wide) and is_finite(part):
            stored = self.source.tensors[name].name
            self.source.problems.append(f"{stored} has values that are not finite numbers in {self.dtype}")
        return wide

    def _scales(self, name: str) -> Tensor:
        """Return a matrix's scales, one for each output or one for all."""
        return self.source.lend(scale_name(name)).float().flatten()


def scale_name(name: str) -> str:
    """Return the name of a matrix's scales."""
    return f"{name}_scale"


def _names(pieces: TensorParts) -> list[str]:
    return [piece.name for piece in pieces]


def _last(experts: Matrix) -> Matrix:
    """Return the last expert, [out, in], as a view of a stack as `Assembler` makes it."""
    return experts[-1].t() if isinstance(experts, Tensor) else experts[-1]
