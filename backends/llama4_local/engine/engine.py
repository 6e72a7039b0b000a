"""The engine: runs many requests over one model and one cache, a step at a time.

It belongs to one thread and never waits for a reader. The events of a step go to the outbox.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from llama4_local.cache.kv_cache import KvCache
from llama4_local.cache.page_table import PageAllocators
from llama4_local.cache.prefix_cache import PageHashes, PrefixCache
from llama4_local.cache.session_store import SessionStore
from llama4_local.decoding.detokenizer import Detokenizer
from llama4_local.decoding.sampler import ResolvedSampling, SampledToken, SamplerState
from llama4_local.engine.device_loss import is_device_lost
from llama4_local.engine.eager_runner import EagerRunner
from llama4_local.engine.image_features import ImageFeatures
from llama4_local.engine.load import EngineLoad
from llama4_local.engine.model_runner import ModelRunner
from llama4_local.engine.request_state import InFlightStep, RequestChunk, RequestState
from llama4_local.engine.scheduler import Scheduler
from llama4_local.engine.step_pace import StepPace
from llama4_local.model.ranks import CacheOverRanks
from llama4_local.ops.batch import SequenceInput
from llama4sdk.errors import LlamaError, Overloaded, ServerFault
from llama4sdk.events import Done, FinishReason, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from llama4_local.cache.page_table import CacheShape, PageCopy
    from llama4_local.cache.session_store import SessionCopy, SessionState
    from llama4_local.decoding.detokenizer import Decodes
    from llama4_local.engine.cuda_graphs import Capture
    from llama4_local.engine.mailbox import Outbox
    from llama4_local.engine.request import EngineRequest, Prefix
    from llama4_local.engine.step_output import Runner
    from llama4_local.model.transformer import Model


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """How much the engine takes on at once.

    Args:
        step_tokens: Most tokens in a step.
        max_sequences: Most requests that run at once.
        max_waiting: Most requests in the queue.
        prefix_caching: Whether prompts that begin alike are computed once.
    """

    step_tokens: int = 512
    max_sequences: int = 64
    max_waiting: int = 4096
    prefix_caching: bool = True


class Engine:
    """Continuous batching over a paged cache.

    Args:
        model: The network.
        shape: The size of the cache.
        limits: How much to take on at once.
        tokenizer: Turns tokens into text.
        outbox: Takes the events.
        cache_dtype: Dtype of keys and values; None for the model's.
        clock: Returns seconds; times steps, see `StepPace`.
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
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._model = model
        self._limits = limits
        self._tokenizer = tokenizer
        self._outbox = outbox
        self._cache = KvCache.allocate(model.config.text, shape, dtype=cache_dtype or model.dtype, device=model.device)
        self._pages = PageAllocators(shape)
        self._prefixes = PrefixCache(self._pages, enabled=limits.prefix_caching)
        self._scheduler: Scheduler[RequestState] = Scheduler(
            self._pages,
            self._prefixes,
            budget=limits.step_tokens,
            max_sequences=limits.max_sequences,
            max_waiting=limits.max_waiting,
        )
        over_ranks = None if model.ranks is None else CacheOverRanks(model.ranks, self._cache)
        self._copies = over_ranks or self._cache
        parts = model.ranks.size if model.ranks else 1
        self.session_store = SessionStore(self._cache, self._prefixes, over_ranks, parts=parts)
        self._states: dict[EngineRequest, RequestState] = {}
        self._runner: Runner = EagerRunner(model, self._cache)
        self._in_flight: InFlightStep | None = None
        self._pace = StepPace(limits.step_tokens)
        self._clock = clock
        self._completed = 0.0

    @torch.inference_mode()
    def warm_up(self, capture: Capture | None, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Run steps beside the host from now on, and compile them; before the first request.

        Args:
            capture: Makes CUDA graphs of decoding steps; None for none.
            progress: Called with steps done and in all; an exception from it ends the work.
        """
        tokens = max(self._limits.step_tokens, self._limits.max_sequences)
        runner = ModelRunner(
            self._model, self._cache, tokens=tokens, sequences=self._limits.max_sequences, capture=capture
        )
        runner.warm_up(progress)
        self._runner = runner

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do: no step in flight, and no request that could get one."""
        self._pause_lagging()
        return self._in_flight is None and self._scheduler.idle

    @property
    def model(self) -> Model:
        """The network."""
        return self._model

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache, all allocated from the beginning."""
        return self._cache.bytes

    @property
    def load(self) -> EngineLoad:
        """Its load now."""
        return EngineLoad(len(self._states), self._scheduler.waiting, *self._scheduler.pages_in_use)

    def submit(self, request: EngineRequest) -> None:
        """Take a request on; one that cannot be served gets its error, and no other request is touched."""
        try:
            state = self._new_state(request)
            self._scheduler.add(state)
        except Exception as error:  # noqa: BLE001 - a request that breaks the engine's own code ends alone
            self._outbox.put(request.mailbox, _as_llama_error(error, "could not be taken on"))
            return
        self._states[request] = state
        self._outbox.put(request.mailbox, Progress("queued", 0, self._scheduler.waiting - 1, "requests"))

    def cancel(self, request: EngineRequest) -> None:
        """Forget a request and free what it holds, pins of its session's next turn included."""
        self.session_store.unpin(request)
        state = self._states.get(request)
        if state is not None:
            self._remove(state)

    def close(self) -> None:
        """End what runs beside it; requests must have ended before."""
        self._runner.close()
        if self._model.ranks is not None:
            self._model.ranks.close()

    def restore(self, prefix: Prefix, session: SessionState) -> SessionCopy:
        """Return the copy of a session's keys and values back into the cache, under the hashes of the prefix's pages.

        Raises:
            InvalidRequest: They do not fit this model's cache.
            Overloaded: There is no room for them.
        """
        images = ImageFeatures(self._model, prefix.token_ids, prefix.tiles) if prefix.tiles else None
        page_hashes = self._page_hashes(prefix, images)
        page_hashes.cover(prefix.token_ids, session.keys.shape[1])
        return self.session_store.write(prefix.session_key, page_hashes.hashes, session)

    def fail(self, error: Callable[[], LlamaError]) -> None:
        """End every request, each with an error of its own."""
        for state in list(self._states.values()):
            self._end(state, error())

    @torch.inference_mode()
    def step(self) -> None:
        """Schedule, run the model once, sample, and put the events into the outbox.

        With a runner beside the host, the step after is launched before this one's tokens have arrived.

        Raises:
            Exception: The device is lost (`is_device_lost`); any other failure ends the requests of its step.
        """
        self._pause_lagging()
        step = self._in_flight or self._launch_next()
        self._in_flight = None
        if step is None:
            return
        try:
            self._in_flight = self._launch_ahead(step)
        finally:
            self._complete(step)

    def _launch_next(self) -> InFlightStep | None:
        """Launch what the scheduler picks, if anything."""
        scheduled = self._scheduler.schedule(beside=self._pace.tokens)
        for state in scheduled.stuck:
            self._end(state, Overloaded("Pinned pages of sessions leave no room in the cache for this request."))
        chunks = [chunk for chunk in scheduled.chunks if self._images_ready(chunk)]
        return self._launch(chunks, scheduled.copies) if chunks else None

    def _launch_ahead(self, step: InFlightStep) -> InFlightStep | None:
        """Launch the step after, if it can go on from tokens that only the device has."""
        scheduled = self._scheduler.schedule_ahead(step.chunks) if step.output.feeds_next else None
        return self._launch(list(scheduled.chunks), scheduled.copies, from_previous=True) if scheduled else None

    def _launch(
        self, chunks: list[RequestChunk], copies: Iterable[PageCopy], *, from_previous: bool = False
    ) -> InFlightStep | None:
        due = tuple(chunk for chunk in chunks if from_previous or self._is_due(chunk))
        launched = self._clock()
        try:
            self._copies.copy(copies)
            inputs = [self._input(chunk) for chunk in chunks]
            rows = [index for index, chunk in enumerate(chunks) if chunk in due]
            states = [chunk.sequence.sampler_state for chunk in due]
            output = self._runner.launch(inputs, rows, states, from_previous=from_previous)
            return InFlightStep(tuple(chunks), due, output, launched)
        except Exception as error:  # noqa: BLE001 - a failed step ends its requests, not the engine
            self._fail_step(chunks, error)
            return None

    def _complete(self, step: InFlightStep) -> None:
        """Wait for a step's tokens and hand them out; requests that are gone meanwhile get none."""
        try:
            tokens = dict(zip(step.due, step.output.wait(), strict=True))
        except Exception as error:  # noqa: BLE001 - as in `_launch`
            self._fail_step(step.chunks, error)
            return
        now = self._clock()
        self._pace.observe(step.chunks, now - max(step.launched, self._completed))
        self._completed = now
        chunks = [chunk for chunk in step.chunks if self._is_live(chunk.sequence)]
        self._scheduler.computed(chunks)
        for chunk in chunks:
            self._report_prefill(chunk)
            if chunk.sequence.images:
                chunk.sequence.images.forget(chunk.end)
        for chunk in chunks:
            try:
                self._hand_out(chunk, tokens.get(chunk))
            except Exception as error:  # noqa: BLE001 - the tokenizer may be foreign, and so may be the stop strings
                self._end(chunk.sequence, _as_llama_error(error, "failed while its token was turned into text"))

    def _is_live(self, state: RequestState) -> bool:
        return self._states.get(state.request) is state

    def _is_due(self, chunk: RequestChunk) -> bool:
        """Whether the request's next token is sampled after this chunk; a session's opening is prefill only."""
        return chunk.reaches_end and bool(chunk.sequence.request.answers)

    def _input(self, chunk: RequestChunk) -> SequenceInput:
        state = chunk.sequence
        tokens = state.tokens[chunk.start : chunk.end] or [0]  # only the device has it yet
        features = state.images.features(chunk.start, chunk.end) if state.images else None
        return SequenceInput(state.pages, tokens, features)

    def _images_ready(self, chunk: RequestChunk) -> bool:
        """Encode the images of a chunk; a failure there ends only its own request."""
        try:
            if chunk.sequence.images:
                chunk.sequence.images.features(chunk.start, chunk.end)
        except Exception as error:  # noqa: BLE001 - as in `_launch`
            self._fail_step([chunk], error)
            return False
        return True

    def _hand_out(self, chunk: RequestChunk, sampled: SampledToken | None) -> None:
        """Give a request its next token, if one was sampled for it."""
        state = chunk.sequence
        if sampled is None:
            if chunk.reaches_end:
                self._finish(state, "stop")
            return
        if sampled.token is None:
            problem = state.sampler_state.problem or "The model's scores for this request are not numbers."
            self._distrust(state, ServerFault(problem))
            return
        delta, reason = state.detokenizer.add(sampled)
        state.tokens.append(sampled.token)
        if delta is not None:
            self._outbox.put(state.request.mailbox, delta)
        if reason is not None:
            self._finish(state, reason)

    def _report_prefill(self, chunk: RequestChunk) -> None:
        state = chunk.sequence
        total = len(state.request.token_ids) + state.request.begun
        if len(state.detokenizer.written) == state.request.begun and chunk.start < total:
            self._outbox.put(state.request.mailbox, Progress("prefill", chunk.end, total, "tokens"))

    def _pause_lagging(self) -> None:
        for state in self._states.values():
            state.paused = state.request.mailbox.lags(lagged=state.paused)

    def _new_state(self, request: EngineRequest) -> RequestState:
        sampling = self._resolved_sampling(request)
        images = ImageFeatures(self._model, request.token_ids, request.tiles) if request.tiles else None
        begun = len(request.token_ids) + request.begun
        limit = min(request.limit, max(self._scheduler.capacity, begun + request.answers))
        detokenizer = Detokenizer(
            sampling,
            request.sampling.stop_strings,
            limit - len(request.token_ids),
            decoder=self._tokenizer.decoder(),
            text_of=self._tokenizer.decode,
            written=request.written,
        )
        return RequestState(
            tokens=[*request.token_ids, *request.written],
            pages=self._pages.sequence(request.origin),
            page_hashes=self._page_hashes(request, images),
            limit=limit,
            priority=request.priority,
            request=request,
            sampler_state=SamplerState(sampling, request.token_ids, detokenizer.written, request.mask),
            detokenizer=detokenizer,
            images=images,
        )

    def _page_hashes(self, of: EngineRequest | Prefix, images: ImageFeatures | None) -> PageHashes:
        # Equal tokens at another position are other keys: queries of NoPE layers depend on their position.
        salt = f"{of.cache_salt} from {of.origin}" if of.origin else of.cache_salt
        return PageHashes(self._pages.shape.page_size, salt, images.digests if images else ())

    def _resolved_sampling(self, request: EngineRequest) -> ResolvedSampling:
        generation = self._model.config.generation
        return ResolvedSampling.of(
            request.sampling,
            temperature=generation.temperature,
            top_p=generation.top_p,
            top_k=generation.top_k,
            min_p=generation.min_p,
            repetition_penalty=generation.repetition_penalty,
            stop_ids=generation.eos_token_ids,
            seed=request.seed,
            begun=request.begun,
        )

    def _finish(self, state: RequestState, reason: FinishReason) -> None:
        """End a request; a session's pages are pinned under the request until the session takes them over."""
        if state.request.in_session:
            hashes = state.page_hashes.hashes
            self._prefixes.publish(state.pages, hashes, 0)
            full = state.pages.length // self._pages.shape.page_size
            self.session_store.pin(state.request, hashes[:full])
        self._outbox.put(state.request.mailbox, Done(reason, state.usage))
        self._remove(state)

    def _distrust(self, state: RequestState, error: LlamaError) -> None:
        self._scheduler.distrust(state)
        self._end(state, error)

    def _fail_step(self, chunks: Iterable[RequestChunk], error: Exception) -> None:
        """End the requests of a failed step; a lost device is raised on, for no later step can succeed."""
        traceback.clear_frames(error.__traceback__)  # a kept error would keep the step's tensors alive
        if is_device_lost(error):
            raise error
        for chunk in chunks:
            if not self._is_live(chunk.sequence):
                continue
            fault = ServerFault(f"The engine failed in this step with {type(error).__name__}; see __cause__.")
            fault.__cause__ = error
            self._distrust(chunk.sequence, fault)

    def _end(self, state: RequestState, error: LlamaError) -> None:
        self._outbox.put(state.request.mailbox, error)
        self._remove(state)

    def _remove(self, state: RequestState) -> None:
        self._scheduler.remove(state)
        del self._states[state.request]


def _as_llama_error(error: Exception, happened: str) -> LlamaError:
    """Return the error itself, or a `ServerFault` that carries what is not of the error tree."""
    if isinstance(error, LlamaError):
        return error
    fault = ServerFault(f"This request {happened}: {type(error).__name__}; see __cause__.", retryable=False)
    fault.__cause__ = error
    return fault
