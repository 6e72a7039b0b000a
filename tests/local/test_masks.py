"""Masks are found out beside the model's work, and whatever goes wrong there ends one request only."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from llama4_local.decoding.adjusting import adjust
from llama4_local.decoding.grammar import Grammars
from llama4_local.decoding.row_rules import RowRules
from llama4_local.decoding.sampler import ResolvedSampling, SamplerState
from llama4_local.decoding.token_mask import MaskLookahead, words
from llama4_local.ops.reference.functions import ReferenceOps
from llama4_local.ops.reference.sampling import unpacked
from llama4sdk import OutputSpec, Request, ServerFault
from llama4sdk.messages import conversation
from llama4sdk.prompting import Tokenizer
from local.sampled_rows import sample
from local.small_backends import EOM, EOT, asking, events_of, saved_chat, serving, text_of, tokenizer_file
from local.small_checkpoints import VOCABULARY

NUMBERS = OutputSpec({"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3})


class Notes:
    """A mask that notes the threads it was asked in."""

    problem = None

    def __init__(self, error: Exception | None = None) -> None:
        self.threads: list[str] = []
        self._error = error

    def allowed(self, written: Sequence[int]) -> bytes:
        self.threads.append(threading.current_thread().name)
        if self._error:
            raise self._error
        return b"\xff"


def test_masks_are_found_out_in_a_thread_of_their_own() -> None:
    ahead, mask = MaskLookahead(), Notes()
    try:
        with ahead.over([(mask, [])]):
            pass
        assert mask.threads[0].startswith("llama4_local masks")
    finally:
        ahead.close()
    assert not any(thread.name.startswith("llama4_local masks") for thread in threading.enumerate())


def test_without_masks_there_is_no_thread() -> None:
    ahead = MaskLookahead()
    before = threading.active_count()
    with ahead.over([]):
        assert threading.active_count() == before
    ahead.close()


def test_a_mask_that_fails_leaves_its_own_row_without_a_token() -> None:
    broken = SamplerState(ResolvedSampling(), [], [], Notes(ValueError("broken")))
    states = [broken, SamplerState(ResolvedSampling(), [], [])]
    ahead = MaskLookahead()
    try:
        with ahead.over([(broken.mask, [])] if broken.mask else []):
            pass
        assert [row.token for row in sample(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), states)] == [None, 1]
    finally:
        ahead.close()
    assert broken.problem == "The token mask of this request failed with ValueError."


@pytest.mark.parametrize("vocab", [1, 7, 8, 9, 31, 64, 202])
def test_bits_are_read_lowest_first_and_rows_stay_apart(vocab: int) -> None:
    logits = torch.randn(3, vocab, generator=torch.Generator().manual_seed(0))
    chosen = torch.rand(3, vocab, generator=torch.Generator().manual_seed(1)) < 0.5
    packed = [sum(1 << place for place in range(vocab) if row[place]).to_bytes(32, "little") for row in chosen]
    masked = logits.clone()
    adjust(ReferenceOps(), masked, [RowRules(allowed=bits) for bits in (packed[0], None, packed[2])])
    chosen[1] = True
    assert torch.equal(masked[chosen], logits[chosen])
    assert torch.isinf(masked[~chosen]).all()


def test_missing_bytes_allow_no_token() -> None:
    assert words([b"\x01", b"", b"\xff" * 9], 40).tolist() == [[1, 0], [0, 0], [-1, -1]]


def test_bits_are_unpacked_alike_on_every_device() -> None:
    bits = np.random.default_rng(0).integers(0, 256, (3, 17), dtype=np.uint8)
    assert unpacked(torch.from_numpy(bits)).numpy().tolist() == np.unpackbits(bits, axis=1, bitorder="little").tolist()


def test_a_form_that_got_too_hard_allows_nothing_not_even_the_end() -> None:
    grammars = Grammars(Tokenizer.from_bytes(tokenizer_file()), VOCABULARY, [EOT, EOM])
    mask = grammars.mask_for(Request(conversation("?"), output=NUMBERS))
    assert mask is not None
    assert mask.problem is None
    assert any(mask.allowed([]))
    assert not any(mask.allowed([EOT]))  # which the grammar cannot follow
    assert mask.problem is not None
    assert "nothing fits" in mask.problem


async def test_such_a_form_ends_its_request_with_the_reason_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama4_local.decoding.grammar import GrammarMask

    follow = GrammarMask.allowed

    def stumble(self: GrammarMask, written: Sequence[int]) -> bytes:
        return follow(self, [*written[:-1], EOT] if len(written) == 2 else written)

    async with serving(saved_chat(tmp_path)) as backend:
        with monkeypatch.context() as patch:
            patch.setattr(GrammarMask, "allowed", stumble)
            with pytest.raises(ServerFault, match="too hard"):
                await events_of(backend, asking(output=NUMBERS))
        assert text_of(await events_of(backend, asking())) != ""
        assert text_of(await events_of(backend, asking(output=NUMBERS))).startswith("[")


async def test_no_thread_of_masks_outlives_the_backend(tmp_path: Path) -> None:
    async with serving(saved_chat(tmp_path)) as backend:
        await events_of(backend, asking(output=NUMBERS))
        assert any(thread.name.startswith("llama4_local masks") for thread in threading.enumerate())
    assert not any(thread.name.startswith("llama4_local masks") for thread in threading.enumerate())
