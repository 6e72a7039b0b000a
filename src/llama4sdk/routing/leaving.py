"""Leaving a backend's block early."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

_LOG = logging.getLogger("llama4sdk.routing")
_PATIENCE = 5.0  # seconds for a block to be left


async def leave(block: AbstractAsyncContextManager[object]) -> None:
    """Leave a block, which stops what runs behind it; one that fails or hangs at that never fails the request."""
    with anyio.move_on_after(_PATIENCE):
        try:
            await block.__aexit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - the request goes on elsewhere, or has its own error
            _LOG.debug("a block failed when it was left: %s", type(error).__name__)
