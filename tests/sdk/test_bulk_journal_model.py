"""A journal belongs to one model, whenever that model's name is known, and to one writer."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from llama4sdk import Capabilities, InvalidRequest, Reply, Request
from llama4sdk.bulk.journal import Journal
from llama4sdk.testing import ScriptedBackend
from sdk.journal_working import KEY, PROMPTS, texts, work


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


class LateName(ScriptedBackend):
    """A backend that learns its model's name from its first answer, as one behind a server does."""

    def __init__(self, model: str, *replies: Any) -> None:
        super().__init__(*replies)
        self._late, self._asked = model, False

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, model=self._late if self._asked else "")

    def open(self, request: Request) -> Any:
        self._asked = True
        return super().open(request)


async def test_a_journal_begun_before_the_models_name_was_known_is_not_another_models(path: Path) -> None:
    first = LateName("scout", *("yes" for _ in PROMPTS))
    assert texts(await work(path, first)) == ["yes"] * len(PROMPTS)

    with pytest.raises(InvalidRequest, match="'scout', not 'maverick'"):
        await work(path, LateName("maverick", *("no" for _ in PROMPTS)))
    with pytest.raises(InvalidRequest, match="'scout', not 'maverick'"):
        Journal.open(path, "maverick")

    again = LateName("scout", *("again" for _ in PROMPTS))
    outcomes = await work(path, again)
    assert [outcome.resumed for outcome in outcomes] == [False] + [True] * (len(PROMPTS) - 1)
    assert texts(outcomes) == ["again"] + ["yes"] * (len(PROMPTS) - 1)


def test_replies_of_a_model_without_a_name_are_no_named_models(path: Path) -> None:
    journal = Journal.open(path, "")
    journal.write(KEY, 0, Reply("a", finish_reason="stop"))
    journal.close()
    with pytest.raises(InvalidRequest, match="without a name"):
        Journal.open(path, "scout")
    unnamed = Journal.open(path, "")
    assert unnamed.take(KEY, 0) is not None
    with pytest.raises(InvalidRequest, match="without a name"):
        unnamed.name("scout")
    unnamed.close()


async def test_an_entry_that_is_cancelled_frees_the_journal_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, may_go_on = threading.Event(), threading.Event()
    whole = Journal.open

    def slow(*given: Any, **how: Any) -> Journal:
        journal = whole(*given, **how)
        opened.set()
        may_go_on.wait(10)
        return journal

    monkeypatch.setattr(Journal, "open", slow)

    async def enter() -> None:
        await work(path, ScriptedBackend(*("a" for _ in PROMPTS)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
        await anyio.to_thread.run_sync(opened.wait)
        tasks.cancel_scope.cancel()
        may_go_on.set()
    whole(path).close()
