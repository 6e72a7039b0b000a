"""Files of the hub against the digests that the hub named them by when they were downloaded."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_AT_ONCE = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def damaged_files(folder: Path) -> tuple[list[str], int]:
    """Compare every file of a downloaded folder whose digest is known.

    Args:
        folder: The result of `hub.download`, in the client's cache or not.

    Returns:
        Names of the files with another content than the hub's, and how many were compared.
    """
    known = [(file, digest) for file in sorted(folder.iterdir()) if (digest := _digest_of(folder, file))]
    return [file.name for file, digest in known if _digest(file, digest) != digest], len(known)


def _digest_of(folder: Path, file: Path) -> str | None:
    """Return what the client kept: a cached file is a link to one that has the digest for a name."""
    if file.is_symlink():
        name = file.resolve().name
    elif (kept := folder / ".cache" / "huggingface" / "download" / f"{file.name}.metadata").is_file():
        name = [*kept.read_text().splitlines(), "", ""][1]  # commit, digest, time
    else:
        return None
    return name if _DIGEST.fullmatch(name) and file.is_file() else None


def _digest(file: Path, like: str) -> str:
    """Return the SHA-256 of a file, or where that of the hub is shorter Git's SHA-1 of a blob."""
    if len(like) == hashlib.sha256().digest_size * 2:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
    for block in _blocks(file):
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as source:
        while block := source.read(_AT_ONCE):
            yield block
