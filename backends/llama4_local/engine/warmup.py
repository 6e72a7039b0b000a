"""Steps of every size, run once at load, so that no kernel is compiled while requests are served."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from llama4_local.cache.page_table import PageAllocators
from llama4_local.decoding.sampler import ResolvedSampling, SamplerState
from llama4_local.engine.step_output import UnsampledOutput
from llama4_local.engine.step_shapes import bucket_sizes
from llama4_local.ops.batch import SequenceInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llama4_local.cache.kv_cache import KvCache
    from llama4_local.cache.page_table import CacheShape, SequencePages
    from llama4_local.engine.step_output import Runner
    from llama4_local.model.transformer import Model

_LOG = logging.getLogger("llama4_local")
NO_GRAPHS = "no CUDA graphs"
_RANKED = ResolvedSampling(temperature=1.0, top_p=0.9)
_ADJUSTED = replace(_RANKED, repetition_penalty=1.1, biases=((0, 0.0),), logprobs=1)


def warmup_steps(shape: CacheShape, *, tokens: int, sequences: int) -> Iterator[list[SequenceInput]]:
    """Yield a step for each range of sizes that shares one tile config, while no page is in use.

    Tile configs change at numbers of tokens of which each range holds a power of two.

    Args:
        shape: The cache, still without content.
        tokens: Most tokens of a step.
        sequences: Most sequences of a step.
    """
    for count in bucket_sizes(tokens):
        yield warmup_step(PageAllocators(shape), count, sequences)
    for count in bucket_sizes(sequences):
        yield warmup_step(PageAllocators(shape), count, count, each=1)


def warmup_launches(
    runner: Runner, model: Model, cache: KvCache, *, tokens: int, sequences: int
) -> list[Callable[[], None]]:
    """Return runs of `warmup_steps` to their ends, each with plain and with ranked rows."""
    vocab = model.config.text.vocab_size

    def run(inputs: list[SequenceInput], *, ranked: bool) -> None:
        ends = accumulate(len(each.token_ids) for each in inputs)
        states = warmup_states(inputs, vocab, ranked=ranked)
        output = runner.launch(inputs, [end - 1 for end in ends], states)
        (output.sample() if isinstance(output, UnsampledOutput) else output).wait()

    steps = warmup_steps(cache.shape, tokens=tokens, sequences=sequences)
    return [partial(run, inputs, ranked=ranked) for inputs in steps for ranked in (False, True)]


def captured_shapes(sizes: Sequence[int], tokens: int) -> str:
    """Return the words for what graphs there are: numbers of decoding sequences, and most tokens with prompts."""
    return f"CUDA graphs for {', '.join(map(str, sizes))} sequences and for up to {tokens} tokens of prompts"


def run_all(todo: Sequence[Callable[[], object]], progress: Callable[[int, int], None], captured: str) -> None:
    """Do all the work of a warm-up.

    Args:
        todo: The work.
        progress: Called with steps done and in all; an exception from it ends the work.
        captured: What is logged of the graphs.
    """
    began = time.monotonic()
    for done, run in enumerate(todo):
        progress(done, len(todo))
        run()
    progress(len(todo), len(todo))
    _LOG.info("Warmed up in %.1f s: %d steps, %s.", time.monotonic() - began, len(todo), captured)


def warmup_step(pages: PageAllocators, count: int, sequences: int, each: int | None = None) -> list[SequenceInput]:
    """Return inputs of up to `count` tokens, in as few sequences as hold them, or `each` tokens of every one."""
    inputs: list[SequenceInput] = []
    while count and len(inputs) < sequences:
        sequence = pages.sequence()
        fits = min(each or count, count, _room(pages, sequence))
        if not fits:
            break
        sequence.extend(fits)
        inputs.append(SequenceInput(sequence, [0] * fits))
        count -= fits
    return inputs


def warmup_states(inputs: list[SequenceInput], vocab: int, *, ranked: bool) -> list[SamplerState]:
    """Return a sampler state for each of the inputs.

    Args:
        inputs: Of a step.
        vocab: Tokens of the vocabulary.
        ranked: Whether tokens are ranked; the first row then has penalties, a mask and a report besides.
    """
    if not ranked:
        return [SamplerState(ResolvedSampling(), [], []) for _ in inputs]
    first = SamplerState(_ADJUSTED, [], [], mask=_AllowsAll(vocab))
    return [first, *(SamplerState(_RANKED, [], []) for _ in inputs[1:])]


@dataclass(frozen=True, slots=True)
class _AllowsAll:
    """A token mask without effect."""

    vocab: int

    @property
    def problem(self) -> None:
        """See `TokenMask.problem`."""

    def allowed(self, written: Sequence[int]) -> bytes:
        """See `TokenMask.allowed`."""
        return b"\xff" * -(-self.vocab // 8)


def _room(pages: PageAllocators, sequence: SequencePages) -> int:
    """Tokens that an empty sequence can add in one step."""
    free = pages.global_pool.free
    chunk = sequence.room_in_chunk()
    if chunk is None:
        return free * pages.shape.page_size
    return min(free * pages.shape.page_size, pages.local_pool.free * pages.shape.page_size, chunk)
