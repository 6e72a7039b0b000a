"""No key, prompt or image in any error, log record or repr: canaries are planted and looked for."""

from __future__ import annotations

import base64
import logging
import traceback
from io import BytesIO

import pytest
from PIL import Image as Pillow

from http_asking import ask
from llama4_http import HttpBackend, Retries
from llama4sdk.errors import InvalidRequest
from llama4sdk.messages import Image, UserMessage
from llama4sdk.request import Request
from llama4sdk.testing.faults import MISDEEDS, FaultServer

KEY = "nvapi-CANARYKEY0123456789"
PROMPT = "CANARYPROMPT about something private"


def image() -> bytes:
    file = BytesIO()
    Pillow.effect_noise((40, 40), 90).convert("RGB").save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "name", ["echo", "echo_in_stream", "status_401", "reset_mid_stream", "html_502", "huge_line", "redirect"]
)
async def test_no_canary_appears_anywhere(name: str, caplog: pytest.LogCaptureFixture) -> None:
    data = image()
    inline = base64.b64encode(data).decode()[40:80]
    caplog.set_level(logging.DEBUG)
    async with FaultServer() as server:
        backend = HttpBackend(server.url_for(name), model="faults", api_key=KEY, retries=Retries(first_wait=0.001))
        request = Request((UserMessage([Image(data), PROMPT]),))
        error = (await ask(backend, request)).error
        assert error is not None
        assert server.received[-1].headers["authorization"] == f"Bearer {KEY}"
        assert inline.encode() in server.received[-1].body
        seen = "\n".join(
            [
                *traceback.format_exception(error),
                repr(error),
                repr(backend),
                str(backend.settings),
                caplog.text,
                *(repr(vars(record)) for record in caplog.records if record.name.startswith(("llama4", "http"))),
            ]
        )
        await backend.aclose()
    for canary in (KEY, "CANARYKEY", PROMPT, "CANARYPROMPT", inline):
        assert canary not in seen


async def test_the_key_goes_to_the_server_alone() -> None:
    async with FaultServer() as server:
        backend = HttpBackend(server.url, api_key=KEY)
        assert (await ask(backend)).error is None
        assert all(request.headers["authorization"] == f"Bearer {KEY}" for request in server.received)
        assert all(request.headers["accept-encoding"] == "identity" for request in server.received)
        await backend.aclose()


@pytest.mark.parametrize("key", ["key\n", " key", "kéy", "", "a\x00b"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        HttpBackend("http://127.0.0.1:9/v1", api_key=key)
    assert not key.strip() or key.strip() not in str(caught.value).replace("api_key", "").replace("no key has", "")


@pytest.mark.parametrize(
    "url", ["http://user:secret@host/v1", "ftp://host/v1", "host:80", "http://host/v1?key=1", "http://[", "http://h:x/"]
)
def test_an_address_that_cannot_be_used_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        HttpBackend(url)
    assert "secret" not in str(caught.value)


def test_the_environments_key_goes_to_its_own_host_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from llama4_http.settings import key_for

    monkeypatch.setenv("NVIDIA_API_KEY", KEY)
    assert key_for("https://integrate.api.nvidia.com/v1", None) == KEY
    assert key_for("https://example.org/v1", None) is None


def test_the_faults_that_repeat_the_request_exist() -> None:
    assert {"echo", "echo_in_stream"} <= set(MISDEEDS)
