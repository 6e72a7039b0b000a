"""A session on disk: one safetensors file, written whole or not at all, checked before it is believed."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from llama4_local.cache.session_store import SessionState
from llama4_local.checkpoint.reader import is_finite
from llama4sdk.errors import CheckpointError
from llama4sdk.images import Tiles

if TYPE_CHECKING:
    from torch import Tensor

_FORM = "llama4_local session 2"
_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn)  # that a cache may have
_FARTHEST = 2**40  # the farthest position that a session may begin at


@dataclass(frozen=True, slots=True)
class SavedSession:
    """What a session's file holds.

    Args:
        fingerprint: Of the checkpoint that computed it.
        token_ids: All its tokens.
        image_tokens: Of these, those that stand for images.
        tiles: Its images; those that need not be seen again have no pixels any more.
        state: Keys and values of the first tokens.
        origin: Position of the first token in its text, where what comes before is not kept; else 0.
    """

    fingerprint: str
    token_ids: tuple[int, ...]
    image_tokens: int
    tiles: tuple[Tiles, ...]
    state: SessionState
    origin: int = 0


def write_session(path: Path, session: SavedSession) -> None:
    """Write a session's file; whoever reads meanwhile sees the old one or the new one."""
    tensors: dict[str, Tensor] = {
        "keys": session.state.keys.contiguous(),
        "values": session.state.values.contiguous(),
        "token_ids": torch.tensor(session.token_ids, dtype=torch.int32),
    }
    for index, image in enumerate(session.tiles):
        if image.levels.size:
            tensors[f"levels.{index}"] = torch.from_numpy(image.levels.copy())
    images = [[len(of.levels), of.rows, of.cols, of.digest] for of in session.tiles]
    metadata = {
        "form": _FORM,
        "fingerprint": session.fingerprint,
        "image_tokens": str(session.image_tokens),
        "origin": str(session.origin),
        "images": json.dumps(images),
    }
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(descriptor)
    try:
        save_file(tensors, name, metadata)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def read_session(path: Path) -> SavedSession:
    """Read a session's file.

    Raises:
        CheckpointError: It cannot be read, or is no session.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = cast("dict[str, str]", file.metadata() or {})
            if metadata.get("form") != _FORM:
                raise CheckpointError(path, [f"this is not a session's file ({_FORM})"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return _session(metadata, tensors)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, [f"it cannot be read: {type(error).__name__}"]) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(path, [f"it does not hold what a session's file holds ({error})"]) from error


def _session(metadata: dict[str, str], tensors: dict[str, Tensor]) -> SavedSession:
    keys, values = tensors["keys"], tensors["values"]
    for tensor in (keys, values):
        if tensor.dtype not in _TYPES or tensor.ndim != 4 or (tensor.numel() and not is_finite(tensor)):
            raise ValueError("keys and values are finite numbers, [layers, tokens, heads, width]")
    images = cast("list[list[int | str]]", json.loads(metadata["images"]))
    tiles = [_tiles(*image, tensors.get(f"levels.{index}")) for index, image in enumerate(images)]  # type: ignore[arg-type]
    token_ids = tuple(int(token) for token in tensors["token_ids"].tolist())
    if keys.shape[1] > len(token_ids):
        raise ValueError("more keys than tokens")
    origin = int(metadata["origin"])
    if not 0 <= origin <= _FARTHEST:
        raise ValueError(f"a first position from 0 to {_FARTHEST}")
    image_tokens, state = int(metadata["image_tokens"]), SessionState(keys, values)
    return SavedSession(metadata["fingerprint"], token_ids, image_tokens, tuple(tiles), state, origin)


def _tiles(count: int, rows: int, cols: int, digest: str, levels: Tensor | None) -> Tiles:
    if levels is None:
        return without_pixels(Tiles(np.zeros((count, 0, 0, 0), dtype=np.uint8), rows, cols, digest))
    if levels.dtype != torch.uint8 or levels.ndim != 4 or len(levels) != count:
        raise ValueError("an image's pixels do not fit it")
    return Tiles(levels.numpy(), rows, cols, digest)


def without_pixels(image: Tiles) -> Tiles:
    """Return an image that still says how many tiles it has, but can be encoded no more."""
    return Tiles(np.zeros((len(image.levels), 0, 0, 0), dtype=np.uint8), image.rows, image.cols, image.digest)
