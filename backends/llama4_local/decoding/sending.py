"""Numbers of the host on their way to the device; the host does not wait for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor


def sent(values: Sequence[int] | Sequence[float] | np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers as a tensor on a device, valid in its stream.

    A copy from ordinary memory waits for all work that was launched before, one from pinned memory does not.
    """
    host = torch.as_tensor(values, dtype=dtype)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)
