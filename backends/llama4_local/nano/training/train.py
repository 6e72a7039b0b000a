"""Train nano: `python -m llama4_local.nano.training.train`.

The run goes on from the last state in its folder. Batches depend on the seed and the step's number alone,
so a run that was cut off and goes on sees the same samples as one that was not.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional

from llama4_local.checkpoint.plain import load_checkpoint
from llama4_local.model.transformer import Layer, Model, logits, run_layer
from llama4_local.model.vision import encode_tiles
from llama4_local.nano.training.balance import BalancedOps
from llama4_local.nano.training.batches import Batches, Mix, Pass
from llama4_local.nano.training.eyes import open_eyes
from llama4_local.nano.training.feeding import Feed, make_batch, maker_pool, one_thread
from llama4_local.nano.training.folder import prompt_template, write_folder
from llama4_local.nano.training.forward import training_forward
from llama4_local.nano.training.optimizer import Optimizer
from llama4_local.nano.training.recipe import Recipe, nano_config
from llama4_local.weights.schema import TensorParts, random_weights, weight_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from llama4_local.config.model import ModelConfig
    from llama4_local.weights.tree import Weights
    from llama4sdk.prompting import PromptTemplate

_LOG_EVERY = 20
_SAVE_EVERY = 240.0  # seconds
_STATE = "state.safetensors"
_CLIP = 1.0
# The image encoder has learned to see before, and is only adjusted.
_PACE = {"vision_model.": 0.6, "multi_modal_projector.": 0.6}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Args:
        step: Steps done.
        seconds: Time that they took.
    """

    step: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """A run under way: what it trains, and where it writes."""

    recipe: Recipe
    config: ModelConfig
    weights: Weights
    optimizer: Optimizer
    template: PromptTemplate
    device: torch.device
    mix: Batches
    workers: int = 1
    layer: Layer | None = None
    write: Callable[[Path, ModelConfig, Weights], None] = write_folder

    def batch(self, step: int) -> list[Pass]:
        """Return the passes of a step; the same for the same seed and step."""
        return self.mix.batch(self.template, step)


@dataclass(slots=True)
class Losses:
    """Sums of losses and of tokens by skill, since the last line of the log."""

    skills: Sequence[str]
    loss: Tensor
    count: Tensor

    @classmethod
    def none(cls, skills: Sequence[str], device: torch.device) -> Losses:
        """Return empty sums."""
        return cls(skills, torch.zeros(len(skills), device=device), torch.zeros(len(skills), device=device))

    def add(self, skills: Tensor, losses: Tensor) -> None:
        """Take in the loss of each target."""
        self.loss.index_add_(0, skills, losses.float())
        self.count.index_add_(0, skills, torch.ones_like(losses, dtype=torch.float32))

    def __str__(self) -> str:
        means = (self.loss / self.count.clamp(min=1)).tolist()
        return " ".join(f"{skill.replace(' ', '_')} {mean:.3f}" for skill, mean in zip(self.skills, means, strict=True))


def start(config: ModelConfig, template: PromptTemplate, recipe: Recipe, *, seed: int = 0, device: str = "cpu",
          mix: Batches | None = None, workers: int = 1, begin: Path | None = None, compiled: bool = False,
          write: Callable[[Path, ModelConfig, Weights], None] = write_folder) -> Run:  # fmt: skip
    """Return a run with fresh weights, or with those of the checkpoint folder `begin`.

    Compiled, a step takes a GPU a fraction of the time, but the first one takes a minute. `mix` takes the place of
    nano's own data, and `write` writes the checkpoint folder.
    """
    fresh = load_checkpoint(begin, config, dtype=torch.float32) if begin else _initial(config, seed)
    weights = fresh.map(lambda tensor: tensor.to(device).requires_grad_())
    names = [pieces[0].name for pieces in weight_schema(config).leaves()]
    named = dict(zip(names, weights.leaves(), strict=True))
    matrices = {name: tensor for name, tensor in named.items() if _is_inner_matrix(name, tensor)}
    others = {name: tensor for name, tensor in named.items() if name not in matrices}
    optimizer = Optimizer.create(matrices, others, recipe.weight_decay, _PACE)
    return Run(recipe, config, weights, optimizer, template, torch.device(device),
               mix or Mix(seed, recipe.samples, recipe.rows, {}), workers,
               cast("Layer", torch.compile(run_layer, dynamic=True)) if compiled else None, write)  # fmt: skip


def gradients_of(run: Run, pool: Executor, batch: Sequence[Pass], step: int) -> list[tuple[Tensor, Tensor]]:
    """Compute the gradients of all passes of a step; return the skill and the loss of every target, by pass."""
    total = sum(float(part.weights.sum()) for part in batch)
    tokens = sum(int(part.lengths.sum()) for part in batch)
    batch = [part.to(run.device) for part in batch]
    dice = random.Random(f"{run.mix.seed} chunks {step}")
    chunks = [_chunk(run.recipe, dice) for _ in batch]
    # The passes may compute in bf16; the optimizer keeps the weights in fp32.
    dtype = torch.float32 if run.recipe.dtype == "float32" else torch.bfloat16
    halves = run.weights.map(lambda tensor: tensor.detach().to(dtype, copy=True).requires_grad_())
    # Long passes first, so that the workers end together.
    tasks = sorted(zip(batch, chunks, strict=True), key=lambda task: -task[0].token_ids.shape[1])

    def backward(task: tuple[Pass, int | None]) -> tuple[Tensor, Tensor]:
        part, chunk = task
        return _backward(run, halves, part, chunk, total, tokens)

    noted = list(pool.map(backward, tasks))
    for tensor, half in zip(run.weights.leaves(), halves.leaves(), strict=True):
        tensor.grad = None if half.grad is None else half.grad.float()
    return noted


def update(run: Run, rate: float) -> None:
    """Change the weights by their gradients, clipped, and clear these."""
    parameters = [tensor for tensor in run.weights.leaves() if tensor.grad is not None]
    torch.nn.utils.clip_grad_norm_(parameters, _CLIP)
    run.optimizer.step(rate)
    for tensor in run.weights.leaves():
        tensor.grad = None


def _chunk(recipe: Recipe, dice: random.Random) -> int | None:
    return dice.choice((32, 64, 96, 128, 192)) if dice.random() < recipe.short_chunks else None


def _backward(
    run: Run, weights: Weights, part: Pass, chunk: int | None, total: float, tokens: int
) -> tuple[Tensor, Tensor]:
    """Add one pass's share to the gradients; return the skill and the loss of each of its targets."""
    each, unevenness = _loss(run, weights, part, chunk)
    share = float(part.lengths.sum()) / tokens
    ((each * part.weights).sum() / total + run.recipe.balance * share * unevenness).backward()
    return part.skills, each.detach()


def _loss(run: Run, weights: Weights, part: Pass, chunk: int | None) -> tuple[Tensor, Tensor]:
    config = run.config
    if chunk is not None:
        config = replace(config, text=replace(config.text, chunk=chunk))
    # Only the common case is worth a compiler's time: sequences that lie within a chunk.
    layer = run.layer if part.token_ids.shape[1] <= (config.text.chunk or math.inf) else None
    ops = BalancedOps(run.device)
    model = Model.create(config, weights, ops)
    pixels = part.pixels
    features = None if pixels is None else encode_tiles(model, pixels).flatten(0, 1)
    hidden = training_forward(model, part.token_ids, part.lengths, features, layer)
    # The state before a token is what predicts it.
    scores = logits(model, hidden.flatten(0, 1).index_select(0, part.targets - 1))
    each = functional.cross_entropy(scores, part.labels, reduction="none")
    return each, ops.unevenness / config.text.layers


def _initial(config: ModelConfig, seed: int) -> Weights:
    """Return fresh weights: what writes to the residual stream starts small, so that depth does not blow it up."""
    depth = 2 * config.text.layers

    def scaled(pieces: TensorParts, tensor: Tensor) -> Tensor:
        name = pieces[0].name
        if "norm" in name or name.endswith("bias"):
            return tensor
        if name.endswith(("embed_tokens.weight", "class_embedding", "positional_embedding_vlm")):
            return tensor * 0.1
        fan_in = tensor.shape[-2] if ".experts." in name else tensor.shape[-1]
        scale = 0.3 if "lm_head" in name or "router" in name else 0.8
        if name.endswith(("o_proj.weight", "down_proj", "down_proj.weight", "fc2.weight")) and "adapter" not in name:
            scale = depth**-0.5
        return tensor * (scale * fan_in**-0.5)

    leaves = iter(weight_schema(config).leaves())
    return random_weights(config, seed, std=1.0).map(lambda tensor: scaled(next(leaves), tensor))


def _is_inner_matrix(name: str, tensor: Tensor) -> bool:
    outside = ("embed_tokens", "lm_head", "router", "positional_embedding", "patch_embedding")
    return tensor.ndim >= 2 and not any(part in name for part in outside)


def rate_at(recipe: Recipe, step: int, share: float) -> float:
    """Return the learning rate: up over the warm-up, level, then down to zero.

    Args:
        recipe: The run's settings.
        step: Number of the step, from 0.
        share: How much of the run is over, 0 to 1.
    """
    rising = min(1.0, (step + 1) / recipe.warmup)
    falling = min(1.0, (1 - share) / recipe.decay)
    return recipe.rate * rising * max(0.0, falling)


def save_state(folder: Path, run: Run, progress: Progress) -> None:
    """Write all that the run needs to go on; the file appears whole or not at all."""
    tensors = {**run.optimizer.matrices, **run.optimizer.others}
    tensors = {f"weight {name}": tensor.detach().contiguous() for name, tensor in tensors.items()}
    tensors |= {f"moment {name}": tensor.contiguous() for name, tensor in run.optimizer.moments.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{_STATE}.new", {"step": str(progress.step), "seconds": str(progress.seconds)})
    (folder / f"{_STATE}.new").replace(folder / _STATE)


def load_state(folder: Path, run: Run) -> Progress:
    """Take the last state of a run in, if its folder has one."""
    if not (folder / _STATE).is_file():
        return Progress()
    tensors = {**run.optimizer.matrices, **run.optimizer.others}
    with safe_open(folder / _STATE, framework="pt", device=str(run.device)) as file, torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(file.get_tensor(f"weight {name}"))
        for name, tensor in run.optimizer.moments.items():
            tensor.copy_(file.get_tensor(f"moment {name}"))
        notes = file.metadata() or {}
    run.optimizer.done(int(notes["step"]))
    return Progress(int(notes["step"]), float(notes["seconds"]))


def train(run: Run, folder: Path, *, steps: int | None = None, minutes: float | None = None,
          eyes: float = 0.0, makers: int = 0) -> Progress:  # fmt: skip
    """Train until the steps or the minutes are over, and write the checkpoint folder.

    Args:
        run: From `start`.
        folder: Gets `state.safetensors`, `log.txt` and `checkpoint/`; the run goes on from the state there.
        steps: Steps of the whole run.
        minutes: Minutes of the whole run; where both are given, the first to be over ends it.
        eyes: Minutes that the image encoder is trained for before a fresh run; not counted.
        makers: Processes that make data, for which `folder/checkpoint` must have the tokenizer; 0 for a thread.
    """
    with ThreadPoolExecutor(run.workers, initializer=one_thread) as pool, maker_pool(makers) as hands:
        progress = load_state(folder, run)
        if not progress.step and eyes:
            open_eyes(run.config, run.weights, seed=run.mix.seed, minutes=eyes, images=run.recipe.images,
                      pool=hands, makers=makers, report=lambda line: _log(folder, line))  # fmt: skip
        make = partial(make_batch, folder / "checkpoint", run.mix) if makers else run.batch
        feed = Feed(hands, makers, make, progress.step)
        try:
            return _train(run, pool, feed, folder, progress, steps, minutes)
        finally:
            feed.close()


def _train(run: Run, pool: Executor, feed: Feed[list[Pass]], folder: Path, progress: Progress,
           steps: int | None, minutes: float | None) -> Progress:  # fmt: skip
    saved, losses, waited = time.monotonic(), Losses.none(run.mix.skills, run.device), 0.0
    while (share := _share(progress, steps, minutes)) < 1:
        began = time.monotonic()
        rate = rate_at(run.recipe, progress.step, share)
        batch = feed.take()
        waited += time.monotonic() - began
        gradients = gradients_of(run, pool, batch, progress.step)
        update(run, rate)
        for noted in gradients:
            losses.add(*noted)
        progress = Progress(progress.step + 1, progress.seconds + time.monotonic() - began)
        if progress.step % _LOG_EVERY == 0:
            spent = f"seconds {progress.seconds:.0f}, {waited:.1f} for data since the last line,"
            _log(folder, f"step {progress.step} {spent} rate {rate:.5f} {losses}")
            losses, waited = Losses.none(run.mix.skills, run.device), 0.0
        if time.monotonic() - saved > _SAVE_EVERY:
            _save(folder, run, progress)
            saved = time.monotonic()
    _save(folder, run, progress)
    return progress


def _share(progress: Progress, steps: int | None, minutes: float | None) -> float:
    shares = [progress.step / steps if steps else 0.0, progress.seconds / (60 * minutes) if minutes else 0.0]
    return max(shares)


def _save(folder: Path, run: Run, progress: Progress) -> None:
    run.write(folder / "checkpoint", run.config, run.weights)
    save_state(folder, run, progress)
    _log(folder, f"saved at step {progress.step}")


def _log(folder: Path, line: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    print(line, flush=True)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=None, help="steps of the whole run")
    parser.add_argument("--minutes", type=float, default=None, help="minutes of the whole run (default 75)")
    parser.add_argument("--out", type=Path, default=Path(".runs/nano"), help="folder of the run")
    parser.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True, help="go on from the last state"
    )
    parser.add_argument("--eyes", type=float, default=5.0, help="minutes of a fresh run's first stage, see eyes.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--shares", type=json.loads, default={}, help='other shares of skills, as JSON: {"recall": 0.2}'
    )
    parser.add_argument("--rate", type=float, default=None, help="peak learning rate")
    parser.add_argument("--weights", type=Path, default=None, help="checkpoint folder that a fresh run starts from")
    parser.add_argument("--compile", action="store_true", help="compile the layers first: for long runs on a GPU")
    options = parser.parse_args()
    if not options.resume:
        (options.out / _STATE).unlink(missing_ok=True)
    minutes = 75.0 if options.steps is None and options.minutes is None else options.minutes
    device = "cuda" if torch.cuda.is_available() else "cpu"
    template = prompt_template(options.out / "checkpoint")
    config = nano_config(template.tokenizer.special)
    recipe = Recipe.on(device)
    recipe = replace(recipe, rate=options.rate or recipe.rate)
    cores = os.cpu_count() or 1
    mix = Mix(options.seed, recipe.samples, recipe.rows, options.shares)
    run = start(config, template, recipe, seed=options.seed, device=device, mix=mix,
                workers=1 if device == "cuda" else cores, begin=options.weights, compiled=options.compile)  # fmt: skip
    millions = math.fsum(tensor.numel() for tensor in run.weights.leaves()) / 1e6
    _log(options.out, f"{millions:.2f} million parameters on {device}")
    makers = max(1, cores - 2) if device == "cuda" else 1
    progress = train(run, options.out, steps=options.steps, minutes=minutes, eyes=options.eyes, makers=makers)
    _log(options.out, f"done after {progress.step} steps and {progress.seconds / 60:.1f} minutes")
    if device == "cuda":
        _log(options.out, f"at most {torch.cuda.max_memory_allocated() / 1e9:.1f} GB of the GPU's memory")


if __name__ == "__main__":
    main()
