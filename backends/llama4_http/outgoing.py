"""A request, with its prepared images and prompt → path, body and headers to post: pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llama4_http import wire
from llama4_http.begun_answer import sent_beginning
from llama4sdk.errors import InvalidRequest, TooManyImages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llama4_http.images import Packed
    from llama4_http.profiles import Profile
    from llama4_http.settings import Settings
    from llama4sdk.backend import Continues
    from llama4sdk.messages import Image
    from llama4sdk.request import RawPrompt, Request


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One POST.

    Args:
        path: Below the base address.
        body: JSON.
        headers: Further headers.
        image_tokens: Tokens of the images that were prepared here.
        prompt_ids: The prompt as token ids, when it was made here.
        details: The details of the answer's `Done`: `image_bytes_saved` where scaling saved some, `schema_field`
            where a field of the body asks the server to keep to a schema.
    """

    path: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    image_tokens: int = 0
    prompt_ids: Sequence[int] | None = field(default=None, repr=False)
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


def images_of(request: Request) -> list[Image]:
    """Return the images of a request, in order."""
    return [image for message in request.messages for image in message.images]


def check(request: Request, profile: Profile, settings: Settings) -> None:
    """Refuse a request that this server does not take, before anything is read or sent.

    Raises:
        TooManyImages: For more images than it takes.
        InvalidRequest: For a prompt without messages, images in a prompt that is sent as token ids, or a prefill that
            it does not take.
    """
    if request.raw is not None:
        _check_raw(request.raw, profile, settings)
        return
    count = len(images_of(request))
    most = settings.max_images if settings.max_images is not None else profile.max_images
    if most is not None and count > most:
        raise TooManyImages(f"The request holds {count} images; this server takes at most {most}.")
    settings.image_limits.check_count(count)
    if settings.prompt_mode == "client":
        if count:
            raise InvalidRequest("Images cannot be sent as token ids; use prompt_mode='server' for them.")
        if profile.prompt_ids == "none":
            raise InvalidRequest(
                f"Servers of the profile {profile.name} take no token ids; use prompt_mode='server', or name the "
                "server's own profile."
            )
    elif settings.prefill and profile.prefill == "none":
        raise InvalidRequest(f"Servers of the profile {profile.name} cannot go on with given words (prefill).")
    if request.answer_so_far:
        _check_continuing(request, profile, settings)


def _check_raw(raw: RawPrompt, profile: Profile, settings: Settings) -> None:
    if profile.completions == "none":
        raise InvalidRequest(f"Servers of the profile {profile.name} complete no raw prompts; use chat() or stream().")
    if profile.completions == "text" and (not isinstance(raw, str) or settings.prompt_mode == "client"):
        raise InvalidRequest(
            f"Servers of the profile {profile.name} may take no token ids; send the prompt as text, or name the "
            "server's own profile."
        )


def continues(profile: Profile, settings: Settings) -> Continues:
    """Return which answers a server goes on with behind their beginning.

    A field for a schema counts from the tokens that are written next, so behind the beginning of a typed answer it
    would ask for a second one.
    """
    takes = profile.prompt_ids != "none" if settings.prompt_mode == "client" else profile.prefill != "none"
    if not takes:
        return "nothing"
    return "everything" if profile.schema == "none" or profile.whole_answer else "text"


def _check_continuing(request: Request, profile: Profile, settings: Settings) -> None:
    able = continues(profile, settings)
    if able == "nothing" or (able == "text" and request.output is not None):
        raise InvalidRequest(
            f"Servers of the profile {profile.name} cannot go on with the beginning of "
            f"{'an' if able == 'nothing' else 'a typed'} answer; send the request without answer_so_far."
        )


def compose(
    request: Request,
    profile: Profile,
    settings: Settings,
    *,
    model: str,
    packed: Sequence[Packed | None] = (),
    assets: Mapping[int, str] | None = None,
    prompt_ids: Sequence[int] | None = None,
) -> Outgoing:
    """Return the POST for a request.

    Args:
        request: The request.
        profile: The server's kind.
        settings: The backend's choices.
        model: The model's name there.
        packed: The prepared images, None where the caller's URL is passed on.
        assets: By image, the id of an upload that stands for it.
        prompt_ids: The prompt as token ids, when it was made here or is given as such.

    Raises:
        InvalidRequest: For a choice that the server has no field for.
    """
    assets = assets or {}
    urls = [
        _url(image, pack, assets.get(place))
        for place, (image, pack) in enumerate(zip(images_of(request), packed, strict=True))
    ]
    in_ids = settings.prompt_mode == "client" and profile.prompt_ids == "completions"
    by_completions = in_ids or request.raw is not None
    return_ids = settings.verify_prompt and profile.returns_prompt_ids
    if by_completions:
        as_text = isinstance(request.raw, str) and not in_ids
        body = wire.completion_body(
            request,
            profile,
            model=model,
            prompt=_text(request) if as_text else prompt_ids or (),
            return_prompt_ids=return_ids,
        )
    else:
        body = wire.chat_body(
            request,
            profile,
            model=model,
            images=urls,
            prefill=sent_beginning(settings.prefill, request, profile),
            tools_in=settings.tools_in,
            show_schema=settings.show_schema,
            return_prompt_ids=return_ids,
            input_ids=prompt_ids if settings.prompt_mode == "client" else None,
        )
    saved = sum(pack.saved_bytes for pack in packed if pack is not None)
    details: dict[str, Any] = {"image_bytes_saved": saved} if saved else {}
    if request.output is not None and profile.schema != "none":
        details["schema_field"] = profile.schema
    return Outgoing(
        "/completions" if by_completions else "/chat/completions",
        wire.encoded({**body, **settings.extra_body}),
        dict(request.trace_headers) | ({"NVCF-INPUT-ASSET-REFERENCES": ",".join(assets.values())} if assets else {}),
        sum(pack.prompt_tokens for pack in packed if pack is not None),
        prompt_ids,
        details,
    )


def _text(request: Request) -> str:
    return f"{request.raw}{request.answer_so_far}"


def _url(image: Image, pack: Packed | None, asset: str | None) -> str:
    if pack is None:
        return image.url or ""
    return f"data:{pack.mime};asset_id,{asset}" if asset else pack.url
