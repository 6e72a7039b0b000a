"""The tensors of a checkpoint folder, read from its files' headers alone.

Nothing is allocated here in proportion to what a file claims: names, shapes and types are compared with
what the config demands before the first tensor is read. Only safetensors files are opened. A file must
lie in the folder; links may leave it only into the blob store of a Hugging Face cache, whose snapshot
folders are made of such links.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from safetensors import SafetensorError, safe_open

from llama4_local.config.json_file import parse_json_object, read_json_object
from llama4_local.config.other_forms import LFS_POINTER, LFS_REMEDY, other_form
from llama4sdk.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_LOG = logging.getLogger(__name__)
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_INDEX_BYTES = 32 * 2**20
_HEADER_BYTES = 32 * 2**20
_ENTRY_LIMIT = 300_000  # the largest published checkpoint has under 40,000
_SHARD_LIMIT = 2_000
_NAME_LIMIT = 200  # characters


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as a file's header describes it.

    Args:
        name: Its published name.
        file: Where it lies.
        dtype: safetensors' name of its type, such as `BF16`.
        shape: Its shape.
        alias: Its name in the file, where that is another one.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    alias: str | None = None

    @property
    def key(self) -> str:
        """Its name in the file."""
        return self.alias or self.name


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a checkpoint folder by name.

    Raises:
        CheckpointError: No safetensors file; files outside the folder, missing or unreadable; an index
            and files that disagree. Every problem is listed.
    """
    problems: list[str] = []
    if (folder / INDEX_FILE).exists():
        tensors = _from_index(folder, problems)
    elif (folder / SINGLE_FILE).exists():
        tensors = {}
        if _stays_inside(folder, folder / SINGLE_FILE, problems):
            tensors = {tensor.name: tensor for tensor in _read_header(folder / SINGLE_FILE, problems)}
    elif parts := _parts(folder):
        tensors = _from_parts(folder, parts, problems)
    else:
        raise CheckpointError(folder, [other_form(folder) or f"there is neither {SINGLE_FILE} nor {INDEX_FILE}"])
    if problems:
        raise CheckpointError(folder, problems)
    return tensors


def _parts(folder: Path) -> list[str]:
    """Return the names of a model's parts where there is no index and they count themselves, none being missing."""
    names = sorted(path.name for path in folder.glob("model-*-of-*.safetensors"))[: _SHARD_LIMIT + 1]
    complete = [f"model-{number:05d}-of-{len(names):05d}.safetensors" for number in range(1, len(names) + 1)]
    return names if names == complete and len(names) <= _SHARD_LIMIT else []


def _from_parts(folder: Path, parts: list[str], problems: list[str]) -> dict[str, StoredTensor]:
    _LOG.info("%s is missing; the %d files of the model count themselves, and all are read", INDEX_FILE, len(parts))
    tensors: dict[str, StoredTensor] = {}
    for name in parts:
        if not _stays_inside(folder, folder / name, problems):
            continue
        for tensor in _read_header(folder / name, problems):
            if tensor.name in tensors:
                problems.append(f"{tensor.name} lies in {tensors[tensor.name].file.name} and in {name}")
            tensors[tensor.name] = tensor
    return tensors


def _from_index(folder: Path, problems: list[str]) -> dict[str, StoredTensor]:
    shards = _read_index(folder, problems)
    tensors: dict[str, StoredTensor] = {}
    for file_name in sorted(set(shards.values())):
        path = folder / file_name
        if not _stays_inside(folder, path, problems):
            continue
        for tensor in _read_header(path, problems):
            if shards.get(tensor.name) == file_name:
                tensors[tensor.name] = tensor
            elif tensor.name not in shards:  # of tensors in several files, the index names the one that counts
                problems.append(f"{tensor.name} lies in {file_name}, where the index does not expect it")
    if not problems:
        absent = (name for name in shards if name not in tensors)
        problems += [f"{name} is not in {shards[name]}, where the index expects it" for name in absent]
    return tensors


def _read_index(folder: Path, problems: list[str]) -> dict[str, str]:
    """Return the file name of each tensor; nothing where the index itself is not acceptable."""
    entries = read_json_object(folder / INDEX_FILE, limit=_INDEX_BYTES).get("weight_map")
    if not isinstance(entries, dict):
        problems.append(f"{INDEX_FILE} has no weight_map")
        return {}
    shards = {name: _in_folder(folder, str(shard)) for name, shard in cast("dict[str, object]", entries).items()}
    names = set(shards.values())
    if len(shards) > _ENTRY_LIMIT or len(names) > _SHARD_LIMIT:
        problems.append(f"{INDEX_FILE} lists {len(shards):,} tensors in {len(names):,} files: too many")
        return {}
    foreign = sorted(name for name in names if not _is_plain(name))
    problems += [f"{INDEX_FILE} points at {name[:200]!r}: not a plain .safetensors name" for name in foreign]
    return {} if foreign else shards


def _in_folder(folder: Path, name: str) -> str:
    """Return the plain name of a file here that an index names as `./…`, or by a path of the machine it was made on."""
    plain = name.removeprefix("./")
    if re.match(r"/|[A-Za-z]:[/\\]", name) and ".." not in name:
        plain = re.split(r"[/\\]", name)[-1]
    return plain if _is_plain(plain) and (folder / plain).is_file() else name


def _is_plain(name: str) -> bool:
    short = len(name) <= _NAME_LIMIT and name.isprintable()
    return short and name.endswith(".safetensors") and not set(name) & set("/\\:") and not name.startswith(".")


def _stays_inside(folder: Path, path: Path, problems: list[str]) -> bool:
    if not path.exists():
        problems.append(f"{path.name} is missing")
        return False
    if not path.is_file():  # opening a pipe would wait for ever
        problems.append(f"{path.name} is no regular file")
        return False
    home, target = folder.resolve(), path.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
    if target.parent != home and target.parent != blobs:
        problems.append(f"{path.name} is a link that leaves the folder")
        return False
    return True


def _read_header(path: Path, problems: list[str]) -> Iterable[StoredTensor]:
    try:
        with path.open("rb") as file:
            opening = file.read(8)
            size = int.from_bytes(opening, "little")
            if size > _HEADER_BYTES:
                problems.append(f"{path.name} {_why_no_header(opening, size)}")
                return []
            parse_json_object(file.read(size), path=path)  # the library would take the last of two equal names
        with safe_open(path, framework="np") as tensors:  # for headers, and planning does without torch
            return [_describe(path, name, tensors.get_slice(name)) for name in tensors.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as exc:
        problems.append(f"{path.name} is not a sound safetensors file: {exc}")
    except CheckpointError as exc:
        problems += [f"{path.name} is not a sound safetensors file: {problem}" for problem in exc.problems]
    return []


def _why_no_header(opening: bytes, size: int) -> str:
    if LFS_POINTER.startswith(opening):
        return LFS_REMEDY
    return f"is no safetensors file: it claims a header of {size:,} bytes; at most {_HEADER_BYTES:,} are read"


def _describe(path: Path, name: str, header: _Header) -> StoredTensor:
    return StoredTensor(name, path, header.get_dtype(), tuple(header.get_shape()))


class _Header(Protocol):
    """The header of one tensor, as safetensors gives it."""

    def get_dtype(self) -> str: ...

    def get_shape(self) -> list[int]: ...
