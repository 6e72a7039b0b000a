"""What the engine is asked for: a rendered, checked request, and the session it goes on from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama4_local.decoding.token_mask import TokenMask
    from llama4_local.engine.mailbox import Mailbox
    from llama4sdk.images import Tiles
    from llama4sdk.request import Sampling


@dataclass(frozen=True, slots=True, eq=False)
class EngineRequest:
    """A request, rendered and checked, that the engine can run.

    Args:
        request_id: Names it in errors.
        token_ids: The prompt, at least one token, all in the vocabulary.
        tiles: The pixels of its images, in order.
        image_tokens: Of the prompt, those that stand for images.
        limit: Most tokens that prompt and answer may have together; above the prompt's length.
        sampling: How tokens are chosen.
        seed: What decides the draws where `sampling` has no seed.
        priority: Larger goes first.
        cache_salt: Computation is shared only between orders with the same salt.
        mailbox: Where its events go.
        answers: Whether anything is to be written; else the prompt is computed and that is all.
        kept_as: The session's key under which prompt and answer stay in the cache afterwards.
        origin: Position of the first token.
        written: The answer's tokens; the engine appends, and is done with it when it says `Done`.
        mask: What keeps the answer in its form.
    """

    request_id: str
    token_ids: list[int]
    tiles: tuple[Tiles, ...]
    image_tokens: int
    limit: int
    sampling: Sampling
    seed: int
    priority: int
    cache_salt: str
    mailbox: Mailbox
    answers: bool = True
    kept_as: object | None = None
    origin: int = 0
    written: list[int] = field(default_factory=list[int])
    mask: TokenMask | None = None


@dataclass(frozen=True, slots=True)
class Prefix:
    """What a prompt goes on from, as tokens.

    Args:
        token_ids: Those of all turns so far, each with its end.
        tiles: Their images.
        image_tokens: Of the tokens, those that stand for images.
        cache_salt: Shared computation is looked for under it.
        kept_as: The session's key.
        origin: Position of the first token.
    """

    token_ids: tuple[int, ...]
    tiles: tuple[Tiles, ...]
    image_tokens: int
    cache_salt: str
    kept_as: object
    origin: int = 0
