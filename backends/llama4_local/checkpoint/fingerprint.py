"""Which checkpoint a folder holds, without reading all of it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SAMPLE = 64 * 1024  # bytes at the beginning and at the end of each file of tensors


def fingerprint(folder: Path) -> str:
    """Return a SHA-256, in hexadecimal, over the config and over size, beginning and end of each file of tensors.

    Copies of a checkpoint agree, and other weights differ, unless they were forged to agree.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as stream:
            digest.update(f"{file.name}:{size};".encode())
            digest.update(stream.read(_SAMPLE))
            stream.seek(max(0, size - _SAMPLE))
            digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()


def file_identity(folder: Path) -> str:
    """Return a SHA-256 over the fingerprint and over when each file of tensors was last written.

    What is derived from the whole content needs more certainty than samples of it give: another network written over
    this one in place differs, whatever the samples say. A copy that does not keep times differs too.
    """
    digest = hashlib.sha256(fingerprint(folder).encode())
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(f"{file.name}:{file.stat().st_mtime_ns};".encode())
    return digest.hexdigest()
