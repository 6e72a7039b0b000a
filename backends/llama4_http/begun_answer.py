"""The beginning of an answer as servers take it, and its effect on the rest: pure.

Chat templates trim messages, so white space at the end of a beginning would be lost there, and a tokenizer makes other
tokens of a blank that stands last than of one before a word. It is therefore left out, and the model writes it again;
what it repeats is not shown a second time.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama4_http.profiles import Profile
    from llama4sdk.request import Request, Sampling

_SEEDS = 2**31


def sent_beginning(prefill: str, request: Request, profile: Profile) -> str:
    """Return the assistant message that the server goes on with; empty for none.

    Args:
        prefill: Words with which every answer begins.
        request: The request.
        profile: The server's kind.
    """
    begun = prefill + request.answer_so_far
    if not request.answer_so_far:
        return begun
    return begun.removesuffix(left_out(begun, profile))


def left_out(begun: str, profile: Profile) -> str:
    """Return the white space at the end of an answer's beginning, which the server does not get."""
    return "" if profile.whole_answer else begun[len(begun.rstrip()) :]


def without_repeated(text: str, repeated: str) -> tuple[str, str]:
    """Return text without what it repeats, and what may yet be repeated by the text after it.

    Args:
        text: The next text of the answer, not empty.
        repeated: White space that was shown before.
    """
    common = 0
    while common < min(len(text), len(repeated)) and text[common] == repeated[common]:
        common += 1
    rest = text[common:]
    return rest, "" if rest else repeated[common:]


def continued(request: Request, profile: Profile) -> Sampling:
    """Return the sampling parameters of a request; behind an answer's beginning a seed must not repeat its draws."""
    sampling = request.sampling
    if not request.answer_so_far or profile.whole_answer:
        return sampling
    changes: dict[str, int] = {}
    if sampling.seed is not None:
        changes["seed"] = (sampling.seed ^ zlib.crc32(request.answer_so_far.encode())) % _SEEDS
    if sampling.max_tokens is not None and request.raw is None and left_out(request.answer_so_far, profile):
        changes["max_tokens"] = sampling.max_tokens + 1  # the white space that is written again
    return replace(sampling, **changes)
