"""The cost of keeping answers to a form: the bundled model decodes with and without masks, in turn.

    OMP_NUM_THREADS=1 python benchmarks/masks.py --streams 8 --tokens 200 --repeats 9

Both sides draw the same number of tokens at temperature 1 from the same prompts, in one engine without a thread; no
answer ends early. The time is that of the decode steps alone, from the first token of the last stream on. Figures
depend on the machine and on what else it does: compare within one run only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from typing import Any

from llama4_local.cache.sizing import cache_shape
from llama4_local.checkpoint.loader import load_model
from llama4_local.decoding.grammar import Grammars
from llama4_local.engine.engine import Engine, EngineLimits
from llama4_local.engine.mailbox import Mailbox, MailboxEvent, Outbox
from llama4_local.engine.request import EngineRequest
from llama4_local.nano import CHECKPOINT as NANO
from llama4sdk.errors import LlamaError
from llama4sdk.messages import conversation
from llama4sdk.prompting import PromptTemplate, Tokenizer
from llama4sdk.request import OutputSpec, Request, Sampling, ToolSpec

_PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "pets": {"type": "array", "items": {"enum": ["cat", "dog", "fish"]}},
        "home": {"anyOf": [{"type": "string", "maxLength": 20}, {"type": "null"}]},
    },
    "required": ["name", "age", "pets"],
    "additionalProperties": False,
}
FORMS: dict[str, dict[str, Any]] = {
    "answer": {"output": OutputSpec({"type": "array", "items": _PERSON, "minItems": 100_000})},
    "calls": {
        "tools": tuple(ToolSpec(name, "", _PERSON) for name in ("find_person", "add_person", "remove_person")),
        "tool_choice": "required",
    },
}


class Quiet(Outbox):
    """Drop the engine's events."""

    def put(self, mailbox: Mailbox, event: MailboxEvent) -> None:
        """Take an event."""
        if isinstance(event, LlamaError):
            raise event


class Bench:
    """nano in an engine of its own, which no token ends."""

    def __init__(self, streams: int, tokens: int) -> None:
        model = load_model(NANO)
        generation = model.config.generation
        model = replace(model, config=replace(model.config, generation=replace(generation, eos_token_ids=())))
        tokenizer = Tokenizer.from_file(NANO)
        self._template = PromptTemplate(tokenizer)
        self._grammars = Grammars(tokenizer, model.config.text.vocab_size, generation.eos_token_ids)
        shape = cache_shape(model.config.text, context=2048, sequences=streams, memory=2**30, itemsize=4)
        limits = EngineLimits(step_tokens=4096, max_sequences=streams, prefix_caching=False)
        self._engine = Engine(model, shape, limits, tokenizer=tokenizer, outbox=Quiet())
        self._streams, self._tokens = streams, tokens

    def seconds(self, form: dict[str, Any], *, masked: bool) -> float:
        """Return the seconds of one decode step, on average."""
        orders = [self._order(stream, form, masked=masked) for stream in range(self._streams)]
        for order in orders:
            self._engine.submit(order)
        while not all(order.written for order in orders):
            self._engine.step()
        begun, before = time.perf_counter(), min(len(order.written) for order in orders)
        while not self._engine.idle:
            self._engine.step()
        steps = self._tokens - before
        if any(len(order.written) != self._tokens for order in orders):
            raise RuntimeError("an answer ended early")
        return (time.perf_counter() - begun) / steps

    def _order(self, stream: int, form: dict[str, Any], *, masked: bool) -> EngineRequest:
        sampling = Sampling(temperature=1.0, max_tokens=self._tokens, seed=stream)
        request = Request(conversation(f"List everybody, please. {stream}"), sampling=sampling, **form)
        ids = self._template.render(request.messages, request.tools, output=request.output).token_ids
        return EngineRequest(
            request_id=str(stream),
            token_ids=ids,
            tiles=(),
            image_tokens=0,
            limit=len(ids) + self._tokens,
            sampling=sampling,
            seed=stream,
            priority=0,
            cache_salt="",
            mailbox=Mailbox(10**9, lambda: None),
            mask=self._grammars.mask_for(request) if masked else None,
        )


def main() -> None:
    """Measure, and print one line of JSON for each kind of form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    bench = Bench(options.streams, options.tokens)
    for name, form in FORMS.items():
        bench.seconds(form, masked=True)  # compiles, and warms up
        free, kept = [], []
        for repeat in range(options.repeats):
            for masked in (False, True) if repeat % 2 else (True, False):
                (kept if masked else free).append(bench.seconds(form, masked=masked) * 1000)
        print(json.dumps({"form": name, "streams": options.streams, **_figures(free, kept)}))


def _figures(free: list[float], kept: list[float]) -> dict[str, float]:
    ratios = [with_masks / without for with_masks, without in zip(kept, free, strict=True)]
    return {
        "free_ms_median": round(statistics.median(free), 3),
        "free_ms_min": round(min(free), 3),
        "kept_ms_median": round(statistics.median(kept), 3),
        "kept_ms_min": round(min(kept), 3),
        "added_percent_of_medians": round(100 * (statistics.median(kept) / statistics.median(free) - 1), 1),
        "added_percent_of_minima": round(100 * (min(kept) / min(free) - 1), 1),
        "added_percent_median_of_pairs": round(100 * (statistics.median(ratios) - 1), 1),
    }


if __name__ == "__main__":
    main()
