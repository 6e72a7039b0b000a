"""The quantized form of a checkpoint, kept for the next start: one sealed file for each layer.

The files lie in a folder beside the checkpoint's own, or in the user's cache where that cannot be written to. Its name
carries the checkpoint, the weight format and the version of the packing; so another checkpoint or another format never
meets these files. A run that is stopped leaves the layers that it finished, and the next one goes on from there.

A file that was changed or cut short, or is no plain file of these folders, counts as absent, and its layer is quantized
again. Its checksum is compared at the first start that reads it; later ones trust its size, inode and times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from llama4_local.checkpoint.sealed_file import UnreadableFile, read_sealed, write_sealed
from llama4_local.config.share import WHOLE
from llama4_local.weights.quantized import Fp8Matrix, Int4Matrix, Packed
from llama4sdk.errors import InvalidRequest
from llama4sdk.prompting.tokenizer_cache import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from llama4_local.config.share import Share

VERSION = "4"  # of the packing and its files: another scale search or order of nibbles makes other files
_FORMATS = {(torch.uint8, torch.bfloat16): Int4Matrix, (torch.float8_e4m3fn, torch.float32): Fp8Matrix}

QuantizedLayer = dict[str, Packed]


@dataclass(frozen=True, slots=True)
class QuantizedCache:
    """The places of one checkpoint's quantized layers.

    Args:
        folders: The places to read and to write, in this order; made with the first layer.
        mark: The checkpoint, weight format and version, in each file.
        verify: Whether checksums are compared at every start.
    """

    folders: tuple[Path, ...]
    mark: str
    verify: bool = False

    @classmethod
    def of(
        cls, checkpoint: Path, kind: str, identity: str, share: Share = WHOLE, *, verify: bool = False
    ) -> QuantizedCache:
        """Return the places for a checkpoint, or a rank's share: within its own folder, then in the user's cache.

        Args:
            checkpoint: Its folder.
            kind: `int4` or `fp8`.
            identity: Says which checkpoint it is, see `fingerprint.file_identity`.
            share: The rank.
            verify: Whether checksums are compared at every start.
        """
        part = f"-{share.rank}-of-{share.size}" if share.size > 1 else ""
        part += "-experts" if share.whole_experts else ""
        mark = f"{kind}-{VERSION}-{identity[:16]}{part}"
        cache = cache_folder()
        spare = () if cache is None else (cache.with_name("packed") / mark,)
        return cls((checkpoint / f".packed-{mark}", *spare), mark, verify)

    def load(self, layer: int, shapes: Mapping[str, tuple[int, ...]]) -> QuantizedLayer | None:
        """Return a layer's matrices, mapped into memory; None where there are none, or not such ones.

        Args:
            layer: Its number.
            shapes: [..., out, in] of each matrix wanted.
        """
        candidates = (_read(path, f"{self.mark} {layer}", shapes, verify=self.verify) for path in self._paths(layer))
        return next((matrices for matrices in candidates if matrices is not None), None)

    def save(self, layer: int, matrices: QuantizedLayer) -> bool:
        """Keep a layer; return whether that was possible (disks may be full, or not ours to write to)."""
        return any(_write(path, f"{self.mark} {layer}", matrices) for path in self._paths(layer))

    def _paths(self, layer: int) -> Iterator[Path]:
        # A link could lead anywhere, and what lies there is not ours.
        return (folder / f"layer-{layer:05}.safetensors" for folder in self.folders if not folder.is_symlink())


def _read(path: Path, kind: str, shapes: Mapping[str, tuple[int, ...]], *, verify: bool) -> QuantizedLayer | None:
    if path.is_symlink():
        return None
    try:
        tensors, _ = read_sealed(path, kind, verify=verify)
        matrices = _join(tensors)
    except (UnreadableFile, LookupError, ValueError, InvalidRequest):
        return None
    same = {name: tuple(matrix.shape) for name, matrix in matrices.items()} == dict(shapes)
    return matrices if same else None


def _write(path: Path, kind: str, matrices: QuantizedLayer) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(path, kind, _split(matrices), {})
    except OSError:
        return False
    return True


def _split(matrices: QuantizedLayer) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, matrix in matrices.items():
        values = matrix.packed if isinstance(matrix, Int4Matrix) else matrix.values
        tensors |= {f"{name}.values": values, f"{name}.scales": matrix.scales}
    return tensors


def _join(tensors: dict[str, Tensor]) -> QuantizedLayer:
    matrices: QuantizedLayer = {}
    for name in {key.rpartition(".")[0] for key in tensors}:
        values, scales = tensors[f"{name}.values"], tensors[f"{name}.scales"]
        matrices[name] = _FORMATS[values.dtype, scales.dtype](values, scales)
    return matrices
