"""Speculation: a step computes drafted tokens behind a sequence's last one, and keeps those that sampling confirms.

The token behind each drafted one is sampled with the random number of its own place, as if the drafts before it were
the answer. So a draft is kept exactly where it is the token that would have been sampled, and the text is the same as
without drafts, greedy or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.config.formats import SPECULATING_STREAMS

if TYPE_CHECKING:
    from collections.abc import Collection

    from llama4_local.engine.request_state import RequestState


def draft(states: Collection[RequestState]) -> None:
    """Give sequences that decode their drafts for the next step, unless there are too many of them.

    Args:
        states: All requests.
    """
    decoding = {state for state in states if state.decodes and not state.paused}
    few = len(decoding) <= SPECULATING_STREAMS
    for state in states:
        own = state.drafting if few and state in decoding else None
        state.drafted = own.draft(state.tokens) if own else ()


def drafts_soon(states: Collection[RequestState]) -> bool:
    """Return whether any sequence may get a draft behind its next token."""
    return len(states) <= SPECULATING_STREAMS and any(
        state.drafting is not None and not state.drafting.rests(len(state.tokens) + 1) for state in states
    )
