"""Run by `test_in_interpreter.py` in processes of their own, since Triton reads the switch when it is imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def seeded_and_poisoned() -> Iterator[None]:
    """Fresh memory holds NaN, so that an element that a kernel does not write shows."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.fail("these tests need TRITON_INTERPRET=1; run tests/kernels/test_in_interpreter.py instead")
    torch.manual_seed(20)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # pyright: ignore[reportAttributeAccessIssue]
    yield
    torch.use_deterministic_algorithms(False)
