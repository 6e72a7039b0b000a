"""The process group of the ranks: NCCL between GPUs, gloo between CPUs."""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed
from torch.distributed import ProcessGroupGloo

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from llama4_local.config.share import Share

STORE_FILE = "store"
# The watchdog of PyTorch's group ends the process of a collective that fails, here the application's, and does not look
# at those in CUDA graphs. `DeviceWatch` and `RankProcesses` do its work.
# Source: PyTorch's documentation, "ProcessGroupNCCL Environment Variables".
_UNGUARDED = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "TORCH_NCCL_ENABLE_MONITORING": "0"}


def connect(share: Share, device: torch.device, folder: str, patience: float) -> Any:
    """Return a rank's end of a group of its own, never torch's global one, so that several engines live in one process.

    Args:
        share: The rank.
        device: Where its tensors are.
        folder: A private folder in which the ranks find each other.
        patience: Seconds that a collective over gloo waits for the other ranks.

    Raises:
        RuntimeError: The others did not come.
    """
    store = cast("Any", torch.distributed).FileStore(str(Path(folder) / STORE_FILE), share.size)
    make = _nccl if device.type == "cuda" else _gloo
    return make(store, share, timedelta(seconds=patience))


def _gloo(store: Any, share: Share, patience: timedelta) -> Any:
    gloo = cast("Any", ProcessGroupGloo)  # its options are not in torch's type stubs
    options = gloo._Options()
    options._timeout = patience
    options._threads = 1
    options._devices = [gloo.create_device(hostname="127.0.0.1")]  # reached from this host alone
    return gloo(store, share.rank, share.size, options)


def _nccl(store: Any, share: Share, patience: timedelta) -> Any:
    nccl = cast("Any", torch.distributed).ProcessGroupNCCL  # which a torch for CPUs lacks
    options = nccl.Options()
    options._timeout = patience
    with _environment(_UNGUARDED):
        return nccl(store, share.rank, share.size, options)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Generator[None]:
    """Set variables of the environment in the block, which is where the group reads them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
