"""Images from the web: a loopback server and a made-up resolver, no real network."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from PIL import Image

from image_files import encoded
from llama4sdk.errors import DeadlineExceeded, ImageError, LlamaError, Unreachable, UrlBlocked
from llama4sdk.images import fetch, load_async
from llama4sdk.images.address import IPAddress
from llama4sdk.images.fetch import fetch_image

IMAGE = encoded(Image.new("RGB", (6, 4), "red"))
LOOPBACK = ip_address("127.0.0.1")
METADATA = ip_address("169.254.169.254")

Answer = Callable[[bytes], Awaitable[bytes]]


@dataclass
class Server:
    """What came in, and where to knock."""

    port: int = 0
    requests: list[bytes] = field(default_factory=list[bytes])

    def url(self, path: str = "/a.png", host: str = "pictures.example") -> str:
        return f"http://{host}:{self.port}{path}"


async def head_of(stream: SocketStream) -> bytes:
    head = b""
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while b"\r\n\r\n" not in head and head[:3] in b"GET":
            head += await stream.receive()
    return head


@asynccontextmanager
async def serving(*answers: bytes | Callable[[SocketStream], Awaitable[None]]) -> AsyncGenerator[Server]:
    """Answer one request after the other with these bytes, or let a function do it."""
    server, left = Server(), list(answers)

    async def handle(stream: SocketStream) -> None:
        async with stream:
            server.requests.append(head := await head_of(stream))
            if not head.startswith(b"GET"):
                return
            answer = left.pop(0)
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await (stream.send(answer) if isinstance(answer, bytes) else answer(stream))

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server.port = listener.extra(SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield server
        tasks.cancel_scope.cancel()


def answer(body: bytes = IMAGE, status: str = "200 OK", **headers: str) -> bytes:
    lines = {"Content-Length": str(len(body)), "Connection": "close", **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def redirect(where: str, status: str = "302 Found") -> bytes:
    return answer(b"", status, Location=where)


def names(**known: Sequence[IPAddress]) -> Callable[[str, int], Awaitable[Sequence[IPAddress]]]:
    """A resolver that knows these names (dots as underscores), and everything else as loopback."""

    async def resolve(host: str, port: int) -> Sequence[IPAddress]:
        return known.get(host.replace(".", "_"), [LOOPBACK])

    return resolve


def only_loopback(address: IPAddress) -> bool:
    return address == LOOPBACK


async def get(url: str, *, max_bytes: int = 10_000, timeout: float = 10.0, **known: Sequence[IPAddress]) -> bytes:
    return await fetch_image(url, max_bytes=max_bytes, timeout=timeout, resolve=names(**known), allowed=only_loopback)


async def test_an_image_is_fetched_by_its_name() -> None:
    async with serving(answer()) as server:
        assert await get(server.url("/a.png?size=1")) == IMAGE
    (request,) = server.requests
    assert request.startswith(b"GET /a.png?size=1 HTTP/1.1\r\n")
    assert f"Host: pictures.example:{server.port}\r\n".encode() in request


def test_an_image_is_fetched_under_trio_too() -> None:
    async def main() -> bytes:
        async with serving(redirect("/b.png"), answer()) as server:
            return await get(server.url())

    assert anyio.run(main, backend="trio") == IMAGE


async def test_nothing_of_the_process_goes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with serving(redirect("/b.png"), answer()) as server:
        assert await get(server.url()) == IMAGE
    for request in server.requests:
        assert b"authorization" not in request.lower()
        assert b"cookie" not in request.lower()


async def test_load_fetches_where_the_caller_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetched(url: str, *, max_bytes: int) -> bytes:
        assert url == "https://pictures.example/a.png"
        return IMAGE

    monkeypatch.setattr(fetch, "fetch_image", fetched)
    image = await load_async("https://pictures.example/a.png", fetch=True)
    assert image.size == (6, 4)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://169.254.169.254/latest/",
        "http://[fd00:ec2::254]/",
        "http://10.0.0.1:1/",
    ],
)
async def test_fault_36_addresses_that_nobody_may_reach_are_blocked(url: str) -> None:
    async with serving() as server:
        with pytest.raises(UrlBlocked, match="not on the public internet"):
            await fetch_image(url.replace(":1/", f":{server.port}/"), max_bytes=100)
    assert server.requests == []


async def test_fault_36_a_name_of_such_an_address_is_blocked_too() -> None:
    async with serving() as server:
        with pytest.raises(UrlBlocked, match="not on the public internet"):
            await fetch_image(server.url(host="localhost"), max_bytes=100)
    assert server.requests == []


async def test_fault_37_one_private_address_among_public_ones_blocks_the_name() -> None:
    async with serving() as server:
        for order in ([LOOPBACK, METADATA], [METADATA, LOOPBACK]):
            with pytest.raises(UrlBlocked):
                await get(server.url(), pictures_example=order)
    assert server.requests == []


async def test_fault_39_the_connection_goes_to_the_address_that_was_checked() -> None:
    answers = [[LOOPBACK], [METADATA]]

    async def changing(host: str, port: int) -> Sequence[IPAddress]:
        return answers.pop(0)

    async with serving(answer()) as server:
        data = await fetch_image(server.url(), max_bytes=1000, resolve=changing, allowed=only_loopback)
    assert data == IMAGE
    assert answers == [[METADATA]]  # the name was looked up once


async def test_fault_39_a_second_look_up_for_a_redirect_is_checked_as_well() -> None:
    answers = [[LOOPBACK], [METADATA]]

    async def changing(host: str, port: int) -> Sequence[IPAddress]:
        return answers.pop(0)

    async with serving(redirect("/b.png")) as server:
        with pytest.raises(UrlBlocked):
            await fetch_image(server.url(), max_bytes=1000, resolve=changing, allowed=only_loopback)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "where",
    [
        *(
            "http://169.254.169.254/latest/meta-data",
            "//169.254.169.254/",
            "http://metadata.example/",
            "http://2852039166/",
        ),
        *("file:///etc/passwd", "ftp://pictures.example/", "data:image/png;base64,AAAA", "javascript:1"),
        *("http://user@pictures.example/", "http://a\\b/", "http://[::1", "//[", "\\\\evil", "/é"),
    ],
)
async def test_fault_40_every_redirect_is_checked_again(where: str) -> None:
    async with serving(redirect(where)) as server:
        with pytest.raises(UrlBlocked):
            await get(server.url(), metadata_example=[METADATA])
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 Other", "307 Temporary", "308 Permanent"])
async def test_an_allowed_redirect_is_followed(status: str) -> None:
    async with serving(redirect("b.png", status), answer()) as server:
        assert await get(server.url("/deep/a.png")) == IMAGE
    assert server.requests[1].startswith(b"GET /deep/b.png ")


async def test_redirects_come_to_an_end() -> None:
    async with serving(*[redirect("/again")] * 10) as server:
        with pytest.raises(ImageError, match="redirects more than 5 times"):
            await get(server.url())
    assert len(server.requests) == 6


async def test_a_redirect_to_nowhere_is_refused() -> None:
    async with serving(*[redirect("")] * 10) as server:
        with pytest.raises(LlamaError):
            await get(server.url())


async def test_bytes_are_bounded() -> None:
    sent = 0

    async def endless(stream: SocketStream) -> None:
        nonlocal sent
        await stream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            await stream.send(bytes(10_000))
            sent += 10_000

    async with serving(endless) as server:
        with pytest.raises(ImageError, match="more than 50,000 bytes"):
            await get(server.url(), max_bytes=50_000)
    assert sent < 50_000_000


async def test_a_compressed_answer_is_refused() -> None:
    async with serving(answer(b"\x1f\x8b", Content_Encoding="gzip")) as server:
        with pytest.raises(ImageError, match="compressed"):
            await get(server.url())


async def test_time_is_bounded_in_every_phase() -> None:
    async def silent(stream: SocketStream) -> None:
        await anyio.sleep_forever()

    async def stuck(stream: SocketStream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        await anyio.sleep_forever()

    async def asleep(host: str, port: int) -> Sequence[IPAddress]:
        await anyio.sleep_forever()
        raise AssertionError

    async with serving(silent, stuck) as server:
        for _ in range(2):
            with pytest.raises(DeadlineExceeded) as caught:
                await get(server.url(), timeout=0.2)
            assert caught.value.phase == "total"
        with pytest.raises(DeadlineExceeded):
            await fetch_image(server.url(), max_bytes=1, timeout=0.05, resolve=asleep)


async def test_a_cancel_is_passed_on_and_closes_the_connection() -> None:
    closed = anyio.Event()
    started = anyio.Event()

    async def watch(stream: SocketStream) -> None:
        started.set()
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
        closed.set()

    async with serving(watch) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(get, server.url())
            await started.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(5):
            await closed.wait()


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "204 No Content", "206 Partial", "304 Not Modified"])
async def test_another_status_is_no_image(status: str) -> None:
    async with serving(answer(b"" if status[0] in "23" else b"secret", status)) as server:
        with pytest.raises(ImageError, match=status[:3]) as caught:
            await get(server.url("/a.png?token=hidden"))
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", b"HTTP/1.1 2"]
)
async def test_a_broken_answer_is_unreachable(data: bytes) -> None:
    async with serving(data) as server:
        with pytest.raises(Unreachable):
            await get(server.url())


async def test_a_refused_connection_is_unreachable() -> None:
    async with serving() as server:
        port = server.port
    with pytest.raises(Unreachable, match=r"pictures\.example"):
        await get(f"http://pictures.example:{port}/")


async def test_another_address_is_tried_where_the_first_does_not_answer() -> None:
    silent = ip_address("127.0.0.2")

    async def resolve(host: str, port: int) -> Sequence[IPAddress]:
        return [silent, LOOPBACK]

    async with serving(answer()) as server:
        data = await fetch_image(
            server.url(), max_bytes=1000, resolve=resolve, allowed=lambda address: address.is_loopback
        )
    assert data == IMAGE


async def test_a_name_without_an_address_is_unreachable() -> None:
    async def failing(host: str, port: int) -> Sequence[IPAddress]:
        raise OSError("no such name")

    async def empty(host: str, port: int) -> Sequence[IPAddress]:
        return []

    for resolve in (failing, empty):
        with pytest.raises(Unreachable, match="has no address"):
            await fetch_image("http://pictures.example/", max_bytes=1, resolve=resolve)


async def test_over_tls_the_name_is_kept_and_certificates_are_checked() -> None:
    async with serving() as server:
        with pytest.raises(Unreachable, match="no valid certificate"):
            await get(server.url().replace("http:", "https:"))
    assert b"pictures.example" in server.requests[0]  # the name in the client's greeting


async def test_the_systems_resolver_gives_addresses() -> None:
    assert await fetch.resolve_by_system("127.0.0.1", 80) == [LOOPBACK]
