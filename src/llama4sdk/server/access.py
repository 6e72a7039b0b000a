"""Access: bearer keys, compared in constant time, and host names."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from llama4sdk.server.failures import INVALID, ApiError, Failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llama4sdk.server.options import KeyLimits

_CHALLENGE = {"www-authenticate": "Bearer"}


class Keys:
    """The keys of a server; only their digests are kept.

    Args:
        limits: The keys, each with its limits.
    """

    def __init__(self, limits: Mapping[str, KeyLimits]) -> None:
        self._digests = [_digest(key) for key in limits]

    def check(self, authorization: str | None) -> int | None:
        """Return the index of the key in a header; None where no keys are asked for.

        Every key is compared, each in constant time, so that the time taken tells nothing.

        Raises:
            ApiError: Status 401 for a key that is missing or wrong.
        """
        if not self._digests:
            return None
        scheme, _, key = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ApiError(
                Failure(
                    401,
                    "You didn't provide an API key. Send it in the header: Authorization: Bearer YOUR_KEY.",
                    INVALID,
                    code="missing_api_key",
                    headers=_CHALLENGE,
                )
            )
        given = _digest(key.strip())
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        if not any(matches):
            raise ApiError(
                Failure(401, "Incorrect API key provided.", INVALID, code="invalid_api_key", headers=_CHALLENGE)
            )
        return matches.index(True)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def check_host(host: str | None, allowed: Sequence[str]) -> None:
    """Refuse a `Host` header that is not allowed, as that of a page which had its own name lead here.

    Raises:
        ApiError: Status 421.
    """
    if allowed and host_name(host or "") not in allowed:
        raise ApiError(
            Failure(421, "This server does not answer under that host name; see allowed_hosts.", code="wrong_host")
        )


def host_name(host: str) -> str:
    """Return a `Host` header's name, without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()
