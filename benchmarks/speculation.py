"""Prompt look-up on a CPU: answers that copy, answers that do not, and a network that repeats itself.

    python benchmarks/speculation.py

nano repeats sentences of its prompts, and answers questions whose answers copy nothing; then a random network of the
size of `local_cpu.py` repeats three tokens, which every draft foresees: the most that drafts can save there. Engines
with and without drafts take turns over the same weights, in fp32, and their answers must be the same. Figures depend
on the machine and on what else it does: compare within one run only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from local_runners import NoText, config_of

from llama4_local.cache.sizing import cache_shape
from llama4_local.checkpoint.loader import load_model
from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.engine.engine import Engine, EngineLimits
from llama4_local.engine.mailbox import Mailbox, MailboxEvent, Outbox
from llama4_local.engine.request import EngineRequest
from llama4_local.model.transformer import Model
from llama4_local.nano import CHECKPOINT as NANO
from llama4_local.weights.schema import random_weights
from llama4sdk.errors import LlamaError
from llama4sdk.messages import conversation
from llama4sdk.prompting import PromptTemplate, Tokenizer
from llama4sdk.request import Sampling

COPIED = (
    "The green house stands near the old river, and the red boat is on the water.",
    "We have two cats and one dog, and all of them sleep in the kitchen at night.",
    "My name is Anna, I live in Paris, and I like to read books about the sea.",
    "Please send the letter to Peter before Monday, and call me when he has it.",
)
ASKED = (
    "Who are you and what can you do?",
    "Say hello in French, please.",
    "What is the capital of Japan?",
    "How much is 17 plus 25?",
)


class Quiet(Outbox):
    """Drop the engine's events."""

    def put(self, mailbox: Mailbox, event: MailboxEvent) -> None:
        """Take an event."""
        if isinstance(event, LlamaError):
            raise event


@dataclass
class Figures:
    """Of one engine and one kind of text.

    Args:
        rates: Tokens of answers per second, of each run.
        steps: Steps of a run.
        tokens: Tokens of its answers.
    """

    rates: list[float]
    steps: int = 0
    tokens: int = 0


class Bench:
    """Two engines over one network, without and with drafts."""

    def __init__(self, model: Model, streams: int) -> None:
        shape = cache_shape(model.config.text, context=1024, sequences=streams, memory=2**30, itemsize=4)
        limits = EngineLimits(step_tokens=512, max_sequences=streams, prefix_caching=False)
        self._engines = [
            Engine(model, shape, replace(limits, speculate=drafts), tokenizer=NoText(), outbox=Quiet())
            for drafts in (False, True)
        ]

    def measure(self, prompts: Sequence[list[int]], sampling: Sampling, repeats: int) -> list[Figures]:
        """Return the figures of both engines, which take turns."""
        figures = [Figures([]), Figures([])]
        for repeat in range(repeats + 1):  # the first run warms up
            answers = [self._run(place, prompts, sampling, figures, count=repeat > 0) for place in range(2)]
            if answers[0] != answers[1]:
                raise RuntimeError("drafts changed an answer")
        return figures

    def _run(
        self, place: int, prompts: Sequence[list[int]], sampling: Sampling, figures: list[Figures], *, count: bool
    ) -> list[list[int]]:
        engine, own = self._engines[place], figures[place]
        requests = [_request(number, ids, sampling) for number, ids in enumerate(prompts)]
        for request in requests:
            engine.submit(request)
        while not all(request.written for request in requests):
            engine.step()
        begun, before = time.perf_counter(), sum(len(request.written) for request in requests)
        steps = 0
        while not engine.idle:
            engine.step()
            steps += 1
        if count:
            tokens = sum(len(request.written) for request in requests) - before
            own.rates.append(tokens / (time.perf_counter() - begun))
            own.steps, own.tokens = steps, tokens
        return [request.written for request in requests]


def _request(number: int, token_ids: list[int], sampling: Sampling) -> EngineRequest:
    limit = len(token_ids) + (sampling.max_tokens or 1)
    mailbox = Mailbox(10**9, lambda: None)
    return EngineRequest(str(number), token_ids, (), 0, limit, sampling, number, 0, "", mailbox)


def main() -> None:
    """Measure, and print one line of JSON for each kind of text and number of streams."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    greedy = Sampling(temperature=0, max_tokens=100)
    nano, template = load_model(NANO), PromptTemplate(Tokenizer.from_file(NANO))
    for name, texts in (("nano copies", [f"Repeat: {text}" for text in COPIED]), ("nano answers", list(ASKED))):
        prompts = [template.render(conversation(text)).token_ids for text in texts]
        _show(name, nano, prompts, greedy, options.repeats)
    with TemporaryDirectory() as folder:
        sizes = argparse.Namespace(vocab=32000, hidden=512, heads=8, kv_heads=2, expert_size=1024, experts=16, layers=8)
        config = config_of(sizes)
        save_checkpoint(Path(folder), config, random_weights(config, 0, std=0.05))
        model = load_model(Path(folder))
        repeating = replace(greedy, logit_bias={5: 100.0})
        prompts = [[stream, *range(10, 200)] for stream in range(4)]
        _show("random network repeats itself", model, prompts, repeating, options.repeats)


def _show(name: str, model: Model, prompts: list[list[int]], sampling: Sampling, repeats: int) -> None:
    for streams in (1, len(prompts)):
        plain, drafting = Bench(model, streams).measure(prompts[:streams], sampling, repeats)
        rates = [statistics.median(each.rates) for each in (plain, drafting)]
        line = {
            "text": name,
            "streams": streams,
            "tokens_per_second": round(rates[0], 1),
            "with_drafts": round(rates[1], 1),
            "ratio": round(rates[1] / rates[0], 2),
            "tokens_per_step_and_stream": round(drafting.tokens / drafting.steps / streams, 2),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
