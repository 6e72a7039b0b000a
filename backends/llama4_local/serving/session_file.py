"""A session on disk: one sealed safetensors file, checked field by field when it is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from llama4_local.cache.session_store import SessionState
from llama4_local.checkpoint.reader import is_finite
from llama4_local.checkpoint.sealed_file import UnreadableFile, read_sealed, write_sealed
from llama4sdk.errors import CheckpointError
from llama4sdk.images import Tiles

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_FORM = "llama4_local session 3"
_CACHE_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn)
_FARTHEST = 2**40  # the largest position of a session's first token
_LARGEST_TILES = 1000  # tiles of one image, rows and columns of them: far beyond any model's limit


@dataclass(frozen=True, slots=True)
class SavedSession:
    """The content of a session's file.

    Args:
        fingerprint: Of the checkpoint that computed it.
        token_ids: All its tokens.
        image_tokens: Image placeholders among them.
        tiles: Its images; those whose features are not needed again have no pixels.
        state: Keys and values of the first tokens.
        origin: Position of the first token in its text, where the text before it is not kept; else 0.
    """

    fingerprint: str
    token_ids: tuple[int, ...]
    image_tokens: int
    tiles: tuple[Tiles, ...]
    state: SessionState
    origin: int = 0


def write_session(path: Path, session: SavedSession) -> None:
    """Write a session's file; a concurrent reader sees the old one or the new one.

    Raises:
        CheckpointError: It cannot be written.
    """
    tensors: dict[str, Tensor] = {
        "keys": session.state.keys,
        "values": session.state.values,
        "token_ids": torch.tensor(session.token_ids, dtype=torch.int32),
    }
    for index, image in enumerate(session.tiles):
        if image.levels.size:
            tensors[f"levels.{index}"] = torch.from_numpy(image.levels.copy())
    images = [[len(image.levels), image.rows, image.cols, image.digest] for image in session.tiles]
    metadata = {
        "fingerprint": session.fingerprint,
        "image_tokens": str(session.image_tokens),
        "origin": str(session.origin),
        "images": json.dumps(images),
    }
    try:
        _check_place(path)
        write_sealed(path, _FORM, tensors, metadata)
    except OSError as error:
        raise CheckpointError(path, [f"the session cannot be written: {error.strerror or error}"]) from error


def _check_place(path: Path) -> None:
    if path.exists() and not path.is_file():  # a device or a pipe would be replaced by the file
        raise OSError("there is no regular file at its place")


def read_session(path: Path) -> SavedSession:
    """Read a session's file.

    Raises:
        CheckpointError: It cannot be read, is damaged, or holds no session.
    """
    try:
        tensors, metadata = read_sealed(path, _FORM)
        return _session(metadata, tensors)
    except UnreadableFile as error:
        raise CheckpointError(path, [f"this is not a session's file: {error}"]) from error
    except OSError as error:  # a name longer than any
        raise CheckpointError(path, [f"the session cannot be read: {error.strerror or error}"]) from error
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(path, [f"it does not hold the fields of a session's file ({error})"]) from error


def without_pixels(image: Tiles) -> Tiles:
    """Return an image that keeps its number of tiles but cannot be encoded again."""
    return Tiles(np.zeros((len(image.levels), 0, 0, 0), dtype=np.uint8), image.rows, image.cols, image.digest)


def _session(metadata: dict[str, str], tensors: dict[str, Tensor]) -> SavedSession:
    keys, values = tensors["keys"], tensors["values"]
    for tensor in (keys, values):
        if tensor.dtype not in _CACHE_DTYPES or tensor.ndim != 4 or (tensor.numel() and not is_finite(tensor)):
            raise ValueError("keys and values are finite numbers, [layers, tokens, heads, width]")
    if keys.shape != values.shape or keys.dtype != values.dtype:
        raise ValueError("keys and values have one shape and one dtype")
    if tensors["token_ids"].dtype != torch.int32 or tensors["token_ids"].ndim != 1:
        raise ValueError("token ids are int32, [tokens]")
    token_ids = tuple(int(token) for token in tensors["token_ids"].tolist())
    if keys.shape[1] > len(token_ids):
        raise ValueError("more keys than tokens")
    origin = _whole(int(metadata["origin"]), _FARTHEST, "the first position")
    image_tokens = _whole(int(metadata["image_tokens"]), len(token_ids), "the number of image tokens")
    tiles = _images(json.loads(metadata["images"]), tensors)
    return SavedSession(metadata["fingerprint"], token_ids, image_tokens, tiles, SessionState(keys, values), origin)


def _images(entries: object, tensors: dict[str, Tensor]) -> tuple[Tiles, ...]:
    if not isinstance(entries, list):
        raise ValueError("images are a list")  # noqa: TRY004 - one class for every wrong field
    return tuple(_image(entry, tensors.get(f"levels.{index}")) for index, entry in enumerate(entries))  # pyright: ignore[reportUnknownArgumentType]


def _image(entry: object, levels: Tensor | None) -> Tiles:
    if not isinstance(entry, list) or len(entry) != 4:  # pyright: ignore[reportUnknownArgumentType]
        raise ValueError("an image is [tiles, rows, columns, digest]")
    count, rows, cols, digest = entry  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(digest, str) or not digest.isascii():
        raise ValueError("an image's digest is hexadecimal text")
    tiles = _whole(count, _LARGEST_TILES, "an image's number of tiles")
    grid = _whole(rows, _LARGEST_TILES, "an image's rows"), _whole(cols, _LARGEST_TILES, "an image's columns")
    if levels is None:
        return Tiles(np.zeros((tiles, 0, 0, 0), dtype=np.uint8), *grid, digest)
    if levels.dtype != torch.uint8 or levels.ndim != 4 or len(levels) != tiles:
        raise ValueError("an image's pixels do not fit it")
    return Tiles(levels.numpy(), *grid, digest)


def _whole(value: object, most: int, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{name} lies from 0 to {most}")
    return value
