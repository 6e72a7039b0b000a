"""Work that is made ahead in other processes, so that the network never waits for its data."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from llama4_local.nano.training.folder import prompt_template

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llama4_local.nano.training.batches import Batches, Pass
    from llama4sdk.prompting import PromptTemplate

_Made = TypeVar("_Made")
_AHEAD = 2  # pieces of work under way for each maker


class Feed(Generic[_Made]):
    """The results of `make(number)`, for one number after the other.

    Args:
        pool: Where it is made.
        makers: How many can be made at once.
        make: A function that the pool can call.
        first: The first number.
    """

    def __init__(self, pool: Executor, makers: int, make: Callable[[int], _Made], first: int = 0) -> None:
        self._pool, self._make, self._next = pool, make, first
        self._coming: deque[Future[_Made]] = deque()
        self._ahead = _AHEAD * makers if makers > 1 else 1

    def take(self) -> _Made:
        """Return the next one, and have those after it made."""
        while len(self._coming) < self._ahead:
            self._coming.append(self._pool.submit(self._make, self._next))
            self._next += 1
        made = self._coming.popleft().result()
        self._coming.append(self._pool.submit(self._make, self._next))
        self._next += 1
        return made

    def close(self) -> None:
        """Forget what has not been begun."""
        for future in self._coming:
            future.cancel()


def maker_pool(makers: int) -> Executor:
    """Return a pool of so many processes, or of one thread for none."""
    if makers:
        return ProcessPoolExecutor(makers, get_context("spawn"), initializer=_alone)
    return ThreadPoolExecutor(1)


def one_thread() -> None:
    """Let PyTorch use one thread in this worker: there is a worker for every core."""
    torch.set_num_threads(1)


def _alone() -> None:
    """Use one thread in this process for everything: the tokenizer would otherwise start one for every core."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    one_thread()


def make_batch(folder: Path, mix: Batches, step: int) -> list[Pass]:
    """Return a step's passes; for a process that has nothing but these arguments.

    Args:
        folder: Has the tokenizer.
        mix: Which samples.
        step: Number of the step, from 0.
    """
    return mix.batch(_template(folder), step)


@cache
def _template(folder: Path) -> PromptTemplate:
    return prompt_template(folder)
