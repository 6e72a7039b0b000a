"""How much of its accuracy nano keeps when its layers or its head are packed, skill by skill, on the same questions.

python benchmarks/packed_accuracy.py [--samples 150] [--checkpoint DIR] [--forms fp8 int4 "fp8 head"]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from llama4_local import nano
from llama4_local.checkpoint.loader import model_of, with_fp8_head
from llama4_local.nano.training.evaluate import load, measure
from llama4_local.weights.quantize import pack_network

FORMS = ("fp8", "int4", "fp8 head")
BUNDLED = Path(nano.__file__).parent / "checkpoint"


@torch.inference_mode()
def main() -> None:
    """Print one line for each skill: plain, FP8, int4, and plain with a head in FP8."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=150)
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    given = parser.parse_args()
    plain, template = load(given.checkpoint)
    models = {
        "plain": plain,
        "fp8": model_of(plain.config, pack_network(plain.weights, "fp8")),
        "int4": model_of(plain.config, pack_network(plain.weights, "int4")),
        "fp8 head": model_of(plain.config, with_fp8_head(plain.weights)),
    }
    models = {name: model for name, model in models.items() if name == "plain" or name in given.forms}
    skills = json.loads((given.checkpoint / "evaluation.json").read_text())["accuracy"]
    print(f"{'':<18}" + "".join(f"{name:>10}" for name in models))
    for skill in skills:
        right = {name: measure(model, template, skill, given.samples)[0] for name, model in models.items()}
        kept = ", ".join(f"{name} keeps {right[name] / max(right['plain'], 1e-9):.1%}" for name in given.forms)
        print(f"{skill:<18}" + "".join(f"{share:>10.3f}" for share in right.values()) + f"   {kept}", flush=True)


if __name__ == "__main__":
    main()
