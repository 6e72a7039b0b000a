"""The engine: runs many requests over one model and one cache, a step at a time.

Nothing here waits, and everything belongs to one thread. What a step has to say goes into the outbox.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from llama4_local.cache.kv_cache import KvCache
from llama4_local.cache.page_table import PageAllocators
from llama4_local.cache.prefix_cache import PageHashes, PrefixCache
from llama4_local.cache.session_store import SessionStore
from llama4_local.decoding.detokenizer import Decoder, Detokenizer
from llama4_local.decoding.sampler import ResolvedSampling, SampledToken, SamplerState, sample
from llama4_local.decoding.token_mask import MaskLookahead
from llama4_local.engine.image_features import ImageFeatures
from llama4_local.engine.jobs import InFlightStep, Job
from llama4_local.engine.mailbox import Outbox
from llama4_local.engine.model_runner import ModelRunner
from llama4_local.engine.scheduler import ScheduledChunk, Scheduler, Sequence
from llama4_local.model.transformer import forward, logits
from llama4_local.ops.batch import SequenceInput, build_batch
from llama4sdk.errors import LlamaError, Overloaded, ServerFault
from llama4sdk.events import Done, FinishReason, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from llama4_local.cache.page_table import CacheShape, PageCopy
    from llama4_local.cache.session_store import SessionState
    from llama4_local.engine.cuda_graphs import Capture
    from llama4_local.engine.request import EngineRequest, Prefix
    from llama4_local.model.transformer import Model


class Decodes(Protocol):
    """What the engine needs of a tokenizer."""

    def decoder(self) -> Decoder:
        """Return a decoder for ids that come one after the other."""
        ...

    def decode(self, token_ids: Iterable[int], /) -> str:
        """Return the text of some ids on their own."""
        ...


@dataclass(frozen=True, slots=True)
class EngineLimits:
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
class EngineLoad:
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


class Engine:
    """Continuous batching over a paged cache.

    Args:
        model: What runs.
        shape: How large the cache is.
        limits: How much to take on at once.
        tokenizer: Turns tokens into text.
        outbox: Takes what there is to say.
        cache_dtype: Type of the cache's numbers; None for the model's.
    """

    def __init__(
        self,
        model: Model,
        shape: CacheShape,
        limits: EngineLimits,
        *,
        tokenizer: Decodes,
        outbox: Outbox,
        cache_dtype: torch.dtype | None = None,
    ) -> None:
        self._model = model
        self._limits = limits
        self._tokenizer = tokenizer
        self._outbox = outbox
        self._cache = KvCache.allocate(model.config.text, shape, dtype=cache_dtype or model.dtype, device=model.device)
        self._pages = PageAllocators(shape)
        self._prefixes = PrefixCache(self._pages, enabled=limits.prefix_caching)
        self._scheduler = Scheduler(
            self._pages,
            self._prefixes,
            budget=limits.step_tokens,
            max_sequences=limits.max_sequences,
            max_waiting=limits.max_waiting,
        )
        self.keeper = SessionStore(self._cache, self._prefixes)
        self._look_ahead = MaskLookahead()
        self._jobs: dict[EngineRequest, Job] = {}
        self._owners: dict[Sequence, Job] = {}
        self._device: ModelRunner | None = None
        self._flight: InFlightStep | None = None  # launched, not yet landed

    @torch.inference_mode()
    def warm_up(self, capture: Capture | None, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Prepare steps that run beside the host; before the first request.

        Args:
            capture: Makes graphs of decoding steps; None for none.
            progress: Called with what is done and what there is to do; whatever it raises ends the work.
        """
        tokens = max(self._limits.step_tokens, self._limits.max_sequences)
        steps = ModelRunner(
            self._model, self._cache, tokens=tokens, sequences=self._limits.max_sequences, capture=capture
        )
        steps.warm_up(progress)
        self._device = steps

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do now: no step under way, no request, or all wait for their readers."""
        self._notice_readers()
        return self._flight is None and self._scheduler.idle

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache, all allocated from the beginning."""
        return self._cache.bytes

    @property
    def load(self) -> EngineLoad:
        """What it holds now."""
        return EngineLoad(len(self._jobs), self._scheduler.waiting, *self._scheduler.held)

    def submit(self, order: EngineRequest) -> None:
        """Take a request on; one that cannot be served gets its error."""
        try:
            job = self._job(order)
            self._scheduler.add(job.sequence)
        except LlamaError as error:
            self._outbox.put(order.mailbox, error)
            return
        self._jobs[order] = self._owners[job.sequence] = job
        self._outbox.put(order.mailbox, Progress("queued", 0, self._scheduler.waiting - 1, "requests"))

    def cancel(self, order: EngineRequest) -> None:
        """Forget a request and free what it holds; does nothing for one that has ended."""
        job = self._jobs.get(order)
        if job is not None:
            self._remove(job)

    def close(self) -> None:
        """End what runs beside it; requests must have ended before."""
        self._look_ahead.close()

    def restore(self, prefix: Prefix, state: SessionState) -> None:
        """Put what a session kept back into the cache, under the names of the prefix's pages.

        Raises:
            InvalidRequest: It does not fit this model's cache.
            Overloaded: There is no room for it.
        """
        images = ImageFeatures(self._model, prefix.token_ids, prefix.tiles) if prefix.tiles else None
        names = self._names(prefix, images)
        names.cover(prefix.token_ids, state.keys.shape[1])
        self.keeper.write(prefix.kept_as, names.names, state)

    def fail(self, error: Callable[[], LlamaError]) -> None:
        """End every request, each with an error of its own."""
        for job in list(self._jobs.values()):
            self._end(job, error())

    @torch.inference_mode()
    def step(self) -> None:
        """Schedule, run the model once, choose tokens, and say what came of it.

        Where the device works beside the host, the step after is launched before the tokens have arrived.
        """
        self._notice_readers()
        flight = self._flight or self._take_off()
        self._flight = None
        if flight is None:
            return
        try:
            self._flight = self._follow(flight)
        finally:
            self._land(flight)

    def _take_off(self) -> InFlightStep | None:
        """Launch what the scheduler wants next, if anything."""
        plan = self._scheduler.schedule()
        for sequence in plan.stuck:
            self._end(self._owners[sequence], Overloaded("What is kept in the cache leaves no room for this request."))
        pieces = [piece for piece in plan.pieces if self._images_ready(piece)]
        return self._launch(pieces, plan.copies) if pieces else None

    def _follow(self, flight: InFlightStep) -> InFlightStep | None:
        """Launch the step after, if it can go on from tokens that are not known here yet."""
        plan = self._scheduler.again(flight.pieces) if flight.feeds else None
        return self._launch(list(plan.pieces), plan.copies, fed=True) if plan else None

    def _launch(
        self, pieces: list[ScheduledChunk], copies: Iterable[PageCopy], *, fed: bool = False
    ) -> InFlightStep | None:
        sampling = tuple(piece for piece in pieces if fed or self._is_due(piece))
        try:
            self._cache.copy(copies)
            return self._run(pieces, sampling, fed=fed)
        except Exception as error:  # noqa: BLE001 - whatever the device raises ends these requests, not the engine
            self._fail_step(pieces, error)
            return None

    def _land(self, flight: InFlightStep) -> None:
        """Wait for a step's tokens and hand them out; requests that are gone meanwhile get none."""
        try:
            chosen = dict(zip(flight.sampling, flight.result(), strict=True))
        except Exception as error:  # noqa: BLE001 - as in `_launch`
            self._fail_step(flight.pieces, error)
            return
        pieces = [piece for piece in flight.pieces if piece.sequence in self._owners]
        self._scheduler.computed(pieces)
        for piece in pieces:
            self._report(piece)
        for piece in pieces:
            if piece in chosen:
                self._advance(self._owners[piece.sequence], chosen[piece])
            elif piece.samples:
                self._finish(self._owners[piece.sequence], "stop")

    def _run(self, pieces: list[ScheduledChunk], sampling: tuple[ScheduledChunk, ...], *, fed: bool) -> InFlightStep:
        """Compute the pieces and choose the tokens that are due."""
        works = [self._work(piece) for piece in pieces]
        due = [index for index, piece in enumerate(pieces) if piece in sampling]
        choosers = [self._owners[piece.sequence].chooser for piece in sampling]
        if self._device is not None:
            return InFlightStep(tuple(pieces), sampling, self._device.launch(works, due, choosers, fed=fed))
        with self._look_ahead.over([(row.mask, row.written) for row in choosers if row.mask]):
            scores = self._scores(works, due)
        return InFlightStep(tuple(pieces), sampling, chosen=tuple(sample(scores, choosers)))

    def _scores(self, works: list[SequenceInput], due: list[int]) -> Tensor:
        """Compute a step and return the scores, [rows, vocab], of those works whose next token is due."""
        model = self._model
        batch = build_batch(works, image_token_id=model.config.image_token_id, device=model.device)
        hidden = forward(model, batch, self._cache)
        scores = logits(model, hidden[batch.last_rows[due]])
        if model.config.image_token_id is not None:
            scores[:, model.config.image_token_id] = -torch.inf  # a placeholder without an image means nothing
        return scores

    def _is_due(self, piece: ScheduledChunk) -> bool:
        """Whether the request's next token is chosen after this piece; some only want their prompt computed."""
        return piece.samples and bool(self._owners[piece.sequence].order.answers)

    def _work(self, piece: ScheduledChunk) -> SequenceInput:
        tokens = piece.sequence.tokens[piece.start : piece.end] or [0]  # not known here yet
        images = self._owners[piece.sequence].images
        features = images.features(piece.start, piece.end) if images else None
        return SequenceInput(piece.sequence.pages, tokens, features)

    def _images_ready(self, piece: ScheduledChunk) -> bool:
        """Encode the images that a piece needs; a failure there ends only its own request."""
        job = self._owners[piece.sequence]
        try:
            if job.images:
                job.images.features(piece.start, piece.end)
        except Exception as error:  # noqa: BLE001 - as in `step`
            self._fail_step([piece], error)
            return False
        return True

    def _advance(self, job: Job, sampled: SampledToken) -> None:
        """Give a request its next token."""
        if sampled.token is None:
            problem = job.chooser.mask.problem if job.chooser.mask else None
            self._distrust(job, ServerFault(problem or "The model's scores for this request are not numbers."))
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

    def _report(self, piece: ScheduledChunk) -> None:
        job = self._owners[piece.sequence]
        total = len(job.order.token_ids)
        if not job.answer.written and piece.start < total:
            self._outbox.put(job.order.mailbox, Progress("prefill", piece.end, total, "tokens"))

    def _notice_readers(self) -> None:
        for job in self._jobs.values():
            job.sequence.paused = job.order.mailbox.lags(lagged=job.sequence.paused)

    def _job(self, order: EngineRequest) -> Job:
        rules = self._rules(order)
        images = ImageFeatures(self._model, order.token_ids, order.tiles) if order.tiles else None
        names = self._names(order, images)
        limit = min(order.limit, max(self._scheduler.capacity, len(order.token_ids) + order.answers))
        pages = self._pages.sequence(order.origin)
        sequence = Sequence(list(order.token_ids), pages, names, limit, order.priority)
        answer = Detokenizer(
            rules,
            order.sampling.stop_strings,
            limit - len(order.token_ids),
            decoder=self._tokenizer.decoder(),
            text_of=self._tokenizer.decode,
            written=order.written,
        )
        return Job(order, sequence, SamplerState(rules, order.token_ids, answer.written, order.mask), answer, images)

    def _names(self, of: EngineRequest | Prefix, images: ImageFeatures | None) -> PageHashes:
        # The same tokens at another place in a text are not the same: queries of global layers know their position.
        salt = f"{of.cache_salt} from {of.origin}" if of.origin else of.cache_salt
        return PageHashes(self._pages.shape.page_size, salt, images.names if images else ())

    def _rules(self, order: EngineRequest) -> ResolvedSampling:
        generation = self._model.config.generation
        return ResolvedSampling.of(
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

    def _fail_step(self, pieces: Iterable[ScheduledChunk], error: Exception) -> None:
        traceback.clear_frames(error.__traceback__)  # else whoever keeps the error keeps the step's tensors
        for piece in pieces:
            if piece.sequence not in self._owners:
                continue
            fault = ServerFault(f"The engine failed in this step with {type(error).__name__}; see __cause__.")
            fault.__cause__ = error
            self._distrust(self._owners[piece.sequence], fault)

    def _end(self, job: Job, error: LlamaError) -> None:
        self._outbox.put(job.order.mailbox, error)
        self._remove(job)

    def _remove(self, job: Job) -> None:
        self._scheduler.remove(job.sequence)
        del self._jobs[job.order], self._owners[job.sequence]
