# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""Counters of arrivals: the last program of a group to arrive reads what all of them stored, and finishes their work.

That takes the place of a second launch. Results do not depend on the order of arrival: the last program reads the
parts of all others back from memory, its own among them, in their fixed order.

Order in memory, by the model of PTX (chapter 8 of its specification): a barrier orders the stores of a program's
threads before the addition, which one thread does; the addition releases them to the whole GPU and acquires what was
released by the additions before it; the barrier by which its result reaches the other threads orders their loads behind
it. Parts are loaded past the L1 cache besides (`PAST_L1`).

Counters are zero before and after every kernel: each program that has work arrives once, and the last one resets its
counter, which nothing reads again before the next kernel's `wait_for_inputs`. So neither a replayed CUDA graph nor a
step that ends on the host between two launches finds one that is not zero. A kernel that does not end takes the CUDA
context with it, counters and all.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COUNTERS = 1 << 14  # groups of one launch; larger launches take the second one
PAST_L1 = tl.constexpr(".cg")


def arrival_counters(device: str | torch.device) -> Tensor:
    """Return counters for the launches of one stream, [COUNTERS], int32, all zero."""
    return torch.zeros(COUNTERS, dtype=torch.int32, device=device)


@triton.jit
def arrives_last(counter, group):
    """Count a program that has stored its part; return whether all `group` have, and then reset the counter."""
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == group - 1
    if last:
        tl.store(counter, 0)
    return last
