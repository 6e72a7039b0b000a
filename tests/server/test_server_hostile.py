"""Requests that mean harm, byte by byte: each has its status, and the server answers the next client as before."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from typing import Any

import pytest

from llama4sdk import InvalidRequest, Llama4
from llama4sdk.request import check_different
from llama4sdk.server import KeyLimits, create_app, running
from llama4sdk.testing import ScriptedBackend
from server_running import asking, serving

HEAD = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n{more}"
SAID = '"messages":[{"role":"user","content":"hi"}]'


def post(
    body: str | bytes, *, path: str = "/v1/chat/completions", kind: str = "application/json", more: str = ""
) -> bytes:
    """Return a whole request."""
    data = body.encode() if isinstance(body, str) else body
    head = HEAD.format(path=path, kind=kind, more=f"{more}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n")
    return head.encode("latin-1") + data


def with_field(field: str, value: str, path: str = "/v1/chat/completions") -> bytes:
    said = '"prompt":"hi"' if path == "/v1/completions" else SAID
    return post(f'{{{said},"{field}":{value}}}', path=path)


def bare(lines: str, body: bytes = b"") -> bytes:
    """Return a request of these lines."""
    return lines.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body


CHUNKED = "POST /v1/chat/completions HTTP/1.1\nHost: h\nContent-Type: application/json\nTransfer-Encoding: chunked"
LENGTH = "POST /v1/chat/completions HTTP/1.1\nHost: h\nContent-Type: application/json\nContent-Length: "
GET = "GET /v1/models HTTP/1.1\nHost: h\nConnection: close"
UPGRADE = (
    "\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)
TOOLS = json.dumps([{"type": "function", "function": {"name": "t"}}] * 2)

REFUSED: dict[str, tuple[bytes, int]] = {
    "a chunked body without an end": (bare(CHUNKED, b"5\r\n{'mes\r\n"), 408),
    "an announced body that does not come": (bare(f"{LENGTH}100", b"{"), 408),
    "a chunked body that is too large": (bare(CHUNKED, b"30000\r\n" + b"x" * 0x30000 + b"\r\n0\r\n\r\n"), 413),
    "a chunk of no size": (bare(CHUNKED, b"zz\r\n"), 400),
    "two lengths": (bare(f"{LENGTH}5\nContent-Length: 6", b"abcdef"), 400),
    "a negative length": (bare(f"{LENGTH}-5"), 400),
    "a length beyond all": (bare(f"{LENGTH}{'9' * 30}"), 400),
    "a flood of headers": (bare(GET + "\nX-1: y" * 20_000), 400),
    "no host": (bare("GET /v1/models HTTP/1.1\nConnection: close"), 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n", 400),
    "OPTIONS": (bare(GET.replace("GET /v1/models", "OPTIONS /v1/chat/completions") + "\nOrigin: http://evil"), 405),
    "TRACE": (bare(GET.replace("GET", "TRACE")), 405),
    "a WebSocket": (bare("GET /v1/chat/completions HTTP/1.1\nHost: h" + UPGRADE), 403),
    "a path upwards": (bare(GET.replace("/v1/models", "/%2e%2e/%2e%2e/etc/passwd")), 404),
    "plain text": (post(f"{{{SAID}}}", kind="text/plain"), 415),
    "a form": (post("a=b", kind="application/x-www-form-urlencoded"), 415),
    "a compressed body": (post(gzip.compress(f"{{{SAID}}}".encode()), more="Content-Encoding: gzip\r\n"), 415),
    "another encoding": (post(f"{{{SAID}}}".encode("utf-16")), 400),
    "broken UTF-8": (post(b'{"messages":[{"role":"user","content":"\xff"}]}'), 400),
    "nothing": (post(""), 400),
    "an array": (post("[]"), 400),
    "half of it": (post('{"messages":['), 400),
    "more than it": (post(f"{{{SAID}}} x"), 400),
    "a deep array": (with_field("metadata", "[" * 20_000 + "]" * 20_000), 400),
    "a deep object": (with_field("metadata", '{"a":' * 10_000 + "1" + "}" * 10_000), 400),
    "NaN": (with_field("temperature", "NaN"), 400),
    "infinity": (with_field("temperature", "1e400"), 400),
    "a number of 4000 digits": (with_field("seed", "9" * 4000), 400),
    "a million answers": (with_field("n", "1000000"), 400),
    "true answers": (with_field("n", "true"), 400),
    "fewer than no tokens": (with_field("max_tokens", "-1"), 400),
    "10,000 stop strings": (with_field("stop", json.dumps(["a"] * 10_000)), 400),
    "an empty stop string": (with_field("stop", '[""]'), 400),
    "half a pair as a key": (with_field("\\ud800", "1"), 400),
    "half a pair as a model": (with_field("model", '"\\ud800"'), 400),
    "a NUL in a model": (with_field("model", '"a\\u0000"'), 404),
    "a bias of NaN": (with_field("logit_bias", '{"5":NaN}'), 400),
    "a role of another language": (post('{"messages":[{"role":"__proto__","content":"a"}]}'), 400),
    "a file": (post('{"messages":[{"role":"user","content":[{"type":"image","path":"/etc/passwd"}]}]}'), 400),
    "a tool twice": (with_field("tools", TOOLS), 400),
    "nested prompts": (post('{"prompt":[[[5]]]}', path="/v1/completions"), 400),
    "mixed prompts": (post('{"prompt":["a",5]}', path="/v1/completions"), 400),
    "a hundred prompts": (post(json.dumps({"prompt": ["a"] * 100}), path="/v1/completions"), 400),
}  # fmt: skip
TAKEN: dict[str, bytes] = {
    "a key twice": with_field("n", '1,"n":1'),
    "a byte order mark": post(b"\xef\xbb\xbf" + f"{{{SAID}}}".encode()),
    "HTTP/1.0": post(f"{{{SAID}}}").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/1.0, streamed": with_field("stream", "true").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HEAD": bare(GET.replace("GET", "HEAD")),
    "a NUL in a text": post('{"messages":[{"role":"user","content":"a\\u0000b"}]}'),
}


async def sent(port: int, data: bytes) -> bytes:
    """Return all that comes back for some bytes, until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(20):
            return await reader.read(-1)
    except ConnectionError:  # closed before all was read
        return b"HTTP/1.1 400 "
    finally:
        writer.close()


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


async def test_hostile_requests_have_their_status_and_harm_no_other() -> None:
    backend = ScriptedBackend("Hello there")
    app_options: dict[str, Any] = {"body_seconds": 0.3, "max_body": 100_000, "max_choices": 16}
    async with serving(backend, **app_options) as client:
        port = port_of(str(client.base_url).rstrip("/"))
        cases = {**REFUSED, **{name: (data, 200) for name, data in TAKEN.items()}}
        answers = await asyncio.gather(*[sent(port, data) for data, _ in cases.values()])
        got = {name: answer[9:12].decode() for name, answer in zip(cases, answers, strict=True)}
        assert got == {name: str(status) for name, (_, status) in cases.items()}
        assert not any(b"Traceback" in answer or b"passwd\n" in answer for answer in answers)
        assert (await client.post("/v1/chat/completions", json=asking())).status_code == 200
        assert "llama4_requests_running 0.0" in (await client.get("/metrics")).text
    assert backend.running == 0


async def test_pipelined_requests_are_answered_in_turn_and_clients_that_vanish_leave_nothing() -> None:
    backend = ScriptedBackend(["Hello ", 0.05, "there"])
    async with serving(backend) as client:
        port = port_of(str(client.base_url).rstrip("/"))
        streamed = with_field("stream", "true")
        first = streamed.replace(b"Connection: close\r\n", b"")
        answer = await sent(port, first + first + streamed)
        assert (answer.count(b"HTTP/1.1 200"), answer.count(b"[DONE]")) == (3, 3)
        for cut in (1, 5, 200):
            for _ in range(10):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(streamed[:-cut])
                writer.transport.abort()
        assert (await client.post("/v1/chat/completions", json=asking())).status_code == 200
        assert "llama4_requests_running 0.0" in (await client.get("/metrics")).text
    assert backend.running == 0


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic c2VjcmV0",
        "Bearer wrong",
        "Bearer \xff\xfe",
        "Bearer ",
        "Bearer\tsecret",
        "secret",
        f"Bearer {'a' * 20_000}",
    ],
)
async def test_keys_that_are_none_are_refused(header: str) -> None:
    async with (
        Llama4(ScriptedBackend("Hello")) as llama,
        running(create_app(llama, api_keys={"secret": KeyLimits(running=1)}), shutdown_seconds=1) as server,
    ):
        port = port_of(server.url)
        wrong = await sent(port, post(f"{{{SAID}}}", more=f"Authorization: {header}\r\n"))
        twice = await sent(
            port, post(f"{{{SAID}}}", more="Authorization: Bearer x\r\nAuthorization: Bearer secret\r\n")
        )
        right = await sent(port, post(f"{{{SAID}}}", more="authorization: bearer secret\r\n"))
    assert [answer[9:12] for answer in (wrong, twice, right)] == [b"401", b"401", b"200"]


def test_many_tools_are_compared_in_a_moment() -> None:
    names = [f"t{number}" for number in range(20_000)]
    begun = time.process_time()
    check_different(names)
    with pytest.raises(InvalidRequest, match="declared twice: t7"):
        check_different([*names, "t7"])
    assert time.process_time() - begun < 1  # of milliseconds; each with each takes many seconds
