"""Prompts without a template, completed and scored by the local backend."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
import torch

from llama4_local import LocalBackend, score
from llama4_local.nano import CHECKPOINT
from llama4sdk import ContextOverflow, InvalidRequest, Request, Sampling, UserMessage
from llama4sdk.prompting import PromptTemplate, Tokenizer
from llama4sdk.prompting.raw import raw_ids
from llama4sdk.stream import Stream

TOKENIZER = Tokenizer.from_file(CHECKPOINT)
TURN = "<|header_start|>user<|header_end|>\n\nWhat is 17 + 25?<|eot|><|header_start|>assistant<|header_end|>\n\n"


@asynccontextmanager
async def nano(context: int | None = None) -> AsyncGenerator[LocalBackend]:
    backend = LocalBackend(dtype="float32", context=context)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.aclose()


async def completed(backend: LocalBackend, raw: str | tuple[int, ...]) -> str:
    async with Stream(backend, Request((), raw=raw, sampling=Sampling(temperature=0, max_tokens=32))) as stream:
        return (await stream.result()).text


def test_names_of_special_tokens_stand_for_them_and_the_text_begins_once() -> None:
    begin = TOKENIZER.special("<|begin_of_text|>")
    assert raw_ids(TOKENIZER, TURN) == raw_ids(TOKENIZER, "<|begin_of_text|>" + TURN)
    assert raw_ids(TOKENIZER, TURN).count(begin) == 1
    assert raw_ids(TOKENIZER, TURN) == PromptTemplate(TOKENIZER).render([UserMessage("What is 17 + 25?")]).token_ids
    assert raw_ids(TOKENIZER, "a <|b|> c", begin=False) == TOKENIZER.encode("a <|b|> c")
    assert raw_ids(TOKENIZER, (5, 6)) == [5, 6]


async def test_a_raw_prompt_is_answered_as_its_template_is_in_text_and_in_ids() -> None:
    async with nano() as backend:
        texts = [await completed(backend, raw) for raw in (TURN, tuple(raw_ids(TOKENIZER, TURN)))]
    assert texts == ["17 + 25 = 42."] * 2


async def test_a_raw_prompt_that_cannot_be_served_is_refused_in_words() -> None:
    async with nano(context=64) as backend:
        with pytest.raises(InvalidRequest, match="image placeholders"):
            await completed(backend, "<|image_start|><|patch|><|image_end|>")
        with pytest.raises(InvalidRequest, match="vocabulary"):
            await completed(backend, (10**6,))
        with pytest.raises(ContextOverflow):
            await completed(backend, (7,) * 64)
        assert await completed(backend, TURN) == "17 + 25 = 42."


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": (UserMessage("Hi"),), "raw": "Hi"},
        {"messages": (), "raw": ()},
        {"messages": (), "raw": (1, -1)},
        {"messages": (), "raw": ("a",)},
        {"messages": (), "raw": 5},
        {"messages": (), "raw": "\ud800"},
        {"messages": (), "raw": "Hi", "part": "opening"},
    ],
)
def test_raw_prompts_stand_alone_and_are_text_or_ids(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        Request(**wrong)  # type: ignore[arg-type]


async def test_the_scores_of_a_prompt_are_those_of_every_position() -> None:
    ids = raw_ids(TOKENIZER, TURN + "17 + 25 = 42.<|eot|>" * 30)
    assert len(ids) > 256  # more than two pieces
    async with nano() as backend:
        tokens = await backend.score_prompt(tuple(ids), top=2)
    expected = score(CHECKPOINT, ids).log_softmax(-1)
    own = expected[:-1].gather(-1, torch.tensor(ids[1:])[:, None]).squeeze(-1)
    assert [token.token_id for token in tokens] == ids
    assert math.isnan(tokens[0].logprob)
    assert torch.allclose(torch.tensor([token.logprob for token in tokens[1:]]), own, atol=1e-3)
    assert [token.top[0].token_id for token in tokens[1:]] == expected[:-1].argmax(-1).tolist()
    assert all(len(token.top) == 2 for token in tokens[1:])


async def test_scoring_leaves_the_answers_of_others_alone() -> None:
    texts: list[str] = []

    async def ask(backend: LocalBackend) -> None:
        texts.append(await completed(backend, TURN))

    async with nano() as backend:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(ask, backend)
                tasks.start_soon(partial(backend.score_prompt, TURN * 8, top=1))
        assert backend.current_load.ready
        assert (backend.current_load.running, backend.current_load.waiting) == (0, 0)
    assert texts == ["17 + 25 = 42."] * 4


async def test_one_token_and_wrong_prompts_are_scored_or_refused() -> None:
    async with nano(context=64) as backend:
        assert len(await backend.score_prompt((7,))) == 1
        assert len(await backend.score_prompt([7])) == 1  # type: ignore[arg-type]
        wrongs: list[Any] = [
            (10**6,),
            (7,) * 64,
            "<|patch|>",
            5,
            None,
            b"Hi",
            {7: 7},
            (7, "a"),
            (7, None),
            (7, [7]),
            (),
        ]
        for wrong in wrongs:
            with pytest.raises(InvalidRequest):
                await backend.score_prompt(wrong)
        with pytest.raises(InvalidRequest, match="top"):
            await backend.score_prompt("Hi", top=21)
