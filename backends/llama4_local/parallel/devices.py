"""The torch device of each rank."""

from __future__ import annotations

import torch
import torch.distributed

from llama4sdk.errors import InvalidRequest

_FORMS = "device is auto, cpu, cuda, cuda:N, or for several ranks a list such as 'cuda:0,cuda:2'"


def devices_of(device: str, ranks: int) -> tuple[str, ...]:
    """Return the device of each rank, rank 0's the first.

    Args:
        device: `auto` (CUDA devices where there are any), `cpu`, `cuda` (for several ranks the first ones), `cuda:N`,
            or a list of as many CUDA devices as ranks. Numbers are those that CUDA_VISIBLE_DEVICES leaves.
        ranks: Their number.

    Raises:
        InvalidRequest: No such device, fewer than ranks, the same one twice, devices of several kinds, or a torch
            without NCCL.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    named = [_parsed(name.strip(), device) for name in device.split(",")]
    if named[0].type == "cpu":
        return ("cpu",) * ranks
    if ranks > 1 and len(named) == 1 and named[0].index is None:
        named = [torch.device("cuda", index) for index in range(ranks)]
    _check_distinct(named, ranks, device)
    _check_there(named, device)
    if ranks == 1:
        return (device,)
    _check_alike(named)
    if not torch.distributed.is_nccl_available():
        raise InvalidRequest(f"tensor_parallel={ranks} on GPUs needs a torch with NCCL; use device='cpu'.")
    return tuple(map(str, named))


def use_device(device: str) -> torch.device:
    """Return a torch device, a GPU as this thread's current one: kernels start there, and so does NCCL."""
    own = torch.device(device)
    if own.type == "cuda" and own.index is not None:
        torch.cuda.set_device(own)
    return own


def _parsed(name: str, whole: str) -> torch.device:
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise InvalidRequest(f"{_FORMS}; got {whole[:80]!r}.") from None
    if device.type not in ("cpu", "cuda"):
        raise InvalidRequest(f"The local backend runs on cpu and cuda, not on {device.type}; use device='cpu'.")
    if "," in whole and (device.type == "cpu" or device.index is None):
        raise InvalidRequest(f"A list of devices names CUDA devices with their numbers; got {whole[:80]!r}. {_FORMS}.")
    return device


def _check_distinct(named: list[torch.device], ranks: int, whole: str) -> None:
    if len(named) != ranks:
        raise InvalidRequest(
            f"device={whole[:80]!r} names {len(named)} of them for tensor_parallel={ranks}: name one for each rank, or "
            "'cuda' for the first ones."
        )
    if len(set(named)) < ranks:
        raise InvalidRequest(f"device={whole[:80]!r} names a device twice; each rank takes one of its own.")


def _check_there(named: list[torch.device], whole: str) -> None:
    count = torch.cuda.device_count()
    if max(device.index or 0 for device in named) < count:
        return
    there = f"there are {count} CUDA devices" if count else "this torch sees no CUDA device"
    ranks = f" for tensor_parallel={len(named)}" if len(named) > 1 else ""
    otherwise = "device='cpu' or fewer ranks" if ranks else "device='cpu' or 'auto'"
    raise InvalidRequest(f"device={whole[:80]!r}{ranks} is not there: {there}; use {otherwise}.")


def _check_alike(named: list[torch.device]) -> None:
    """Refuse GPUs of several kinds: their kernels would round differently, and route a token to different experts."""
    kinds = {device: torch.cuda.get_device_capability(device) for device in named}
    if len(set(kinds.values())) > 1:
        shown = ", ".join(f"{device} is sm_{major}{minor}" for device, (major, minor) in kinds.items())
        raise InvalidRequest(f"The GPUs of all ranks are of one kind: {shown}; name others in device=.")
