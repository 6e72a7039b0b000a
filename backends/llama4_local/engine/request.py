"""The engine's request: rendered, checked, and with the session that it goes on from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama4sdk.events import Usage

if TYPE_CHECKING:
    from llama4_local.decoding.token_mask import TokenMask
    from llama4_local.engine.mailbox import Mailbox
    from llama4sdk.images import Tiles
    from llama4sdk.request import Sampling


@dataclass(frozen=True, slots=True, eq=False)
class EngineRequest:
    """A request, rendered and checked, that the engine can run.

    Args:
        request_id: Its id in errors.
        token_ids: The prompt, at least one token, all in the vocabulary.
        tiles: The pixels of its images, in order.
        image_tokens: Image placeholders in the prompt.
        limit: Most tokens that prompt and answer may have together; above the prompt's length.
        sampling: Its sampling parameters.
        seed: Decides the draws where `sampling` has no seed.
        priority: Larger goes first.
        cache_salt: Requests share cached pages only under the same salt.
        mailbox: Takes its events.
        answers: Whether tokens are sampled; else only the prompt is computed.
        in_session: Whether the pages of prompt and answer are pinned afterwards, under the request itself.
        origin: Position of the first token.
        written: The answer's tokens; the engine appends until `Done`. Those that the answer begins with come first.
        begun: How many tokens of the answer were there at the beginning.
        mask: Constrains the answer's tokens.
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
    in_session: bool = False
    origin: int = 0
    written: list[int] = field(default_factory=list[int])
    begun: int = 0
    mask: TokenMask | None = None

    @property
    def usage(self) -> Usage:
        """Tokens so far; those that the answer began with belong to the prompt."""
        return Usage(len(self.token_ids) + self.begun, len(self.written) - self.begun, image_tokens=self.image_tokens)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The tokens that a session's next prompt goes on from.

    Args:
        token_ids: Of all turns so far, each with its end.
        tiles: Their images.
        image_tokens: Image placeholders among the tokens.
        cache_salt: Cached pages are shared under it.
        session_key: The session's key.
        origin: Position of the first token.
    """

    token_ids: tuple[int, ...]
    tiles: tuple[Tiles, ...]
    image_tokens: int
    cache_salt: str
    session_key: object
    origin: int = 0
