"""How guards are applied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from llama4sdk.checks import check_number, check_whole, shown
from llama4sdk.errors import InvalidRequest

OnError: TypeAlias = Literal["block", "allow"]
Streaming: TypeAlias = Literal["hold", "observe", "final"]
OnHidden: TypeAlias = Literal["flag", "block"]
Earlier: TypeAlias = Literal["check", "trust"]


@dataclass(frozen=True, slots=True)
class GuardPolicy:
    """How guards are applied.

    Args:
        on_error: `block` raises `GuardUnavailable` when a guard gives no verdict that counts; `allow` goes on, with a
            `GuardFlag` and a count each time.
        streaming: `hold` releases text up to the last cleared offset, `observe` at once, where a verdict can still
            stop the answer, and `final` all of it at the end. Tool calls are held back in every mode, and nothing is
            released before the verdict on the input.
        timeout: Seconds for one check.
        selftest_timeout: Seconds for a guard's start and self-test, which may load a model.
        window: Characters of an answer after which it is checked where no sentence ends; about 64 tokens.
        overlap: Characters at the end of a checked stretch without a sentence's end that stay held back.
        growth: Part by which an answer must have grown since its last check before the next one. Each check reads the
            whole answer: at 0, the reading grows with the square of the answer's length; at 0.1, a guard reads at most
            11 characters for each of the answer's, and text leaves in larger stretches.
        max_characters: Most characters of one item; a larger one is blocked.
        history: `check` inspects every message of a conversation that this client did not clear before, those of the
            assistant too: a caller may hand in any history. `trust` inspects the last turn alone.
        system: `check` inspects system messages as input, `trust` only for hidden characters.
        hidden_characters: Whether Unicode tag characters and bidirectional overrides `flag` or `block`.

    Raises:
        InvalidRequest: For a value out of range.
    """

    on_error: OnError = "block"
    streaming: Streaming = "hold"
    timeout: float = 10.0
    selftest_timeout: float = 120.0
    window: int = 256
    overlap: int = 64
    growth: float = 0.0
    max_characters: int = 4_000_000
    hidden_characters: OnHidden = "flag"
    history: Earlier = "check"
    system: Earlier = "trust"

    def __post_init__(self) -> None:
        kinds = {"on_error": OnError, "streaming": Streaming, "hidden_characters": OnHidden}
        for name, kind in {**kinds, "history": Earlier, "system": Earlier}.items():
            value: object = getattr(self, name)
            if value not in get_args(kind):
                raise InvalidRequest(f"{name} is one of {', '.join(get_args(kind))}; got {shown(value)}.")
        for name in ("timeout", "selftest_timeout"):
            seconds: object = getattr(self, name)
            if seconds is None:
                raise InvalidRequest(
                    f"{name} is a number of seconds; a check without an end would hold a turn forever."
                )
            check_number(name, seconds, 0, 86_400, above=True)
        check_whole("window", self.window, 1, 1_000_000, optional=False)
        check_whole("overlap", self.overlap, 0, self.window, optional=False)
        check_number("growth", self.growth, 0, 1, optional=False)
        check_whole("max_characters", self.max_characters, 1, 2**31 - 1, optional=False)
