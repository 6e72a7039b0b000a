"""How fast the local backend is on a CPU, beside transformers, llama.cpp and what the memory could deliver.

    python benchmarks/local_cpu.py

A random checkpoint is made, then all run it in the same process in fp32, taking turns: a prompt's prefill, one greedy
answer alone, and several at once. llama.cpp reads the same weights from a GGUF file (packages `gguf` and `xllamacpp`);
that all are one network shows in their greedy answers. The floor is the time in which the bytes that a token needs can
be read. Then an answer's first token is timed after a long prompt, with and without its beginning in the prefix cache.
Peak memory is that of a process of its own for each. Figures depend on the machine and on what else it does:
compare within one run only; `--out` keeps one, by default in `benchmarks/results/local_cpu.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from llama_cpp_runner import LlamaCpp, write_gguf
from local_runners import Ours, Theirs, config_of

from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.config.model import ModelConfig
from llama4_local.weights.schema import random_weights

_IN_MEMORY = Path("/dev/shm")
PEERS = ("transformers", "llama.cpp")
_UNITS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX"}
RESULTS = Path(__file__).parent / "results" / "local_cpu.json"


@dataclass(frozen=True)
class Figures:
    """Tokens per second; seconds to the first token of a short prompt; bytes of memory at most."""

    prefill: float
    alone: float
    together: float
    first_token: float
    memory: int


class Answers(Protocol):
    """One of those who are compared."""

    def answers(self, prompts: list[list[int]], count: int) -> tuple[float, float, float]:
        """Return when all began, when the last of the first tokens came, and when all were done."""
        ...

    def tokens(self, prompt: list[int], count: int) -> list[int]:
        """Return a greedy answer."""
        ...


class Prompts:
    """Random prompts, none like another."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._source = torch.Generator().manual_seed(0)

    def draw(self, count: int, length: int) -> list[list[int]]:
        """Return `count` prompts of `length` tokens."""
        return torch.randint(0, self._vocabulary, (count, length), generator=self._source).tolist()


def measures(options: argparse.Namespace, prompts: Prompts) -> dict[str, Callable[[Answers], float]]:
    """Return how each figure is measured."""

    def prefill(which: Answers) -> float:
        begun, first, _ = which.answers(prompts.draw(1, options.prompt), 1)
        return options.prompt / (first - begun)

    def decode(streams: int) -> Callable[[Answers], float]:
        def measure(which: Answers) -> float:
            _, first, end = which.answers(prompts.draw(streams, 16), options.tokens)
            return streams * (options.tokens - 1) / (end - first)

        return measure

    def first_token(which: Answers) -> float:
        begun, first, _ = which.answers(prompts.draw(1, 16), 1)
        return first - begun

    return {
        "prefill": prefill,
        "alone": decode(1),
        "together": decode(options.streams),
        "first_token": first_token,
    }


def compare(those: dict[str, Answers], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure all in turns; each figure is the median of some runs after one to warm up."""
    measured: dict[str, dict[str, float]] = {name: {} for name in those}
    for figure, measure in measures(options, Prompts(options.vocab)).items():
        rounds = [{name: measure(which) for name, which in those.items()} for _ in range(options.runs + 1)]
        for name in those:
            measured[name][figure] = statistics.median(one[name] for one in rounds[1:])
    return measured


def first_tokens(ours: Ours, options: argparse.Namespace) -> dict[str, float]:
    """Return seconds to the first token after a long prompt: all of it computed, or its beginning cached."""
    prompts = Prompts(options.vocab)
    seconds: dict[str, list[float]] = {"computed": [], "cached": []}
    for _ in range(options.runs):
        (prefix,) = prompts.draw(1, options.prefix)
        for times in seconds.values():
            begun, first, _ = ours.answers([prefix + prompts.draw(1, 16)[0]], 1)
            times.append(first - begun)
    return {name: statistics.median(times) for name, times in seconds.items()}


def peak_memory(who: str, folder: Path) -> int:
    """Return the most bytes that a process took for loading the checkpoint and answering `--streams` prompts."""
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", who, "--folder", str(folder)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def take_memory(options: argparse.Namespace) -> None:
    """Be that process."""
    which = opened(options.memory_of, Path(options.folder), options)
    which.answers(Prompts(options.vocab).draw(1, options.prompt), 1)
    which.answers(Prompts(options.vocab).draw(options.streams, 16), 2)
    status = Path("/proc/self/status").read_text()  # `getrusage` would report what the parent took
    print(int(status.partition("VmHWM:")[2].split()[0]) * 1024)


def opened(who: str, folder: Path, options: argparse.Namespace) -> Answers:
    """Load one of those who are compared."""
    context = max(options.prompt, options.prefix) + options.tokens + 64
    if who == "llama.cpp":
        return LlamaCpp(folder, options.streams, context)
    if who == "transformers":
        return Theirs(folder)
    return ours(folder, options.streams, context, options)


def ours(folder: Path, streams: int, context: int, options: argparse.Namespace) -> Ours:
    """Load this project's engine in the form that is asked for."""
    form = {"dtype": options.dtype, "quantize": options.quantize, "deterministic": options.deterministic}
    return Ours(folder, streams, context, **form, keep=False)


def check_agreement(those: dict[str, Answers], options: argparse.Namespace) -> None:
    """Compare greedy answers: random weights that were read wrongly would give others.

    Raises:
        SystemExit: They differ.
    """
    for prompt in Prompts(options.vocab).draw(3, 16):
        answers = {name: which.tokens(prompt, 8) for name, which in those.items()}
        if len({tuple(tokens) for tokens in answers.values()}) > 1:
            raise SystemExit(f"They do not run the same network: {answers}")


def bandwidth(rows: int, columns: int) -> float:
    """Return the bytes per second at which a matrix of fp32 is read here."""
    matrix = torch.rand(rows, columns)
    best = 0.0
    for _ in range(10):
        begun = time.perf_counter()
        matrix.sum()
        best = max(best, matrix.nbytes / (time.perf_counter() - begun))
    return best


def bytes_per_step(config: ModelConfig, streams: int) -> float:
    """Return the bytes of weights that a step of some streams needs, whose tokens meet experts at random."""
    text = config.text
    attention = text.hidden_size * (sum(text.qkv_rows) + text.heads * text.head_dim)
    touched = text.experts * (1 - (1 - 1 / text.experts) ** streams) + 1  # and the shared one
    experts = touched * 3 * text.hidden_size * text.expert_size
    per_layer = attention + experts + text.experts * text.hidden_size
    return 4 * (text.layers * per_layer + text.vocab_size * text.hidden_size)


def floors(config: ModelConfig, options: argparse.Namespace) -> dict[str, float]:
    """Return the tokens per second that reading the weights once per step would allow."""
    speed = bandwidth(options.vocab, options.hidden)
    return {
        "bytes_per_second": speed,
        "alone": speed / bytes_per_step(config, 1),
        "together": options.streams * speed / bytes_per_step(config, options.streams),
    }


def main() -> None:
    """Measure, print, and keep the figures."""
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.memory_of:
        take_memory(options)
        return
    config = config_of(options)
    # In memory, if possible: weights are mapped from files, and reading a disk shall be in no figure.
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.exists() else None) as name:
        folder = Path(name)
        weights = random_weights(config, 0)
        save_checkpoint(folder, config, weights)
        names = ["llama4_local"] if options.only_ours else ["llama4_local", *options.peers]
        if "llama.cpp" in names:
            write_gguf(folder / "model.gguf", config, weights)
        del weights
        those = {who: opened(who, folder, options) for who in names}
        check_agreement(those, options)
        taken = compare(those, options)
        cached = first_tokens(ours(folder, 1, options.prefix + 64, options), options)
        del those
        measured = {who: Figures(**taken[who], memory=peak_memory(who, folder)) for who in names}  # pyright: ignore[reportArgumentType]
    floor = floors(config, options)
    _print(measured, floor, cached, options)
    if not options.only_ours:
        _keep(measured, floor, cached, options)


def ratios(measured: dict[str, Figures], peer: str) -> dict[str, float]:
    """Return how many times as fast as a peer it is."""
    ours, theirs = measured["llama4_local"], measured[peer]
    return {name: getattr(ours, name) / getattr(theirs, name) for name in ("prefill", "alone", "together")}


def _print(
    measured: dict[str, Figures], floor: dict[str, float], cached: dict[str, float], options: argparse.Namespace
) -> None:
    print(f"{torch.get_num_threads()} threads; prompt {options.prompt}, {options.streams} streams; tokens per second")
    print(f"{'':14}{'prefill':>10}{'alone':>10}{'together':>10}{'first token':>14}{'peak memory':>14}")
    for name, of in measured.items():
        speeds = f"{of.prefill:10.1f}{of.alone:10.1f}{of.together:10.1f}"
        print(f"{name:14}{speeds}{of.first_token * 1000:11.1f} ms{of.memory / 2**20:10.0f} MiB")
    for peer in (peer for peer in PEERS if peer in measured):
        print(f"{'to ' + peer:14}" + "".join(f"{ratio:10.2f}" for ratio in ratios(measured, peer).values()))
    print(f"{'memory floor':14}{'':10}{floor['alone']:10.1f}{floor['together']:10.1f}")
    computed, hit = cached["computed"] * 1000, cached["cached"] * 1000
    print(f"first token after {options.prefix} tokens: {computed:.1f} ms, cached {hit:.1f} ms: 1/{computed / hit:.1f}")


def _keep(
    measured: dict[str, Figures], floor: dict[str, float], cached: dict[str, float], options: argparse.Namespace
) -> None:
    machine = {"processor": _processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    figures = {name: asdict(of) for name, of in measured.items()}
    compared = {"ratios": {peer: ratios(measured, peer) for peer in PEERS if peer in measured}}
    asked = {name: value for name, value in vars(options).items() if type(value) is int}
    kept = {"machine": machine, "options": asked, "figures": figures, **compared}
    options.out.write_text(json.dumps({**kept, "memory_floor": floor, "first_token_seconds": cached}, indent=2) + "\n")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = told.get("flags", "").split()
    units = ", ".join(name for flag, name in _UNITS.items() if flag in flags)
    return f"{told.get('model name') or platform.processor()}{f' ({units})' if units else ''}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "hidden": 512,
        "layers": 8,
        "heads": 8,
        "kv-heads": 2,
        "experts": 16,
        "expert-size": 1024,
        "vocab": 32_000,
        "prompt": 1024,
        "prefix": 2000,
        "tokens": 32,
        "streams": 8,
        "runs": 3,
        "threads": 0,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    # llama.cpp's threads wait busily between its turns, and take time from the others.
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, help="those beside it in the run")
    parser.add_argument("--only-ours", action="store_true", help="leave the others out")
    for form, choices in (("dtype", ("auto", "bfloat16")), ("quantize", ("int4", "fp8"))):
        default = "auto" if form == "dtype" else None
        parser.add_argument(f"--{form}", choices=choices, default=default, help="of this project's, with --only-ours")
    parser.add_argument("--deterministic", action="store_true", help="of this project's, with --only-ours")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.only_ours and (options.dtype != "auto" or options.quantize or options.deterministic):
        parser.error("the others run in fp32; give --only-ours")
    return options


if __name__ == "__main__":
    main()
