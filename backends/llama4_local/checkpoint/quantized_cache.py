"""The packed form of a checkpoint, kept for the next start: one file for each layer, whole or not there at all.

The files lie in a folder beside the checkpoint's own, or in the user's cache where that cannot be written to. Its name
carries what was packed, how, and by which version of the packing; so another checkpoint or another format never meets
these files. A run that is stopped leaves the layers that it finished, and the next one goes on from there.

Each file carries a SHA-256 of its content. What was changed, cut short, or is no plain file of these folders counts as
not there, and is packed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from llama4_local.weights.quantized import Fp8Matrix, Int4Matrix, Packed
from llama4sdk.errors import InvalidRequest
from llama4sdk.prompting.tokenizer_cache import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

VERSION = "3"  # of the packing and its files: another scale search or order of nibbles makes other files
_PART = ".part"
_FORMATS = {(torch.uint8, torch.bfloat16): Int4Matrix, (torch.float8_e4m3fn, torch.float32): Fp8Matrix}

QuantizedLayer = dict[str, Packed]


@dataclass(frozen=True, slots=True)
class QuantizedCache:
    """Where the packed layers of one checkpoint lie.

    Args:
        folders: Where to look, and to keep, in this order; made when the first layer is kept.
        mark: What each file says it is made from.
    """

    folders: tuple[Path, ...]
    mark: str

    @classmethod
    def of(cls, checkpoint: Path, kind: str, identity: str) -> QuantizedCache:
        """Return the places for a checkpoint: within its own folder, then in the user's cache.

        Args:
            checkpoint: Its folder.
            kind: `int4` or `fp8`.
            identity: Says which checkpoint it is, see `fingerprint.file_identity`.
        """
        mark = f"{kind}-{VERSION}-{identity[:16]}"
        cache = cache_folder()
        spare = () if cache is None else (cache.with_name("packed") / mark,)
        return cls((checkpoint / f".packed-{mark}", *spare), mark)

    def load(self, layer: int, shapes: Mapping[str, tuple[int, ...]]) -> QuantizedLayer | None:
        """Return a layer's matrices, mapped into memory; None where there are none, or not such ones.

        Args:
            layer: Its number.
            shapes: [..., out, in] of each matrix wanted.
        """
        candidates = (_read(path, f"{self.mark} {layer}", shapes) for path in self._paths(layer))
        return next((matrices for matrices in candidates if matrices is not None), None)

    def save(self, layer: int, matrices: QuantizedLayer) -> bool:
        """Keep a layer; return whether that was possible (disks may be full, or not ours to write to)."""
        return any(_write(path, f"{self.mark} {layer}", matrices) for path in self._paths(layer))

    def _paths(self, layer: int) -> Iterator[Path]:
        # A link could lead anywhere, and what lies there is not ours.
        return (folder / f"layer-{layer:05}.safetensors" for folder in self.folders if not folder.is_symlink())


def _read(path: Path, mark: str, shapes: Mapping[str, tuple[int, ...]]) -> QuantizedLayer | None:
    if path.is_symlink() or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            seal = (file.metadata() or {}).get("seal", "")
            if not seal.startswith(f"{mark} "):
                return None  # before it is read
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if seal != _seal(mark, tensors):
            return None
        matrices = _join(tensors)
    except (OSError, SafetensorError, LookupError, ValueError, InvalidRequest):
        return None
    same = {name: tuple(matrix.shape) for name, matrix in matrices.items()} == dict(shapes)
    return matrices if same else None


def _write(path: Path, mark: str, matrices: QuantizedLayer) -> bool:
    part = path.with_name(f".{path.name}.{os.getpid()}{_PART}")
    tensors = _split(matrices)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path.parent)
        save_file(tensors, part, metadata={"seal": _seal(mark, tensors)})
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


def _clear(folder: Path) -> None:
    """Remove what a process that is no more did not finish."""
    for part in folder.glob(f".*{_PART}"):
        process = part.name.removesuffix(_PART).rpartition(".")[2]
        if process.isdecimal() and int(process) != os.getpid() and not Path(f"/proc/{process}").exists():
            part.unlink(missing_ok=True)


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


def _seal(mark: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the mark and a SHA-256, in hexadecimal, over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"{mark} {digest.hexdigest()}"
