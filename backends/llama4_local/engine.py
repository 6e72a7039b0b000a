"""The engine: runs many requests over one model and one cache, a step at a time.

Nothing here waits, and everything belongs to one thread. What a step has to say goes into the outbox.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from llama4_local.answer import Answer, Decoder
from llama4_local.batch import Work, build_batch
from llama4_local.crossing import Outbox
from llama4_local.keeping import Keeper
from llama4_local.kv_cache import KvCache
from llama4_local.model.transformer import forward, logits
from llama4_local.pages import Pages
from llama4_local.pictures import Pictures
from llama4_local.prefix_cache import PageNames, PrefixCache
from llama4_local.sampler import Chooser, Rules, Sampled, sample
from llama4_local.scheduler import Piece, Scheduler, Sequence
from llama4sdk.errors import LlamaError, Overloaded, ServerFault
from llama4sdk.events import Done, FinishReason, Progress, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from llama4_local.keeping import KeptState
    from llama4_local.model.transformer import Model
    from llama4_local.orders import Order, Prefix
    from llama4_local.pages import CacheShape


class Decodes(Protocol):
    """What the engine needs of a tokenizer."""

    def decoder(self) -> Decoder:
        """Return a decoder for ids that come one after the other."""
        ...

    def decode(self, token_ids: Iterable[int], /) -> str:
        """Return the text of some ids on their own."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the engine takes on at once.

    Args:
        step_tokens: Most tokens in a step.
        max_sequences: Most requests under way.
        max_waiting: Most requests in the queue.
        prefix_caching: Whether prompts that begin alike are computed once.
    """

    step_tokens: int = 512
    max_sequences: int = 64
    max_waiting: int = 4096
    prefix_caching: bool = True


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine holds at the moment.

    Args:
        requests: Requests queued or under way.
        waiting: Of these, those in the queue.
        global_pages: Cache pages that requests refer to, those of whole sequences.
        local_pages: The same for chunk-local layers.
    """

    requests: int = 0
    waiting: int = 0
    global_pages: int = 0
    local_pages: int = 0


@dataclass(slots=True, eq=False)
class Job:
    """A request inside the engine."""

    order: Order
    sequence: Sequence
    chooser: Chooser
    answer: Answer
    pictures: Pictures | None

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(
            prompt_tokens=len(self.order.token_ids),
            completion_tokens=len(self.answer.written),
            image_tokens=self.order.image_tokens,
            cached_tokens=self.sequence.reused or 0,
        )


class Engine:
    """Continuous batching over a paged cache.

    Args:
        model: What runs.
        shape: How large the cache is.
        limits: How much to take on at once.
        tokenizer: Turns tokens into text.
        outbox: Takes what there is to say.
    """

    def __init__(self, model: Model, shape: CacheShape, limits: Limits, *, tokenizer: Decodes, outbox: Outbox) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._outbox = outbox
        self._cache = KvCache.allocate(model.config.text, shape, dtype=model.dtype, device=model.device)
        self._pages = Pages(shape)
        self._prefixes = PrefixCache(self._pages, enabled=limits.prefix_caching)
        self._scheduler = Scheduler(
            self._pages,
            self._prefixes,
            budget=limits.step_tokens,
            max_sequences=limits.max_sequences,
            max_waiting=limits.max_waiting,
        )
        self.keeper = Keeper(self._cache, self._prefixes)
        self._jobs: dict[Order, Job] = {}
        self._owners: dict[Sequence, Job] = {}

    @property
    def idle(self) -> bool:
        """Whether no request could go on now: there is none, or all wait for their readers."""
        self._notice_readers()
        return self._scheduler.idle

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache, all allocated from the beginning."""
        return self._cache.bytes

    @property
    def load(self) -> Load:
        """What it holds now."""
        return Load(len(self._jobs), self._scheduler.waiting, *self._scheduler.held)

    def submit(self, order: Order) -> None:
        """Take a request on; one that cannot be served gets its error."""
        try:
            job = self._job(order)
            self._scheduler.add(job.sequence)
        except LlamaError as error:
            self._outbox.put(order.mailbox, error)
            return
        self._jobs[order] = self._owners[job.sequence] = job
        self._outbox.put(order.mailbox, Progress("queued", 0, self._scheduler.waiting - 1, "requests"))

    def cancel(self, order: Order) -> None:
        """Forget a request and free what it holds; does nothing for one that has ended."""
        job = self._jobs.get(order)
        if job is not None:
            self._remove(job)

    def restore(self, prefix: Prefix, state: KeptState) -> None:
        """Put what a session kept back into the cache, under the names of the prefix's pages.

        Raises:
            InvalidRequest: It does not fit this model's cache.
            Overloaded: There is no room for it.
        """
        pictures = Pictures(self._model, prefix.token_ids, prefix.tiles) if prefix.tiles else None
        names = PageNames(self._pages.shape.page_size, prefix.cache_salt, pictures.names if pictures else ())
        names.cover(prefix.token_ids, state.keys.shape[1])
        self.keeper.write(prefix.kept_as, names.names, state)

    def fail(self, error: Callable[[], LlamaError]) -> None:
        """End every request, each with an error of its own."""
        for job in list(self._jobs.values()):
            self._end(job, error())

    @torch.inference_mode()
    def step(self) -> None:
        """Schedule, run the model once, choose tokens, and say what came of it."""
        self._notice_readers()
        plan = self._scheduler.schedule()
        for sequence in plan.stuck:
            self._end(self._owners[sequence], Overloaded("What is kept in the cache leaves no room for this request."))
        pieces = [piece for piece in plan.pieces if self._pictures_ready(piece)]
        if not pieces:
            return
        ending = [piece for piece in pieces if piece.samples and not self._is_due(piece)]
        sampling = [piece for piece in pieces if self._is_due(piece)]
        try:
            self._cache.copy(plan.copies)
            scores = self._run(pieces)
            chosen = sample(scores, [self._owners[piece.sequence].chooser for piece in sampling])
        except Exception as error:  # noqa: BLE001 - whatever the device raises ends these requests, not the engine
            self._fail_step(pieces, error)
            return
        self._scheduler.computed(pieces)
        for piece in pieces:
            self._report(piece)
        for piece, sampled in zip(sampling, chosen, strict=True):
            self._advance(self._owners[piece.sequence], sampled)
        for piece in ending:
            self._finish(self._owners[piece.sequence], "stop")

    def _run(self, pieces: list[Piece]) -> Tensor:
        """Compute the pieces and return the scores, [rows, vocab], of those whose next token is due."""
        works = [self._work(piece) for piece in pieces]
        model = self._model
        batch = build_batch(works, image_token_id=model.config.image_token_id, device=model.device)
        hidden = forward(model, batch, self._cache)
        due = [index for index, piece in enumerate(pieces) if self._is_due(piece)]
        scores = logits(model, hidden[batch.last_rows[due]])
        if model.config.image_token_id is not None:
            scores[:, model.config.image_token_id] = -torch.inf  # a placeholder without a picture means nothing
        return scores

    def _is_due(self, piece: Piece) -> bool:
        """Whether the request's next token is chosen after this piece; some only want their prompt computed."""
        return piece.samples and bool(self._owners[piece.sequence].order.answers)

    def _work(self, piece: Piece) -> Work:
        tokens = piece.sequence.tokens[piece.start : piece.end]
        pictures = self._owners[piece.sequence].pictures
        features = pictures.features(piece.start, piece.end) if pictures else None
        return Work(piece.sequence.pages, tokens, features)

    def _pictures_ready(self, piece: Piece) -> bool:
        """Encode the pictures that a piece needs; a failure there ends only its own request."""
        job = self._owners[piece.sequence]
        try:
            if job.pictures:
                job.pictures.features(piece.start, piece.end)
        except Exception as error:  # noqa: BLE001 - as in `step`
            self._fail_step([piece], error)
            return False
        return True

    def _advance(self, job: Job, sampled: Sampled) -> None:
        """Give a request its next token."""
        if sampled.token is None:
            self._distrust(job, ServerFault("The model's scores for this request are not numbers."))
            return
        try:
            delta, reason = job.answer.add(sampled)
        except LlamaError as error:
            self._end(job, error)
            return
        job.sequence.tokens.append(sampled.token)
        if delta is not None:
            self._outbox.put(job.order.mailbox, delta)
        if reason is not None:
            self._finish(job, reason)

    def _report(self, piece: Piece) -> None:
        job = self._owners[piece.sequence]
        total = len(job.order.token_ids)
        if not job.answer.written and piece.start < total:
            self._outbox.put(job.order.mailbox, Progress("prefill", piece.end, total, "tokens"))

    def _notice_readers(self) -> None:
        for job in self._jobs.values():
            job.sequence.paused = job.order.mailbox.lags(lagged=job.sequence.paused)

    def _job(self, order: Order) -> Job:
        rules = self._rules(order)
        pictures = Pictures(self._model, order.token_ids, order.tiles) if order.tiles else None
        names = PageNames(self._pages.shape.page_size, order.cache_salt, pictures.names if pictures else ())
        limit = min(order.limit, max(self._scheduler.capacity, len(order.token_ids) + order.answers))
        sequence = Sequence(list(order.token_ids), self._pages.sequence(), names, limit, order.priority)
        answer = Answer(
            rules,
            order.sampling.stop_strings,
            limit - len(order.token_ids),
            decoder=self._tokenizer.decoder(),
            text_of=self._tokenizer.decode,
            written=order.written,
        )
        return Job(order, sequence, Chooser(rules, order.token_ids, answer.written, order.mask), answer, pictures)

    def _rules(self, order: Order) -> Rules:
        generation = self._model.config.generation
        return Rules.of(
            order.sampling,
            temperature=generation.temperature,
            top_p=generation.top_p,
            stop_ids=generation.eos_token_ids,
            seed=order.seed,
        )

    def _finish(self, job: Job, reason: FinishReason) -> None:
        if job.order.kept_as is not None:
            names = job.sequence.names.names
            self._prefixes.publish(job.sequence.pages, names, 0)
            self.keeper.hold(job.order.kept_as, names[: job.sequence.pages.length // self._pages.shape.page_size])
        self._outbox.put(job.order.mailbox, Done(reason, job.usage))
        self._remove(job)

    def _distrust(self, job: Job, error: LlamaError) -> None:
        self._scheduler.distrust(job.sequence)
        self._end(job, error)

    def _fail_step(self, pieces: list[Piece], error: Exception) -> None:
        traceback.clear_frames(error.__traceback__)  # else whoever keeps the error keeps the step's tensors
        for piece in pieces:
            fault = ServerFault(f"The engine failed in this step with {type(error).__name__}; see __cause__.")
            fault.__cause__ = error
            self._distrust(self._owners[piece.sequence], fault)

    def _end(self, job: Job, error: LlamaError) -> None:
        self._outbox.put(job.order.mailbox, error)
        self._remove(job)

    def _remove(self, job: Job) -> None:
        self._scheduler.remove(job.sequence)
        del self._jobs[job.order], self._owners[job.sequence]
