"""Llama Guard over `transformers serve`: the prompt and the verdict are those of the local runtime.

transformers generates nothing with Guard 4's config as published, whose `attention_chunk_size` is null; the served copy
has one chunk as long as the context, which is the same network.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from guards.guard_checkpoints import judging_guard, random_guard
from guards.test_guard_model import TALKS, item_of, whole
from llama4_http import HttpBackend
from llama4_local import LocalBackend
from llama4sdk import ProtocolError, Request, Sampling
from llama4sdk.backend import Backend
from llama4sdk.guards import LlamaGuard
from llama4sdk.messages import Message
from llama4sdk.reply import Reply, ReplyBuilder
from long_runs import only_long
from transformers_serving import needs_images, needs_serving, transformers_serving

pytestmark = [needs_serving, needs_images, only_long("starts a server")]  # its processor needs torchvision too


def served_copy(folder: Path) -> Path:
    copy = Path(shutil.copytree(folder, folder.with_name("served")))
    config = json.loads((copy / "config.json").read_text())
    text = config["text_config"]
    text["attention_chunk_size"] = text["max_position_embeddings"]
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.fixture(scope="module", params=[judging_guard, random_guard], ids=["judging", "random"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LocalBackend, HttpBackend]]:
    """Backends of a checkpoint: the local runtime, and a server."""
    folder = request.param(tmp_path_factory.mktemp("guard") / "guard")
    copy = served_copy(folder)
    with transformers_serving(copy) as url:
        yield (
            LocalBackend(folder, own_template=True, device="cpu", dtype="bfloat16"),
            HttpBackend(url, model=str(copy), profile="transformers", tile=56, max_tiles=4),
        )


async def answered(backend: Backend, talk: tuple[Message, ...]) -> Reply:
    builder = ReplyBuilder()
    sampling = Sampling(temperature=0, max_tokens=8)
    async with backend.open(Request(talk, sampling=sampling, part="judged")) as events:
        async for event in events:
            builder.add(event)
    return builder.snapshot()


async def test_prompt_images_and_verdict_are_those_of_the_local_runtime(
    pair: tuple[LocalBackend, HttpBackend], request: pytest.FixtureRequest
) -> None:
    judges = "judging" in request.node.name
    for backend in pair:
        await backend.start()
    for talk, harmful in TALKS:
        images = any(message.images for message in talk)
        here, there = [await answered(backend, talk) for backend in pair]
        assert here.usage.prompt_tokens == there.usage.prompt_tokens, talk
        assert here.usage.image_tokens == there.usage.image_tokens
        assert bool(here.usage.image_tokens) is images
        for backend in pair if judges else ():
            verdict = await LlamaGuard(backend).check(item_of(talk))
            assert (verdict.action, verdict.coverage) == ("block" if harmful else "allow", whole(talk))
    for backend in pair:
        guard = LlamaGuard(backend)
        if judges:
            assert await guard.selftest()
        else:
            with pytest.raises(ProtocolError):
                await guard.selftest()
        await backend.aclose()
