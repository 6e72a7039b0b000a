"""Run by `test_in_interpreter.py` in processes of their own, since Triton reads the switch when it is imported."""

from __future__ import annotations

import os
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _mend_old_interpreter() -> None:
    """Give loops their bounds: Triton 3.6 asks NumPy for the number in an array, which NumPy no longer gives."""
    from triton.runtime import interpreter

    patch: Callable[..., None] = interpreter._patch_lang_tensor  # pyright: ignore[reportPrivateUsage]

    def mended(tensor: object, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))  # pyright: ignore

    interpreter._patch_lang_tensor = mended  # pyright: ignore


if metadata.version("triton").startswith("3.6."):
    _mend_old_interpreter()


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
