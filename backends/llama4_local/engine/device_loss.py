"""Tells a lost device or rank, after which every later call fails too, from a failure of one step."""

from __future__ import annotations

import torch

from llama4_local.model.ranks import RankLost

# CUDA's errors that leave the context unusable (CUDA runtime API, "cudaError": "the process must be terminated
# and relaunched"), in the words of `cudaGetErrorString`.
_FATAL = (
    "illegal memory access",
    "illegal address",
    "device-side assert",
    "misaligned address",
    "illegal instruction",
    "invalid program counter",
    "hardware stack error",
    "launch failure",
    "launch timed out",
    "uncorrectable ecc error",
    "unspecified launch failure",
    "device lost",
    "context is destroyed",
)


def is_device_lost(error: BaseException) -> bool:
    """Return whether an exception says that the device's context is gone, so that the engine has to end."""
    if isinstance(error, RankLost):
        return True
    if isinstance(error, torch.OutOfMemoryError):
        return False
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _FATAL)
