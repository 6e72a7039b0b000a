"""A server lists the guards in front of its model, and `llama4 doctor` tells of them, or that it cannot be seen."""

from __future__ import annotations

import pytest

from guards.guard_doubles import WordGuard
from llama4_http import HttpBackend
from llama4_http.profiles import guards_of
from llama4sdk import Done, InvalidRequest, Llama4, Rejected
from llama4sdk.command.doctor import PROBES, tried
from llama4sdk.guards import Guard
from llama4sdk.server import create_app, running
from llama4sdk.testing import ScriptedBackend

LISTED = "hidden-characters, word"


async def found(backend: ScriptedBackend | HttpBackend | str) -> tuple[str, str]:
    async with Llama4(backend) as llama:
        await llama.ready()
        return await tried(PROBES["guards in front"], llama)


@pytest.mark.parametrize(("guards", "finding"), [([WordGuard()], ("yes", LISTED)), ([], ("yes", "hidden-characters"))])
async def test_our_own_server_lists_its_guards(guards: list[Guard], finding: tuple[str, str]) -> None:
    async with (
        Llama4(ScriptedBackend("fine"), guards=guards) as llama,
        running(create_app(llama), shutdown_seconds=5) as server,
    ):
        assert await found(f"{server.url}/v1") == finding
        async with (
            Llama4(f"{server.url}/v1", guards=[WordGuard(name="second")]) as nearer,
            running(create_app(nearer), shutdown_seconds=5) as front,
        ):
            assert await found(f"{front.url}/v1") == ("yes", f"{finding[1]}, hidden-characters, second")


async def test_a_local_model_has_none_in_front() -> None:
    async with Llama4("local") as llama:
        assert llama.capabilities.guards == ()


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        (["I cannot"], "unknown"),
        ([Done("content_filter")], "yes"),
        ([InvalidRequest("The server answered with HTTP status 400 (content_filter).")], "yes"),
        ([Rejected("The server answered with HTTP status 403.")], "failed"),
    ],
)
async def test_elsewhere_a_harmful_question_is_asked(steps: list[object], verdict: str) -> None:
    backend = ScriptedBackend(steps)  # type: ignore[arg-type]
    assert (await found(backend))[0] == verdict
    assert backend.requests[-1].sampling.max_tokens == 16


@pytest.mark.parametrize("listed", [None, "word", 3, {"a": 1}])
def test_a_list_in_another_form_counts_as_none(listed: object) -> None:
    assert guards_of({"data": [{"id": "m", "guards": listed}]}, "m") is None
    assert guards_of({"data": [{"id": "m", "guards": ["a", 1]}]}, "m") == ("a",)
    assert guards_of({"data": [{"id": "other", "guards": ["a"]}]}, "m") is None
