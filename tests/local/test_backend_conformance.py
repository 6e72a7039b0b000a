"""The promises of every backend, kept by the local one: over a random network and over nano."""

from __future__ import annotations

import string
from pathlib import Path

import pytest

from llama4_local import LocalBackend
from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.nano import CHECKPOINT as NANO
from llama4sdk.backend import Backend
from llama4sdk.prompting import Tokenizer
from llama4sdk.testing.conformance import BackendConformance
from local.small_backends import chatting, tokenizer_file
from local.small_checkpoints import biting_weights


@pytest.fixture(scope="module", autouse=True)
def letters(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A random network that writes letters only, and never stops by itself."""
    folder = tmp_path_factory.mktemp("letters")
    config = chatting(stop_ids=())
    weights = biting_weights(config)
    tokenizer = Tokenizer.from_bytes(tokenizer_file())
    wanted = {tokenizer.encode(letter)[0] for letter in string.ascii_letters}
    for token in set(range(config.text.vocab_size)) - wanted:
        weights.head[token] = 0
    save_checkpoint(folder, config, weights)
    (folder / "tokenizer.json").write_bytes(tokenizer_file())
    TestOverARandomNetwork.folder = folder


class LocalConformance(BackendConformance):
    folder: Path | None = None

    def make(self) -> Backend:
        return LocalBackend(self.folder, max_sequences=8)

    def held(self, backend: Backend) -> int:
        assert isinstance(backend, LocalBackend)
        load = backend.load
        return load.requests + load.global_pages + load.local_pages if load else 0


class TestOverARandomNetwork(LocalConformance):
    encodes_as_written = False


@pytest.mark.skipif(not (NANO / "config.json").is_file(), reason="the nano checkpoint is not there yet")
class TestOverNano(LocalConformance):
    long_prompt = "Who are you and what can you do?"


@pytest.mark.skipif(not (NANO / "config.json").is_file(), reason="the nano checkpoint is not there yet")
class TestOverNanoInInt4(LocalConformance):
    long_prompt = "Who are you and what can you do?"

    def make(self) -> Backend:
        return LocalBackend(self.folder, max_sequences=8, quantize="int4")
