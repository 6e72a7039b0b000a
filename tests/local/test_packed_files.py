"""The kept packed form is whole, what it says it is, or packed again; never served otherwise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama4_local.checkpoint import check_record, quantizing, sealed_file
from llama4_local.checkpoint import quantized_cache as packed_files
from llama4_local.checkpoint.quantized_cache import QuantizedCache
from llama4_local.checkpoint.quantizing import load_quantizing
from llama4_local.config.formats import WeightFormat
from llama4_local.weights.quantize import Pack
from llama4_local.weights.quantized import Fp8Matrix, Int4Matrix, Packed
from llama4_local.weights.tree import WeightTree
from local.packable import packable, parts, same, saved_packable, wide
from long_runs import often, thinned

LAYERS = packable().text.layers


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return saved_packable(tmp_path / "model")


def packed(folder: Path, kind: WeightFormat = "int4", *, keep: bool = True, verify: bool = False) -> WeightTree[Tensor]:
    """The numbers of the packed network, none of them mapped."""
    return load_quantizing(folder, packable(), kind, keep=keep, verify=verify).map(wide)


def packings(folder: Path) -> list[Path]:
    return sorted(folder.glob(".packed-*/layer-*.safetensors"))


def packs_again(folder: Path, kind: WeightFormat = "int4") -> int:
    """How many of the layers a start has to pack."""
    reports: list[int] = []
    packed_layers = 0

    def packing(done: int, total: int) -> None:
        nonlocal packed_layers
        packed_layers += not reports or reports[-1] == 0
        reports.append(1)

    def loading(done: int, total: int) -> None:
        reports.append(0)

    load_quantizing(folder, packable(), kind, progress=loading, packing=packing)
    return packed_layers


def test_a_first_start_packs_every_layer_and_a_second_none(folder: Path) -> None:
    assert packs_again(folder) == LAYERS
    assert len(packings(folder)) == LAYERS
    assert packs_again(folder) == 0


@pytest.mark.parametrize("kind", ["fp8", "int4"][: often(1, 2)])
def test_matrices_are_packed_on_the_device_that_uses_them_and_saved_from_there(
    folder: Path, kind: WeightFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[str] = []
    real, kept = quantizing.packer, list[dict[str, Any]]()

    def watched(of: WeightFormat) -> Pack:
        def pack(matrix: Tensor) -> Packed:
            devices.append(matrix.device.type)
            return real(of)(matrix)

        return pack

    def arriving(packed: Packed, device: str) -> Packed:
        return packed if device == "cpu" else usual(packed, device)  # nothing comes back from the meta device

    def saved(self: QuantizedCache, layer: int, matrices: dict[str, Any]) -> bool:
        kept.append(matrices)
        return True

    form = Int4Matrix if kind == "int4" else Fp8Matrix
    usual: Any = form.to
    monkeypatch.setattr(quantizing, "packer", watched)
    monkeypatch.setattr(form, "to", arriving)
    monkeypatch.setattr(QuantizedCache, "save", saved)
    weights = load_quantizing(folder, packable(), kind, device="meta")
    assert set(devices) == {"meta"}
    assert {part.device.type for leaf in weights.leaves() for part in parts(leaf)} == {"meta"}
    assert len(kept) == LAYERS
    assert set(kept[0]) == {"qkv", "output", "gate_up", "down"}


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    rewrite(path, bytes(content))


def rewrite(path: Path, content: bytes) -> None:
    """Put another file in a file's place; the old one may still be mapped."""
    path.unlink()
    path.write_bytes(content)


def header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    said = json.loads(content[8 : 8 + size])
    change(said)
    written = json.dumps(said).encode()
    rewrite(path, len(written).to_bytes(8, "little") + written + content[8 + size :])


def with_nan(path: Path) -> None:
    """A file that is sound in every way, with the seal of the one it replaces."""
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    content = path.read_bytes()
    said = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    tensors["qkv.scales"][..., 0] = float("nan")
    path.unlink()
    save_file(tensors, path, metadata=said)


def as_pickle(path: Path) -> None:
    path.unlink()
    torch.save({"qkv.values": torch.zeros(1)}, path)


def lies(said: dict[str, Any]) -> None:
    said["qkv.values"] = {"dtype": "U8", "shape": [2**40, 2**20], "data_offsets": [0, 2**60]}


TAMPERED: dict[str, Callable[[Path], object]] = {
    "one bit of a weight": lambda path: flip(path, -1),
    "one bit in the middle": lambda path: flip(path, path.stat().st_size // 2),
    "cut short": lambda path: rewrite(path, path.read_bytes()[:-1]),
    "empty": lambda path: rewrite(path, b""),
    "longer": lambda path: rewrite(path, path.read_bytes() + b"\0"),
    "no seal": lambda path: header(path, lambda said: said.pop("__metadata__")),
    "another seal": lambda path: header(path, lambda said: said.update(__metadata__={"seal": "int4-2-0 0"})),
    "a tensor less": lambda path: header(path, lambda said: said.pop("qkv.scales")),
    "a number for a matrix": lambda path: header(path, lambda said: said["qkv.values"].update(shape=[])),
    "a lying header": lambda path: header(path, lies),
    "a header without end": lambda path: rewrite(path, (2**62).to_bytes(8, "little") + path.read_bytes()[8:]),
    "NaN": with_nan,
    "a pickle": as_pickle,
    "another layer's": lambda path: rewrite(path, path.with_name("layer-00003.safetensors").read_bytes()[:-8]),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("kind", thinned(["int4", "fp8"], 2))
@pytest.mark.parametrize("what", TAMPERED)
def test_faults_64_65_66_a_packed_file_that_was_changed_is_never_served(
    folder: Path, what: str, kind: WeightFormat
) -> None:
    wanted = packed(folder, kind)
    TAMPERED[what](packings(folder)[1])
    assert same(packed(folder, kind), wanted)
    if what != "a folder":
        assert packs_again(folder, kind) == 0


def test_fault_66_a_packed_file_or_folder_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    wanted = packed(folder)
    first, *_ = packings(folder)
    elsewhere = tmp_path / "elsewhere"
    first.parent.rename(elsewhere)
    first.parent.symlink_to(elsewhere)
    kept = {path.name: path.stat().st_mtime_ns for path in elsewhere.iterdir()}
    assert packs_again(folder) == LAYERS
    assert {path.name: path.stat().st_mtime_ns for path in elsewhere.iterdir()} == kept
    first.parent.unlink()
    elsewhere.rename(first.parent)
    first.rename(tmp_path / "moved")
    first.symlink_to(tmp_path / "moved")
    assert same(packed(folder), wanted)


def test_what_another_layer_was_packed_to_is_not_taken_for_this_one(folder: Path) -> None:
    wanted = packed(folder)
    first, second, *_ = packings(folder)
    rewrite(first, second.read_bytes())
    assert same(packed(folder), wanted)


def test_another_network_written_over_the_first_is_packed_anew(folder: Path) -> None:
    before = packed(folder)
    path = folder / "model.safetensors"
    middle = path.stat().st_size // 2
    with path.open("r+b") as file:  # nothing that samples of the file would show
        file.seek(middle)
        file.write(b"\0\0\0\0" * 64)
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1_000_000))
    assert not same(packed(folder), before)


def test_where_the_checkpoint_cannot_be_written_to_the_users_cache_keeps_the_packed_form(
    folder: Path, tmp_path: Path
) -> None:
    wanted = packed(folder, keep=False)
    mark = packed_files.QuantizedCache.of(folder, "int4", "x" * 64).folders[0].name.removesuffix("x" * 16)
    packed(folder)
    beside = next(folder.glob(f"{mark}*"))
    for path in beside.iterdir():
        path.unlink()
    beside.rmdir()
    beside.write_text("a file, which no folder can be made over")
    assert packs_again(folder) == LAYERS
    assert packs_again(folder) == 0
    assert len(list((tmp_path / "cache/llama4sdk/packed").glob("int4-*/layer-*.safetensors"))) == LAYERS
    assert same(packed(folder), wanted)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled as soon as they are written."""
    monkeypatch.setattr(check_record, "_SETTLED", 0)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of the files whose checksums were made, in order."""
    kinds: list[str] = []
    usual: Callable[..., str] = getattr(sealed_file, "_digest")  # noqa: B009 - counted, not replaced

    def counted(kind: str, tensors: Any, metadata: Any) -> str:
        kinds.append(kind)
        return usual(kind, tensors, metadata)

    monkeypatch.setattr(sealed_file, "_digest", counted)
    return kinds


@pytest.mark.usefixtures("at_once")
def test_a_start_trusts_the_files_that_an_earlier_one_checked(folder: Path, hashed: list[str]) -> None:
    wanted = packed(folder)
    hashed.clear()
    assert same(packed(folder), wanted)
    assert not hashed
    assert same(packed(folder, verify=True), wanted)
    assert len(hashed) == LAYERS


def test_a_file_that_was_only_just_written_is_checked_once_more(folder: Path, hashed: list[str]) -> None:
    packed(folder)
    hashed.clear()
    packed(folder)
    assert len(hashed) == LAYERS
    assert not list(folder.glob(".packed-*/*.checked"))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("what", thinned(TAMPERED, 5))
def test_a_file_that_was_changed_after_its_check_is_not_trusted(folder: Path, what: str) -> None:
    wanted = packed(folder)
    path = packings(folder)[1]
    times = path.stat()
    TAMPERED[what](path)
    if path.is_file():  # with the times of the file before, as a copying program would set them
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert same(packed(folder), wanted)


@pytest.mark.usefixtures("at_once")
def test_a_copy_of_a_packed_folder_is_checked_anew(folder: Path, hashed: list[str]) -> None:
    packed(folder)
    for path in packings(folder):
        content = path.read_bytes()
        rewrite(path, content)
    hashed.clear()
    packed(folder)
    assert len(hashed) == LAYERS
    hashed.clear()
    packed(folder)
    assert not hashed


@pytest.mark.usefixtures("at_once")
def test_damage_that_no_time_shows_is_found_by_verifying(folder: Path) -> None:
    wanted = packed(folder)
    path = packings(folder)[1]
    flip(path, -1)  # as by a disk: the note is made to agree with the file
    check_record.record_check(path, path_kind(path), path.stat())
    assert not same(packed(folder), wanted)
    assert same(packed(folder, verify=True), wanted)
    assert same(packed(folder), wanted)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("change", [Path.unlink, partial(rewrite, content=b"other")])
def test_a_file_that_changes_while_it_is_read_gets_no_note(tmp_path: Path, change: Callable[[Path], object]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    seen = path.stat()
    change(path)
    check_record.record_check(path, "test-1", seen)
    assert not list(tmp_path.glob("*.checked"))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("note", ["", "[" * 10_000, "{}", "null", '{"kind": 1, "state": NaN}', "\udcff", None])
def test_a_note_that_is_damaged_counts_as_none(folder: Path, hashed: list[str], note: str | None) -> None:
    wanted = packed(folder)
    for path in folder.glob(".packed-*/*.checked"):
        path.unlink()
        path.mkdir() if note is None else path.write_bytes(note.encode(errors="surrogateescape"))
    hashed.clear()
    assert same(packed(folder), wanted)
    assert len(hashed) == LAYERS


def path_kind(path: Path) -> str:
    content = path.read_bytes()
    said = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return str(said["seal"]).rpartition(" ")[0]


CHILD = """
    import os, signal, sys
    from llama4_local.checkpoint import sealed_file
    from llama4_local.checkpoint.quantizing import load_quantizing
    from local.packable import packable

    calls = []

    def fsync(number):
        calls.append(number)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)  # the third layer is written, and has not got its name

    sealed_file.os.fsync = fsync
    load_quantizing(sys.argv[1], packable(), "int4")
"""


def test_a_run_that_is_killed_leaves_whole_files_only_and_the_next_goes_on(folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(CHILD), str(folder)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    first = packings(folder)
    assert [path.name for path in first] == ["layer-00000.safetensors", "layer-00001.safetensors"]
    assert len(list(folder.glob(".packed-*/.*.part"))) == 1
    times = [path.stat().st_mtime_ns for path in first]
    assert packs_again(folder) == LAYERS - 2
    assert [path.stat().st_mtime_ns for path in first] == times
    assert not list(folder.glob(".packed-*/.*"))
    assert same(packed(folder), packed(folder, keep=False))


@pytest.mark.parametrize("place", [0, 1_000, -1])
def test_damage_in_any_block_of_a_large_tensor_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int):
    monkeypatch.setattr(sealed_file, "_BLOCK", 256)  # as a tensor of gigabytes has many
    path, numbers = tmp_path / "large.safetensors", torch.arange(2_000, dtype=torch.int32).view(torch.uint8)
    sealed_file.write_sealed(path, "test-1", {"numbers": numbers}, {})
    tensors, _ = sealed_file.read_sealed(path, "test-1")
    assert torch.equal(tensors["numbers"], numbers)
    content = bytearray(path.read_bytes())
    start = len(content) - numbers.nbytes
    content[start + place if place >= 0 else place] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(sealed_file.UnreadableFile, match="checksum"):
        sealed_file.read_sealed(path, "test-1")
