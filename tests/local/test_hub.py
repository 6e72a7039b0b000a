"""Checkpoints by name, from a hub on the loopback; each client is a process of its own, since it reads its
environment once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from llama4_local.checkpoint.hub import HubName, download, hub_name
from llama4_local.nano import CHECKPOINT
from llama4sdk.errors import CheckpointError, LlamaError
from local.loopback_hub import COMMIT, NAME, Hub, serving

CLIENT = """
import asyncio, sys
from llama4sdk import Llama4, Sampling
from llama4sdk.errors import LlamaError

async def ask():
    async with Llama4(f"local:{sys.argv[1]}", progress=False) as llama:
        print((await llama.chat("What is 17 + 25?", sampling=Sampling(max_tokens=40))).text)

try:
    asyncio.run(ask())
except LlamaError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nano, with files beside it that serving does not need."""
    folder = tmp_path / "files"
    shutil.copytree(CHECKPOINT, folder)
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.00.pth").write_bytes(b"pickled")
    (folder / "original" / "params.json").write_text("{}")
    (folder / "README.md").write_text("read me")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    return folder


def ask(hub: Hub | None, home: Path, checkpoint: str = NAME, **environment: str) -> str:
    done = run(hub, home, "-c", CLIENT, checkpoint, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(hub: Hub | None, home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a hub and a cache of its own."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    given |= {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9"}
    given |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | environment
    return subprocess.run(
        [sys.executable, *arguments], env=given, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_checkpoint_is_served_by_name_with_the_files_that_are_needed(tmp_path: Path, folder: Path):
    with serving(Hub(folder)) as hub:
        assert "42" in ask(hub, tmp_path / "home")
        assert "model.safetensors" in hub.fetched
        assert not [name for name in hub.fetched if "original" in name or name.endswith((".md", ".bin"))]
        hub.fetched.clear()
        assert "42" in ask(hub, tmp_path / "home", f"{NAME}@{COMMIT}")
        assert not hub.fetched
    assert "42" in ask(None, tmp_path / "home", HF_HUB_OFFLINE="1")


def test_the_command_pull_fetches_the_needed_files_into_a_folder(tmp_path: Path, folder: Path):
    to = tmp_path / "here"
    with serving(Hub(folder)) as hub:
        done = run(hub, tmp_path / "home", "-m", "llama4_local.checkpoint.pull", NAME, "--to", str(to))
        assert (done.returncode, done.stdout.strip()) == (0, str(to)), done.stderr
        assert (to / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
        assert not (to / "original").exists()
        missing = run(hub, tmp_path / "home", "-m", "llama4_local.checkpoint.pull", "someone/else")
    assert missing.returncode == 1
    assert "no checkpoint of this name" in missing.stderr


@pytest.mark.parametrize("into", ["cache", "folder"])
def test_pull_compares_files_with_the_digests_of_the_hub(tmp_path: Path, folder: Path, into: str):
    def pull(hub: Hub, place: str) -> subprocess.CompletedProcess[str]:
        to = ["--to", str(tmp_path / place / "here")] if into == "folder" else []
        return run(hub, tmp_path / place, "-m", "llama4_local.checkpoint.pull", NAME, "--verify", *to)

    with serving(Hub(folder)) as hub:
        whole = pull(hub, "whole")
    assert whole.returncode == 0, whole.stderr
    assert re.search(r"\b[1-9]\d* files are as the hub has them", whole.stderr)
    with serving(Hub(folder, damaged=("model.safetensors", "config.json"))) as hub:
        damaged = pull(hub, "damaged")
    assert damaged.returncode == 1
    for name in ("model.safetensors", "config.json"):
        assert f"{name} is not the hub's file" in damaged.stderr
    assert "tokenizer.json" not in damaged.stderr


def test_a_download_that_broke_off_is_finished(tmp_path: Path, folder: Path):
    with serving(Hub(folder, cut=16_000_000)) as hub:
        assert "42" in ask(hub, tmp_path / "home")
        assert hub.ranges


def test_a_gated_checkpoint_needs_a_token(tmp_path: Path, folder: Path):
    with serving(Hub(folder, token="hf_secret", gated=True)) as hub:
        refused = ask(hub, tmp_path / "home")
        assert "CheckpointError" in refused
        assert "licence" in refused
        assert "42" in ask(hub, tmp_path / "home", HF_TOKEN="hf_secret")


def test_missing_names_and_revisions_say_so(tmp_path: Path, folder: Path):
    with serving(Hub(folder)) as hub:
        assert "no checkpoint of this name" in ask(hub, tmp_path / "home", "someone/else")
        assert "no revision 'v9'" in ask(hub, tmp_path / "home", f"{NAME}@v9")


def test_without_a_network_the_remedy_is_named(tmp_path: Path):
    assert "HF_HUB_OFFLINE" in ask(None, tmp_path / "home", HF_HUB_OFFLINE="1")
    assert "Unreachable" in ask(None, tmp_path / "home")


@pytest.mark.parametrize(
    ("status", "words"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (429, "HTTP 429"), (503, "HTTP 503")]
)
def test_what_the_hub_answered_is_told_where_its_client_hides_it(
    status: int, words: str, monkeypatch: pytest.MonkeyPatch
):
    answer: Any = httpx.Response(status, request=httpx.Request("HEAD", "https://hub"))

    def fails(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError("check your connection") from HfHubHTTPError("refused", response=answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(LlamaError, match=words) as caught:
        download(HubName(NAME))
    assert "check your connection" not in str(caught.value)
    assert isinstance(caught.value, CheckpointError) is (status in (401, 403))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("HF_ENDPOINT", value) for value in ("hub", "ftp://hub", "http://[::1", "https://")),
        *(("HF_TOKEN", value) for value in ("hf_sécret", "hf_se\x01cret")),
    ],
)
def test_an_environment_that_the_client_fails_at_is_named_and_not_repeated(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, value)
    with pytest.raises(CheckpointError, match=name) as caught:
        download(HubName(NAME))
    assert name != "HF_TOKEN" or value not in str(caught.value)


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", HubName("meta-llama/Llama-4-Scout-17B-16E-Instruct")),
        ("a/b@refs/pr/1", HubName("a/b", "refs/pr/1")),
        ("/models/scout", None),
        ("~/scout", None),
        ("./a/b", None),
        ("a/b/c", None),
        ("scout", None),
        ("tests/local", None),
    ],
)
def test_names_and_paths_are_told_apart(checkpoint: str, expected: HubName | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    assert hub_name(checkpoint) == expected
