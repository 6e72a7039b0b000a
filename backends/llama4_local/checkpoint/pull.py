"""The command `llama4 pull`: a checkpoint from the Hugging Face hub, by its short name or its repository's."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llama4_local.checkpoint.hub import download, hub_name
from llama4_local.checkpoint.hub_files import damaged_files
from llama4sdk.errors import CheckpointError, InvalidRequest, LlamaError
from llama4sdk.models import MODELS

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Download a checkpoint and print its folder; return the exit status, 1 where that fails."""
    options = _parser().parse_args(arguments)
    try:
        folder = pull_checkpoint(options.model, options.to, options.revision)
        if options.verify:
            _verify(folder)
    except LlamaError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{folder}\n")
    return 0


def pull_checkpoint(model: str, to: Path | None = None, revision: str | None = None) -> Path:
    """Download a checkpoint and return its folder; a download that broke off goes on.

    Args:
        model: `scout`, `maverick`, `guard-4`, or a name on the hub.
        to: The folder; None for the hub's cache.
        revision: A branch, a tag or a commit; None for the newest of the main branch.

    Raises:
        InvalidRequest: This is no name on the hub.
        LlamaError: See `download`.
    """
    repository = MODELS[model].repository if model in MODELS else model
    checkpoint = hub_name(repository if revision is None else f"{repository}@{revision}")
    if checkpoint is None:
        raise InvalidRequest(f"{model!r} is no name on the hub; give {', '.join(MODELS)}, or owner/name.")
    return download(checkpoint, to=to)


def _verify(folder: Path) -> None:
    """Compare the files with the hub's digests, and tell how many have one."""
    damaged, compared = damaged_files(folder)
    if damaged:
        problems = [
            f"{name} is not the hub's file; delete it, with what it links to, and pull again" for name in damaged
        ]
        raise CheckpointError(folder, problems)
    sys.stderr.write(f"{compared} files are as the hub has them.\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llama4 pull", description="Download a checkpoint from the Hugging Face hub.")
    parser.add_argument("model", help=f"{', '.join(MODELS)}, or a repository's name")
    parser.add_argument("--to", type=Path, help="the folder; left out: the hub's cache")
    parser.add_argument("--revision", help="a branch, tag or commit")
    parser.add_argument(
        "--verify", action="store_true", help="compare every file with the hub's digest; reads it whole"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
