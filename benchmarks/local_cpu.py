"""How fast the local backend is on a CPU, beside transformers and beside what the memory could deliver.

    python benchmarks/local_cpu.py --hidden 512 --layers 8 --experts 16 --threads 2

A random checkpoint is made, then both run it in the same process, one after the other: a prompt's prefill, one
greedy answer alone, and several at once. The floor is the time in which the bytes that a token needs can be read.
Figures depend on the machine and on what else it does: compare within one run only.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from llama4_local.capacity import cache_shape
from llama4_local.checkpoint_writer import save_checkpoint
from llama4_local.config import GenerationConfig, ModelConfig, TextConfig
from llama4_local.crossing import Letter, Mailbox, Outbox
from llama4_local.engine import Engine, Limits
from llama4_local.model.loading import load_model
from llama4_local.orders import Order
from llama4_local.weight_names import random_weights
from llama4sdk.errors import LlamaError
from llama4sdk.events import Done, TextDelta
from llama4sdk.request import Sampling


@dataclass(frozen=True)
class Figures:
    """Tokens per second, and seconds to the first token."""

    prefill: float
    alone: float
    together: float
    first_token: float


def config_of(options: argparse.Namespace) -> ModelConfig:
    """A Scout-like decoder: every layer a mixture of experts, every fourth without RoPE."""
    text = TextConfig(
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        heads=options.heads,
        kv_heads=options.kv_heads,
        head_dim=options.hidden // options.heads,
        expert_size=options.expert_size,
        dense_size=2 * options.expert_size,
        experts=options.experts,
        rope_layers=tuple((layer + 1) % 4 != 0 for layer in range(options.layers)),
        moe_layers=(True,) * options.layers,
        chunk=8192,
        qk_norm=True,
        max_positions=32768,
    )
    return ModelConfig(text, generation=GenerationConfig(bos_token_id=0), dtype="float32")


class NoText:
    """A tokenizer for benchmarks: every token is one letter."""

    def decoder(self) -> NoText:
        """Return itself: nothing is held back."""
        return self

    def push(self, token_ids: Sequence[int]) -> str:
        """Return a letter for each token."""
        return "x" * len(token_ids)

    def flush(self) -> str:
        """Return nothing."""
        return ""

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return a letter for each token."""
        return "x" * len(list(token_ids))


class Clock(Outbox):
    """Notes when which kind of event came."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[tuple[float, Letter]] = []

    def put(self, mailbox: Mailbox, letter: Letter) -> None:
        """Take an event."""
        if isinstance(letter, LlamaError):
            raise letter
        self.times.append((time.perf_counter(), letter))


class Ours:
    """The engine, without thread and event loop around it."""

    def __init__(self, folder: Path, streams: int, context: int) -> None:
        self.model = load_model(folder)
        shape = cache_shape(self.model.config.text, context=context, sequences=streams, memory=4 * 2**30, itemsize=4)
        limits = Limits(step_tokens=1024, max_sequences=streams, prefix_caching=False)
        self.clock = Clock()
        self.engine = Engine(self.model, shape, limits, tokenizer=NoText(), outbox=self.clock)

    def answers(self, prompts: list[list[int]], count: int) -> tuple[float, float, float]:
        """Return when all began, when the last of the first tokens came, and when all were done."""
        self.clock.times.clear()
        begun = time.perf_counter()
        for number, token_ids in enumerate(prompts):
            self.engine.submit(_order(number, token_ids, count))
        while not self.engine.idle:
            self.engine.step()
        firsts: list[float] = []
        done = sum(isinstance(letter, Done) for _, letter in self.clock.times)
        for moment, letter in self.clock.times:
            if isinstance(letter, TextDelta) and len(firsts) < len(prompts):
                firsts.append(moment)
        if done != len(prompts):
            raise RuntimeError("not every answer came to its end")
        return begun, firsts[-1], self.clock.times[-1][0]


def _order(number: int, token_ids: list[int], count: int) -> Order:
    return Order(
        request_id=str(number),
        token_ids=token_ids,
        tiles=(),
        image_tokens=0,
        limit=len(token_ids) + count,
        sampling=Sampling(temperature=0, max_tokens=count),
        seed=0,
        priority=0,
        cache_salt="",
        mailbox=Mailbox(10**9, lambda: None),
    )


class Theirs:
    """transformers' `generate` on the same folder."""

    def __init__(self, folder: Path) -> None:
        library: Any = importlib.import_module("transformers")
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
        self.model = library.Llama4ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answers(self, prompts: list[list[int]], count: int) -> tuple[float, float, float]:
        """Return as `Ours.answers`; the first tokens are timed in a call of their own."""
        begun = time.perf_counter()
        self._generate(prompts, 1)
        first = time.perf_counter()
        self._generate(prompts, count)
        # A generation repeats the prompt, so its time stands for the whole of `begun` to the end.
        return begun, first, begun + time.perf_counter() - first

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]], count: int) -> None:
        ids = torch.tensor(prompts)
        self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )


def figures(
    answers: Callable[[list[list[int]], int], tuple[float, float, float]], options: argparse.Namespace
) -> Figures:
    """Measure; each figure is the median of some runs after one to warm up."""
    source = torch.Generator().manual_seed(0)

    def prompts(count: int, length: int) -> list[list[int]]:
        return torch.randint(0, options.vocab, (count, length), generator=source).tolist()

    def median(measure: Callable[[], float]) -> float:
        measure()
        return statistics.median(measure() for _ in range(options.runs))

    def prefill() -> float:
        begun, first, _ = answers(prompts(1, options.prompt), 1)
        return options.prompt / (first - begun)

    def decode(streams: int) -> Callable[[], float]:
        def measure() -> float:
            _, first, end = answers(prompts(streams, 16), options.tokens)
            return streams * (options.tokens - 1) / (end - first)

        return measure

    def first_token() -> float:
        begun, first, _ = answers(prompts(1, 16), 1)
        return first - begun

    return Figures(median(prefill), median(decode(1)), median(decode(options.streams)), median(first_token))


def bandwidth(rows: int, columns: int) -> float:
    """Return the bytes per second at which a matrix of fp32 is read here."""
    matrix = torch.rand(rows, columns)
    best = 0.0
    for _ in range(10):
        begun = time.perf_counter()
        matrix.sum()
        best = max(best, matrix.nbytes / (time.perf_counter() - begun))
    return best


def bytes_per_token(config: ModelConfig) -> int:
    """Return the bytes of weights that one token alone needs: one routed expert and the shared one per layer."""
    text = config.text
    attention = text.hidden_size * (sum(text.qkv_rows) + text.heads * text.head_dim)
    experts = 2 * 3 * text.hidden_size * text.expert_size
    per_layer = attention + experts + text.experts * text.hidden_size
    return 4 * (text.layers * per_layer + text.vocab_size * text.hidden_size)


def main() -> None:
    """Measure and print."""
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    config = config_of(options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint(folder, config, random_weights(config, 0))
        engine = Ours(folder, options.streams, options.prompt + options.tokens + 64)
        found = {"llama4_local": figures(engine.answers, options)}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        del engine
        if not options.alone:
            found["transformers"] = figures(Theirs(folder).answers, options)
    floor = bandwidth(options.vocab, options.hidden) / bytes_per_token(config)
    if options.json:
        print(json.dumps({name: asdict(of) for name, of in found.items()} | {"floor": floor, "memory": memory}))
        return
    _print(found, floor, memory, options)


def _print(found: dict[str, Figures], floor: float, memory: int, options: argparse.Namespace) -> None:
    print(f"{torch.get_num_threads()} threads; prompt {options.prompt}, {options.streams} streams; tokens per second")
    print(f"{'':14}{'prefill':>10}{'alone':>10}{'together':>10}{'first token':>14}")
    for name, of in found.items():
        print(f"{name:14}{of.prefill:10.1f}{of.alone:10.1f}{of.together:10.1f}{of.first_token * 1000:11.1f} ms")
    if len(found) == 2:
        ours, theirs = found.values()
        ratios = (ours.prefill / theirs.prefill, ours.alone / theirs.alone, ours.together / theirs.together)
        print(f"{'ratio':14}" + "".join(f"{ratio:10.2f}" for ratio in ratios))
    print(f"memory could deliver {floor:.0f} tokens/s alone; peak memory of llama4_local {memory / 2**20:.0f} MiB")


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
        "tokens": 32,
        "streams": 8,
        "runs": 3,
        "threads": 0,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--alone", action="store_true", help="leave transformers out")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
