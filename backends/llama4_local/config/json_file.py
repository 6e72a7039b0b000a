"""Reads a JSON object from a checkpoint folder, strictly and within a limit of bytes."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, cast

from llama4_local.config.other_forms import LFS_POINTER, LFS_REMEDY
from llama4sdk.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


Json = dict[str, object]


def read_json_object(path: Path, *, limit: int) -> Json:
    """Return the object that a JSON file holds.

    Args:
        path: The file.
        limit: Largest size in bytes that is read at all.

    Raises:
        CheckpointError: The file is missing, larger than `limit`, not UTF-8, not JSON, nested beyond
            reason, no object at its top, or has a key twice.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            raise CheckpointError(path, [f"{path.name} is no regular file"])
        size = status.st_size
        if size > limit:
            raise CheckpointError(path, [f"{path.name} has {size:,} bytes; at most {limit:,} are read"])
        return parse_json_object(path.read_bytes(), path=path)
    except OSError as exc:
        raise CheckpointError(path, [f"{path.name} cannot be read: {exc.strerror or exc}"]) from exc


def parse_json_object(data: bytes, *, path: Path) -> Json:
    """Return the object in `data`; `path` only names it in errors.

    Raises:
        CheckpointError: As `read_json_object`.
    """
    if data.startswith(LFS_POINTER):
        raise CheckpointError(path, [f"{path.name} {LFS_REMEDY}"])
    try:
        value: object = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as exc:
        raise CheckpointError(path, [f"{path.name} is not readable as JSON: {_reason(exc)}"]) from exc
    if not isinstance(value, dict):
        raise CheckpointError(path, [f"{path.name} must hold a JSON object, not a {type(value).__name__}"])
    return cast("Json", value)


def _unique(pairs: list[tuple[str, object]]) -> Json:
    # json keeps the last of two equal keys without a word: two readers may then disagree on the file.
    entries = dict(pairs)
    if len(entries) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:200]!r} stands there twice")
    return entries


def _reason(exc: Exception) -> str:
    return "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)
