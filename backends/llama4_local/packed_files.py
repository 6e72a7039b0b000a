"""The packed form of a checkpoint, kept beside it: one file for each layer, whole or not there at all.

A folder's name carries what was packed, how, and by which version of the packing; so another checkpoint or
another format never meets these files. A run that is stopped leaves the layers that it finished, and the next
one goes on from there.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from llama4_local.quantized import Fp8Matrix, Int4Matrix, Packed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

VERSION = "1"  # of the packing: another scale search makes other files
_PART = ".part"

PackedLayer = dict[str, Packed]


@dataclass(frozen=True, slots=True)
class PackedFiles:
    """Where the packed layers of one checkpoint lie.

    Args:
        folder: Made when the first layer is kept.
        mark: What each file says it is made from.
    """

    folder: Path
    mark: str

    @classmethod
    def beside(cls, checkpoint: Path, kind: str, fingerprint: str) -> PackedFiles:
        """Return the place within a checkpoint's own folder."""
        mark = f"{kind}-{VERSION}-{fingerprint[:16]}"
        return cls(checkpoint / f".packed-{mark}", mark)

    def load(self, layer: int, shapes: Mapping[str, tuple[int, ...]]) -> PackedLayer | None:
        """Return a layer's matrices, mapped into memory; None where there are none, or not such ones.

        Args:
            layer: Its number.
            shapes: [..., out, in] of each matrix wanted.
        """
        path = self._path(layer)
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("mark") != self.mark:
                    return None
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            matrices = _join(found)
        except (OSError, SafetensorError, KeyError, ValueError):
            return None
        same = {name: tuple(matrix.shape) for name, matrix in matrices.items()} == dict(shapes)
        return matrices if same else None

    def save(self, layer: int, matrices: PackedLayer) -> bool:
        """Keep a layer; return whether that was possible (the disk may be full, or not ours to write to)."""
        path = self._path(layer)
        part = path.with_name(f".{path.name}.{os.getpid()}{_PART}")
        try:
            self.folder.mkdir(exist_ok=True)
            self._clear()
            save_file(_split(matrices), part, metadata={"mark": self.mark})
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
        except (OSError, SafetensorError):
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            return False
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return True

    def _path(self, layer: int) -> Path:
        return self.folder / f"layer-{layer:05}.safetensors"

    def _clear(self) -> None:
        """Remove what a process that is no more did not finish."""
        for part in self.folder.glob(f".*{_PART}"):
            process = part.name.removesuffix(_PART).rpartition(".")[2]
            if process.isdecimal() and int(process) != os.getpid() and not Path(f"/proc/{process}").exists():
                part.unlink(missing_ok=True)


def _split(matrices: PackedLayer) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, matrix in matrices.items():
        values = matrix.packed if isinstance(matrix, Int4Matrix) else matrix.values
        found |= {f"{name}.values": values, f"{name}.scales": matrix.scales}
    return found


def _join(tensors: dict[str, Tensor]) -> PackedLayer:
    found: PackedLayer = {}
    for name in {key.rpartition(".")[0] for key in tensors}:
        values, scales = tensors[f"{name}.values"], tensors[f"{name}.scales"]
        packed = values.dtype == torch.uint8
        found[name] = Int4Matrix(values, scales) if packed else Fp8Matrix(values, scales)
    return found
