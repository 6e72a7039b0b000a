"""Two of those who are compared on a CPU: this project's engine and transformers, on one random checkpoint."""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from llama4_local.cache.sizing import cache_shape
from llama4_local.checkpoint.loader import load_model
from llama4_local.config.model import GenerationConfig, ModelConfig, TextConfig
from llama4_local.engine.engine import Engine, EngineLimits
from llama4_local.engine.mailbox import Mailbox, MailboxEvent, Outbox
from llama4_local.engine.request import EngineRequest
from llama4sdk.errors import LlamaError
from llama4sdk.events import Done, TextDelta
from llama4sdk.request import Sampling


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
    """A tokenizer for benchmarks: every token is one event."""

    def decoder(self) -> NoText:
        """Return itself: nothing is held back."""
        return self

    def push(self, token_ids: Sequence[int]) -> str:
        """Return a event for each token."""
        return "x" * len(token_ids)

    def flush(self) -> str:
        """Return nothing."""
        return ""

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return a event for each token."""
        return "x" * len(list(token_ids))


class Clock(Outbox):
    """Notes when which kind of event came."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[tuple[float, MailboxEvent]] = []

    def put(self, mailbox: Mailbox, event: MailboxEvent) -> None:
        """Take an event."""
        if isinstance(event, LlamaError):
            raise event
        self.times.append((time.perf_counter(), event))


class Ours:
    """The engine, without thread and event loop around it.

    Args:
        folder: The checkpoint.
        streams: Sequences at once.
        context: Tokens of each.
        options: Further ones of `load_model`.
    """

    def __init__(self, folder: Path, streams: int, context: int, **options: Any) -> None:
        self.model = load_model(folder, **options)
        shape = cache_shape(self.model.config.text, context=context, sequences=streams, memory=4 * 2**30, itemsize=4)
        limits = EngineLimits(step_tokens=1024, max_sequences=streams)
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
        done = sum(isinstance(event, Done) for _, event in self.clock.times)
        for moment, event in self.clock.times:
            if isinstance(event, TextDelta) and len(firsts) < len(prompts):
                firsts.append(moment)
        if done != len(prompts):
            raise RuntimeError("not every answer came to its end")
        return begun, firsts[-1], self.clock.times[-1][0]

    def tokens(self, prompt: list[int], count: int) -> list[int]:
        """Return a greedy answer."""
        order = _order(0, prompt, count)
        self.engine.submit(order)
        while not self.engine.idle:
            self.engine.step()
        return order.written


def _order(number: int, token_ids: list[int], count: int) -> EngineRequest:
    return EngineRequest(
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
        if count == 1:
            return begun, first, first
        self._generate(prompts, count)
        # A generation repeats the prompt, so its time stands for the whole of `begun` to the end.
        return begun, first, begun + time.perf_counter() - first

    def tokens(self, prompt: list[int], count: int) -> list[int]:
        """Return a greedy answer."""
        return self._generate([prompt], count)[0][len(prompt) :].tolist()

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]], count: int) -> torch.Tensor:
        ids = torch.tensor(prompts)
        return self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )
