"""How long packing takes, and how much memory, on a sharded bf16 checkpoint of 2 GB; and how exact int4 is.

    python benchmarks/quantizing.py [--gigabytes 2] [--kind int4] [--threads 2] [--device cpu]

A random checkpoint of Scout's kind is made in a temporary folder. A child process packs it, the next reads what was
packed; one that begins anew is killed in the middle, and the last goes on. Each reports its seconds and its peak of
memory, of which the packed network itself is part: it is mapped, and read once. With `--device cuda` matrices
are packed on the GPU, whose own peak is stated too. With `--error`, one layer of Scout's
own shapes is packed instead, and its error compared with that of scales of absmax / 8.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from llama4_local.checkpoint.quantizing import load_quantizing
from llama4_local.config.formats import WeightFormat
from llama4_local.config.model import ModelConfig, TextConfig
from llama4_local.config.reader import read_config
from llama4_local.config.writer import config_to_json
from llama4_local.planning import plan
from llama4_local.weights.quantize import quantize_int4
from llama4_local.weights.quantized import Fp8Matrix, Int4Matrix
from llama4_local.weights.schema import expected_tensors

HIDDEN, EXPERT, EXPERTS = 2048, 1024, 16
SHARD = 500_000_000  # bytes
KILL_AFTER = 2  # layers
_HIGHEST = re.compile(r"^VmHWM:\s+([0-9]+) kB$", re.MULTILINE)


def config_for(gigabytes: float) -> ModelConfig:
    """Return Scout's kind with as many layers as fill so many gigabytes in bf16."""

    def of(layers: int) -> ModelConfig:
        return ModelConfig(
            TextConfig(
                vocab_size=32_000,
                hidden_size=HIDDEN,
                heads=16,
                kv_heads=4,
                head_dim=128,
                expert_size=EXPERT,
                dense_size=2 * EXPERT,
                experts=EXPERTS,
                rope_layers=tuple((layer + 1) % 4 != 0 for layer in range(layers)),
                moe_layers=(True,) * layers,
                chunk=8192,
                qk_norm=True,
            ),
            dtype="bfloat16",
        )

    layers = 1
    while plan(of(layers + 1)).weights.total <= gigabytes * 1e9:
        layers += 1
    return of(layers)


def make_checkpoint(folder: Path, config: ModelConfig) -> int:
    """Write a random sharded checkpoint, one shard in memory at a time; return its bytes."""
    shards: list[list[str]] = [[]]
    sizes, total = [0], 0
    shapes = expected_tensors(config)
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        if sizes[-1] and sizes[-1] + size > SHARD:
            shards.append([])
            sizes.append(0)
        shards[-1].append(name)
        sizes[-1] += size
        total += size
    index: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        save_file({name: _random(name, shapes[name]) for name in names}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(config_to_json(config)))
    return total


def _random(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if "norm" in name:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02)


def child(folder: Path, kind: WeightFormat, device: str) -> None:
    """Pack or read in this process, and print figures as JSON."""
    before, start = _peak(), time.perf_counter()
    packed_layers: set[int] = set()

    def packing(done: int, total: int) -> None:
        packed_layers.add(len(list(folder.glob(".packed-*/layer-*"))))

    weights = load_quantizing(folder, read_config(folder), kind, device=device, packing=packing)
    on_device = 0
    if device != "cpu":
        torch.cuda.synchronize()
        on_device = torch.cuda.max_memory_allocated()
    seconds = time.perf_counter() - start
    result = 0
    for layer in weights.layers:
        matrices = [layer.attention.qkv, layer.attention.output]
        matrices += [layer.moe.gate_up, layer.moe.down] if layer.moe else []
        result += sum(matrix.nbytes for matrix in matrices if isinstance(matrix, Int4Matrix | Fp8Matrix))
    result += sum(tensor.nbytes for tensor in (weights.embedding, weights.head) if isinstance(tensor, torch.Tensor))
    print(
        json.dumps(
            {
                "seconds": seconds,
                "before": before,
                "peak": _peak(),
                "result": result,
                "packed": len(packed_layers),
                "on_device": on_device,
            }
        )
    )


def _peak() -> int:
    """Return the most memory that this process has had, in bytes; `getrusage` would count its parent's."""
    measured = _HIGHEST.search(Path("/proc/self/status").read_text())
    if measured is None:
        raise SystemExit("this system does not say how much memory a process had")
    return int(measured[1]) * 1024


def run_child(folder: Path, kind: str, threads: int, device: str) -> dict[str, float]:
    """Run `child` in a process of its own and return its figures."""
    command = _command(folder, kind, device)
    done = subprocess.run(command, env=_threads(threads), check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def kill_child(folder: Path, kind: str, threads: int, device: str) -> int:
    """Kill a child when it has kept some layers and works on the next; return how many files it leaves."""
    process = subprocess.Popen(_command(folder, kind, device), env=_threads(threads), stdout=subprocess.DEVNULL)
    while len(list(folder.glob(".packed-*/layer-*"))) < KILL_AFTER:
        if process.poll() is not None:
            raise SystemExit("the child ended before it could be killed")
        time.sleep(0.005)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return len(list(folder.glob(".packed-*/layer-*")))


def _command(folder: Path, kind: str, device: str) -> list[str]:
    return [sys.executable, __file__, "--child", str(folder), "--kind", kind, "--device", device]


def _threads(count: int) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(count)}


def report(name: str, measured: dict[str, float], parameters: float) -> None:
    """Print one line of figures."""
    each = measured["seconds"] / parameters * 1e9
    beyond = (measured["peak"] - (0 if measured["on_device"] else measured["result"])) / 1e9
    on_device = f"   {measured['on_device'] / 1e9:.2f} GB on the device" if measured["on_device"] else ""
    peak = measured["peak"] / 1e9
    print(
        f"{name:<24}{measured['seconds']:7.1f} s {each:7.1f} s per 1e9 parameters   peak {peak:.2f} GB, "
        f"{beyond:.2f} GB beyond the result ({(measured['before']) / 1e9:.2f} GB of it before it began)   "
        f"{measured['packed']:.0f} layers packed{on_device}",
        flush=True,
    )


def measure_error() -> None:
    """Compare the error of int4 on one layer of Scout's shapes, attention and one expert, with absmax / 8."""
    torch.manual_seed(0)
    ours = plain = 0.0
    for out, inputs in ((7168, 5120), (5120, 5120), (16384, 5120), (5120, 8192)):
        weight = torch.empty(out, inputs, dtype=torch.bfloat16).normal_(std=0.02)
        own, theirs = square_errors(weight)
        print(f"[{out}, {inputs}]: RMSE {1 - (own / theirs) ** 0.5:.2%} lower than with absmax / 8", flush=True)
        ours, plain = ours + own, plain + theirs
    print(f"all together: {1 - (ours / plain) ** 0.5:.2%} lower")


def square_errors(weight: torch.Tensor) -> tuple[float, float]:
    """Return the summed squared errors of our scales, and of absmax / 8."""
    ours = theirs = 0.0
    for rows in weight.split(512):
        groups = rows.float().unflatten(-1, (-1, 128))
        scales = groups.abs().amax(-1, keepdim=True) / 8
        plain = ((groups / scales).round().clamp(-8, 7) * scales).flatten(-2)
        ours += float((quantize_int4(rows, 128).dequantize() - rows.float()).double().square().sum())
        theirs += float((plain - rows.float()).double().square().sum())
    return ours, theirs


def main() -> None:
    """Make a checkpoint, pack it, and print figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--kind", choices=("int4", "fp8"), default="int4")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--error", action="store_true", help="measure the error of int4 instead")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.kind, given.device)
        return
    if given.error:
        measure_error()
        return
    with tempfile.TemporaryDirectory() as place:
        folder, config = Path(place), config_for(given.gigabytes)
        size = make_checkpoint(folder, config)
        shards = len(list(folder.glob("*.safetensors")))
        print(f"{size / 1e9:.2f} GB in {shards} shards, {config.text.layers} layers, {given.kind}", flush=True)
        report("packed", run_child(folder, given.kind, given.threads, given.device), size / 2)
        report("read again", run_child(folder, given.kind, given.threads, given.device), size / 2)
        for packed in folder.glob(".packed-*"):
            shutil.rmtree(packed)
        left = kill_child(folder, given.kind, given.threads, given.device)
        print(f"killed by SIGKILL with {left} layers kept")
        report("gone on with", run_child(folder, given.kind, given.threads, given.device), size / 2)
        parts = len(list(folder.glob(".packed-*/.*")))
        print(f"{parts} unfinished files left")


if __name__ == "__main__":
    main()
