"""`llama4 doctor`: what a backend obeys, tried out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llama4sdk.client import Llama4
from llama4sdk.command.cancelling import cancels
from llama4sdk.command.finding import PATIENCE, Finding, Verdict
from llama4sdk.command.terminal import harmless, in_words
from llama4sdk.errors import BadKey, LlamaError, Unreachable
from llama4sdk.events import TextDelta
from llama4sdk.guards.llama_guard import CANARY
from llama4sdk.sampling import Sampling

if TYPE_CHECKING:
    from llama4sdk.backend import Backend

_STYLES: dict[Verdict, str] = {"yes": "green", "no": "yellow", "unknown": "dim", "failed": "bold red"}
_SHORT = Sampling(max_tokens=64, temperature=0)


Probe: TypeAlias = Callable[[Llama4], Awaitable[Finding]]


def examine(name: str | Backend, options: dict[str, Any]) -> int:
    """Try a backend out, print a table, and return 1 where a probe failed, else 0.

    Raises:
        LlamaError: It cannot be started or reached.
    """
    table = Table("feature", "obeyed", "detail")
    failures: list[str] = []

    async def run() -> None:
        async with Llama4(name, guards=None, **options) as llama:
            await llama.ready()
            for subject, probe in PROBES.items():
                finding = await tried(probe, llama)
                table.add_row(subject, Text(finding.verdict, _STYLES[finding.verdict]), Text(harmless(finding.detail)))
                if finding.verdict == "failed":
                    failures.append(subject)

    anyio.run(run)
    Console(highlight=False).print(table)
    return 1 if failures else 0


async def tried(probe: Probe, llama: Llama4) -> Finding:
    """Return a probe's finding; an error is a failure, unless no other probe would find more."""
    try:
        return await probe(llama)
    except LlamaError as error:
        if probe is _answers and isinstance(error, Unreachable | BadKey):
            raise
        return Finding("failed", f"{type(error).__name__}: {in_words(error)[:160]}")


async def _answers(llama: Llama4) -> Finding:
    reply = await llama.chat("Say hello.", sampling=_SHORT, deadlines=PATIENCE)
    counted = reply.usage.prompt_tokens and reply.usage.completion_tokens
    return Finding("yes" if reply.text else "failed", f"{reply.model}; {'' if counted else 'no '}token counts")


async def _streams(llama: Llama4) -> Finding:
    async with llama.stream("Count from 1 to 9.", sampling=_SHORT, deadlines=PATIENCE) as stream:
        pieces = [event async for event in stream if isinstance(event, TextDelta)]
    timing = stream.snapshot.timing
    first = f", the first after {timing.first_token:.2f} s" if timing and timing.first_token else ""
    speed = f", {timing.tokens_per_second:.0f} tokens/s" if timing and timing.tokens_per_second else ""
    return Finding("yes" if len(pieces) > 1 else "failed", f"{len(pieces)} pieces{first}{speed}")


async def _limits(llama: Llama4) -> Finding:
    reply = await llama.chat("Count from 1 to 9.", sampling=Sampling(max_tokens=2), deadlines=PATIENCE)
    kept = reply.finish_reason == "length" and reply.usage.completion_tokens <= 2
    return Finding("yes" if kept else "failed", f"max_tokens=2: {reply.finish_reason}")


async def _seeds(llama: Llama4) -> Finding:
    sampling = Sampling(temperature=1, seed=7, max_tokens=24)
    texts = [(await llama.chat("Tell me a joke.", sampling=sampling, deadlines=PATIENCE)).text for _ in range(2)]
    return Finding("yes" if texts[0] == texts[1] else "no", "the same seed, twice")


async def _schemas(llama: Llama4) -> Finding:
    schema = {"type": "object", "properties": {"word": {"enum": ["yes", "no"]}}, "required": ["word"]}
    try:
        reply = await llama.chat("Is water wet?", output=schema, sampling=_SHORT, deadlines=PATIENCE)
    except LlamaError as error:
        return Finding("no", f"{type(error).__name__}: {in_words(error)[:120]}")
    return Finding("yes" if reply.output else "no", reply.text[:60])


async def _tools(llama: Llama4) -> Finding:
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        return city

    try:
        reply = await llama.chat("What is the weather in Paris?", tools=[get_weather], deadlines=PATIENCE)
    except LlamaError as error:
        return Finding("no", f"{type(error).__name__}: {in_words(error)[:120]}")
    calls = ", ".join(f"{call.name}({call.arguments})" for call in reply.tool_calls)
    return Finding("yes" if calls else "no", calls or reply.text[:60])


async def _sees(llama: Llama4) -> Finding:
    from PIL import Image as Pillow

    capabilities = llama.capabilities
    if not capabilities.vision:
        return Finding("no", "the model has no image encoder")
    most = f"at most {capabilities.max_images}" if capabilities.max_images is not None else "no known limit"
    try:
        image = Pillow.new("RGB", (336, 336), (255, 255, 255))
        reply = await llama.vision("What is in this image?", image, sampling=_SHORT, deadlines=PATIENCE)
    except LlamaError as error:
        return Finding("no", f"{type(error).__name__}: {in_words(error)[:120]}")
    return Finding("yes" if reply.text else "no", f"{most}; {reply.usage.image_tokens or '?'} tokens for one image")


async def _same_prompt(llama: Llama4) -> Finding:
    try:
        ours = llama.count("Say hello.").total
    except LlamaError:
        return Finding("unknown", "the backend has no tokenizer; give tokenizer= to compare")
    theirs = (await llama.chat("Say hello.", sampling=Sampling(max_tokens=1), deadlines=PATIENCE)).usage.prompt_tokens
    return Finding("yes" if ours == theirs else "no", f"{theirs} tokens there, {ours} as the reference has them")


async def _guarded(llama: Llama4) -> Finding:
    """Tell whether guards stand in front: by the server's own list, else by a question that guards do not let pass."""
    names = llama.capabilities.guards
    if names is not None:
        return Finding("yes" if names else "no", ", ".join(names) or "none in front, none named here")
    try:
        reply = await llama.chat(CANARY, sampling=Sampling(max_tokens=16), deadlines=PATIENCE)
    except LlamaError as error:
        if "content_filter" not in f"{error} {error.server_message}":
            raise
        return Finding("yes", "a harmful question was refused with content_filter")
    if reply.finish_reason == "content_filter":
        return Finding("yes", "a harmful question ended with content_filter")
    return Finding("unknown", "the server lists none, and a harmful question was not filtered")


PROBES: dict[str, Probe] = {
    "answers": _answers,
    "streams": _streams,
    "max_tokens": _limits,
    "a left stream stops": cancels,
    "seed": _seeds,
    "JSON schema": _schemas,
    "tools": _tools,
    "images": _sees,
    "prompt template": _same_prompt,
    "guards in front": _guarded,
}
