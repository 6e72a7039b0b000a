"""Loading a rank's share: the room of the share and of one tensor more, and a packed form that is kept."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch

from llama4_local.checkpoint import quantizing
from llama4_local.checkpoint.cuts import cut_of, cut_shape, own_tensors
from llama4_local.checkpoint.headers import find_tensors
from llama4_local.checkpoint.reader import stored_bytes
from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.config.model import ModelConfig
from llama4_local.config.reader import read_config
from llama4_local.config.share import Share
from llama4_local.parallel.loading import ShardSource, load_share
from llama4_local.weights.schema import random_weights
from local.divisible import SHAPES
from local.fp8_checkpoints import saved_fp8
from local.int4_checkpoints import saved_int4
from local.memory_peak import MemoryPeak
from local.packable import parts
from local.small_checkpoints import saved
from local.test_plan_ranks import own_bytes
from long_runs import LONG, only_long

if TYPE_CHECKING:
    from llama4_local.weights.tree import Weights

FORMS = ("bf16", "bf16, single experts", "int4", "fp8", "fbgemm", "llm-compressor", "w4a16")
USUAL = [("bf16", 2, False), ("int4", 4, True)]
WAYS = (False, True)  # slices of every expert, whole experts
CASES = [
    (form, ranks, whole)
    for form in FORMS
    for ranks in (2, 4)
    for whole in WAYS
    if LONG or (form, ranks, whole) in USUAL
]
PACKING = 7  # bytes for each number of an expert: it is read in bf16, and packed in fp32
BESIDE = 8 * 2**20  # bytes that Python and torch take while they load, whatever the checkpoint
PROGRAM = """
import sys, threading, time
from pathlib import Path
import torch
from llama4_local.config.share import Share
from llama4_local.parallel.loading import ShardSource, load_share

def anonymous():
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024

def watch():
    while not over.wait(0.002):
        seen.append(anonymous())

folder, quantize, rank, size, whole = sys.argv[1:]
over, seen, before = threading.Event(), [], anonymous()
thread = threading.Thread(target=watch)
thread.start()
share = Share(int(rank), int(size), bool(whole))
weights = load_share(ShardSource(folder, quantize=quantize or None, keep=False), share)
over.set()
thread.join()
print(max(seen) - before)
"""


def published(folder: Path, form: str, config: ModelConfig) -> ShardSource:
    """Save a random network in a form, and say how it is loaded."""
    weights = random_weights(config, 0, dtype=torch.bfloat16)
    if form in ("fbgemm", "llm-compressor"):
        saved_fp8(folder, replace(config, fp8=True), weights, fused=form == "fbgemm")
    elif form == "w4a16":
        saved_int4(folder, config, weights)
    else:
        save_checkpoint(folder, config, weights, shards=3, fused="single" not in form)
    quantize = form if form in ("int4", "fp8") else None
    return ShardSource(str(folder), quantize=quantize, keep=False)


def largest_tensor(source: ShardSource, share: Share) -> int:
    """Return the bytes of a rank's part of the largest tensor, or of one expert while it is packed if that is more."""
    stored = own_tensors(find_tensors(Path(source.folder)), read_config(Path(source.folder)).text.experts, share)
    parts = {name: cut_shape(tensor, cut_of(name, stored, share)) for name, tensor in stored.items()}
    packed = [prod(part.shape[1:]) for part in parts.values() if source.quantize and len(part.shape) == 3]
    return max(*map(stored_bytes, parts.values()), PACKING * max(packed, default=0))


@pytest.mark.parametrize(("form", "ranks", "whole"), CASES)
def test_a_share_is_loaded_within_its_own_room_and_one_tensor_more(
    form: str, ranks: int, whole: bool, tmp_path: Path
) -> None:
    source, share = published(tmp_path, form, SHAPES["maverick"]), Share(1, ranks, whole)
    with MemoryPeak(mapped=[file.stat().st_size for file in tmp_path.glob("*.safetensors")]) as measured:
        weights = load_share(source, share)
    assert measured.peak <= sum(own_bytes(weights).values()) + largest_tensor(source, share)


@only_long("takes a minute")
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory of a process")
@pytest.mark.parametrize("whole", WAYS)
@pytest.mark.parametrize("form", FORMS)
def test_a_ranks_process_takes_its_share_and_one_tensor_more(form: str, whole: bool, tmp_path: Path) -> None:
    small = SHAPES["maverick"]
    text = replace(small.text, hidden_size=1024, expert_size=1024, dense_size=2048, experts=16)
    source, share = published(tmp_path, form, replace(small, text=text)), Share(1, 4, whole)
    arguments = [source.folder, source.quantize or "", str(share.rank), str(share.size), "whole" * whole]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    own = sum(own_bytes(load_share(source, share)).values())
    tensor = largest_tensor(source, share)
    print(f"\n{form}: {int(done.stdout):,} bytes at most, the share {own:,}, the largest tensor's part {tensor:,}")
    assert int(done.stdout) <= own + tensor + BESIDE
    assert own > 3 * BESIDE


@pytest.mark.parametrize("kind", ["int4", "fp8"] if LONG else ["int4"])
def test_a_packed_share_is_kept_for_the_next_start(
    kind: Literal["int4", "fp8"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ShardSource(str(saved(tmp_path, SHAPES["guard"])), quantize=kind)
    seen: list[tuple[int, int]] = []
    first = [load_share(source, Share(rank, 2), lambda done, total: seen.append((done, total))) for rank in range(2)]
    assert seen[-1][0] == seen[-1][1]
    assert len(list(tmp_path.glob(f".packed-{kind}-*-of-2"))) == 2
    with monkeypatch.context() as patched:
        patched.setattr(quantizing, "packer", refuse)
        again = [load_share(source, Share(rank, 2)) for rank in range(2)]
        with pytest.raises(AssertionError):
            load_share(source, Share(0, 4))
    assert all(map(same, first, again))
    damaged = next(tmp_path.glob(".packed-*-1-of-2")) / "layer-00001.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-9] ^= 1
    damaged.unlink()  # what is loaded has the old file mapped
    damaged.write_bytes(content)
    assert same(load_share(source, Share(1, 2)), first[1])
    assert not same(first[0], first[1])


def refuse(kind: str) -> Any:
    raise AssertionError(f"{kind} was packed again")


def same(one: Weights, other: Weights) -> bool:
    """Whether the decoders of two networks hold the same numbers; rank 0 alone has the image encoder."""
    leaves = [list(replace(each, vision=None).leaves()) for each in (one, other)]
    pairs = [
        pair for mine, theirs in zip(*leaves, strict=True) for pair in zip(parts(mine), parts(theirs), strict=True)
    ]
    return all(torch.equal(bits(a), bits(b)) for a, b in pairs)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)
