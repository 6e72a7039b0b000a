"""Checkpoints by their name on the Hugging Face hub, through its own client.

The client keeps the files in its cache (`HF_HOME`), goes on where a download was broken off, signs in with `HF_TOKEN`
and stays off the network under `HF_HUB_OFFLINE`.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llama4sdk.errors import BackendMissing, CheckpointError, LlamaError, Unreachable

if TYPE_CHECKING:
    from tqdm import tqdm

# Weights in safetensors and what describes them; `original/` holds them once more, pickled.
_NEEDED = ("*.safetensors", "*.json", "tokenizer.model", "chat_template.jinja")
_NOT_NEEDED = ("*/*", "consolidated*", "adapter_*")
_NAME = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[^\s@]+))?")


@dataclass(frozen=True, slots=True)
class HubName:
    """A checkpoint on the hub.

    Args:
        name: Such as `meta-llama/Llama-4-Scout-17B-16E-Instruct`.
        revision: A branch, a tag or a commit; None for the newest of the main branch.
    """

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


def hub_name(checkpoint: str | os.PathLike[str]) -> HubName | None:
    """Return the name that a string means, None where it is a path: one that exists, or that cannot be a name."""
    if not isinstance(checkpoint, str):
        return None
    match = _NAME.fullmatch(checkpoint)
    if match is None or os.path.lexists(checkpoint) or Path(checkpoint.partition("/")[0]).is_dir():
        return None
    return HubName(match["name"], match["revision"])


def download(checkpoint: HubName, *, to: Path | None = None, progress: bool | None = None) -> Path:
    """Return the folder of a checkpoint, whose missing files are fetched first.

    Args:
        checkpoint: Its name.
        to: The folder that the files go to; None for the client's cache.
        progress: Whether bars on stderr show how far it is; None for those where there is a terminal.

    Raises:
        BackendMissing: The client is not installed.
        CheckpointError: No such checkpoint or revision, one that may not be read, or an environment that cannot do it.
        Unreachable: The hub cannot be reached, and the files are not in the cache.
    """
    _check_endpoint(checkpoint)
    try:
        from huggingface_hub import get_token, snapshot_download
    except ImportError:
        raise BackendMissing(
            f"{checkpoint} is not a folder here, and downloading it needs huggingface_hub. "
            "Install it with: pip install 'llama4sdk[local]'",
            backend="local",
        ) from None
    if not _is_in_a_header(get_token() or ""):
        raise CheckpointError(str(checkpoint), ["HF_TOKEN holds a character that no token has; copy it anew"])
    try:
        folder = snapshot_download(  # pyright: ignore[reportCallIssue]
            checkpoint.name,
            revision=checkpoint.revision,
            local_dir=to,
            allow_patterns=list(_NEEDED),
            ignore_patterns=list(_NOT_NEEDED),
            tqdm_class=_bars(progress),  # pyright: ignore[reportArgumentType]
        )
    except Exception as exc:
        raise _translated(checkpoint, exc) from exc
    return Path(folder)


def _check_endpoint(checkpoint: HubName) -> None:
    """Refuse an address that the client would fail at, some of them while it is imported."""
    endpoint = os.environ.get("HF_ENDPOINT", "").strip()
    with suppress(ValueError):
        parts = urlsplit(endpoint)
        if not endpoint or (parts.scheme in ("http", "https") and parts.hostname):
            return
    raise CheckpointError(
        str(checkpoint), ["HF_ENDPOINT holds no address of a hub (https://…); unset it for Hugging Face's own"]
    )


def _is_in_a_header(token: str) -> bool:
    # The client's error would repeat the token.
    return token.isascii() and (token.isprintable() or not token)


def _bars(progress: bool | None) -> type[tqdm[Any]]:
    from tqdm.auto import tqdm as bars

    class Bars(bars):  # pyright: ignore[reportMissingTypeArgument]
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            options["disable"] = None if progress is None else not progress  # None: only on a terminal
            super().__init__(*args, **options)

    return Bars


def _behind(exc: BaseException) -> BaseException:
    """Return what the hub answered where the client's error, of a file that is not in its cache, hides it."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    cause = exc.__cause__
    return cause if isinstance(exc, LocalEntryNotFoundError) and isinstance(cause, HfHubHTTPError) else exc


def _translated(checkpoint: HubName, raised: Exception) -> LlamaError:
    from huggingface_hub import constants, errors

    exc = _behind(raised)
    reason = f"{type(exc).__name__}: {exc}"

    def refused(problem: str) -> CheckpointError:
        return CheckpointError(str(checkpoint), [problem])

    match exc:
        case errors.GatedRepoError():
            return refused(
                f"the hub asks for permission: accept the licence at {constants.ENDPOINT}/{checkpoint.name}, then set "
                "HF_TOKEN to a token of that account"
            )
        case errors.RevisionNotFoundError():
            return refused(f"the hub has no revision {checkpoint.revision!r} of {checkpoint.name}")
        case errors.RepositoryNotFoundError():
            return refused(
                "there is no such folder, and the hub has no checkpoint of this name that may be read; check the "
                "spelling, and set HF_TOKEN if it is private"
            )
        case errors.HFValidationError():
            return refused(f"this is neither a folder nor a name on the hub: {exc}")
        case errors.HfHubHTTPError() if exc.response.status_code in (401, 403):
            return refused("the hub refuses HF_TOKEN, or asks for it; set it to a token that may read this checkpoint")
        case errors.HfHubHTTPError():
            reason = f"HTTP {exc.response.status_code} {exc.response.reason_phrase}"
        case OSError() if exc.errno is not None:
            return refused(f"its files cannot be kept in {constants.HF_HUB_CACHE}: {exc.strerror}")
        case _:
            pass
    if constants.HF_HUB_OFFLINE:
        return refused(
            "it is not in the cache, and HF_HUB_OFFLINE keeps it from being downloaded; unset it, or give a folder"
        )
    return Unreachable(
        f"{checkpoint} could not be downloaded from {constants.ENDPOINT} ({reason}); "
        "try again, it goes on where it was broken off, or give a folder.",
        backend="local",
    )
