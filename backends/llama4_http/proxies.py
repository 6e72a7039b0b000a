"""Proxies that the environment names: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, minus `NO_PROXY`."""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from llama4sdk.errors import InvalidRequest


def applies(base_url: str) -> bool:
    """Return whether requests to this address go through a proxy."""
    parts = urlsplit(base_url)
    named = getproxies()
    if not (named.get(parts.scheme) or named.get("all")):
        return False
    return not proxy_bypass(parts.netloc)


def client(width: int) -> httpx.AsyncClient:
    """Return a client that takes proxies from the environment.

    Args:
        width: Most connections at once.

    Raises:
        InvalidRequest: For a proxy that cannot be used.
    """
    limits = httpx.Limits(max_connections=width, max_keepalive_connections=width)
    try:
        return httpx.AsyncClient(timeout=None, limits=limits, trust_env=True)  # noqa: S113 - deadlines end requests
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise InvalidRequest(
            f"The proxy that the environment names cannot be used ({type(error).__name__}); mend HTTP_PROXY, "
            "HTTPS_PROXY or ALL_PROXY, list the server in NO_PROXY, or pass client=httpx.AsyncClient(…)."
        ) from None
