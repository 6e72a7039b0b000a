"""Checkpoint folders: what is read, and what is refused before anything is allocated."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama4_local.checkpoint.headers import INDEX_FILE, SINGLE_FILE, find_tensors
from llama4_local.checkpoint.loader import load_model
from llama4_local.checkpoint.plain import check_checkpoint, load_checkpoint
from llama4_local.checkpoint.writer import save_checkpoint, write_bytes
from llama4_local.config.reader import read_config
from llama4_local.weights.schema import build_weights, expected_tensors, named_tensors, random_weights
from llama4_local.weights.tree import Weights
from llama4sdk.errors import CheckpointError, InvalidRequest
from local.small_checkpoints import biting_weights, guard, maverick, saved, scout, text_only

EXPERTS = "language_model.model.layers.0.feed_forward.experts.gate_up_proj"
NORM = "language_model.model.norm.weight"


def equal(one: Weights, other: Weights) -> bool:
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one.leaves(), other.leaves(), strict=True))


def problems_of(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        check_checkpoint(folder, scout())
    return "\n".join(caught.value.problems)


def changed(folder: Path, **tensors: torch.Tensor | None) -> Path:
    """Save Scout's checkpoint with some tensors replaced, added or (None) left out."""
    saved(folder, scout())
    whole: dict[str, Any] = load_file(folder / SINGLE_FILE)
    whole |= {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({name: tensor for name, tensor in whole.items() if tensor is not None}, folder / SINGLE_FILE)
    return folder


def rewritten_header(folder: Path, change: Callable[[str], str]) -> Path:
    """Save Scout's checkpoint with its header changed as text."""
    saved(folder, scout())
    content = (folder / SINGLE_FILE).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = change(content[8 : 8 + size].decode()).encode()
    (folder / SINGLE_FILE).write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
    return folder


@pytest.mark.parametrize("make", [scout, maverick, guard, text_only])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path, make: Any, dtype: torch.dtype):
    config, weights = make(), biting_weights(make(), dtype=dtype)
    save_checkpoint(tmp_path, config, weights)
    assert equal(load_checkpoint(tmp_path, read_config(tmp_path)), weights)


@pytest.mark.parametrize(("shards", "fused"), [(1, False), (3, True), (3, False)])
def test_shards_and_single_experts_hold_the_same_network(tmp_path: Path, shards: int, fused: bool):
    weights = biting_weights(maverick())
    save_checkpoint(tmp_path, maverick(), weights, shards=shards, fused=fused)
    assert (tmp_path / SINGLE_FILE).exists() == (shards == 1)
    assert equal(load_checkpoint(tmp_path, maverick()), weights)


def test_weights_are_converted_where_another_type_is_asked_for(tmp_path: Path):
    saved(tmp_path, scout())
    model = load_model(tmp_path, dtype="bfloat16")
    assert {tensor.dtype for tensor in model.weights.leaves()} == {torch.bfloat16}
    assert load_model(tmp_path).dtype == torch.float32


def test_a_type_that_does_not_exist_is_refused(tmp_path: Path):
    with pytest.raises(InvalidRequest, match="bfloat16"):
        load_model(tmp_path, dtype="int4")


def test_names_and_tensors_go_both_ways():
    config, weights = maverick(), biting_weights(maverick())
    named = named_tensors(config, weights)
    assert {name: tuple(tensor.shape) for name, tensor in named.items()} == expected_tensors(config)
    assert equal(build_weights(config, named.__getitem__), weights)


def test_random_weights_depend_on_the_seed_alone():
    assert equal(random_weights(scout(), 5), random_weights(scout(), 5))
    assert not equal(random_weights(scout(), 5), random_weights(scout(), 6))


def test_loading_tells_how_far_it_is(tmp_path: Path):
    saved(tmp_path, scout())
    seen: list[tuple[int, int]] = []
    load_checkpoint(tmp_path, scout(), progress=lambda done, total: seen.append((done, total)))
    total = sum(tensor.nbytes for tensor in biting_weights(scout()).leaves())
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)


def test_loading_ends_when_its_progress_raises(tmp_path: Path):
    saved(tmp_path, scout())

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_checkpoint(tmp_path, scout(), progress=stop)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_bytes(tmp_path / "config.json", b"old")

    def fail(self: Path, target: Path) -> Path:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_bytes(tmp_path / "config.json", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_bytes() == b"old"


def test_fault_64_missing_extra_wrong_shaped_and_wrong_typed_tensors_come_in_one_error(tmp_path: Path):
    folder = changed(
        tmp_path,
        language_model__model__norm__weight=None,
        language_model__lm_head__weight=torch.zeros(5, 5),
        language_model__model__embed_tokens__weight=torch.zeros(320, 64, dtype=torch.float64),
        stray=torch.zeros(1),
    )
    found = problems_of(folder)
    assert f"{NORM} is missing" in found
    assert "lm_head.weight has shape (5, 5)" in found
    assert "embed_tokens.weight is stored as F64" in found
    assert "stray is not part of this network" in found


def test_fault_64_missing_experts_are_named_one_by_one(tmp_path: Path):
    save_checkpoint(tmp_path, scout(), biting_weights(scout()), fused=False)
    whole = load_file(tmp_path / SINGLE_FILE)
    name = EXPERTS.replace("gate_up_proj", "2.up_proj.weight")
    del whole[name]
    save_file(whole, tmp_path / SINGLE_FILE)
    assert problems_of(tmp_path) == f"{name} is missing (shape (48, 64))"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_fault_64_values_that_are_not_finite_are_found_while_loading(tmp_path: Path, value: float):
    weights = biting_weights(scout())
    weights.norm[3] = value
    weights.layers[0].attention.qkv[-1, -1] = value
    save_checkpoint(tmp_path, scout(), weights)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path, scout())
    assert len(caught.value.problems) == 2
    assert "v_proj.weight has values that are not finite" in caught.value.problems[0]


def test_fault_64_values_too_large_for_the_asked_type_are_found(tmp_path: Path):
    folder = changed(tmp_path, language_model__model__norm__weight=torch.full((64,), 1e6))
    load_checkpoint(folder, scout())
    with pytest.raises(CheckpointError, match="float16"):
        load_checkpoint(folder, scout(), dtype=torch.float16)


def test_fault_64_a_quantized_checkpoint_is_called_that(tmp_path: Path):
    folder = changed(tmp_path, language_model__model__norm__weight_scale=torch.zeros(1))
    assert "quantized checkpoint" in problems_of(folder)


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_fault_65_pickles_are_refused_unopened(tmp_path: Path, name: str):
    canary = tmp_path / "canary"
    (tmp_path / name).write_bytes(pickle.dumps(Canary(canary)))
    found = problems_of(tmp_path)
    assert "safetensors" in found
    assert name in found
    assert not canary.exists()


def test_an_empty_folder_says_what_is_wanted(tmp_path: Path):
    assert SINGLE_FILE in problems_of(tmp_path)


def index_of(folder: Path) -> dict[str, str]:
    return json.loads((folder / INDEX_FILE).read_text())["weight_map"]


def sharded(folder: Path, change: dict[str, str | None] | None = None) -> Path:
    """Save Scout in two shards, with changed entries in the index."""
    save_checkpoint(folder, scout(), biting_weights(scout()), shards=2)
    entries = index_of(folder) | (change or {})
    kept = {name: file for name, file in entries.items() if file is not None}
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": kept}))
    return folder


@pytest.mark.parametrize(
    "file", ["../outside.safetensors", "/etc/passwd", "/tmp/a.safetensors", "a/b.safetensors", "..", "model.bin", ""]
)
def test_fault_66_an_index_that_points_elsewhere_is_refused(tmp_path: Path, file: str):
    assert "not a plain .safetensors name" in problems_of(sharded(tmp_path, {NORM: file}))


@pytest.mark.parametrize("before", ["./", "/home/someone/out/", "C:\\out\\", "D:/out/"])
def test_an_index_that_names_files_here_by_a_path_is_read(tmp_path: Path, before: str):
    folder = sharded(tmp_path)
    expected = find_tensors(folder)
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": {n: before + f for n, f in index_of(folder).items()}}))
    assert find_tensors(folder) == expected


@pytest.mark.parametrize("before", ["../", "a/", "/home/../", "~/"])
def test_an_index_that_names_files_by_a_path_into_another_folder_is_refused(tmp_path: Path, before: str):
    folder = sharded(tmp_path)
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": {n: before + f for n, f in index_of(folder).items()}}))
    assert "not a plain .safetensors name" in problems_of(folder)


@pytest.mark.parametrize("shards", [1, 2])
def test_parts_that_count_themselves_need_no_index(tmp_path: Path, shards: int):
    save_checkpoint(tmp_path, scout(), biting_weights(scout()), shards=2)
    expected = find_tensors(tmp_path)
    (tmp_path / INDEX_FILE).unlink()
    if shards == 1:
        whole = {name: t for part in tmp_path.glob("*.safetensors") for name, t in load_file(part).items()}
        for part in tmp_path.glob("*.safetensors"):
            part.unlink()
        save_file(whole, tmp_path / "model-00001-of-00001.safetensors")
    found = find_tensors(tmp_path)
    assert {n: (t.dtype, t.shape) for n, t in found.items()} == {n: (t.dtype, t.shape) for n, t in expected.items()}


def test_parts_without_an_index_are_refused_where_one_is_missing_or_a_tensor_lies_in_two(tmp_path: Path):
    folder = sharded(tmp_path)
    (folder / INDEX_FILE).unlink()
    first, second = (folder / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    save_file(load_file(second) | load_file(first), second)
    assert f"in {first.name} and in {second.name}" in problems_of(folder)
    first.unlink()
    assert "model.safetensors.index.json" in problems_of(folder)


def test_fault_66_an_index_and_shards_that_disagree_are_refused(tmp_path: Path):
    first = "model-00001-of-00002.safetensors"
    folder = sharded(tmp_path, {NORM: None, EXPERTS: None, "ghost": first})
    found = problems_of(folder)
    assert f"{NORM} lies in" in found
    assert f"{EXPERTS} lies in" in found
    (tmp_path / first).unlink()
    assert f"{first} is missing" in problems_of(folder)


def test_fault_66_a_tensor_that_only_the_index_knows_is_named(tmp_path: Path):
    folder = sharded(tmp_path, {"ghost": "model-00001-of-00002.safetensors"})
    assert "ghost is not in model-00001-of-00002.safetensors" in problems_of(folder)


def test_fault_66_a_link_that_leaves_the_folder_is_refused(tmp_path: Path):
    elsewhere, folder = saved(tmp_path / "elsewhere", scout()), tmp_path / "folder"
    folder.mkdir()
    (folder / SINGLE_FILE).symlink_to(elsewhere / SINGLE_FILE)
    assert "leaves the folder" in problems_of(folder)


def test_a_snapshot_of_a_hub_cache_may_link_to_its_blobs(tmp_path: Path):
    blobs, snapshot = saved(tmp_path / "blobs", scout()), tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / SINGLE_FILE).symlink_to(blobs / SINGLE_FILE)
    assert equal(load_checkpoint(snapshot, scout()), biting_weights(scout()))


@pytest.mark.parametrize(
    "content", ['{"weight_map": {"a": "b", "a": "c"}}', '{"weight_map": []}', "{}", "[]", '{"weight_map": {"a": 1}}']
)
def test_fault_66_a_malformed_index_is_refused(tmp_path: Path, content: str):
    (tmp_path / INDEX_FILE).write_text(content)
    problems_of(tmp_path)


def test_fault_66_an_index_of_a_million_entries_is_refused(tmp_path: Path):
    entries = ",".join(f'"{number}":"x.safetensors"' for number in range(1_000_000))
    (tmp_path / INDEX_FILE).write_text(f'{{"weight_map":{{{entries}}}}}')
    assert "too many" in problems_of(tmp_path)
    (tmp_path / INDEX_FILE).write_text(" " * 40_000_000)
    assert "at most" in problems_of(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 2**25 + 1, 2**63, 2**64 - 1])
def test_fault_66_a_header_that_lies_about_its_size_is_refused(tmp_path: Path, size: int):
    saved(tmp_path, scout())
    content = (tmp_path / SINGLE_FILE).read_bytes()
    (tmp_path / SINGLE_FILE).write_bytes(size.to_bytes(8, "little") + content[8:])
    assert SINGLE_FILE in problems_of(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_fault_66_a_file_cut_short_is_refused(tmp_path: Path, kept: int):
    saved(tmp_path, scout())
    content = (tmp_path / SINGLE_FILE).read_bytes()
    (tmp_path / SINGLE_FILE).write_bytes(content[:kept])
    assert "not a sound safetensors file" in problems_of(tmp_path)


def test_fault_66_a_shape_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path):
    def larger(text: str) -> str:
        return text.replace('"shape":[64]', '"shape":[6400000000000]', 1)

    assert "not a sound safetensors file" in problems_of(rewritten_header(tmp_path, larger))


def test_fault_66_a_header_with_a_tensor_twice_is_refused(tmp_path: Path):
    def twice(text: str) -> str:
        entry = json.dumps(json.loads(text)[NORM]).replace("64", "32", 1)
        return f'{{"{NORM}":{entry},{text[1:]}'

    assert problems_of(rewritten_header(tmp_path, twice))
