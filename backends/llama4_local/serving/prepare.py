"""From a request of the SDK to one of the engine: rendered, counted, checked."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from llama4_local.engine.request import EngineRequest, Prefix
from llama4sdk.errors import ContextOverflow, InvalidRequest, TooManyImages
from llama4sdk.prompting.answer_ids import answer_ids
from llama4sdk.prompting.raw import raw_ids
from llama4sdk.request import Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4_local.engine.mailbox import Mailbox
    from llama4_local.serving.readiness import ServedModel
    from llama4sdk.images import Tiles
    from llama4sdk.request import RawPrompt, Request


def prepare(
    served: ServedModel, request: Request, mailbox: Mailbox, *, prefix: Prefix | None = None, answers: bool = True
) -> EngineRequest:
    """Render and check a request; slow for long prompts and images, so it runs in a worker thread.

    Args:
        served: The checkpoint, and the limits of requests to it.
        request: The SDK's request.
        mailbox: Takes its events.
        prefix: The session's tokens before the request's messages.
        answers: Whether tokens are sampled.

    Raises:
        ContextOverflow: The prompt leaves no room for an answer.
        TooManyImages: More images than the backend takes.
        InvalidRequest: Anything else that cannot be served.
    """
    _check_images(sum(len(message.images) for message in request.messages), served)  # before any is decoded
    token_ids, tiles, image_tokens = _prompt(served, request, answers=answers)
    if prefix is not None and prefix.token_ids:
        # Turns follow one another; only the first one begins the text.
        token_ids = [*prefix.token_ids, *token_ids[1:]]
        tiles = (*prefix.tiles, *tiles)
        image_tokens += prefix.image_tokens
    written = answer_ids(served.template.tokenizer, request.answer_so_far) if request.answer_so_far else []
    begun = len(token_ids) + len(written)
    check_prompt([*token_ids, *written], tiles, served, request.sampling)
    room = served.context - begun if answers else 0
    return EngineRequest(
        request_id=request.request_id,
        token_ids=token_ids,
        tiles=tiles,
        image_tokens=image_tokens,
        limit=begun + min(request.sampling.max_tokens or served.config.generation.max_tokens or room, room),
        sampling=request.sampling,
        seed=secrets.randbits(63),
        priority=request.priority,
        cache_salt=prefix.cache_salt if prefix else request.cache_salt,
        mailbox=mailbox,
        answers=answers,
        in_session=prefix is not None,
        origin=prefix.origin if prefix else 0,
        written=written,
        begun=len(written),
        mask=served.grammars.mask_for(request) if answers else None,
    )


def _prompt(served: ServedModel, request: Request, *, answers: bool) -> tuple[list[int], tuple[Tiles, ...], int]:
    """Return a prompt's token ids, the tiles of its images, and the number of tokens that stand for these."""
    if request.raw is not None:
        return raw_token_ids(served, request.raw), (), 0
    turn = request.part == "turn"
    rendered = served.template.render(
        request.messages,
        () if turn else request.tools,  # a session's tools are in its opening
        tool_choice=request.tool_choice,
        output=request.output,
        tools_in="user" if turn else "system",
        answer=answers,
    )
    return rendered.token_ids, rendered.tiles, rendered.count.images


def raw_token_ids(served: ServedModel, raw: RawPrompt) -> list[int]:
    """Return the token ids of a prompt without template.

    Raises:
        InvalidRequest: It names an image, whose pixels a raw prompt cannot bring.
    """
    token_ids = raw_ids(served.template.tokenizer, raw)
    if served.config.image_token_id in token_ids:
        raise InvalidRequest("A raw prompt cannot hold image placeholders; send images in messages.")
    return token_ids


def check_prompt(
    token_ids: Sequence[int], tiles: Sequence[Tiles], served: ServedModel, sampling: Sampling | None = None
) -> None:
    """Refuse prompts that the model cannot take, before the device is touched.

    Raises:
        InvalidRequest: Naming the limit.
    """
    count, images, vocab = len(token_ids), len(tiles), served.config.text.vocab_size
    if not count:
        raise InvalidRequest("The prompt is empty; its text, or the checkpoint's chat template, gives no token.")
    if count >= served.context:
        raise ContextOverflow(
            f"The prompt has {count} tokens and the context holds {served.context}, the answer included; shorten it.",
            prompt_tokens=count,
            limit=served.context,
        )
    _check_images(images, served)
    sampling = sampling or Sampling()
    biased = [token for token, _ in sampling.biases]
    for subject, ids in (
        ("The prompt", token_ids),
        ("stop_token_ids", sampling.stop_token_ids),
        ("logit_bias", biased),
    ):
        if any(not 0 <= token < vocab for token in ids):
            raise InvalidRequest(f"{subject} has token ids outside the vocabulary of {vocab}.")


def _check_images(images: int, served: ServedModel) -> None:
    if images and served.config.vision is None:
        raise InvalidRequest("This checkpoint has no image encoder; send text only.")
    if images > served.max_images:
        raise TooManyImages(
            f"The request has {images} images and this backend takes {served.max_images}; "
            "send fewer or raise max_images= (and max_images of image_limits=)."
        )
