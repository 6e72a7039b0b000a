"""Images from the web, without becoming a way into the caller's network.

A name is resolved once, every address it has must be public, and the connection goes to an address that
was checked, with the name kept for TLS and for the `Host` header. Every redirect is checked the same way. No
proxy, cookie or credential of the process takes part. Bytes and time are bounded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urljoin

from llama4sdk.errors import DeadlineExceeded, ImageError, Unreachable, UrlBlocked
from llama4sdk.images.address import IPAddress, is_public
from llama4sdk.images.remote_url import RemoteUrl, parse

if TYPE_CHECKING:
    import httpx

Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[IPAddress]]]

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_CLOSING = 1.0  # seconds
_HEADERS = {"Accept": "image/png, image/jpeg, image/webp, image/gif", "Accept-Encoding": "identity"}


async def resolve_by_system(host: str, port: int) -> Sequence[IPAddress]:
    """Ask the system's resolver for the addresses of a host, in its order."""
    import socket

    from anyio import getaddrinfo

    answers = await getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(entry[4][0]) for entry in answers))


async def fetch_image(
    url: str,
    *,
    max_bytes: int,
    timeout: float = 20.0,
    resolve: Resolver = resolve_by_system,
    allowed: Callable[[IPAddress], bool] = is_public,
) -> bytes:
    """Fetch the bytes of an image from a web address.

    Args:
        url: An http or https URL without user info.
        max_bytes: Most bytes of the answer.
        timeout: Seconds for everything together: names, connections, redirects, bytes.
        resolve: Finds the addresses of a host.
        allowed: Which addresses may be connected to.

    Raises:
        UrlBlocked: The URL, or one that it redirects to, is malformed or leads to an address not allowed.
        Unreachable: No such name, no connection, or no valid certificate.
        DeadlineExceeded: Not done after `timeout` seconds.
        ImageError: The server answers with something else than an image, or with too many bytes.
    """
    from anyio import fail_after, to_thread

    target = parse(url)
    try:
        with fail_after(timeout):
            async with await to_thread.run_sync(_transport) as transport:
                return await _Fetch(transport, max_bytes, resolve, allowed).follow(target)
    except TimeoutError:
        raise DeadlineExceeded(
            f"The image from {target.host} was not there after {timeout:g} s.", phase="total"
        ) from None


def _transport() -> httpx.AsyncHTTPTransport:
    # In a thread: importing httpx and reading the certificates takes a while. The transport alone, without a
    # client around it: that one would read redirects, proxies and cookies of its own accord. A kept connection
    # could be used for another name at the same address, so none is kept.
    import httpx

    return httpx.AsyncHTTPTransport(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


@dataclass(frozen=True, slots=True)
class _Fetch:
    transport: httpx.AsyncHTTPTransport
    max_bytes: int
    resolve: Resolver
    allowed: Callable[[IPAddress], bool]

    async def follow(self, url: RemoteUrl) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            answer = await self.hop(url)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise ImageError(f"The image's address redirects more than {_MAX_REDIRECTS} times.")

    async def hop(self, url: RemoteUrl) -> bytes | RemoteUrl:
        """Return the bytes, or where the server sends us next."""
        addresses = await self.checked_addresses(url)
        for place, address in enumerate(addresses, start=1):
            response = await self.send(url, address, last=place == len(addresses))
            if response is None:
                continue
            try:
                return await self.read(url, response)
            finally:
                await _close(response)
        raise Unreachable(f"{url.host} has no address.")

    async def checked_addresses(self, url: RemoteUrl) -> Sequence[IPAddress]:
        if url.address is not None:
            addresses: Sequence[IPAddress] = [url.address]
        else:
            try:
                addresses = await self.resolve(url.host, url.port)
            except (OSError, UnicodeError):
                raise Unreachable(f"The name {url.host} has no address.") from None
        # One private address among public ones is a trick, not a fallback.
        if not all(self.allowed(address) for address in addresses):
            raise UrlBlocked(f"{url.host} leads to an address that is not on the public internet.")
        return addresses

    async def send(self, url: RemoteUrl, address: IPAddress, *, last: bool) -> httpx.Response | None:
        """Return the answer's head; `None` if this address does not answer and others are left."""
        import httpx

        host = f"[{address}]" if address.version == 6 else str(address)
        request = httpx.Request(
            "GET",
            f"{url.scheme}://{host}:{url.port}{url.target}",
            headers={"Host": url.authority, **_HEADERS},
            extensions={"sni_hostname": url.host.rstrip(".")},
        )
        try:
            return await self.transport.handle_async_request(request)
        except httpx.ConnectError:
            if last:
                raise Unreachable(f"No connection to {url.host}, or no valid certificate there.") from None
            return None
        except httpx.HTTPError:
            raise Unreachable(f"{url.host} broke the connection off.") from None

    async def read(self, url: RemoteUrl, response: httpx.Response) -> bytes | RemoteUrl:
        if response.status_code in _REDIRECTS:
            return parse(_joined(url, response.headers.get("location", "")))
        if response.status_code != 200:
            raise ImageError(f"{url.host} answered with status {response.status_code} instead of an image.")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise ImageError(f"{url.host} sent the image in a compressed form that was not asked for.")
        return await self.body(url, response)

    async def body(self, url: RemoteUrl, response: httpx.Response) -> bytes:
        import httpx

        data = bytearray()
        try:
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) > self.max_bytes:
                    raise ImageError(f"The image from {url.host} takes more than {self.max_bytes:,} bytes.")
        except httpx.HTTPError:
            raise Unreachable(f"{url.host} broke off in the middle of the image.") from None
        return bytes(data)


def _joined(url: RemoteUrl, location: str) -> str:
    try:
        return urljoin(str(url), location)
    except ValueError:
        raise UrlBlocked(f"{url.host} redirects to something that is no URL.") from None


async def _close(response: httpx.Response) -> None:
    from anyio import move_on_after

    with move_on_after(_CLOSING, shield=True):  # a cancel must not leave the socket open
        await response.aclose()
