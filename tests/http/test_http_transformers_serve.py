"""A real server: `transformers serve` on the CPU, with the bundled nano checkpoint.

It needs the serving extra (`pip install 'transformers[serving]'`). Images need torchvision as well, which
has no CPU build: see `serve_llama4.py` for how it is used without its compiled operators. That server takes
no tools (this profile tells the model of them in the prompt), no JSON schema, no logprobs, no presence
penalty and no second choice: asking for one of them is refused before anything is sent.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from PIL import Image as Pillow

from http_asking import ask
from llama4_http import HttpBackend
from llama4sdk.backend import Backend
from llama4sdk.errors import InvalidRequest
from llama4sdk.events import TextDelta
from llama4sdk.images import grid_for
from llama4sdk.messages import Image, UserMessage, conversation
from llama4sdk.request import Deadlines, Request, Sampling
from llama4sdk.testing.conformance import BackendConformance
from transformers_serving import SEES, needs_images, needs_serving, transformers_serving

pytestmark = needs_serving
TILE, MAX_TILES = 56, 4
_BUNDLED = Path(__file__).parents[2] / "backends/llama4_local/nano/checkpoint"


def make_checkpoint(folder: Path) -> None:
    """Write the bundled nano model; without torchvision, its text part alone."""
    from llama4_local.checkpoint.plain import load_checkpoint
    from llama4_local.config.reader import read_config
    from llama4_local.nano.training.folder import write_folder

    folder.mkdir()
    shutil.copy(_BUNDLED / "tokenizer.json", folder)
    config = read_config(_BUNDLED)
    weights = load_checkpoint(_BUNDLED, config)
    if not SEES:
        config, weights = replace(config, vision=None), replace(weights, vision=None)
    write_folder(folder, config, weights)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is served."""
    folder = tmp_path_factory.mktemp("served") / "model"
    make_checkpoint(folder)
    if not SEES:
        for name in ("preprocessor_config.json", "processor_config.json"):
            (folder / name).unlink()
    return folder


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[str]:
    """The address of the running server."""
    with transformers_serving(checkpoint) as url:
        yield url


def backend_for(server: str, checkpoint: Path) -> HttpBackend:
    return HttpBackend(server, model=str(checkpoint), profile="transformers", tokenizer=checkpoint / "tokenizer.json")


class TestTransformersServe(BackendConformance):
    """The promises of every backend, over a foreign server."""

    @pytest.fixture(autouse=True)
    def _served(self, server: str, checkpoint: Path) -> None:
        self.server, self.checkpoint = server, checkpoint

    def request(self, prompt: str, *, max_tokens: int = 8, deadlines: Deadlines | None = None) -> Request:
        return super().request(prompt, max_tokens=max_tokens, deadlines=deadlines)

    def make(self) -> Backend:
        return backend_for(self.server, self.checkpoint)

    def held(self, backend: Backend) -> int:
        assert isinstance(backend, HttpBackend)
        return backend.connections_held


async def test_its_prompt_has_as_many_tokens_as_ours(server: str, checkpoint: Path) -> None:
    backend = backend_for(server, checkpoint)
    await backend.start()
    prompt = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello, <|eot|> you!"}]
    request = Request(conversation(prompt), sampling=Sampling(max_tokens=3, temperature=0))
    reply = (await ask(backend, request)).reply
    assert reply.usage.completion_tokens == 3
    # That server reads special tokens out of the user's text, where ours keeps them text.
    assert 0 < reply.usage.prompt_tokens <= backend.prompt_template.render(prompt).count.total
    await backend.aclose()


async def test_leaving_early_frees_the_server_for_the_next(server: str, checkpoint: Path) -> None:
    backend = backend_for(server, checkpoint)
    request = Request(conversation("Count from 1 to 40."), sampling=Sampling(max_tokens=1000, temperature=0))
    for _ in range(3):
        async with backend.open(request) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    break
    short = Request(request.messages, sampling=Sampling(max_tokens=2, temperature=0))
    with anyio.fail_after(60):
        assert (await ask(backend, short)).reply.finish_reason == "length"
    assert backend.connections_held == 0
    await backend.aclose()


async def test_what_it_cannot_do_is_refused_before_it_is_asked(server: str, checkpoint: Path) -> None:
    backend = backend_for(server, checkpoint)
    for sampling in (Sampling(logprobs=1), Sampling(top_k=5), Sampling(presence_penalty=1.0)):
        request = Request(conversation("Hello!"), sampling=sampling)
        assert isinstance((await ask(backend, request)).error, InvalidRequest)
    await backend.aclose()


@needs_images
@pytest.mark.parametrize("size", [(40, 30), (112, 56), (300, 200)])
async def test_an_image_takes_the_tokens_of_its_tiles(server: str, checkpoint: Path, size: tuple[int, int]) -> None:
    backend = HttpBackend(server, model=str(checkpoint), profile="transformers", tile=TILE, max_tiles=MAX_TILES)
    image = Pillow.new("RGB", size, (200, 30, 60))
    limits = Sampling(max_tokens=2, temperature=0)
    with_image = Request((UserMessage([Image(image), "What is this?"]),), sampling=limits)
    without = Request((UserMessage("What is this?"),), sampling=limits)
    seen, unseen = (await ask(backend, with_image)), (await ask(backend, without))
    assert (seen.error, unseen.error) == (None, None)
    tokens = grid_for(*size, tile=TILE, max_tiles=MAX_TILES).prompt_tokens
    assert seen.reply.usage.image_tokens == tokens
    assert seen.reply.usage.prompt_tokens - unseen.reply.usage.prompt_tokens == tokens
    await backend.aclose()
