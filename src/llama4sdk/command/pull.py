"""`llama4 pull`: a checkpoint from the Hugging Face hub, by its short name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4sdk.errors import BackendMissing, Rejected
from llama4sdk.models import MODELS

if TYPE_CHECKING:
    from pathlib import Path

# What the local backend reads.
_FILES = ["*.safetensors", "*.json", "tokenizer*", "*.jinja"]


def pull_checkpoint(model: str, to: Path | None = None, revision: str | None = None) -> str:
    """Download a checkpoint and return its folder; a download that broke off goes on.

    Raises:
        BackendMissing: The hub's client is not installed.
        Rejected: The hub does not hand the checkpoint out.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise BackendMissing("Downloads need the hub's client. Install it with: pip install huggingface-hub") from error
    repository = MODELS[model].repository if model in MODELS else model
    try:
        return str(snapshot_download(repository, revision=revision, local_dir=to, allow_patterns=_FILES))
    except (HfHubHTTPError, ValueError, OSError) as error:
        raise Rejected(
            f"The hub did not hand out {repository}: {str(error).splitlines()[0][:200]} For Meta's checkpoints accept "
            "the licence on the repository's page, then run: hf auth login."
        ) from error
