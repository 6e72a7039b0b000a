"""How much of its accuracy nano keeps when its layers are packed, skill by skill, on the same questions.

python benchmarks/packed_accuracy.py [--samples 150] [--checkpoint DIR]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from llama4_local import nano
from llama4_local.checkpoint.loader import model_of
from llama4_local.nano.training.evaluate import load, measure
from llama4_local.weights.quantize import pack_network

BUNDLED = Path(nano.__file__).parent / "checkpoint"


@torch.inference_mode()
def main() -> None:
    """Print one line for each skill: plain, FP8, int4."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=150)
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED)
    given = parser.parse_args()
    plain, template = load(given.checkpoint)
    models = {
        "plain": plain,
        "fp8": model_of(plain.config, pack_network(plain.weights, "fp8")),
        "int4": model_of(plain.config, pack_network(plain.weights, "int4")),
    }
    skills = json.loads((given.checkpoint / "evaluation.json").read_text())["accuracy"]
    print(f"{'':<18}" + "".join(f"{name:>8}" for name in models))
    for skill in skills:
        right = {name: measure(model, template, skill, given.samples)[0] for name, model in models.items()}
        kept = ", ".join(f"{name} keeps {right[name] / max(right['plain'], 1e-9):.1%}" for name in ("fp8", "int4"))
        print(f"{skill:<18}" + "".join(f"{share:>8.3f}" for share in right.values()) + f"   {kept}", flush=True)


if __name__ == "__main__":
    main()
