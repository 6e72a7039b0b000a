"""A web address read strictly, so that no two readers can see two hosts in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from llama4sdk.errors import UrlBlocked

if TYPE_CHECKING:
    from llama4sdk.images.address import IPAddress

_MAX_LENGTH = 8192  # characters
_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<host>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?))"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>(?:[/?][!-\[\]-~]*)?)",  # visible ASCII but no backslash
    re.IGNORECASE,
)
# Resolvers read hosts that end in a number as IPv4 addresses: decimal, octal, hexadecimal, shortened.
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RemoteUrl:
    """The parts of an http or https URL.

    Attributes:
        scheme: `http` or `https`.
        host: Name or address, in lower case, IPv6 without brackets.
        port: The port, the scheme's own where the URL names none.
        target: Path and query, as written, without the fragment.
        address: The address that the host is written as, where it is one.
    """

    scheme: str
    host: str
    port: int
    target: str
    address: IPAddress | None

    @property
    def authority(self) -> str:
        """Host and port as the `Host` header wants them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _default_port(self.scheme) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def parse(url: str) -> RemoteUrl:
    """Read a web address.

    Raises:
        UrlBlocked: Not http(s), user info, backslashes, spaces, letters beyond ASCII, or a host written as
            an unusual form of number.
    """
    match = _URL.fullmatch(url.partition("#")[0]) if len(url) <= _MAX_LENGTH else None
    if match is None:
        raise UrlBlocked(
            "The web address is not a plain http(s) URL: no user info, no backslashes or spaces, the host in "
            "ASCII (xn-- for others), other letters percent-encoded."
        )
    scheme = match["scheme"].lower()
    port = int(match["port"] or _default_port(scheme))
    if not 0 < port < 65536:
        raise UrlBlocked(f"The web address names port {port}, which does not exist.")
    host = (match["six"] or match["host"]).lower()
    return RemoteUrl(scheme, host, port, match["target"] or "/", _address(match["six"], host))


def _address(six: str | None, host: str) -> IPAddress | None:
    try:
        if six is not None:
            return IPv6Address(six)
        return IPv4Address(host) if _NUMERIC.fullmatch(host) else None
    except AddressValueError:
        raise UrlBlocked("The web address names its host by an unusual number; write 4 decimal parts.") from None


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80
