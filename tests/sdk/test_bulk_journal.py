"""A journal lets bulk work go on after a crash: nothing is lost, nothing is asked twice."""

from __future__ import annotations

import json
import math
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, Any, cast

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from pydantic import AfterValidator

from llama4sdk import (
    Image,
    ImageError,
    InvalidRequest,
    Llama4,
    LlamaError,
    Overloaded,
    Reply,
    Request,
    Sampling,
    ServerFault,
    TokenLogprob,
    ToolCall,
    Usage,
    UserMessage,
)
from llama4sdk.bulk import map_prompts
from llama4sdk.bulk.journal import Journal
from llama4sdk.bulk.key import prompt_key
from llama4sdk.messages import Prompt, conversation
from llama4sdk.request import OutputSpec
from llama4sdk.testing import ScriptedBackend
from sdk.journal_working import KEY, PROMPTS, texts, work


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


class TypedAnswer:
    """A type whose JSON schema does not tell all that it checks."""

    def __init__(self, limit: int) -> None:
        def check(value: int) -> int:
            if value > limit:
                raise ValueError("too large")
            return value

        self.type = Annotated[int, AfterValidator(check)]


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_what_is_done_is_not_asked_again(path: Path, loop: str) -> None:
    async def main() -> None:
        first = await work(path, ScriptedBackend(), PROMPTS[:6])
        assert not any(outcome.resumed for outcome in first)
        backend = ScriptedBackend()
        second = await work(path, backend)
        assert texts(second) == PROMPTS
        assert [outcome.resumed for outcome in second] == [True] * 6 + [False] * 4
        assert len(backend.requests) == 4
        assert [outcome.result() for outcome in second[:6]] == [outcome.result() for outcome in first]

    anyio.run(main, backend=loop)


async def test_what_failed_is_asked_again(path: Path) -> None:
    def fails_on_odd(request: Request) -> Any:
        text = request.messages[-1].text
        return [ServerFault("It broke.", retryable=False)] if int(text[-1]) % 2 else text

    first = await work(path, ScriptedBackend(fails_on_odd))
    assert [outcome.ok for outcome in first] == [True, False] * 5
    backend = ScriptedBackend()
    assert texts(await work(path, backend)) == PROMPTS
    assert len(backend.requests) == 5


async def test_the_order_of_the_prompts_may_change(path: Path) -> None:
    await work(path, ScriptedBackend())
    backend = ScriptedBackend()
    assert texts(await work(path, backend, PROMPTS[::-1])) == PROMPTS[::-1]
    assert backend.requests == []


async def test_equal_prompts_keep_their_own_replies(path: Path) -> None:
    first = texts(await work(path, ScriptedBackend("one", "two", "three"), ["?"] * 3, concurrency=1))
    backend = ScriptedBackend("four", "five")
    second = texts(await work(path, backend, ["?"] * 5, concurrency=4))
    assert second[:3] == first == ["one", "two", "three"]
    assert sorted(second[3:]) == ["five", "four"]


@pytest.mark.parametrize("how", [{"sampling": Sampling(seed=1)}, {"output": {"type": "string"}}])
async def test_another_way_of_asking_is_another_question(path: Path, how: dict[str, Any]) -> None:
    await work(path, ScriptedBackend('"a"'), ["?"])
    backend = ScriptedBackend('"a"')
    await work(path, backend, ["?"], **how)
    assert len(backend.requests) == 1


async def test_a_typed_answer_is_read_anew(path: Path) -> None:
    backend = ScriptedBackend("[1, 2]")
    for again in (False, True):
        (outcome,) = await work(path, backend, ["?"], output=list[int])
        assert outcome.result().output == [1, 2]
        assert outcome.resumed is again
    assert len(backend.requests) == 1


async def test_an_answer_that_a_stricter_type_refuses_is_asked_again(path: Path) -> None:
    low, high = (TypedAnswer(limit) for limit in (5, 1))
    await work(path, ScriptedBackend("3"), ["?"], output=low.type)
    backend = ScriptedBackend("0")
    (outcome,) = await work(path, backend, ["?"], output=high.type)
    assert outcome.result().output == 0
    assert len(backend.requests) == 1


def test_a_reply_comes_back_whole(path: Path) -> None:
    logprobs = (
        TokenLogprob("a", -0.5, 7, (TokenLogprob("a", -0.5, 7), TokenLogprob("\ud800", -math.inf))),
        TokenLogprob("\ufffd", -1.25),
    )
    replies = [
        Reply(
            "Grüße\u2028\n\x00 \ud800 🦙",
            tool_calls=(ToolCall("f", {"b": [1, {"x": None}], "a": "é"}, "id1"), ToolCall("g")),
            usage=Usage(5, 4, 3, 2),
            finish_reason="tool_calls",
            logprobs=logprobs,
            request_id="r",
            backend="b",
            model="m",
        ),
        Reply(finish_reason="length"),
    ]
    journal = Journal.open(path)
    for index, reply in enumerate(replies):
        journal.write(KEY, index, reply)
        assert journal.take(KEY, index) is None  # only what was there when it was opened
    journal.close()
    assert path.read_bytes().isascii()
    journal = Journal.open(path)
    assert [journal.take(KEY, index) for index in (1, 0, 1)] == [replies[1], replies[0], None]
    journal.close()


def test_prompts_are_not_in_it_and_others_may_not_read_it(path: Path) -> None:
    async def main() -> None:
        await work(path, ScriptedBackend("yes", [Overloaded("Busy.")]), ["the secret", "more secret"], retries=0)

    anyio.run(main)
    header, *lines = map(json.loads, path.read_text().splitlines())
    assert header == {"format": "llama4sdk.bulk/1", "model": "script"}
    assert "secret" not in path.read_text()
    assert sorted("reply" in line for line in lines) == [False, True]
    assert {"kind": "Overloaded", "message": "Busy."} in [line.get("error") for line in lines]
    assert all(len(line["key"]) == 64 for line in lines)
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_crash_costs_at_most_the_line_it_cut(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("cut") / "answers.jsonl"
    keys = [f"{number:064x}" for number in range(4)]
    journal = Journal.open(path, "model")
    for index, key in enumerate(keys):
        journal.write(key, index, Reply(f"reply {index}", finish_reason="stop"))
    journal.close()
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    zeros = data.draw(st.sampled_from([b"", b"\0" * 100])) if whole[:cut].count(b"\n") else b""
    path.write_bytes(whole[:cut] + zeros)

    kept = max(0, whole[:cut].count(b"\n") - 1)
    for _ in range(2):  # as it was left, then as it was mended
        journal = Journal.open(path, "model")
        replies = [journal.take(key, index) for index, key in enumerate(keys)]
        assert [reply.text if reply else None for reply in replies] == [
            f"reply {index}" if index < kept else None for index in range(4)
        ]
        for index in range(kept, 4):
            journal.write(keys[index], index, Reply(f"reply {index}", finish_reason="stop"))
        journal.close()
        assert path.read_bytes() == whole
        kept = 4


KILLED = """
import os, signal, sys
import anyio
from llama4sdk import Llama4
from llama4sdk.bulk import map_prompts
from llama4sdk.bulk.journal import Journal
from llama4sdk.testing import ScriptedBackend

append, lines = Journal._append, []

def dies_in_the_middle(self, line):
    lines.append(line)
    if len(lines) == 6:
        append(self, line[: len(line) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, line)

Journal._append = dies_in_the_middle

async def main():
    prompts = [f"prompt {number}" for number in range(10)]
    async with Llama4(ScriptedBackend()) as llama, map_prompts(llama, prompts, journal=sys.argv[1]) as outcomes:
        async for outcome in outcomes:
            pass

anyio.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_process_killed_in_the_middle_of_a_line_goes_on(path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert not path.read_bytes().endswith(b"\n")
    backend = ScriptedBackend()
    outcomes = anyio.run(work, path, backend)
    assert texts(outcomes) == PROMPTS
    assert sum(outcome.resumed for outcome in outcomes) == 4
    assert len(backend.requests) == 6
    assert len(path.read_text().splitlines()) == 11


async def test_two_at_once_are_refused(path: Path) -> None:
    async with Llama4(ScriptedBackend()) as llama:
        async with map_prompts(llama, PROMPTS, journal=path):
            with pytest.raises(InvalidRequest, match="Someone else writes"):
                await work(path, ScriptedBackend())
        await work(path, ScriptedBackend())


def test_another_process_is_refused_until_the_first_has_closed(path: Path) -> None:
    code = "import sys; from llama4sdk.bulk.journal import Journal; Journal.open(sys.argv[1]).close()"
    command = [sys.executable, "-c", code, str(path)]
    journal = Journal.open(path)
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Someone else writes" in refused.stderr
    journal.close()
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("content", [b"my own notes", b"my own notes\n", b'{"a": 1}\n{"b"', b"\0", b"[" * 100_000])
def test_a_file_of_another_kind_stays_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match="not a journal"):
        Journal.open(path)
    assert path.read_bytes() == content


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "such" / "folder", "a\0b"):
        with pytest.raises(InvalidRequest, match="The journal"):
            Journal.open(path)


def test_another_models_journal_is_refused(path: Path) -> None:
    Journal.open(path, "scout").close()
    with pytest.raises(InvalidRequest, match="'scout', not 'maverick'"):
        Journal.open(path, "maverick")
    Journal.open(path, "").close()
    Journal.open(path, "scout").close()


@pytest.mark.parametrize(
    "line", ["", "{}", "{", "[]", '{"key": "x", "index": 0, "reply": {}}', f'{{"key": "{KEY}", "index": 0}}']
)
def test_a_damaged_line_is_named(path: Path, line: str) -> None:
    journal = Journal.open(path)
    journal.write(KEY, 0, Reply("a", finish_reason="stop"))
    journal.close()
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, lines[1], ""]))
    with pytest.raises(InvalidRequest, match="Line 2"):
        Journal.open(path)


def test_a_reply_that_does_not_fit_is_an_error_when_it_is_taken(path: Path) -> None:
    Journal.open(path).close()
    with path.open("a") as file:
        file.write(f'{{"key": "{KEY}", "index": 0, "reply": {{"text": 5}}}}\n')
    journal = Journal.open(path)
    with pytest.raises(LlamaError, match="cannot be read"):
        journal.take(KEY, 0)
    journal.close()


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_full_disk_ends_the_work_and_leaves_the_journal_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    append = cast("Any", Journal)._append
    lines: list[bytes] = []

    def full(self: Journal, line: bytes) -> None:
        lines.append(line)
        append(self, line[:5] if len(lines) > 4 else line)
        if len(lines) > 4:
            raise OSError(28, "No space left on device")

    async def main() -> None:
        backend = ScriptedBackend()
        with pytest.raises(LlamaError, match="No space left on device"):
            await work(path, backend, concurrency=2)
        assert backend.running == 0
        assert len(backend.requests) < 10

    monkeypatch.setattr(Journal, "_append", full)
    anyio.run(main, backend=loop)
    assert path.read_bytes() == b"".join(lines[:4])
    assert lines[5:] == []  # after the first failure nothing is written


async def test_the_loop_does_not_wait_for_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[threading.Thread] = set()
    for name in ("_begin", "take", "write", "close"):
        method = getattr(Journal, name)

        def noted(self: Journal, *args: object, method: Any = method) -> object:
            threads.add(threading.current_thread())
            return method(self, *args)

        monkeypatch.setattr(Journal, name, noted)
    await work(path, ScriptedBackend())
    assert threads
    assert threading.main_thread() not in threads


def key(prompt: Prompt, sampling: Sampling | None = None, output: OutputSpec | None = None) -> str:
    return prompt_key(conversation(prompt), sampling or Sampling(), output)


def test_equal_questions_have_equal_keys(tmp_path: Path) -> None:
    image = Pillow.new("RGB", (3, 2), "red")
    image.save(tmp_path / "red.png")
    data = (tmp_path / "red.png").read_bytes()
    assert key("Hello") == key([{"role": "user", "content": "Hello"}]) == key(UserMessage(["Hello"]))
    assert key("Hello", Sampling(stop="x")) == key("Hello", Sampling(stop=["x"]))
    named, held = UserMessage([Image(tmp_path / "red.png")]), UserMessage([Image(data)])
    assert key(named) == key(held)
    assert key(UserMessage([Image(image)])) == key(UserMessage([Image(image.copy())]))


def test_unequal_questions_have_unequal_keys(tmp_path: Path) -> None:
    red, blue = (Pillow.new("RGB", (3, 2), colour) for colour in ("red", "blue"))
    prompts: list[Prompt] = [
        "Hello",
        "Hello ",
        [{"role": "system", "content": "Hello"}, {"role": "user", "content": "Hello"}],
        UserMessage(["Hel", "lo"]),
        *(UserMessage([Image(source)]) for source in (red, blue, b"red", b"blue", "http://a/b.png", red.convert("P"))),
        UserMessage([Image(b"red", orient=False)]),
        UserMessage([Image(b"red"), "Hello"]),
        UserMessage(["Hello", Image(b"red")]),
        UserMessage(["image"]),
    ]
    keys = [key(prompt) for prompt in prompts]
    keys += [key("Hello", Sampling(temperature=0)), key("Hello", Sampling(seed=0)), key("Hello", Sampling(seed=1))]
    keys += [key("Hello", Sampling(), OutputSpec({"type": "string"})), key("Hello", Sampling(), OutputSpec({}))]
    assert len(set(keys)) == len(keys)


def test_an_image_that_cannot_be_read_has_no_key(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "missing.png", "a\0b"):
        with pytest.raises(ImageError):
            key(UserMessage([Image(source)]))
