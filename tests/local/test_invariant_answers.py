"""With `deterministic=True` an answer is the same bits alone and in company, without kernels too."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache
from typing import cast

import pytest
import torch
from torch import Tensor

from llama4_local.cache.kv_cache import cache_dtype_of
from llama4_local.config.formats import CacheType, WeightFormat
from llama4_local.config.model import ModelConfig
from llama4_local.engine.engine import EngineLimits
from llama4_local.model.transformer import Model
from llama4_local.ops.interface import select_ops
from llama4_local.ops.reference import rows
from llama4_local.ops.reference.invariant import InvariantOps
from llama4_local.ops.reference.invariant_rows import SIZES, InvariantRows, agreeing_sizes
from llama4_local.ops.reference.quantized import QuantizedReferenceOps
from llama4_local.scoring import score_with
from llama4_local.weights.quantize import pack_network
from llama4_local.weights.tree import Weights
from llama4sdk.events import TextDelta
from llama4sdk.request import Sampling
from local.small_backends import Reader, SmallEngine, check_at_rest, endless
from local.small_checkpoints import biting_weights, guard, maverick, prompt, scout
from long_runs import LONG, often


@dataclass(frozen=True)
class Form:
    dtype: torch.dtype
    packed: WeightFormat | None = None
    cache: CacheType = "auto"


FORMS = {
    "fp32": Form(torch.float32),
    "bf16": Form(torch.bfloat16),
    "fp16": Form(torch.float16, cache="fp8"),
    "int4": Form(torch.bfloat16, "int4"),
    "FP8": Form(torch.float32, "fp8"),
}


def config(of: str = "scout") -> ModelConfig:
    """Four layers in sizes that int4 packs."""
    whole = {"scout": scout, "maverick": maverick, "guard": guard}[of]()
    kinds = {"rope_layers": whole.text.rope_layers[:4], "moe_layers": whole.text.moe_layers[:4]}
    return endless(replace(whole, text=replace(whole.text, expert_size=64, dense_size=128, **kinds)))


@cache
def model(form: str, of: str = "scout") -> Model:
    own = config(of)
    weights = biting_weights(own, 0, FORMS[form].dtype)
    packed = FORMS[form].packed
    ops = select_ops("cpu", dtype=FORMS[form].dtype, deterministic=True)
    return Model.create(own, cast("Weights", pack_network(weights, packed)) if packed else weights, ops)


def engine(form: str, *, prefix_caching: bool = True) -> SmallEngine:
    return SmallEngine(
        config(),
        global_pages=600,
        local_pages=60,
        limits=EngineLimits(step_tokens=24, max_sequences=17, prefix_caching=prefix_caching),
        cache_dtype=cache_dtype_of(FORMS[form].cache, FORMS[form].dtype),
        model=model(form),
    )


def asked(number: int) -> tuple[list[int], Sampling]:
    """A prompt, four of which begin alike, and how it is answered."""
    ids = prompt(config(), 16, seed=number // 4) + prompt(config(), 1 + number % 13, seed=number)
    filters = [(None, None), (0.9, None), (None, 20), (0.95, 50)][number % 4]
    penalty = 1.2 if number % 3 == 0 else None
    return ids, Sampling(
        temperature=1.0, top_p=filters[0], top_k=filters[1], max_tokens=6, logprobs=2, repetition_penalty=penalty
    )


def said(reader: Reader) -> list[tuple[str, list[float]]]:
    """The text piece by piece, with the log-probabilities to the last bit."""
    deltas = [event for event in reader.events if isinstance(event, TextDelta)]
    return [(delta.text, [one.logprob for one in delta.logprobs]) for delta in deltas]


@pytest.mark.parametrize("form", FORMS if LONG else ["bf16"])
def test_a_seeded_answer_is_the_same_alone_and_in_company(form: str) -> None:
    rng, count = random.Random(form), often(3, 24)
    quiet = engine(form, prefix_caching=False)
    alone = [said(quiet.answer(*asked(number), seed=number)) for number in range(count)]
    assert len({str(one) for one in alone}) == count
    company = engine(form)
    for number in rng.sample(range(count), count):
        for other in range(rng.randint(1, often(3, 16))):
            ids, sampling = asked(rng.randrange(100))
            longer = replace(sampling, max_tokens=rng.randint(1, often(6, 20)))
            company.submit(ids * rng.randint(1, often(1, 3)), longer, seed=other, priority=rng.randint(0, 1))
            for _ in range(rng.randint(0, 3)):
                company.engine.step()
        reader = company.submit(*asked(number), seed=number)
        company.run()
        assert said(reader) == alone[number]
    check_at_rest(company)


@pytest.mark.parametrize(("form", "of"), [("int4", "scout"), ("fp32", "maverick"), ("fp16", "guard")][: often(2, 3)])
def test_the_cut_of_a_prompt_changes_no_bit(form: str, of: str) -> None:
    own = model(form, of)
    ids = prompt(own.config, 21)
    with torch.inference_mode():
        whole = score_with(own, ids)
        assert all(torch.equal(score_with(own, ids, prefill_chunk=piece), whole) for piece in (1, 5))
        usual = score_with(replace(own, ops=QuantizedReferenceOps(exact_rows=len(ids))), ids)
    assert float((whole - usual).abs().max()) < (1e-4 if form == "fp32" else 0.1)


def test_threads_change_which_rows_agree_and_no_promise() -> None:
    ops, weight = InvariantOps(), torch.randn((96, 40), generator=torch.Generator().manual_seed(0))
    x = torch.randn((70, 40), generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            together = ops.linear(x, weight)
            assert all(torch.equal(ops.linear(x[i : i + 1], weight), together[i : i + 1]) for i in range(70))
            assert torch.equal(ops.linear(x.flip(0), weight).flip(0), together)
    finally:
        torch.set_num_threads(before)


def by_last_row(x: Tensor) -> Tensor:
    """A function that computes its last row by other code, as vectorised loops do, unless there are 16 or more."""
    out = x * 3
    return out if len(x) >= 16 else torch.cat([out[:-1], out[-1:] + 2**-20])


def by_their_number(x: Tensor) -> Tensor:
    """A function whose result differs for any number of rows."""
    return x + len(x) * 2**-10


def test_numbers_of_rows_in_which_rows_differ_are_not_used() -> None:
    trial = [torch.randn((4, 8), generator=torch.Generator().manual_seed(0))]
    assert agreeing_sizes(by_last_row, trial) == tuple(size for size in SIZES if size >= 16)
    assert agreeing_sizes(by_their_number, trial) == SIZES[-1:]
    x = torch.randn((21, 8), generator=torch.Generator().manual_seed(2))
    assert torch.equal(InvariantRows().apply(by_last_row, x, key="last"), x * 3)


def test_a_product_is_tried_where_its_matrix_lies() -> None:
    tried: list[tuple[int, tuple[int, ...]]] = []

    def linear(x: Tensor, weight: Tensor) -> Tensor:
        tried.append((weight.data_ptr() % 64, weight.stride()))
        return rows.linear(x, weight)

    whole = torch.zeros(40 * 48 + 4)
    for weight in (whole[4:].view(40, 48), whole[:-4].view(48, 40).t(), whole[4:].view(40, 48)[:, :33]):
        tried.clear()
        InvariantRows().product(torch.zeros((3, weight.shape[1])), weight, linear)
        assert set(tried) == {(weight.data_ptr() % 64, weight.stride())}
