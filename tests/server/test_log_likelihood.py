"""A harness's tasks by log-likelihood and by generation, asked as lm-eval's `local-completions` asks.

The bodies and the way in which the answers are read are those of lm-evaluation-harness 0.4, whose own package brings
fifty others.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from llama4_local import LocalBackend
from llama4_local.nano import CHECKPOINT
from llama4sdk.prompting import Tokenizer
from llama4sdk.prompting.raw import raw_ids
from server_running import serving

TOKENIZER = Tokenizer.from_file(CHECKPOINT)
TURN = "<|header_start|>user<|header_end|>\n\n{}<|eot|><|header_start|>assistant<|header_end|>\n\n"
# A question, the beginning of its answer, and continuations of which the first is right.
CHOICES = [
    ("What is 17 + 25?", "17 + 25 =", [" 42.", " 24.", " 57."]),
    ("What is the capital of France?", "The capital of France is", [" Paris.", " Rome.", " Berlin."]),
    ("What is the capital of Italy?", "The capital of Italy is", [" Rome.", " Paris.", " Oslo."]),
]


def split(context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Return the tokens of both, cut where the context's own tokens end."""
    whole, begun = raw_ids(TOKENIZER, context + continuation), len(raw_ids(TOKENIZER, context))
    return whole[:begun], whole[begun:]


async def log_likelihood(
    client: httpx.AsyncClient, pairs: list[tuple[list[int], list[int]]]
) -> list[tuple[float, bool]]:
    """Return for each context and continuation the log-likelihood, and whether it is the greedy one."""
    body = {
        "model": "nano",
        "prompt": [context + continuation for context, continuation in pairs],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    answer = (await client.post("/v1/completions", json=body)).json()
    results: list[tuple[float, bool]] = []
    choices: list[dict[str, Any]] = sorted(answer["choices"], key=lambda choice: choice["index"])
    for choice, (context, continuation) in zip(choices, pairs, strict=True):
        tokens = choice["logprobs"]["token_logprobs"][len(context) : -1]
        tops = choice["logprobs"]["top_logprobs"][len(context) : -1]
        assert len(tokens) == len(continuation)
        greedy = all(token == max(top.values()) for token, top in zip(tokens, tops, strict=True))
        results.append((sum(tokens), greedy))
    return results


async def test_the_right_continuation_is_the_most_likely_and_the_greedy_one() -> None:
    async with serving() as client:
        for question, beginning, continuations in CHOICES:
            context = TURN.format(question) + beginning
            results = await log_likelihood(client, [split(context, continuation) for continuation in continuations])
            likelihoods = [likelihood for likelihood, _ in results]
            assert likelihoods[0] == max(likelihoods)
            assert [greedy for _, greedy in results] == [True, False, False]


@pytest.mark.parametrize(
    ("question", "answer"), [("What is 17 + 25?", "17 + 25 = 42"), ("What is 3 + 4?", "3 + 4 = 7")]
)
async def test_generation_until_a_stop_string(question: str, answer: str) -> None:
    body = {
        "model": "nano",
        "prompt": [raw_ids(TOKENIZER, TURN.format(question))],
        "max_tokens": 64,
        "temperature": 0,
        "stop": [".", "<|eot|>"],
        "seed": 1234,
    }
    async with serving() as client:
        choice = (await client.post("/v1/completions", json=body)).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (answer, "stop")


async def test_a_rolling_likelihood_is_the_sum_of_its_parts() -> None:
    ids = raw_ids(TOKENIZER, TURN.format("What is 17 + 25?") + "17 + 25 = 42.")
    middle = len(ids) // 2
    async with serving(LocalBackend(deterministic=True)) as client:
        whole, first, second = await log_likelihood(
            client, [(ids[:1], ids[1:]), (ids[:1], ids[1:middle]), (ids[:middle], ids[middle:])]
        )
    assert abs(whole[0] - first[0] - second[0]) < 0.1
