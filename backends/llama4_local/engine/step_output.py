"""The sampled tokens of a step, on their way from the device to the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llama4_local.decoding.sampler import SampledToken, sampled_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import Tensor

    from llama4_local.decoding.reports import Reports
    from llama4_local.decoding.sampler import SamplerState
    from llama4_local.ops.batch import SequenceInput


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The tokens that a step samples.

    Args:
        tokens: [rows], int64, on the host; valid after `arrived`.
        arrived: The device's event after the copy; None where the tokens are there already.
        reports: Of the rows that ask for log-probabilities; valid after `arrived`.
        feeds_next: Whether the next step can read these tokens on the device before the host has them.
    """

    tokens: Tensor
    arrived: torch.cuda.Event | None = None
    reports: Reports | None = None
    feeds_next: bool = False

    def wait(self) -> list[SampledToken]:
        """Wait for the tokens and return them, one for each row."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return sampled_tokens(self.tokens, self.reports)


@dataclass(frozen=True, slots=True)
class UnsampledOutput:
    """A launched step whose penalties or masks depend on tokens of the step before, which are not on the host yet.

    Args:
        sample: Samples, once every state holds these tokens; before the next step is launched.
    """

    sample: Callable[[], StepOutput]


class Runner(Protocol):
    """Runs the model over one step at a time."""

    def launch(
        self,
        inputs: Sequence[SequenceInput],
        rows: Sequence[int],
        states: Sequence[SamplerState],
        *,
        from_previous: bool = False,
    ) -> StepOutput | UnsampledOutput:
        """Start a step.

        Args:
            inputs: The tokens of each sequence.
            rows: Tokens of the step behind which one is sampled, counted over all inputs.
            states: How; one for each of `rows`.
            from_previous: The inputs are the sequences of the step launched last, in the same order, and each
                one's token is the token sampled there, whatever its input holds. Other steps are sampled at once.
        """
        ...

    def close(self) -> None:
        """End what runs beside it."""
        ...
