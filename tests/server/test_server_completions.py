"""Raw prompts over the server: completions, prompts' own log-probabilities, tokens and text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llama4_http import HttpBackend
from llama4_local import score
from llama4_local.nano import CHECKPOINT
from llama4sdk.prompting import Tokenizer
from llama4sdk.testing import ScriptedBackend
from server_running import chunks_of, error_of, serving

COMPLETIONS = "/v1/completions"
TURN = "<|header_start|>user<|header_end|>\n\nWhat is 17 + 25?<|eot|><|header_start|>assistant<|header_end|>\n\n"
TOKENIZER = Tokenizer.from_file(CHECKPOINT)


async def test_a_prompt_in_text_or_ids_is_completed_as_it_stands() -> None:
    async with serving() as client:
        ids = (await client.post("/tokenize", json={"prompt": TURN})).json()["tokens"]
        body = {"prompt": TURN, "max_tokens": 32, "temperature": 0}
        answers = [
            (await client.post(COMPLETIONS, json=body | {"prompt": prompt})).json()
            for prompt in (TURN, ids, [ids, TURN])
        ]
        chunks = chunks_of((await client.post(COMPLETIONS, json=body | {"stream": True})).text)
    texts = [choice["text"] for answer in answers for choice in answer["choices"]]
    assert texts == ["17 + 25 = 42."] * 4
    assert answers[2]["usage"]["prompt_tokens"] == 2 * len(ids)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == texts[0]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_echo_with_logprobs_scores_the_prompts_own_tokens() -> None:
    ids = TOKENIZER.encode("The capital of France is Paris.")
    begun = [TOKENIZER.special("<|begin_of_text|>"), *ids]
    async with serving() as client:
        body: dict[str, Any] = {"max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
        by_ids = (await client.post(COMPLETIONS, json=body | {"prompt": begun})).json()["choices"][0]
        by_text = (await client.post(COMPLETIONS, json=body | {"prompt": TOKENIZER.decode(ids)})).json()["choices"][0]
    expected = score(CHECKPOINT, begun, dtype="bfloat16").float().log_softmax(-1)
    own = expected[:-1].gather(-1, torch.tensor(begun[1:])[:, None]).squeeze(-1)
    logprobs = by_ids["logprobs"]
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert len(logprobs["tokens"]) == len(begun) + 1  # and the one that was written
    assert torch.allclose(torch.tensor(logprobs["token_logprobs"][1:-1]), own, atol=0.1)
    # The begin token that was added to the text is not among its tokens.
    assert by_text["logprobs"]["tokens"] == logprobs["tokens"][1:]
    assert by_text["logprobs"]["token_logprobs"] == logprobs["token_logprobs"][1:]
    assert "".join(by_text["logprobs"]["tokens"]) == by_text["text"]
    text = by_text["text"]
    for token, offset in zip(by_text["logprobs"]["tokens"], by_text["logprobs"]["text_offset"], strict=True):
        assert text[offset:].startswith(token)
    for entry, top in zip(logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True):
        assert (entry is None) == (top is None)
        assert top is None or max(top.values()) >= entry


@pytest.mark.parametrize("stream", [False, True])
async def test_no_tokens_and_echo_give_the_prompt_back(stream: bool) -> None:
    body = {"prompt": ["Hello there", "Bye"], "max_tokens": 0, "echo": True, "logprobs": 0, "stream": stream}
    async with serving() as client:
        response = await client.post(COMPLETIONS, json=body)
    if stream:
        texts = ["", ""]
        for chunk in chunks_of(response.text):
            texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    else:
        assert response.json()["usage"]["completion_tokens"] == 0
        texts = [choice["text"] for choice in response.json()["choices"]]
    assert texts == ["Hello there", "Bye"]


async def test_echo_repeats_the_prompt_before_every_answer() -> None:
    body = {"prompt": ["Hello", "Bye"], "max_tokens": 2, "echo": True, "n": 2, "temperature": 0}
    async with serving() as client:
        whole = (await client.post(COMPLETIONS, json=body)).json()["choices"]
        chunks = chunks_of((await client.post(COMPLETIONS, json=body | {"stream": True})).text)
    assert [choice["index"] for choice in whole] == [0, 1, 2, 3]
    assert [choice["text"].startswith(word) for choice, word in zip(whole, ["Hello"] * 2 + ["Bye"] * 2, strict=True)]
    for index, choice in enumerate(whole):
        pieces = [chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(pieces) == choice["text"]


async def test_tokens_become_text_and_back_and_conversations_are_rendered() -> None:
    async with serving() as client:
        named = (await client.post("/tokenize", json={"prompt": "Hello!", "return_token_strs": True})).json()
        bare = (await client.post("/tokenize", json={"prompt": "Hello!", "add_special_tokens": False})).json()
        chat = (await client.post("/tokenize", json={"messages": [{"role": "user", "content": "Hello!"}]})).json()
        text = (await client.post("/detokenize", json={"tokens": named["tokens"]})).json()["prompt"]
        wrong = await client.post("/detokenize", json={"tokens": [10**7]})
        both = await client.post("/tokenize", json={"prompt": "a", "messages": []})
    assert named["tokens"][1:] == bare["tokens"]
    assert "".join(named["token_strs"]) == text == "<|begin_of_text|>Hello!"
    assert named["count"] == len(named["tokens"])
    assert chat["count"] > named["count"]
    assert chat["max_model_len"] == 8192
    assert wrong.status_code == both.status_code == 400
    error_of(wrong)


WRONG: list[tuple[dict[str, Any], str | None]] = [
    ({}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [1.5]}, "prompt"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": [[1], [-1]]}, "prompt"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
    ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
    ({"prompt": "a", "logprobs": 21}, "logprobs"),
    ({"prompt": "a", "suffix": "b"}, "suffix"),
    ({"prompt": "a", "best_of": 2}, "best_of"),
    ({"prompt": ["a"] * 200}, "prompt"),
    ({"prompt": "a", "n": 0}, "n"),
    ({"prompt": "a", "messages": []}, "messages"),
    ({"prompt": "<|patch|>"}, None),
    ({"prompt": [10**6]}, None),
    ({"prompt": [-1]}, None),
]


async def test_wrong_prompts_are_refused_by_field() -> None:
    async with serving() as client:
        for wrong, param in WRONG:
            response = await client.post(COMPLETIONS, json=wrong)
            assert response.status_code == 400, wrong
            assert error_of(response)["param"] == param, wrong


async def test_a_backend_without_raw_prompts_or_tokenizer_is_named() -> None:
    async with serving(ScriptedBackend("Hi")) as client:
        for path, body in ((COMPLETIONS, {"prompt": "a"}), ("/tokenize", {"prompt": "a"})):
            response = await client.post(path, json=body)
            assert response.status_code == 400
            assert "backend" in error_of(response)["message"]


async def test_a_server_in_front_of_a_server_chats_and_names_what_it_cannot() -> None:
    async with serving() as inner, serving(HttpBackend(str(inner.base_url).rstrip("/") + "/v1")) as outer:
        question = {"messages": [{"role": "user", "content": "What is 17 + 25?"}], "temperature": 0}
        answer = (await outer.post("/v1/chat/completions", json=question)).json()
        completed = (await outer.post(COMPLETIONS, json={"prompt": TURN, "temperature": 0})).json()
        scored = {"prompt": TURN, "echo": True, "logprobs": 1, "prompt_logprobs": 2, "max_tokens": 0}
        near, far = [(await each.post(COMPLETIONS, json=scored)).json()["choices"][0] for each in (inner, outer)]
        refused = [
            await outer.post(COMPLETIONS, json={"prompt": [5, 6]}),
            await outer.post(COMPLETIONS, json=scored | {"stream": True}),
            await outer.post(COMPLETIONS, json=scored | {"prompt_logprobs": 21}),
            await outer.post("/tokenize", json={"prompt": TURN}),
            await outer.post("/detokenize", json={"tokens": [5]}),
        ]
    assert answer["choices"][0]["message"]["content"] == "17 + 25 = 42."
    assert completed["choices"][0]["text"] == "17 + 25 = 42."
    assert near == far
    assert len(near["prompt_logprobs"]) == len(near["prompt_token_ids"]) == len(near["logprobs"]["tokens"]) + 1
    assert all(2 <= len(entries) <= 3 for entries in near["prompt_logprobs"][1:])
    for response in refused:
        assert response.status_code == 400
        assert error_of(response)["message"]
