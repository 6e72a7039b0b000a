"""Llama Guard over any backend: its roles, its answers read strictly, long conversations, images, HTTP, local."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from guards.guard_checkpoints import TEMPLATE, random_guard
from image_files import encoded
from llama4_local import LocalBackend
from llama4_local.checkpoint.chat_template import read_chat_template
from llama4sdk import (
    CheckpointError,
    GuardBlocked,
    GuardUnavailable,
    Image,
    InvalidRequest,
    Llama4,
    Request,
    Sampling,
    Text,
)
from llama4sdk.events import Done, Started, TextDelta, TokenLogprob
from llama4sdk.guards import HARMS, GuardPolicy, Item, LlamaGuard
from llama4sdk.messages import AssistantMessage, SystemMessage, ToolCall, ToolMessage, UserMessage
from llama4sdk.testing import ScriptedBackend
from llama4sdk.testing.faults import FaultServer, honest
from llama4sdk.testing.faults.wire import Received, Wire


def judge(text: str) -> str:
    return "unsafe\nS9,S1" if "bomb" in text.lower() else "safe"


def judging(**options: Any) -> tuple[ScriptedBackend, LlamaGuard]:
    backend = ScriptedBackend(lambda request: judge(request.messages[-1].text), **options)
    return backend, LlamaGuard(backend)


async def test_it_blocks_input_and_answer_by_their_categories() -> None:
    for prompt, answer, stage in (("a bomb", "no", "input"), ("hello", "a bomb", "output")):
        _, guard = judging()
        async with Llama4(ScriptedBackend(answer), guards=[guard]) as llama:
            with pytest.raises(GuardBlocked) as caught:
                await llama.chat(prompt)
        assert (caught.value.stage, caught.value.categories) == (stage, ("mass-weapons", "violent-crime"))


async def test_the_turns_alternate_and_end_with_the_judged_one() -> None:
    backend, guard = judging()
    conversation = [
        SystemMessage("Be brief."),
        UserMessage("one"),
        UserMessage("two"),
        AssistantMessage("three", tool_calls=[ToolCall("go", {"to": "home"})]),
        ToolMessage("four", name="go"),
    ]
    async with Llama4(ScriptedBackend("five"), guards=[guard]) as llama:
        await llama.chat(conversation)
    answered = backend.requests[-1]
    assert [message.role for message in answered.messages] == ["user", "assistant", "user", "assistant"]
    assert answered.messages[-1].text == "five"
    assert all(not isinstance(message.content, str) for message in answered.messages)


@pytest.mark.parametrize(
    "answer",
    ["", "Safe", "unsafe", "unsafe\nS99", "unsafe\n", "safe\nS1", "unsafe S1", "I think it is safe", "unsafe\nS1\nS2"],
)
async def test_every_other_answer_is_an_error(answer: str) -> None:
    guard = LlamaGuard(ScriptedBackend(lambda request: _or_selftest(request, answer)))
    async with Llama4(ScriptedBackend("hello"), guards=[guard]) as llama:
        with pytest.raises(GuardUnavailable):
            await llama.chat("hi")


def _or_selftest(request: Request, answer: str) -> str:
    text = request.messages[-1].text
    return judge(text) if "capital" in text or "bomb" in text else answer


@pytest.mark.parametrize("answer", ["safe", "unsafe\nS1"])
async def test_a_model_with_one_answer_for_everything_fails_its_selftest(answer: str) -> None:
    async with Llama4(ScriptedBackend("hello"), guards=[LlamaGuard(ScriptedBackend(answer))]) as llama:
        with pytest.raises(GuardUnavailable, match="self-test"):
            await llama.chat("hi")


async def test_categories_may_be_selected() -> None:
    backend = ScriptedBackend(lambda request: judge(request.messages[-1].text))
    async with Llama4(ScriptedBackend("hello"), guards=[LlamaGuard(backend, categories=["S7", "hate"])]) as llama:
        reply = await llama.chat("a bomb")
    assert next(one for one in reply.guards if one.guard == "llama-guard").action == "allow"
    with pytest.raises(InvalidRequest, match="violent-crime"):
        LlamaGuard(ScriptedBackend(), categories=["S15"])


async def test_the_score_is_the_probability_of_the_first_word() -> None:
    logprobs = (TokenLogprob("unsafe", -0.5),)
    steps = [Started("r", "b", "m"), TextDelta("unsafe", logprobs), TextDelta("\nS1"), Done("stop")]
    guard = LlamaGuard(ScriptedBackend(steps))
    verdict = await guard.check(Item("input", "x", messages=(UserMessage("x"),)))
    assert verdict.score == pytest.approx(0.6065, abs=1e-3)


@pytest.mark.parametrize("place", [0.0, 0.25, 0.5, 0.77, 1.0])
async def test_a_long_turn_is_judged_whole_in_pieces(place: float) -> None:
    words = ["word"] * 10_000
    words.insert(int(place * len(words)), "bomb")
    _, guard = judging(context=3000)
    text = " ".join(words)
    verdict = await guard.check(Item("input", text, messages=(UserMessage(text),)))
    assert verdict.action == "block"
    assert verdict.coverage.characters == (len(text), len(text))
    assert verdict.coverage.windows[0] > 3


async def test_of_a_long_conversation_the_last_turn_stays_whole() -> None:
    backend, guard = judging(context=100)
    turns = [UserMessage("word " * 30) if n % 2 == 0 else AssistantMessage("word " * 30) for n in range(20)]
    messages = (*turns, UserMessage("the last one"))
    verdict = await guard.check(Item("input", "the last one", messages=messages))
    assert verdict.action == "allow"
    assert verdict.reason == "judged with 2 of 20 earlier turns"
    assert backend.requests[-1].messages[-1].text == "the last one"


async def test_all_images_of_a_turn_are_shown_where_they_occur(tmp_path: Path) -> None:
    backend, guard = judging()
    images = [Image(bytes([n])) for n in range(5)]
    async with Llama4(ScriptedBackend("hello"), guards=[guard]) as llama:
        reply = await llama.chat(
            [UserMessage([images[0], "first"]), AssistantMessage("ok"), UserMessage([*images[1:], "x"])]
        )
    verdict = next(one for one in reply.guards if one.guard == "llama-guard" and one.stage == "input")
    assert verdict.coverage.images == (4, 4)
    judged = next(request for request in backend.requests if len(request.messages) == 3)
    assert [message.images for message in judged.messages] == [(images[0],), (), tuple(images[1:])]


class GuardServer(FaultServer):
    """Judges the last message, as a chat server with Llama Guard does."""

    bodies: list[dict[str, Any]]

    async def _behave(self, wire: Wire, request: Received) -> None:
        body = json.loads(request.body)
        self.bodies = [*getattr(self, "bodies", []), body]
        await wire.head()
        await wire.chunk(
            honest.event(honest.delta({"role": "assistant", "content": judge(json.dumps(body["messages"][-1]))}))
        )
        await wire.chunk(honest.event(honest.delta({}, "stop")))
        await wire.chunk(b"data: [DONE]\n\n")
        await wire.end()


async def test_it_judges_over_http() -> None:
    async with GuardServer() as server:
        guard = LlamaGuard(f"{server.url}", model="faults", profile="openai-generic")
        async with Llama4(ScriptedBackend("a bomb"), guards=[guard]) as llama:
            with pytest.raises(GuardBlocked) as caught:
                await llama.chat("hello")
        assert caught.value.stage == "output"
        assert [message["role"] for message in server.bodies[-1]["messages"]] == ["user", "assistant"]


async def test_a_guard_server_that_is_gone_lets_nothing_through() -> None:
    async with GuardServer() as server:
        url = server.url
    async with Llama4(ScriptedBackend("hello"), guards=[LlamaGuard(url, model="faults")]) as llama:
        with pytest.raises(GuardUnavailable):
            await llama.chat("hello")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return random_guard(tmp_path / "guard")


async def test_a_random_model_of_its_shape_runs_locally_and_fails_its_selftest(checkpoint: Path) -> None:
    guard = LlamaGuard(LocalBackend(checkpoint, own_template=True, device="cpu"))
    policy = GuardPolicy(timeout=60, on_error="allow")
    async with Llama4(ScriptedBackend("hello"), guards=[guard], guard_policy=policy) as llama:
        reply = await llama.chat("hi")
    failed = [one for one in reply.guards if one.status == "error"]
    assert {one.guard for one in failed} == {"llama-guard"}
    assert all("self-test failed with ProtocolError: The guard model's answer" in one.reason for one in failed)


async def test_locally_the_prompt_is_the_checkpoints_own_with_every_image(checkpoint: Path) -> None:
    backend = LocalBackend(checkpoint, own_template=True, device="cpu")
    await backend.start()
    try:
        image = Image(encoded(PIL.Image.new("RGB", (64, 48), "red")))
        conversation = (UserMessage([image, "look"]), AssistantMessage([Text("ok")]), UserMessage([image, "again"]))
        request = Request(conversation, sampling=Sampling(temperature=0, max_tokens=2), part="judged")
        rendered = backend.prompt_template.render(conversation)
        assert "Agent: ok" in rendered.text
        assert len(rendered.tiles) == 2
        async with backend.open(request) as events:
            done = [event async for event in events][-1]
        assert isinstance(done, Done)
        assert done.usage is not None
        assert done.usage.prompt_tokens == rendered.count.total
        assert done.usage.image_tokens == rendered.count.images > 0
    finally:
        await backend.aclose()


async def test_a_checkpoint_without_a_template_of_its_own_is_refused_in_words(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    backend = LocalBackend(checkpoint, own_template=True, device="cpu")
    with pytest.raises(CheckpointError, match="no chat template of its own"):
        await backend.start()
    await backend.aclose()


@pytest.mark.parametrize("name", ["chat_template.json", "tokenizer_config.json"])
@pytest.mark.parametrize("listed", [True, False])
def test_templates_are_read_from_every_place_where_exporters_put_them(
    checkpoint: Path, name: str, listed: bool
) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    value: object = [{"name": "default", "template": TEMPLATE}] if listed else TEMPLATE
    (checkpoint / name).write_text(json.dumps({"chat_template": value}))
    assert read_chat_template(checkpoint) == TEMPLATE


def test_the_categories_are_fourteen() -> None:
    assert list(HARMS) == [f"S{number}" for number in range(1, 15)]
