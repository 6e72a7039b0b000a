"""A request → its POST, with its images read and uploaded and its prompt rendered.

Images and prompts are read in daemon threads, so that a deadline or a cancel ends the request at once, also while a
file system or a tokenizer is slow.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llama4_http import images, outgoing, prompt
from llama4_http.errors import error_for_status
from llama4_http.profiles import asset_of
from llama4sdk.errors import InvalidRequest
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from llama4_http.context import Context
    from llama4_http.errors import Sent
    from llama4_http.images import Packed
    from llama4_http.network import Link
    from llama4sdk.messages import Image
    from llama4sdk.request import Request


async def compose(context: Context, request: Request, sent: Sent) -> outgoing.Outgoing:
    """Return the body and headers to be posted for a request.

    Raises:
        LlamaError: For a request that the server cannot take.
    """
    profile, settings = context.profile, context.settings
    outgoing.check(request, profile, settings)
    packed = [await _pack(context, image) for image in outgoing.images_of(request)]
    assets = {
        place: await _upload(context.link, pack, profile.assets_url, sent)
        for place, pack in enumerate(packed)
        if pack is not None and profile.assets_url and pack.url_bytes > (profile.max_inline or math.inf)
    }
    prompt_ids: list[int] | None = None
    if isinstance(request.raw, tuple) and not request.answer_so_far:
        prompt_ids = list(request.raw)
    elif settings.prompt_mode == "client" or settings.verify_prompt or isinstance(request.raw, tuple):
        prompt_ids = await rendered(context, request)
    return outgoing.compose(
        request, profile, settings, model=context.model, packed=packed, assets=assets, prompt_ids=prompt_ids
    )


async def rendered(context: Context, request: Request) -> list[int]:
    """Return the token ids of a request's prompt.

    Raises:
        InvalidRequest: Without a tokenizer, or for messages that cannot be rendered.
    """
    template, settings = context.template, context.settings
    if template is None:
        if request.raw is not None:
            raise InvalidRequest("Token ids with the beginning of an answer need the model's tokenizer=….")
        raise InvalidRequest("prompt_mode='client' and verify_prompt=True need tokenizer=….")
    return await run_in_daemon_thread(
        lambda: prompt.render(template, request, settings.prefill, show_schema=settings.show_schema)
    )


async def _pack(context: Context, image: Image) -> Packed | None:
    if image.url is not None and not image.fetch:
        return None  # the server fetches it
    settings, most = context.settings, context.profile.max_inline
    if image.url is None:
        return await run_in_daemon_thread(lambda: images.pack(image, settings, max_inline=most))
    from llama4sdk.images import load_async

    pixels = await load_async(image, limits=settings.image_limits)
    return await run_in_daemon_thread(lambda: images.pack_read(pixels, None, settings, max_inline=most))


async def _upload(link: Link, pack: Packed, assets_url: str, sent: Sent) -> str:
    asked = images.asset_request(pack)
    status, headers, body = await link.fetch("POST", assets_url, sent, content=asked)
    if status != 200:
        raise error_for_status(status, headers, body, sent)
    asset, url = asset_of(body, assets_url)
    typed = {"Content-Type": pack.mime, "x-amz-meta-nvcf-asset-description": images.ASSET_NAME}
    status, headers, body = await link.fetch("PUT", url, sent, content=pack.data, headers=typed, with_key=False)
    if status not in (200, 201, 204):
        raise error_for_status(status, headers, body, sent)
    return asset
