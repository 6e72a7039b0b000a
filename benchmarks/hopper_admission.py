"""Times steps in which part of a prompt is read beside decoding streams, with graphs and without them.

A stream waits as long for its next token as such a step takes; what the prompt adds to a step of decoding alone stands
beside it. Steps go through serving's own runner, from the host's numbers to sampled tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

import torch
from hopper_clock import Budget, alive, one_line
from hopper_inputs import REHEARSAL, SIZES
from hopper_times import Row

from llama4_local.cache.kv_cache import KvCache
from llama4_local.cache.page_table import PageAllocators
from llama4_local.decoding.sampler import ResolvedSampling, SamplerState
from llama4_local.engine.cuda_graphs import cuda_capture
from llama4_local.engine.model_runner import ModelRunner
from llama4_local.engine.step_output import UnsampledOutput
from llama4_local.model.transformer import Model
from llama4_local.ops.batch import SequenceInput

STREAMS = (1,) if REHEARSAL else (1, 8, 64)
PIECES = (4,) if REHEARSAL else (64, 256)  # prompt tokens in a step
_STEPS = 1 if REHEARSAL else 12


def run_admission(weight_format: str, model: Model, cache: KvCache, budget: Budget) -> Iterator[Row]:
    """Yield a row for each number of streams, size of piece and kind of step."""
    for graph in (False,) if REHEARSAL else (True, False):
        name = f"admission, {'graphs' if graph else 'eager'}"
        if not budget.allows(f"Scout {weight_format} {name}", 25):
            continue
        try:
            with torch.inference_mode():
                yield from _rows(weight_format, model, cache, graph=graph)
        except Exception as problem:  # earlier measurements are kept
            print(f"FAILED Scout {weight_format} {name}: {one_line(problem)}", flush=True)
            yield {"format": weight_format, "case": name, "exception": one_line(problem)}
            if not alive():
                raise


def _rows(weight_format: str, model: Model, cache: KvCache, *, graph: bool) -> Iterator[Row]:
    capture = cuda_capture() if graph else None
    most = max(PIECES) + max(STREAMS)
    runner = ModelRunner(model, cache, tokens=most, sequences=max(STREAMS) + 1, capture=capture)
    if not REHEARSAL:
        runner.warm_up(lambda done, total: None)
    for streams in STREAMS:
        if not _fits(cache, streams):
            continue
        alone = _seconds(runner, cache, streams, 0)
        for piece in PIECES:
            took = _seconds(runner, cache, streams, piece)
            note = f"{took * 1e3:.2f} ms, {(took - alone) * 1e3:.2f} more than decoding{' (graph)' if graph else ''}"
            case = f"{piece} prompt tokens beside {streams}"
            print(f"Scout {weight_format:<5}{case:<32} {note}", flush=True)
            row: Row = {"format": weight_format, "case": case, "graph": graph, "note": note}
            yield row | {"admission_ms": took * 1e3, "added_ms": (took - alone) * 1e3}


def _fits(cache: KvCache, streams: int) -> bool:
    needed = streams * (cache.shape.pages_for(SIZES.context) + 1) + cache.shape.pages_for(max(PIECES))
    return needed <= min(cache.shape.global_pages, cache.shape.local_pages)


def _seconds(runner: ModelRunner, cache: KvCache, streams: int, piece: int) -> float:
    """Return the median time from the launch of a step until its tokens are on the host."""
    pages = PageAllocators(cache.shape)
    inputs = [_sequence(pages, SIZES.context, 1) for _ in range(streams)]
    inputs += [_sequence(pages, 0, piece)] if piece else []
    states = [SamplerState(ResolvedSampling(), [], []) for _ in range(streams)]  # the prompt goes on in the next step
    times: list[float] = []
    for _ in range(_STEPS + 1):
        begun = time.perf_counter()
        output = runner.launch(inputs, range(streams), states)
        (output.sample() if isinstance(output, UnsampledOutput) else output).wait()
        times.append(time.perf_counter() - begun)
    return median(times[1:])


def _sequence(pages: PageAllocators, context: int, tokens: int) -> SequenceInput:
    """Return a sequence with a context whose keys and values are what the cache holds, and its next tokens."""
    sequence = pages.sequence()
    for count in (context, tokens):
        if count:
            sequence.extend(count)
    return SequenceInput(sequence, [at % SIZES.vocab for at in range(tokens)])
