"""Training: a few steps on a tiny network, going on from a saved state, and the pieces around it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from llama4_local.config.model import ModelConfig
from llama4_local.nano import CHECKPOINT
from llama4_local.nano.training.balance import even_experts, masked_experts
from llama4_local.nano.training.batches import mark_answers, passes, render
from llama4_local.nano.training.data import SKILLS, mixture, samples
from llama4_local.nano.training.eyes import open_eyes
from llama4_local.nano.training.folder import prompt_template
from llama4_local.nano.training.optimizer import Optimizer, orthogonalised
from llama4_local.nano.training.recipe import Recipe, nano_config
from llama4_local.nano.training.train import Progress, Run, load_state, rate_at, save_state, start, train
from llama4_local.ops.reference.moe import experts
from llama4_local.weights.tree import MlpTree, MoeTree
from llama4sdk.prompting import PromptTemplate

_RECIPE = Recipe(samples=3, rows=400, warmup=2)


@pytest.fixture(scope="module")
def template() -> PromptTemplate:
    return prompt_template(CHECKPOINT)


@pytest.fixture(scope="module")
def small(template: PromptTemplate) -> ModelConfig:
    config = nano_config(template.tokenizer.special)
    text = replace(
        config.text,
        hidden_size=32,
        heads=2,
        kv_heads=1,
        head_dim=16,
        expert_size=16,
        rope_layers=(True, False),
        moe_layers=(True, True),
    )
    vision = config.vision
    assert vision is not None
    return replace(
        config, text=text, vision=replace(vision, hidden_size=16, mlp_size=64, layers=1, heads=2, adapter_size=16)
    )


def _run(small: ModelConfig, template: PromptTemplate) -> Run:
    return start(small, template, _RECIPE, seed=3)


def _weights(run: Run) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in run.weights.leaves()]


def test_a_run_that_goes_on_ends_where_an_unbroken_one_does(
    tmp_path: Path, small: ModelConfig, template: PromptTemplate
) -> None:
    whole = _run(small, template)
    train(whole, tmp_path / "whole", steps=3)
    first = _run(small, template)
    save_state(tmp_path / "cut", first, Progress())
    _steps(first, tmp_path / "cut", until=2)
    second = _run(small, template)
    assert train(second, tmp_path / "cut", steps=3).step == 3
    for one, other in zip(_weights(whole), _weights(second), strict=True):
        assert torch.equal(one, other)


def _steps(run: Run, folder: Path, until: int) -> None:
    """Do the first steps of a run of three, and save."""
    from llama4_local.nano.training.train import gradients_of, update

    with ThreadPoolExecutor(1) as pool:
        for step in range(until):
            gradients_of(run, pool, run.batch(step), step)
            update(run, rate_at(run.recipe, step, step / 3))
    save_state(folder, run, Progress(until, 1.0))


def test_training_changes_every_weight(tmp_path: Path, small: ModelConfig, template: PromptTemplate) -> None:
    run = _run(small, template)
    before = _weights(run)
    train(run, tmp_path, steps=4)
    changed = [not torch.equal(one, other) for one, other in zip(before, _weights(run), strict=True)]
    assert sum(changed) >= len(changed) - 2
    assert (tmp_path / "log.txt").read_text().endswith("saved at step 4\n")
    assert (tmp_path / "checkpoint" / "model.safetensors").is_file()


def test_a_run_begins_with_the_weights_of_another_and_can_be_kept(
    tmp_path: Path, small: ModelConfig, template: PromptTemplate
) -> None:
    first = _run(small, template)
    train(first, tmp_path / "first", steps=1)
    second = start(small, template, _RECIPE, begin=tmp_path / "first" / "checkpoint")
    for one, other in zip(_weights(first), _weights(second), strict=True):
        assert torch.equal(one.bfloat16(), other.bfloat16())
    assert train(second, tmp_path / "second", steps=2).step == 2
    assert load_state(tmp_path / "second", start(small, template, _RECIPE)).step == 2


def test_a_folder_without_a_state_starts_at_zero(tmp_path: Path, small: ModelConfig, template: PromptTemplate) -> None:
    assert load_state(tmp_path, _run(small, template)) == Progress()


def test_batches_depend_on_seed_and_step_alone(small: ModelConfig, template: PromptTemplate) -> None:
    run = _run(small, template)
    first, again, other = run.batch(1), run.batch(1), run.batch(2)
    assert all(torch.equal(a.token_ids, b.token_ids) for a, b in zip(first, again, strict=True))
    assert [part.token_ids.shape for part in first] != [part.token_ids.shape for part in other]


def test_only_what_the_assistant_writes_is_learnt(template: PromptTemplate) -> None:
    sample = next(samples(1, "arithmetic"))
    example = render(template, sample)
    written = [i for i, marked in zip(example.token_ids, example.answers, strict=True) if marked]
    text = template.tokenizer.decode(written)
    wanted = "".join(m.text + "<|eot|>" for m in sample.messages if m.role == "assistant")
    assert text == wanted
    assert mark_answers(template, example.token_ids) == example.answers


def test_passes_hold_every_sample_once(template: PromptTemplate) -> None:
    examples = [render(template, sample) for sample in islice(mixture(5), 12)]
    made = list(passes(examples, 500, SKILLS))
    assert sum(len(part.lengths) for part in made) == 12
    assert sum(int(part.lengths.sum()) for part in made) == sum(len(example.token_ids) for example in examples)
    assert sum(len(part.targets) for part in made) == sum(sum(example.answers) for example in examples)


@pytest.mark.parametrize("form", [even_experts, masked_experts])
def test_experts_compute_in_training_what_the_reference_does(form: Callable[..., torch.Tensor]) -> None:
    source = torch.Generator().manual_seed(0)
    shared = MlpTree(torch.randn(32, 16, generator=source), torch.randn(16, 16, generator=source))
    weights = MoeTree(
        torch.randn(4, 16, generator=source),
        torch.randn(4, 16, 32, generator=source),
        torch.randn(4, 16, 16, generator=source),
        shared,
    )
    for rows in (1, 3, 70):
        x = torch.randn(rows, 16, generator=source)
        scores = x @ weights.router.t()
        torch.testing.assert_close(form(x, scores, weights), experts(x, scores, weights))


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    recipe = Recipe(rate=1.0, warmup=10, decay=0.5)
    assert rate_at(recipe, 0, 0.0) == pytest.approx(0.1)
    assert rate_at(recipe, 50, 0.5) == 1.0
    assert rate_at(recipe, 50, 0.75) == pytest.approx(0.5)
    assert rate_at(recipe, 50, 1.0) == 0.0


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    matrices = torch.randn(2, 24, 40, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalised(matrices))
    assert values.min() > 0.4
    assert values.max() < 1.5
    tall = orthogonalised(matrices.transpose(1, 2))
    torch.testing.assert_close(tall, orthogonalised(matrices).transpose(1, 2))


def test_the_optimizer_goes_downhill() -> None:
    goal = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    matrix = torch.zeros(8, 6, requires_grad=True)
    vector = torch.zeros(6, requires_grad=True)
    optimizer = Optimizer.create({"matrix": matrix}, {"vector": vector}, weight_decay=0.0)
    losses: list[float] = []
    for _ in range(60):
        loss = ((matrix - goal) ** 2).mean() + ((vector - 1) ** 2).mean()
        loss.backward()
        optimizer.step(0.1)
        matrix.grad = vector.grad = None
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


def test_opening_the_eyes_changes_only_the_image_encoder(small: ModelConfig, template: PromptTemplate) -> None:
    run = _run(small, template)
    before = {
        name: tensor.detach().clone()
        for name, tensor in [*run.optimizer.matrices.items(), *run.optimizer.others.items()]
    }
    with ThreadPoolExecutor(1) as pool:
        open_eyes(small, run.weights, seed=1, minutes=0.005, images=8, pool=pool, makers=0, report=lambda line: None)
    after = {**run.optimizer.matrices, **run.optimizer.others}
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name].detach())}
    assert changed
    assert all(name.startswith(("vision_model.", "multi_modal_projector.")) for name in changed)
