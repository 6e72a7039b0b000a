"""Whether serving says, far into a context, what one full forward pass says, position by position.

    python benchmarks/long_context.py --chunk 64 --chunks 64

A small random network reads a long prompt: once in one pass without any cache, and then through the paged cache in
pieces of several sizes and token by token, as serving does. Every position whose scores differ by more than the
tolerance, or whose argmax token differs, is reported with its place in its chunk.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from llama4_local.config.model import ModelConfig, TextConfig
from llama4_local.model.transformer import Model, logits
from llama4_local.nano.training.forward import training_forward
from llama4_local.scoring import score_with
from llama4_local.weights.schema import random_weights


@dataclass(frozen=True)
class Difference:
    """How one way of computing compares with the full pass.

    Args:
        piece: Tokens per step.
        largest: Largest absolute difference of any score.
        wrong: Positions that differ too much, or in their argmax token.
        seconds: Time taken.
    """

    piece: int
    largest: float
    wrong: list[int]
    seconds: float


def random_model(chunk: int, positions: int) -> Model:
    """A Scout-like network, small, with weights large enough that every layer matters."""
    text = TextConfig(
        vocab_size=512,
        hidden_size=64,
        heads=10,
        kv_heads=2,
        head_dim=16,
        expert_size=48,
        dense_size=96,
        experts=4,
        rope_layers=tuple((layer + 1) % 4 != 0 for layer in range(8)),
        moe_layers=(True,) * 8,
        chunk=chunk,
        qk_norm=True,
        floor_scale=chunk,  # so that the temperature of far queries is at work early
        max_positions=positions + 1,
    )
    config = ModelConfig(text)
    return Model.create(config, random_weights(config, 0, std=0.1))


@torch.inference_mode()
def full_pass(model: Model, token_ids: list[int]) -> Tensor:
    """Return the scores of every position, [tokens, vocab], without a cache."""
    hidden = training_forward(model, torch.tensor([token_ids]), torch.tensor([len(token_ids)]))
    return logits(model, hidden[0])


def compare(model: Model, token_ids: list[int], expected: Tensor, piece: int, tolerance: float) -> Difference:
    """Serve the prompt in pieces and compare every position."""
    begun = time.perf_counter()
    measured = score_with(model, token_ids, prefill_chunk=piece)
    seconds = time.perf_counter() - begun
    distance = (measured - expected).abs().amax(dim=-1)
    wrong = (distance > tolerance) | (measured.argmax(dim=-1) != expected.argmax(dim=-1))
    return Difference(piece, float(distance.max()), wrong.nonzero().flatten().tolist(), seconds)


def main() -> int:
    """Compare, print, and return 1 if any position differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--pieces", type=int, nargs="+", default=[64, 17, 1])
    parser.add_argument("--tolerance", type=float, default=1e-4)
    options = parser.parse_args()
    length = options.chunk * options.chunks
    model = random_model(options.chunk, length)
    source = torch.Generator().manual_seed(1)
    token_ids: list[int] = torch.randint(0, 512, (length,), generator=source).tolist()
    expected = full_pass(model, token_ids)
    print(f"{length} tokens, {options.chunks} chunks of {options.chunk}; scores vary by {float(expected.std()):.2f}")
    failed = False
    for piece in options.pieces:
        measured = compare(model, token_ids, expected, piece, options.tolerance)
        failed |= bool(measured.wrong)
        print(
            f"pieces of {piece:5}: largest difference {measured.largest:.1e}, "
            f"{len(measured.wrong)} positions differ, {length / measured.seconds:.0f} tokens/s"
        )
        for position in measured.wrong[:20]:
            print(f"    position {position}: {position % options.chunk} of chunk {position // options.chunk}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
