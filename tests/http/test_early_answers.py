"""A server that answers before it has read a large request: the answer counts, not the rest of the upload."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from http_real_servers import remote
from llama4sdk import BadKey, Deadlines, Llama4

LARGE = "word " * 1_600_000  # 8 MB, more than sockets hold
REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
HINTS = b"HTTP/1.1 103 Early Hints\r\n\r\n"


@asynccontextmanager
async def refusing(begin: bytes, *, reads: bool) -> AsyncGenerator[str]:
    """Run a server that answers what begins its answer, reads the request or does not, and refuses it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(begin)
        if reads:
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            read.set()
        writer.write(REFUSED)
        await left.wait()
        writer.close()

    left, read = asyncio.Event(), asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        assert read.is_set() == reads
    finally:
        left.set()
        server.close()


@pytest.mark.parametrize(("begin", "reads"), [(b"", False), (HINTS, True)])
async def test_a_refusal_is_read_before_the_end_of_the_upload_and_a_hint_does_not_end_it(
    begin: bytes, reads: bool
) -> None:
    async with refusing(begin, reads=reads) as url, Llama4(remote(url)) as llama:
        with pytest.raises(BadKey):
            await llama.chat(LARGE, deadlines=Deadlines(first_token=20, total=20))
