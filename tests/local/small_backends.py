"""Small random checkpoints with a tokenizer, and engines and backends over them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio
import numpy as np
import torch

from llama4_local import LocalBackend
from llama4_local.cache.page_table import CacheShape
from llama4_local.config.model import GenerationConfig, ModelConfig
from llama4_local.decoding.token_mask import TokenMask
from llama4_local.engine.engine import Engine, EngineLimits
from llama4_local.engine.mailbox import Mailbox, MailboxEvent, Outbox
from llama4_local.engine.request import EngineRequest
from llama4_local.model.transformer import Model
from llama4sdk.errors import LlamaError
from llama4sdk.events import Done, Event, TextDelta, Usage
from llama4sdk.images import Tiles
from llama4sdk.messages import conversation
from llama4sdk.prompting import Tokenizer
from llama4sdk.request import Request, Sampling
from local.small_checkpoints import PATCH, VOCABULARY, biting_weights, saved, scout
from small_tokenizers import json_file, ranks

# Several threads only get in one another's way on so small a network.
torch.set_num_threads(1)

FIRST_SPECIAL = len(ranks())
_NAMED = (
    "<|begin_of_text|>",
    "<|eom|>",
    "<|eot|>",
    "<|header_start|>",
    "<|header_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|image_start|>",
    "<|image_end|>",
    "<|image|>",
    "<|tile_x_separator|>",
    "<|tile_y_separator|>",
)
EOM, EOT = FIRST_SPECIAL + 1, FIRST_SPECIAL + 2
GREEDY = Sampling(temperature=0, max_tokens=12)
ENDLESS = Sampling(temperature=0, max_tokens=400)


def tokenizer_file(words: dict[bytes, int] | None = None, *, padding: str | None = None) -> bytes:
    """A tokenizer that knows every id of the small checkpoints; of other words, as many, where they are given."""
    count = VOCABULARY - FIRST_SPECIAL
    names = [*_NAMED, *(f"<|reserved_special_token_{n}|>" for n in range(count - len(_NAMED)))]
    names[PATCH - FIRST_SPECIAL] = "<|patch|>"
    names[-1] = padding or names[-1]
    return json_file(names, first=FIRST_SPECIAL, words=words)


def chatting(config: ModelConfig | None = None, stop_ids: tuple[int, ...] = (EOM, EOT)) -> ModelConfig:
    """A config whose stop tokens are the tokenizer's, with tiles as large as the template can count."""
    config = config or scout()
    vision = config.vision and replace(config.vision, image_size=56, patch_size=14)
    return replace(config, vision=vision, generation=GenerationConfig(eos_token_ids=stop_ids))


def saved_chat(folder: Path, config: ModelConfig | None = None, seed: int = 0) -> Path:
    """Save a checkpoint that a `LocalBackend` can serve, and return its folder."""
    saved(folder, config or chatting(), seed)
    (folder / "tokenizer.json").write_bytes(tokenizer_file())
    return folder


def endless(config: ModelConfig | None = None) -> ModelConfig:
    """A network that never stops by itself, so that answers have a known length."""
    return chatting(config, stop_ids=())


@dataclass
class Reader:
    """Stands in for an event loop and a reader: takes the engine's events at once, or not at all."""

    mailbox: Mailbox
    events: list[MailboxEvent] = field(default_factory=list)
    engine_request: EngineRequest | None = None
    taken: int = 0

    def read_all(self) -> None:
        """Take everything that has come, as a reader on a loop does."""
        for _ in range(len(self.events) - self.taken):
            with contextlib.suppress(StopIteration):
                self.mailbox.take().send(None)  # it has arrived: nothing to wait for
        self.taken = len(self.events)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def done(self) -> Done | None:
        return next((event for event in self.events if isinstance(event, Done)), None)

    @property
    def error(self) -> LlamaError | None:
        return next((event for event in self.events if isinstance(event, LlamaError)), None)

    @property
    def usage(self) -> Usage:
        assert self.done
        assert self.done.usage
        return self.done.usage

    @property
    def over(self) -> bool:
        return self.done is not None or self.error is not None


class CollectingOutbox(Outbox):
    """Hands events to readers as soon as they are put."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[Mailbox, Reader] = {}

    def put(self, mailbox: Mailbox, event: MailboxEvent) -> None:
        self.readers[mailbox].events.append(event)
        mailbox.count(1)
        mailbox.deliver([event])


class SmallEngine:
    """An engine without a thread, stepped by the test."""

    def __init__(
        self,
        config: ModelConfig | None = None,
        *,
        global_pages: int = 64,
        local_pages: int = 32,
        page_size: int = 4,
        limits: EngineLimits | None = None,
        seed: int = 0,
        cache_dtype: torch.dtype | None = None,
        clock: Callable[[], float] = perf_counter,
        model: Model | None = None,
    ) -> None:
        self.config = config or chatting()
        self.model = model or Model.create(self.config, biting_weights(self.config, seed))
        chunk = self.config.text.chunk
        self.shape = CacheShape(global_pages, local_pages if chunk else 0, page_size, chunk)
        self.tokenizer = Tokenizer.from_bytes(tokenizer_file())
        self.outbox = CollectingOutbox()
        self.engine = Engine(
            self.model,
            self.shape,
            limits or EngineLimits(step_tokens=16),
            tokenizer=self.tokenizer,
            outbox=self.outbox,
            cache_dtype=cache_dtype,
            clock=clock,
        )

    def submit(
        self,
        token_ids: Sequence[int],
        sampling: Sampling = GREEDY,
        *,
        tiles: tuple[Tiles, ...] = (),
        seed: int = 0,
        priority: int = 0,
        salt: str = "",
        room: int = 10**9,
        in_session: bool = False,
        answers: bool = True,
        mask: TokenMask | None = None,
    ) -> Reader:
        reader = Reader(Mailbox(room, lambda: None))
        self.outbox.readers[reader.mailbox] = reader
        reader.engine_request = EngineRequest(
            request_id=f"request {len(self.outbox.readers)}",
            token_ids=list(token_ids),
            tiles=tiles,
            image_tokens=0,
            limit=len(token_ids) + (sampling.max_tokens or 50),
            sampling=sampling,
            seed=seed,
            priority=priority,
            cache_salt=salt,
            mailbox=reader.mailbox,
            answers=answers,
            in_session=in_session,
            mask=mask,
        )
        self.engine.submit(reader.engine_request)
        return reader

    def run(self, steps: int = 2000) -> None:
        """Step until nothing can go on."""
        for _ in range(steps):
            if self.engine.idle:
                return
            self.engine.step()
        raise AssertionError("the engine does not come to rest")

    def answer(self, token_ids: Sequence[int], sampling: Sampling = GREEDY, **options: Any) -> Reader:
        reader = self.submit(token_ids, sampling, **options)
        self.run()
        return reader


def image(config: ModelConfig, tiles: int, seed: int = 0) -> Tiles:
    """An image of random pixels, cut into so many tiles."""
    assert config.vision
    side = config.vision.image_size
    levels = np.random.default_rng(seed).integers(0, 256, (tiles, 3, side, side), dtype=np.uint8)
    return Tiles(levels, 1, tiles, hashlib.sha256(levels.tobytes()).hexdigest())


def check_at_rest(small: SmallEngine) -> None:
    """Every page is free once kept prefixes are given up."""
    engine = small.engine
    assert engine.load.requests == 0
    engine._prefixes.clear()  # pyright: ignore[reportPrivateUsage]
    pages = engine._pages  # pyright: ignore[reportPrivateUsage]
    assert pages.global_pool.free == small.shape.global_pages
    assert pages.local_pool.free == small.shape.local_pages


def asking(text: str = "hello world", sampling: Sampling = GREEDY, **options: Any) -> Request:
    """A request of one user message."""
    return Request(conversation(text), sampling=sampling, **options)


@asynccontextmanager
async def serving(folder: Path, **options: Any) -> AsyncGenerator[LocalBackend]:
    """A started backend, closed at the end."""
    backend = LocalBackend(folder, **options)
    with anyio.fail_after(120):
        try:
            await backend.start()
            yield backend
        finally:
            await backend.aclose()


async def events_of(backend: LocalBackend, request: Request) -> list[Event]:
    """All events of a request."""
    async with backend.open(request) as events:
        return [event async for event in events]


def text_of(events: Sequence[Event]) -> str:
    """The text that the deltas add up to."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - a thread sets no event of this loop
            await anyio.sleep(0.002)


async def at_rest(backend: LocalBackend) -> None:
    """Wait until the engine holds nothing for any request."""
    await until(lambda: backend.load is not None and not backend.load.requests and not backend.load.global_pages)


async def until_text(events: AsyncIterator[Event]) -> TextDelta:
    """Read up to the first text."""
    async for event in events:
        if isinstance(event, TextDelta):
            return event
    raise AssertionError("there was no text")
