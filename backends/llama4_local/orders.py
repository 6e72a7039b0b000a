"""What the asyncio face asks the engine for, and how a request becomes that."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama4sdk.errors import ContextOverflow, InvalidRequest, TooManyImages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4_local.crossing import Mailbox
    from llama4_local.masks import TokenMask
    from llama4_local.readiness import Ready
    from llama4sdk.images import Tiles
    from llama4sdk.request import Request, Sampling


@dataclass(frozen=True, slots=True, eq=False)
class Order:
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


def prepare(
    ready: Ready, request: Request, mailbox: Mailbox, *, prefix: Prefix | None = None, answers: bool = True
) -> Order:
    """Render and check a request; long prompts and images take their time, so call it in a worker thread.

    Args:
        ready: What the checkpoint is.
        request: What is asked.
        mailbox: Where its events go.
        prefix: What the request's messages go on from.
        answers: Whether an answer is to be written.

    Raises:
        ContextOverflow: The prompt leaves no room for an answer.
        TooManyImages: More images than the backend takes.
        InvalidRequest: Anything else that cannot be served.
    """
    turn = request.part == "turn"
    rendered = ready.template.render(
        request.messages,
        () if turn else request.tools,  # a session was told of its tools when it began
        tool_choice=request.tool_choice,
        output=request.output,
        tools_in="user" if turn else "system",
        answer=answers,
    )
    token_ids, tiles, image_tokens = rendered.token_ids, rendered.tiles, rendered.count.images
    if prefix is not None and prefix.token_ids:
        # Turns follow one another; only the first one begins the text.
        token_ids = [*prefix.token_ids, *token_ids[1:]]
        tiles = (*prefix.tiles, *tiles)
        image_tokens += prefix.image_tokens
    _check(token_ids, tiles, ready, request.sampling)
    room = ready.context - len(token_ids) if answers else 0
    return Order(
        request_id=request.request_id,
        token_ids=token_ids,
        tiles=tiles,
        image_tokens=image_tokens,
        limit=len(token_ids) + min(request.sampling.max_tokens or room, room),
        sampling=request.sampling,
        seed=secrets.randbits(63),
        priority=request.priority,
        cache_salt=prefix.cache_salt if prefix else request.cache_salt,
        mailbox=mailbox,
        answers=answers,
        kept_as=prefix.kept_as if prefix else None,
        origin=prefix.origin if prefix else 0,
        mask=ready.grammars.mask_for(request) if answers else None,
    )


def _check(token_ids: Sequence[int], tiles: Sequence[Tiles], ready: Ready, sampling: Sampling) -> None:
    """Refuse what the model cannot take, before the device is touched."""
    count, images, vocab = len(token_ids), len(tiles), ready.config.text.vocab_size
    if count >= ready.context:
        raise ContextOverflow(
            f"The prompt has {count} tokens and the context holds {ready.context}, the answer included; shorten it.",
            prompt_tokens=count,
            limit=ready.context,
        )
    if images and ready.config.vision is None:
        raise InvalidRequest("This checkpoint has no image encoder; send text only.")
    if images > ready.max_images:
        raise TooManyImages(
            f"The request has {images} images and this backend takes {ready.max_images}; "
            "send fewer or raise max_images=."
        )
    for what, ids in (("The prompt", token_ids), ("stop_token_ids", sampling.stop_token_ids)):
        if any(not 0 <= token < vocab for token in ids):
            raise InvalidRequest(f"{what} has token ids outside the vocabulary of {vocab}.")
