"""The sampled tokens of a step, on their way from the device to the host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from llama4_local.decoding.sampler import LogProbabilities, SampledToken, sampled_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from llama4_local.decoding.sampler import SamplerState
    from llama4_local.ops.batch import SequenceInput


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The tokens that a step samples.

    Args:
        tokens: [rows], int64, on the host; valid after `arrived`.
        arrived: The device's event after the copy; None where the tokens are there already.
        log_probabilities: Of the rows that ask for them.
        feeds_next: Whether the next step can read these tokens on the device before the host has them.
    """

    tokens: Tensor
    arrived: torch.cuda.Event | None = None
    log_probabilities: LogProbabilities = field(default_factory=LogProbabilities)
    feeds_next: bool = False

    def wait(self) -> list[SampledToken]:
        """Wait for the tokens and return them, one for each row."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return sampled_tokens(self.tokens, self.log_probabilities)


class Runner(Protocol):
    """Runs the model over one step at a time."""

    def launch(
        self,
        inputs: Sequence[SequenceInput],
        due: Sequence[int],
        states: Sequence[SamplerState],
        *,
        from_previous: bool = False,
    ) -> StepOutput:
        """Start a step.

        Args:
            inputs: The tokens of each sequence.
            due: Indices of the inputs whose next token is sampled.
            states: How; one for each of `due`.
            from_previous: The inputs are the sequences of the step launched last, in the same order, and each
                one's token is the token sampled there, whatever its input holds.
        """
        ...

    def close(self) -> None:
        """End what runs beside it."""
        ...
