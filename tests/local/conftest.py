"""What the local backend's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llama4_local.config.model import ModelConfig
from llama4_local.decoding.grammar import Grammars
from llama4sdk.prompting import Tokenizer
from local.small_backends import EOM, EOT, SmallEngine, chatting, endless, saved_chat, tokenizer_file
from local.small_checkpoints import VOCABULARY, guard, maverick, saved, scout

# The matrices here are tiny: a second thread only waits, and for long where other work has the cores.
torch.set_num_threads(1)

MAKERS = {"scout": scout, "maverick": maverick, "guard": guard}


@pytest.fixture(scope="session", params=MAKERS)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelConfig]:
    """A saved random checkpoint of each shape, and its config."""
    name = str(request.param)
    config = MAKERS[name]()
    return saved(tmp_path_factory.mktemp(name), config), config


@pytest.fixture(scope="module", params=MAKERS)
def shaped(request: pytest.FixtureRequest) -> SmallEngine:
    """An engine over a network of each shape, which never stops by itself."""
    return SmallEngine(endless(MAKERS[str(request.param)]()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved checkpoint that a backend can serve, whose answers never end by themselves."""
    return saved_chat(tmp_path_factory.mktemp("checkpoint"), chatting(stop_ids=()))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The small networks' own."""
    return Tokenizer.from_bytes(tokenizer_file())


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    """Forms of answers over it."""
    return Grammars(tokenizer, VOCABULARY, [EOT, EOM])
