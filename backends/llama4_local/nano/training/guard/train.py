"""Train nano-guard: `python -m llama4_local.nano.training.guard.train`.

Batches depend on the seed and the step's number alone. The run goes on from the last state in its folder.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from llama4_local.nano.training.guard.batches import GuardMix
from llama4_local.nano.training.guard.folder import guard_template, write_guard_folder
from llama4_local.nano.training.guard.recipe import RECIPE, guard_config
from llama4_local.nano.training.train import start, train

_STEPS = 1000


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=_STEPS, help="steps of the whole run")
    parser.add_argument("--out", type=Path, default=Path(".runs/nano-guard"), help="folder of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="threads, each with passes of its own")
    parser.add_argument("--weights", type=Path, default=None, help="checkpoint folder that a fresh run starts from")
    options = parser.parse_args()
    template = guard_template(options.out / "checkpoint")
    config = guard_config(template.tokenizer.special)
    mix = GuardMix(options.seed, RECIPE.samples, RECIPE.rows, config.text.max_positions)
    run = start(config, template, RECIPE, seed=options.seed, mix=mix, workers=options.workers,
                begin=options.weights, write=write_guard_folder)  # fmt: skip
    print(f"{math.fsum(tensor.numel() for tensor in run.weights.leaves()) / 1e6:.2f} million parameters")
    progress = train(run, options.out, steps=options.steps)
    print(f"done after {progress.step} steps and {progress.seconds / 60:.1f} minutes")


if __name__ == "__main__":
    main()
