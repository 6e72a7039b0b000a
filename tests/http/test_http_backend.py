"""The remote backend as a whole: start, prompts, certificates, event loops, and what may touch the network."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import llama4_http
from http_asking import ask
from llama4_http import HttpBackend, Retries, open_backend
from llama4_http.prompt import compare
from llama4sdk.errors import InvalidRequest, ProtocolError, ServerFault, Unreachable
from llama4sdk.events import Started
from llama4sdk.messages import conversation
from llama4sdk.prompting import PromptTemplate, Tokenizer
from llama4sdk.request import OutputSpec, Request, Sampling, ToolSpec
from llama4sdk.testing.faults import FaultServer

NANO = Path(__file__).parents[2] / "backends/llama4_local/nano/checkpoint/tokenizer.json"
GREETING = "Héllo 👋, you said: Hello!"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(NANO)


async def test_the_server_tells_model_and_context() -> None:
    async with FaultServer() as server:
        backend = HttpBackend(server.url)
        await backend.start()
        assert (backend.capabilities.model, backend.capabilities.context) == ("faults", 20_000)
        assert backend.profile.name == "openai-generic"
        await backend.aclose()


async def test_named_model_and_profile_need_no_question() -> None:
    async with FaultServer() as server:
        backend = open_backend(server.url, model="faults", profile="vllm")
        await backend.start()
        assert server.received == []
        assert (await ask(backend)).reply.text == GREETING
        await backend.aclose()


async def test_a_server_that_is_not_there_yet_is_asked_again() -> None:
    async with FaultServer() as server:
        url = server.url
    backend = HttpBackend(url, retries=Retries(times=0))
    await backend.start()
    assert isinstance((await ask(backend)).error, Unreachable)
    async with FaultServer(port=int(url.split(":")[2].split("/")[0])):
        assert (await ask(backend)).reply.text == GREETING
    await backend.aclose()


async def test_connections_are_kept_between_answers() -> None:
    async with FaultServer() as server:
        backend = HttpBackend(server.url, model="faults", profile="vllm")
        for _ in range(3):
            assert (await ask(backend)).error is None
            assert server.connections == 1
        await backend.aclose()


async def test_tools_are_called_through_the_server() -> None:
    tool = ToolSpec("get_weather", "", {"type": "object", "properties": {"city": {"type": "string"}}})
    async with FaultServer() as server:
        backend = HttpBackend(server.url)
        reply = (await ask(backend, Request(conversation("Weather?"), tools=(tool,)))).reply
        assert [(call.name, call.arguments) for call in reply.tool_calls] == [("get_weather", {"city": "Paris"})]
        assert reply.finish_reason == "tool_calls"
        await backend.aclose()


async def test_tokens_are_counted_here_where_the_server_does_not(tokenizer: Tokenizer) -> None:
    async with FaultServer() as server:
        backend = HttpBackend(server.url_for("no_usage"), model="faults", profile="vllm", tokenizer=tokenizer)
        usage = (await ask(backend)).reply.usage
        assert usage.prompt_tokens == PromptTemplate(tokenizer).render("Hello!").count.total
        assert usage.completion_tokens == len(tokenizer.encode(GREETING))
        await backend.aclose()


async def test_a_prompt_made_here_travels_as_token_ids() -> None:
    async with FaultServer() as server:
        backend = HttpBackend(server.url, model="faults", profile="vllm", tokenizer=NANO, prompt_mode="client")
        outcome = await ask(backend, Request(conversation("Hello!"), sampling=Sampling(max_tokens=3)))
        assert outcome.reply.finish_reason == "length"
        assert server.received[-1].path == "/v1/completions"
        assert server.received[-1].json["prompt"] == backend.prompt_template.render("Hello!").token_ids
        await backend.aclose()


async def test_a_schema_is_told_to_the_model_when_the_prompt_is_made_here() -> None:
    schema = OutputSpec({"type": "object", "properties": {"n": {"type": "integer"}}})
    async with FaultServer() as server:
        backend = HttpBackend(server.url, model="faults", profile="vllm", tokenizer=NANO, prompt_mode="client")
        assert (await ask(backend, Request(conversation("Hello!"), output=schema))).error is None
        assert server.received[-1].json["structured_outputs"] == {"json": schema.schema}
        assert len(server.received[-1].json["prompt"]) > 20
        await backend.aclose()


def test_the_first_different_token_is_named_without_words() -> None:
    compare([1, 2, 3], [1, 2, 3])
    with pytest.raises(ProtocolError, match=r"from token 1 on \(3 tokens there, 2 here\)"):
        compare([1, 2], [1, 9, 3])
    with pytest.raises(ProtocolError, match="from token 2 on"):
        compare([1, 2], [1, 2, 3])


def test_client_side_prompts_need_a_tokenizer() -> None:
    with pytest.raises(InvalidRequest, match="tokenizer"):
        HttpBackend("http://127.0.0.1:9/v1", prompt_mode="client")
    with pytest.raises(InvalidRequest, match="tokenizer"):
        _ = HttpBackend("http://127.0.0.1:9/v1").prompt_template


@pytest.mark.parametrize("option", [{"profle": "vllm"}, {"profile": "vlm"}, {"max_connections": 0}, {"tile": 5}])
def test_wrong_options_are_refused_by_name(option: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        open_backend("http://127.0.0.1:9/v1", **option)


def certificate(folder: Path, name: str, days: str = "30") -> ssl.SSLContext:
    """Make a self-signed certificate and the context that serves it."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", days,
         "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with the openssl command")
@pytest.mark.parametrize("trusted", [False, True], ids=["self_signed", "for_another_host"])
async def test_fault_18_a_bad_certificate_is_unreachable_and_not_tried_again(
    tmp_path: Path, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = await asyncio.to_thread(certificate, tmp_path, "elsewhere.invalid")
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    async with FaultServer(tls=context) as server:
        backend = HttpBackend(server.url, model="faults", profile="vllm", retries=Retries(first_wait=0.001))
        error = (await ask(backend)).error
        assert isinstance(error, Unreachable)
        assert "certificate" in str(error)
        assert not error.retryable
        assert server.received == []
        await backend.aclose()


def test_fault_62_a_second_event_loop_is_an_error_and_never_a_hang() -> None:
    backend = HttpBackend("http://127.0.0.1:9/v1", model="m", profile="vllm", retries=Retries(times=0))

    async def once() -> BaseException | None:
        return (await ask(backend)).error

    assert isinstance(asyncio.run(once()), Unreachable)
    error = asyncio.run(once())
    assert isinstance(error, ServerFault)
    assert "event loop" in str(error)

    async def close() -> None:
        await backend.aclose()

    asyncio.run(close())


async def test_fault_61_a_backend_dropped_without_closing_warns() -> None:
    async with FaultServer() as server:
        backend = HttpBackend(server.url, model="faults", profile="vllm")
        assert isinstance((await ask(backend)).events[0], Started)
        with pytest.warns(ResourceWarning, match="aclose"):
            backend.__del__()
        await backend.aclose()


async def test_fault_44_a_lone_surrogate_never_reaches_the_wire() -> None:
    with pytest.raises(InvalidRequest):
        conversation("\ud800")


async def test_an_own_profile_describes_any_server() -> None:
    async with FaultServer() as server:
        own = replace(HttpBackend(server.url, profile="vllm").profile, usage_field=False)
        backend = HttpBackend(server.url, model="faults", profile=own)
        assert (await ask(backend)).error is None
        assert "stream_options" not in server.received[-1].json
        await backend.aclose()


def test_only_the_named_files_await_the_network() -> None:
    files = Path(llama4_http.__file__).parent.glob("*.py")
    awaiting = {
        file.name
        for file in files
        if re.search(r"\bawait\b|^import httpx|^import httpcore", file.read_text(), re.MULTILINE)
    }
    assert awaiting == {
        "backend.py",
        "composing.py",
        "exchange.py",
        "scoring.py",
        "network.py",
        "plain_stream.py",
        "proxies.py",
        "recording.py",
        "surplus.py",
        "transport.py",
    }
