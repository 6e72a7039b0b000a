"""The engine: runs many requests over one model and one cache, a step at a time.

It belongs to one thread and never waits for a reader. The events of a step go to the outbox.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from llama4_local.cache.kv_cache import KvCache
from llama4_local.cache.page_table import PageAllocators
from llama4_local.cache.prefix_cache import PrefixCache
from llama4_local.cache.session_store import SessionStore
from llama4_local.engine.device_loss import is_device_lost
from llama4_local.engine.drafting import confirmed
from llama4_local.engine.eager_runner import EagerRunner
from llama4_local.engine.image_features import ImageFeatures
from llama4_local.engine.load import EngineLoad
from llama4_local.engine.model_runner import ModelRunner
from llama4_local.engine.rank_graphs import RankGraphs
from llama4_local.engine.request_state import InFlightStep, RequestChunk, RequestState, sampled_rows
from llama4_local.engine.request_states import RequestStates
from llama4_local.engine.scheduler import Scheduler
from llama4_local.engine.speculation import draft, drafts_soon
from llama4_local.engine.step_output import UnsampledOutput
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
    from llama4_local.decoding.sampler import SampledToken
    from llama4_local.engine.cuda_graphs import Capture
    from llama4_local.engine.mailbox import Outbox
    from llama4_local.engine.request import EngineRequest, Prefix
    from llama4_local.engine.step_output import Runner, StepOutput
    from llama4_local.model.transformer import Model


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """How much the engine takes on at once.

    Args:
        step_tokens: Most tokens in a step.
        max_sequences: Most requests that run at once.
        max_waiting: Most requests in the queue.
        prefix_caching: Whether prompts that begin alike are computed once.
        speculate: Whether steps compute drafted tokens, see `speculation`.
    """

    step_tokens: int = 512
    max_sequences: int = 64
    max_waiting: int = 4096
    prefix_caching: bool = True
    speculate: bool = False


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
        self._new_states = RequestStates(model, self._pages, tokenizer, self._scheduler.capacity, limits.speculate)
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
        model, cache, sequences = self._model, self._cache, self._limits.max_sequences
        tokens = max(self._limits.step_tokens, sequences)
        if model.ranks is None:
            runner = ModelRunner(model, cache, tokens=tokens, sequences=sequences, capture=capture)
            runner.warm_up(progress)
            self._runner = runner
            return
        graphs = None
        if capture is not None and not model.ranks.share.whole_experts:  # whose rows each rank has, only the host knows
            graphs = RankGraphs.on_all_ranks(model, cache, model.ranks, capture, tokens=tokens, sequences=sequences)
        self._runner = over_ranks = EagerRunner(model, cache, graphs)
        over_ranks.warm_up(progress, tokens=tokens, sequences=sequences)

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
            state = self._new_states.new(request)
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

    def when_lost(self, call: Callable[[], None]) -> None:
        """Call this, from any thread, once a rank is gone: the next step raises."""
        if self._model.ranks is not None:
            self._model.ranks.when_lost(call)

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
        page_hashes = self._new_states.page_hashes(prefix, images)
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
            Exception: The device or a rank is lost (`is_device_lost`); any other failure ends the requests of its step.
        """
        if self._model.ranks is not None:
            self._model.ranks.check()
        self._pause_lagging()
        step = self._in_flight or self._launch_next()
        self._in_flight = None
        output = self._sampled(step) if step else None
        if step is None or output is None:
            return
        try:
            self._in_flight = self._launch_ahead(step, output)
        finally:
            self._complete(step, output)

    def _launch_next(self) -> InFlightStep | None:
        """Launch what the scheduler picks, if anything."""
        if self._limits.speculate:
            draft(self._states.values())
        scheduled = self._scheduler.schedule(beside=self._pace.tokens)
        for state in scheduled.stuck:
            self._end(state, Overloaded("Pinned pages of sessions leave no room in the cache for this request."))
        chunks = [chunk for chunk in scheduled.chunks if self._images_ready(chunk)]
        return self._launch(chunks, scheduled.copies) if chunks else None

    def _sampled(self, step: InFlightStep) -> StepOutput | None:
        """Sample a step whose masks or penalties depend on tokens that were handed out since its launch."""
        try:
            return step.output.sample() if isinstance(step.output, UnsampledOutput) else step.output
        except Exception as error:  # noqa: BLE001 - as in `_launch`
            self._fail_step(step.chunks, error)
            return None

    def _launch_ahead(self, step: InFlightStep, output: StepOutput) -> InFlightStep | None:
        """Launch the step after, if it can go on from tokens that only the device has."""
        waits = not output.feeds_next or (self._limits.speculate and drafts_soon(self._states.values()))
        scheduled = None if waits else self._scheduler.schedule_ahead(step.chunks)
        return self._launch(list(scheduled.chunks), scheduled.copies, from_previous=True) if scheduled else None

    def _launch(
        self, chunks: list[RequestChunk], copies: Iterable[PageCopy], *, from_previous: bool = False
    ) -> InFlightStep | None:
        due = tuple(chunk for chunk in chunks if from_previous or self._is_due(chunk))
        launched = self._clock()
        try:
            self._copies.copy(copies)
            inputs = [self._input(chunk) for chunk in chunks]
            rows, states = sampled_rows(chunks, due)
            output = self._runner.launch(inputs, rows, states, from_previous=from_previous)
            return InFlightStep(tuple(chunks), due, output, launched)
        except Exception as error:  # noqa: BLE001 - a failed step ends its requests, not the engine
            self._fail_step(chunks, error)
            return None

    def _complete(self, step: InFlightStep, output: StepOutput) -> None:
        """Wait for a step's tokens and hand them out; requests that are gone meanwhile get none."""
        try:
            sampled = iter(output.wait())
            tokens = {chunk.sequence: list(islice(sampled, 1 + len(chunk.drafted))) for chunk in step.due}
        except Exception as error:  # noqa: BLE001 - as in `_launch`
            self._fail_step(step.chunks, error)
            return
        now = self._clock()
        self._pace.observe(step.chunks, now - max(step.launched, self._completed))
        self._completed = now
        live = [chunk for chunk in step.chunks if self._is_live(chunk.sequence)]
        chunks = [self._settled(chunk, tokens) if chunk.drafted else chunk for chunk in live]
        self._scheduler.computed(chunks)
        for chunk in chunks:
            self._report_prefill(chunk)
            if chunk.sequence.images:
                chunk.sequence.images.forget(chunk.end)
        for chunk in chunks:
            try:
                self._hand_out(chunk, tokens.get(chunk.sequence, []))
            except Exception as error:  # noqa: BLE001 - the tokenizer may be foreign, and so may be the stop strings
                self._end(chunk.sequence, _as_llama_error(error, "failed while its token was turned into text"))

    def _settled(self, chunk: RequestChunk, tokens: dict[RequestState, list[SampledToken]]) -> RequestChunk:
        """Keep the drafted tokens that sampling confirms, and the token sampled behind them."""
        state = chunk.sequence
        tokens[state] = confirmed(chunk.drafted, tokens[state])
        accepted = len(tokens[state]) - 1
        settled = self._scheduler.settle(chunk, accepted)
        if state.drafting is not None:
            state.drafting.observe(len(chunk.drafted), accepted, len(state.tokens))
        return settled

    def _is_live(self, state: RequestState) -> bool:
        return self._states.get(state.request) is state

    def _is_due(self, chunk: RequestChunk) -> bool:
        """Whether the request's next token is sampled after this chunk; a session's opening is prefill only."""
        return chunk.reaches_end and bool(chunk.sequence.request.answers)

    def _input(self, chunk: RequestChunk) -> SequenceInput:
        state = chunk.sequence
        tokens = [*state.tokens[chunk.start : chunk.end], *chunk.drafted] or [0]  # only the device has it yet
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

    def _hand_out(self, chunk: RequestChunk, sampled: list[SampledToken]) -> None:
        """Give a request its next tokens, if any were sampled for it; all but the last are in its sequence already."""
        state = chunk.sequence
        if not sampled and chunk.reaches_end:
            self._finish(state, "stop")
        for token in sampled:
            if token.token is None:
                problem = state.sampler_state.problem or "The model's scores for this request are not numbers."
                self._distrust(state, ServerFault(problem))
                return
            delta, reason = state.detokenizer.add(token)
            if token is sampled[-1]:
                state.tokens.append(token.token)
            if delta is not None:
                self._outbox.put(state.request.mailbox, delta)
            if reason is not None:
                self._finish(state, reason)
                return

    def _report_prefill(self, chunk: RequestChunk) -> None:
        state = chunk.sequence
        total = len(state.request.token_ids) + state.request.begun
        if len(state.detokenizer.written) == state.request.begun and chunk.start < total:
            self._outbox.put(state.request.mailbox, Progress("prefill", chunk.end, total, "tokens"))

    def _pause_lagging(self) -> None:
        for state in self._states.values():
            state.paused = state.request.mailbox.lags(lagged=state.paused)

    def _finish(self, state: RequestState, reason: FinishReason) -> None:
        """End a request; a session's pages are pinned under the request until the session takes them over."""
        if state.request.in_session:
            hashes = state.page_hashes.hashes
            self._prefixes.publish(state.pages, hashes, 0)
            answered = len(state.request.token_ids) + len(state.request.written)  # drafts may reach beyond
            full = min(state.pages.length, answered) // self._pages.shape.page_size
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
