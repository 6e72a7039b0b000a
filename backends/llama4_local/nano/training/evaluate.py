"""Measure a checkpoint skill by skill: `python -m llama4_local.nano.training.evaluate [--samples N] [CHECKPOINT]`.

With `--quantize int4` or `fp8` its layers are packed first, and multiplied as the local backend does it on a CPU.
Samples come from the test split, whose numbers, names, wordings and layouts training never met. The answer
is the greedy one and must be equal to the right one, token by token.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from llama4_local.checkpoint.loader import load_model
from llama4_local.checkpoint.plain import load_checkpoint
from llama4_local.checkpoint.writer import write_json
from llama4_local.config.reader import read_config
from llama4_local.model.transformer import Model, logits
from llama4_local.model.vision import encode_tiles
from llama4_local.nano import CHECKPOINT
from llama4_local.nano.training.batches import Example, passes, render
from llama4_local.nano.training.data import SKILLS, Sample, samples
from llama4_local.nano.training.folder import prompt_template
from llama4_local.nano.training.forward import training_forward
from llama4sdk.prompting.tool_format import write_calls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llama4_local.config.formats import WeightFormat
    from llama4sdk.prompting import PromptTemplate, Rendered

_LONGEST = 220  # tokens of an answer; the longest right one has fewer
_ROWS = 4000  # tokens in one pass


@dataclass(frozen=True, slots=True)
class Miss:
    """A sample that was answered wrongly."""

    sample: Sample
    expected: str
    got: str


def wanted_text(sample: Sample) -> str:
    """Return the right answer as the model writes it, calls included."""
    answer = sample.answer
    return answer.text + (write_calls(answer.tool_calls) if answer.tool_calls else "")


@torch.inference_mode()
def answers(model: Model, template: PromptTemplate, asked: Sequence[Sample]) -> list[str]:
    """Return the greedy answers to samples, without their last message, all at once."""
    prompts = [
        template.render(sample.messages[:-1], sample.tools, tool_choice=sample.choice, output=sample.output)
        for sample in asked
    ]
    written = _greedy(model, prompts)
    return [template.tokenizer.decode(ids) for ids in written]


def _greedy(model: Model, prompts: Sequence[Rendered]) -> list[list[int]]:
    stops = set(model.config.generation.eos_token_ids)
    sequences = [list(prompt.token_ids) for prompt in prompts]
    images = [_features(model, prompt) for prompt in prompts]
    open_rows = list(range(len(prompts)))
    for _ in range(_LONGEST):
        if not open_rows:
            break
        for row, token_id in zip(open_rows, _next(model, sequences, images, open_rows), strict=True):
            sequences[row].append(token_id)
        open_rows = [row for row in open_rows if sequences[row][-1] not in stops]
    starts = [len(prompt.token_ids) for prompt in prompts]
    return [[i for i in ids[start:] if i not in stops] for ids, start in zip(sequences, starts, strict=True)]


def _features(model: Model, prompt: Rendered) -> Tensor | None:
    if not prompt.tiles:
        return None
    pixels = torch.from_numpy(np.concatenate([tiles.pixels for tiles in prompt.tiles]))
    return encode_tiles(model, pixels).flatten(0, 1)


def _next(
    model: Model, sequences: Sequence[list[int]], images: Sequence[Tensor | None], rows: Sequence[int]
) -> list[int]:
    """Return the argmax token of each row."""
    lengths = torch.tensor([len(sequences[row]) for row in rows])
    token_ids = torch.zeros((len(rows), int(lengths.max())), dtype=torch.int64)
    for place, row in enumerate(rows):
        token_ids[place, : len(sequences[row])] = torch.tensor(sequences[row])
    shown = [features for row in rows if (features := images[row]) is not None]
    hidden = training_forward(model, token_ids, lengths, torch.cat(shown) if shown else None)
    last = hidden[torch.arange(len(rows)), lengths - 1]
    return logits(model, last).argmax(-1).tolist()


def load(folder: Path, quantize: WeightFormat | None = None) -> tuple[Model, PromptTemplate]:
    """Return a checkpoint's network in fp32, on a CPU with packed layers on request, and its prompt template."""
    if quantize is not None:
        return load_model(folder, dtype="float32", quantize=quantize, keep=False), prompt_template(folder)
    config = read_config(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = load_checkpoint(folder, config, dtype=torch.float32, device=device)
    return Model.create(config, weights), prompt_template(folder)


@torch.inference_mode()
def are_right(model: Model, template: PromptTemplate, asked: Sequence[Sample]) -> list[bool]:
    """Return for each sample whether the greedy answer is the right one, token by token.

    One pass is enough: the greedy answer is the right one exactly if each of its tokens is the argmax
    after those before it.
    """
    examples = [_last_answer(render(template, sample)) for sample in asked]
    right = dict.fromkeys(range(len(asked)), True)
    order = sorted(range(len(asked)), key=lambda place: len(examples[place].token_ids))
    begun = 0
    for part in passes([examples[place] for place in order], _ROWS, SKILLS):
        part = part.to(model.device)
        features = None if part.pixels is None else encode_tiles(model, part.pixels).flatten(0, 1)
        hidden = training_forward(model, part.token_ids, part.lengths, features)
        likeliest = logits(model, hidden.flatten(0, 1)[part.targets - 1]).argmax(-1)
        wrong = part.targets[likeliest != part.labels]
        for row in set((wrong // part.token_ids.shape[1]).tolist()):
            right[order[begun + row]] = False
        begun += len(part.lengths)
    return list(right.values())


def _last_answer(example: Example) -> Example:
    """Return the example with only its last answer marked."""
    end = len(example.answers)
    start = end
    while start and example.answers[start - 1]:
        start -= 1
    return replace(example, answers=[False] * start + [True] * (end - start))


def measure(
    model: Model, template: PromptTemplate, skill: str, count: int, *, seed: int = 1, show: int = 0
) -> tuple[float, list[Miss]]:
    """Return the share of right answers on `count` samples of a skill, and up to `show` wrong ones."""
    asked = list(islice(samples(seed, skill, "test"), count))
    right = are_right(model, template, asked)
    missed = [sample for sample, good in zip(asked, right, strict=True) if not good]
    written = answers(model, template, missed[:show]) if show and missed else []
    misses = [Miss(sample, wanted_text(sample), got) for sample, got in zip(missed, written, strict=False)]
    return sum(right) / count, misses


def main() -> None:
    """Read the command line, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=CHECKPOINT)
    parser.add_argument("--samples", type=int, default=200, help="samples per skill")
    parser.add_argument("--skills", nargs="+", default=list(SKILLS), choices=SKILLS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quantize", choices=("int4", "fp8"), default=None, help="how layers are packed first")
    parser.add_argument("--misses", type=int, default=0, help="wrong answers to show per skill")
    parser.add_argument("--write", type=Path, default=None, help="a JSON file for the table")
    options = parser.parse_args()
    model, template = load(options.checkpoint, options.quantize)
    table: dict[str, float] = {}
    for skill in options.skills:
        table[skill], misses = measure(model, template, skill, options.samples, seed=options.seed, show=options.misses)
        print(f"{skill:18} {table[skill]:7.1%}", flush=True)
        for miss in misses:
            said = miss.sample.messages[-2].text
            print(f"    {said!r}\n        expected {miss.expected!r}\n        got      {miss.got!r}", flush=True)
    if options.write:
        write_json(options.write, {"samples": options.samples, "seed": options.seed, "accuracy": table})


if __name__ == "__main__":
    main()
