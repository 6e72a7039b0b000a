"""Runs a kernel's programs in another order than the interpreter's own, which is that of the grid."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from triton.runtime.interpreter import interpreter_builder

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def shuffled_programs(seed: int) -> Generator[None]:
    """In the block, run the programs of each launch in a random order: the same programs, each once."""
    places, source = interpreter_builder.set_grid_idx, torch.Generator().manual_seed(seed)
    orders: dict[tuple[int, int, int], list[int]] = {}

    def place(x: int, y: int, z: int) -> None:
        grid: tuple[int, int, int] = interpreter_builder.grid_dim
        first = (x, y, z) == (0, 0, 0)
        order = orders.get(grid)
        if order is None or first:
            order = orders[grid] = torch.randperm(grid[0] * grid[1] * grid[2], generator=source).tolist()
        program = order[(x * grid[1] + y) * grid[2] + z]
        places(program // (grid[1] * grid[2]), program // grid[2] % grid[1], program % grid[2])

    interpreter_builder.set_grid_idx = place
    try:
        yield
    finally:
        del interpreter_builder.set_grid_idx
