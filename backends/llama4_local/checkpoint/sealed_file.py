"""A safetensors file that is written whole or not at all, and whose content is checked by a SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llama4_local.checkpoint.check_record import record_check, was_checked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_PART = ".part"
_SEAL = "seal"
_BLOCK = 2**24  # bytes that a thread hashes at once


class UnreadableFile(ValueError):
    """The file is missing, damaged, or of another kind; its message says which."""


def write_sealed(path: Path, kind: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file; a concurrent reader sees the old one or the new one.

    It is written in a part folder beside its place, since the library writes through a temporary file of its own.
    Part folders of processes that have ended are removed.

    Args:
        path: Its place.
        kind: Kind and version of its content.
        tensors: On the CPU.
        metadata: Text by name.

    Raises:
        OSError: It cannot be written, for example because the disk is full.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}{_PART}")
    _remove_stale_parts(path.parent)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    sealed = {**metadata, _SEAL: f"{kind} {_digest(kind, contiguous, metadata)}"}
    try:
        part.mkdir(exist_ok=True)
        written = part / path.name
        save_file(contiguous, written, sealed)
        with written.open("rb") as file:
            os.fsync(file.fileno())
        written.replace(path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_sealed(path: Path, kind: str, *, verify: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file.

    Args:
        path: Its place.
        kind: Kind and version of its content.
        verify: Whether its checksum is compared even where `check_record` notes that the file is unchanged since it
            matched.

    Raises:
        UnreadableFile: Missing, no regular file, of another kind or version, or damaged.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        raise UnreadableFile("there is no such file")
    try:
        seen = path.stat()
        trusted = not verify and was_checked(path, kind)
        with safe_open(path, framework="pt") as file:
            metadata = cast("dict[str, str]", file.metadata() or {})
            if not metadata.get(_SEAL, "").startswith(f"{kind} "):
                raise UnreadableFile(f"this is no file of the form {kind!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, UnreadableFile):
            raise
        raise UnreadableFile(f"it cannot be read ({type(error).__name__})") from error
    own = {name: text for name, text in metadata.items() if name != _SEAL}
    if trusted:
        return tensors, own
    if metadata[_SEAL] != f"{kind} {_digest(kind, tensors, own)}":
        raise UnreadableFile("it is damaged: its checksum does not match")
    if not verify:
        record_check(path, kind, seen)
    return tensors, own


def _remove_stale_parts(folder: Path) -> None:
    for part in folder.glob(f".*{_PART}"):
        process = part.name.removesuffix(_PART).rpartition(".")[2]
        if process.isdecimal() and int(process) != os.getpid() and not _runs(int(process)):
            with contextlib.suppress(OSError):
                shutil.rmtree(part) if part.is_dir() and not part.is_symlink() else part.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _digest(kind: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return a SHA-256, in hexadecimal, over kind, metadata, and the names, dtypes, shapes and bytes of the tensors.

    Of a tensor larger than a block, the SHA-256 of each block counts in place of its bytes: threads make those.
    """
    digest = hashlib.sha256(json.dumps([kind, sorted(metadata.items())]).encode())
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
            content = tensor.contiguous().reshape(-1).view(torch.uint8)
            if content.numel() <= _BLOCK:
                digest.update(content.numpy().data)
                continue
            for part in pool.map(_block_digest, content.split(_BLOCK)):
                digest.update(part)
    return digest.hexdigest()


def _block_digest(block: Tensor) -> bytes:
    return hashlib.sha256(block.numpy().data).digest()
