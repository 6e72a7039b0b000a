from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from llama4_local.checkpoint.loader import load_model
from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.config.formats import WeightFormat
from llama4_local.config.model import ModelConfig, TextConfig
from llama4_local.scoring import score_with
from llama4_local.weights.schema import random_weights

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = ModelConfig(
    TextConfig(
        vocab_size=200,
        hidden_size=128,
        heads=5,
        kv_heads=1,
        head_dim=32,
        expert_size=64,
        dense_size=128,
        experts=4,
        rope_layers=(True, True, True, False),
        moe_layers=(True, False, True, True),
        chunk=8,
        qk_norm=True,
    )
)
TOKENS = [5, 17, 99, 3, 42, 42, 7, 150, 11, 23, 8]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path, CONFIG, random_weights(CONFIG, 4, std=0.08))
    return tmp_path


@pytest.mark.parametrize(("kind", "limit"), [("fp8", 0.12), ("int4", 0.35)])
def test_a_packed_model_scores_nearly_as_the_plain_one(folder: Path, kind: WeightFormat, limit: float) -> None:
    plain = score_with(load_model(folder, dtype="float32"), TOKENS)
    packed = score_with(load_model(folder, quantize=kind, dtype="float32"), TOKENS)
    assert 0 < float((packed - plain).norm() / plain.norm()) < limit


def test_packed_steps_of_any_size_agree(folder: Path) -> None:
    model = load_model(folder, quantize="int4", dtype="float32")
    whole, stepped = score_with(model, TOKENS), score_with(model, TOKENS, prefill_chunk=3)
    assert torch.allclose(whole, stepped, atol=1e-4)


def test_a_packed_model_takes_fewer_bytes(folder: Path) -> None:
    load_model(folder, quantize="int4", dtype="bfloat16")
    packed = sum(file.stat().st_size for file in folder.glob(".packed-*/*"))
    assert packed < 0.4 * sum(file.stat().st_size for file in folder.glob("*.safetensors"))
