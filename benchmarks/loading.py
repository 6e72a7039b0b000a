"""How much memory loading takes beyond its result, and how long it takes, on checkpoints of 1 GB.

    python benchmarks/loading.py [--gigabytes 1] [--form fbgemm] [--threads 1]

A random sharded checkpoint of Scout's kind is made in each form that is published: bf16 with fused experts, bf16 with
single ones, FP8 as fbgemm and as llm-compressor write it. A process of its own loads it in the CPU layout,
another one in the layout of the kernels, here on the CPU as well, where a GPU's memory would be counted alike.
Each reports its seconds, and the most memory it had (`VmHWM`) less what it had before. Pages of mapped files count,
although the system may take them back at any time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from llama4_local.checkpoint import loader
from llama4_local.config.model import ModelConfig, TextConfig
from llama4_local.config.writer import config_to_json
from llama4_local.ops.interface import Ops
from llama4_local.ops.reference.quantized import QuantizedReferenceOps
from llama4_local.weights.quantized import Int4Matrix, Matrix
from llama4_local.weights.schema import expected_tensors, single_names

FORMS = ("bf16", "bf16-single", "fbgemm", "llm-compressor")
SHARD = 250_000_000  # bytes
NARROW = torch.float8_e4m3fn
_HIGHEST = re.compile(r"^VmHWM:\s+([0-9]+) kB$", re.MULTILINE)

Described = dict[str, tuple[tuple[int, ...], torch.dtype]]  # shape and type by name


class KernelLayout(QuantizedReferenceOps):
    """Functions that want weights laid out as the kernels do."""

    @property
    def prepared_weights(self) -> bool:
        """Whether they do; see `Ops.prepared_weights`."""
        return True


def kernel_layout(device: str | torch.device, **settings: object) -> Ops:
    """Choose functions that want that layout, anywhere."""
    return KernelLayout()


def config_of(layers: int) -> ModelConfig:
    """Return Scout's kind, narrower, with so many layers."""
    return ModelConfig(
        TextConfig(
            vocab_size=16_000,
            hidden_size=2048,
            heads=16,
            kv_heads=4,
            head_dim=128,
            expert_size=512,
            dense_size=1024,
            experts=16,
            rope_layers=tuple((layer + 1) % 4 != 0 for layer in range(layers)),
            moe_layers=(True,) * layers,
            chunk=8192,
            qk_norm=True,
        ),
        dtype="bfloat16",
    )


def described(config: ModelConfig, form: str) -> Described:
    """Return the tensors of a checkpoint in a form; in FP8 are all experts, the shared one too."""
    measured: Described = {}
    for name, shape in expected_tensors(config).items():
        for own, size in _as_published(name, shape, form):
            if ".experts." in name or "shared_expert" in name:
                measured |= _expert(own, size, form)
            else:
                measured[own] = size, torch.bfloat16
    return measured


def _as_published(name: str, shape: tuple[int, ...], form: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    if ".experts." not in name or form in ("bf16", "fbgemm"):
        yield name, shape
        return
    count, inner, outer = shape
    for expert in range(count):
        names = single_names(name, expert)
        yield from ((own, (outer // len(names), inner)) for own in names)


def _expert(name: str, shape: tuple[int, ...], form: str) -> Described:
    if form.startswith("bf16"):
        return {name: (shape, torch.bfloat16)}
    scales = (*shape[:-2], 1, shape[-1]) if len(shape) == 3 else (shape[0], 1)
    wide = torch.float32 if form == "fbgemm" else torch.bfloat16
    return {name: (shape, NARROW), f"{name}_scale": (scales, wide)}


def stored_bytes(tensors: Described) -> int:
    """Return what tensors take in their files."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in tensors.values())


def config_for(gigabytes: float, form: str) -> ModelConfig:
    """Return a network that takes about so many gigabytes in a form."""
    one, two = (stored_bytes(described(config_of(layers), form)) for layers in (1, 2))
    return config_of(max(1, round(1 + (gigabytes * 1e9 - one) / (two - one))))


def make_checkpoint(folder: Path, config: ModelConfig, tensors: Described) -> None:
    """Write a random sharded checkpoint, one shard in memory at a time."""
    index: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}

    def write() -> None:
        file = f"model-{len(set(index.values())) + 1:05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(shard, file))
        shard.clear()

    for name, (shape, dtype) in tensors.items():
        shard[name] = _random(shape, dtype)
        if sum(tensor.nbytes for tensor in shard.values()) > SHARD:
            write()
    write()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(config_to_json(config)))


def _random(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if dtype == NARROW:
        return torch.randint(0, 0x7F, shape, dtype=torch.uint8).view(NARROW)  # all magnitudes, and no NaN
    return torch.empty(shape, dtype=dtype).normal_(std=0.02)


def child(folder: Path, *, kernels: bool) -> None:
    """Load in this process, and print figures as JSON."""
    if kernels:
        loader.select_ops = kernel_layout
    torch.zeros(1000, 1000).to(torch.bfloat16).sum()  # what torch takes at its first use is not loading's
    before, start = _peak(), time.perf_counter()
    model = loader.load_model(folder)
    measured = {
        "seconds": time.perf_counter() - start,
        "peak": _peak() - before,
        "result": taken(model.weights.leaves()),
    }
    print(json.dumps(measured))


def taken(leaves: tuple[Matrix, ...]) -> int:
    """Return the bytes of a network's matrices; what several share counts once."""
    storages = (part.untyped_storage() for leaf in leaves for part in _parts(leaf))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _parts(leaf: Matrix) -> tuple[torch.Tensor, ...]:
    if isinstance(leaf, torch.Tensor):
        return (leaf,)
    return (leaf.packed if isinstance(leaf, Int4Matrix) else leaf.values), leaf.scales


def _peak() -> int:
    """Return the most memory that this process has had, in bytes; `getrusage` would count its parent's."""
    measured = _HIGHEST.search(Path("/proc/self/status").read_text())
    if measured is None:
        raise SystemExit("this system does not say how much memory a process had")
    return int(measured[1]) * 1024


def run_child(folder: Path, threads: int, *, kernels: bool) -> dict[str, float]:
    """Run `child` in a process of its own and return its figures."""
    command = [sys.executable, __file__, "--child", str(folder), *(["--kernels"] if kernels else [])]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(form: str, gigabytes: float, threads: int) -> None:
    """Make a checkpoint in one form, load it both ways, and print figures."""
    with tempfile.TemporaryDirectory() as place:
        folder, config = Path(place), config_for(gigabytes, form)
        tensors = described(config, form)
        make_checkpoint(folder, config, tensors)
        layer = stored_bytes({name: own for name, own in tensors.items() if "model.layers.0." in name})
        print(
            f"{form}: {stored_bytes(tensors) / 1e9:.2f} GB, {config.text.layers} layers of {layer / 1e9:.3f} GB",
            flush=True,
        )
        for kernels in (False, True):
            report("for the kernels" if kernels else "for the CPU", run_child(folder, threads, kernels=kernels))


def report(name: str, measured: dict[str, float]) -> None:
    """Print one line of figures."""
    peak, result = measured["peak"] / 1e9, measured["result"] / 1e9
    beyond = f"{peak - result:+.2f} GB beyond the result of {result:.2f} GB"
    print(f"  {name:<16}{measured['seconds']:6.2f} s   peak {peak:.2f} GB, {beyond}", flush=True)


def main() -> None:
    """Measure the forms that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--form", choices=FORMS, help="one form alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kernels", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, kernels=given.kernels)
        return
    for form in [given.form] if given.form else FORMS:
        measure(form, given.gigabytes, given.threads)


if __name__ == "__main__":
    main()
