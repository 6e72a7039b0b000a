"""The error tree is as it is drawn, and its errors can be copied and pickled."""

from __future__ import annotations

import copy
import pickle
import re

import llama4sdk
from llama4sdk import CheckpointError, DeadlineExceeded, LlamaError, Overloaded, Unreachable, errors


def test_every_error_is_drawn_under_its_base() -> None:
    drawn: dict[str, str] = {}
    stack: list[tuple[int, str]] = [(-1, "LlamaError")]
    for indent, name in re.findall(r"^    ([│├└─ ]+)(\w+)", errors.__doc__ or "", re.MULTILINE):
        while stack[-1][0] >= len(indent):
            stack.pop()
        drawn[name] = stack[-1][1]
        stack.append((len(indent), name))
    kinds = {
        kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LlamaError)
    }
    assert drawn == {name: kind.__bases__[0].__name__ for name, kind in kinds.items() if kind is not LlamaError}
    assert set(kinds) <= set(llama4sdk.__all__)


def test_an_error_survives_copying_and_pickling() -> None:
    error = DeadlineExceeded("late", phase="idle", backend="b", request_id="r")
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (str(again), again.phase, again.backend, again.request_id) == ("late", "idle", "b", "r")


def test_a_checkpoint_error_lists_every_problem() -> None:
    error = CheckpointError("folder", ["one", "two"])
    assert error.problems == ("one", "two")
    assert str(error).count("\n  - ") == 2


def test_what_may_succeed_later_says_so() -> None:
    assert Unreachable("x").retryable
    assert Overloaded("x", retry_after=2.0).retryable
    assert not LlamaError("x").retryable
    assert LlamaError("x", retryable=True).retryable
