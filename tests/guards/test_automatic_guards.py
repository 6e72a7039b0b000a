"""The guards of a client that names none: of the environment, else the bundled demonstration with a warning."""

from __future__ import annotations

import warnings

import pytest

import llama4sdk
from llama4sdk import GuardsMissing, InvalidRequest, Llama4
from llama4sdk.command.app import guards_of
from llama4sdk.guards import GuardPolicy, LlamaGuard, PatternGuard, PromptGuard, configured_guards, guards_named
from llama4sdk.testing import ScriptedBackend


def names(llama: Llama4) -> list[str]:
    """Return the names of a client's guards, the one that is always on left out."""
    guarding = getattr(llama.answers, "guarding", None)
    return [] if guarding is None else [guard.name for guard in guarding.guards][1:]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLAMA4_GUARDS", "LLAMA4_GUARD_MODEL", "LLAMA4_GUARD_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_auto_takes_nano_guard_with_one_warning_at_the_callers_line() -> None:
    with pytest.warns(GuardsMissing, match="no protection") as told:
        llama = Llama4(ScriptedBackend(), guards="auto")
    assert names(llama) == ["nano-guard"]
    assert [(warning.category, warning.filename) for warning in told] == [(GuardsMissing, __file__)]
    assert issubclass(llama4sdk.GuardsMissing, UserWarning)


def test_auto_takes_configured_guards_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA4_GUARDS", " llama-guard=http://127.0.0.1:8001/v1 , prompt-guard=/models/pg ")
    assert names(Llama4(ScriptedBackend(), guards="auto")) == ["llama-guard", "prompt-guard"]


def test_guards_that_are_left_out_are_those_of_the_environment_if_any(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names(Llama4(ScriptedBackend())) == []
        assert getattr(Llama4(ScriptedBackend()).answers, "guarding", None) is None
    monkeypatch.setenv("LLAMA4_GUARDS", "prompt-guard=/models/pg")
    assert names(Llama4(ScriptedBackend())) == ["prompt-guard"]
    assert names(Llama4(ScriptedBackend(), guard_policy=GuardPolicy(timeout=1))) == ["prompt-guard"]
    assert names(Llama4(ScriptedBackend(), guards=None)) == []
    assert names(Llama4(ScriptedBackend(), guards=[])) == []
    assert names(Llama4(ScriptedBackend(), guards=[PatternGuard({"a": "b"})])) == ["patterns"]


def test_a_guard_models_server_gets_its_name_and_key() -> None:
    environ = {
        "LLAMA4_GUARDS": "llama-guard=http://127.0.0.1:8001/v1,llama-guard=local:/models/guard",
        "LLAMA4_GUARD_MODEL": "guard-4",
    }
    remote, local = configured_guards(environ)
    assert isinstance(remote, LlamaGuard)
    assert isinstance(local, LlamaGuard)
    assert [guard.backend.capabilities.model for guard in (remote, local)] == ["guard-4", "guard"]


@pytest.mark.parametrize("text", ["llama-guard", "prompt-guard=", "code-shield=x", "nonsense", "=", "Llama-Guard=x"])
def test_other_forms_are_refused_in_words(text: str) -> None:
    with pytest.raises(InvalidRequest, match="llama-guard=BACKEND"):
        guards_named([text])


@pytest.mark.parametrize("given", ["automatic", "none", "AUTO", ""])
def test_other_words_for_guards_are_refused(given: object) -> None:
    with pytest.raises(InvalidRequest, match='"auto", or None'):
        Llama4(ScriptedBackend(), guards=given)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_command_takes_named_guards_none_or_those_of_auto() -> None:
    assert guards_of(None, none=True) is None
    assert guards_of(["prompt-guard=x"], none=True) is None
    assert guards_of(None, none=False) == "auto"
    named = guards_of(["prompt-guard=x"], none=False)
    assert [type(guard) for guard in named or ()] == [PromptGuard]
