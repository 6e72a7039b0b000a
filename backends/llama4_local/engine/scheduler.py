"""Continuous batching: which tokens of which sequences the next step computes; no tensor is involved.

Every sequence has a rank, fixed when it is added: its number of arrival, moved forward by its priority. A
priority thus is a bounded head start, and no sequence starves. The sequence of smallest rank can always take
the pages that it needs from the others, so that at least one makes progress.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from llama4_local.cache.page_table import PageAllocators, PageCopy, SequencePages
from llama4sdk.errors import ContextOverflow, Overloaded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llama4_local.cache.prefix_cache import PageHashes, PrefixCache

HEAD_START = 64  # arrivals that one step of priority jumps over
HIGHEST_PRIORITY = 100  # larger priorities count as this one, which bounds the head start
_SMALLEST_SHARE = 32  # tokens of a prompt that are worth a step of their own


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and its answer, as the scheduler sees it.

    Args:
        tokens: The prompt, then the answer; the engine appends.
        pages: Its page table; `pages.length` tokens are computed, or are by the end of the step.
        page_hashes: Hashes of its full pages.
        limit: Most tokens that prompt and answer may have.
        priority: Larger goes first.
        paused: Its reader lags behind, so that it gets no step.
        drafted: Tokens that may follow, for the next step to confirm.
    """

    tokens: list[int]
    pages: SequencePages
    page_hashes: PageHashes
    limit: int
    priority: int = 0
    paused: bool = False
    rank: tuple[int, int] = (0, 0)
    reused: int | None = None  # tokens that the prefix cache held at its first admission
    published: int = field(default=0, init=False)
    drafted: tuple[int, ...] = ()

    @property
    def decodes(self) -> bool:
        """Whether its prompt is computed, and its last token is not."""
        return self.left == 1 and self.pages.length > 0

    @property
    def left(self) -> int:
        """Tokens yet to be computed."""
        return len(self.tokens) - self.pages.length


S = TypeVar("S", bound=Sequence)


@dataclass(frozen=True, slots=True)
class ScheduledChunk(Generic[S]):
    """Tokens `start` to `start + count` of a sequence, the last of them drafted; all lie in one attention chunk."""

    sequence: S
    start: int
    count: int
    drafted: tuple[int, ...] = ()

    @property
    def known(self) -> int:
        """How many of its tokens are not drafted."""
        return self.count - len(self.drafted)

    @property
    def end(self) -> int:
        """One past its last token."""
        return self.start + self.count

    @property
    def reaches_end(self) -> bool:
        """Whether it holds the sequence's last token, after which the next one is sampled."""
        return self.start + self.known == len(self.sequence.tokens)


@dataclass(frozen=True, slots=True)
class ScheduledStep(Generic[S]):
    """One step: page copies first, then the chunks as one flat batch.

    Args:
        chunks: What to compute; of each sequence at most one.
        copies: Pages to copy before.
        stuck: Sequences that have to end, because no other can give its pages up.
    """

    chunks: tuple[ScheduledChunk[S], ...]
    copies: tuple[PageCopy, ...]
    stuck: tuple[S, ...] = ()


class Scheduler(Generic[S]):
    """Decodes first, then prompts within the token budget, then admissions from the queue.

    Args:
        pages: The cache's allocators.
        prefixes: The prefix cache.
        budget: Most tokens in a step.
        max_sequences: Most sequences that run at once.
        max_waiting: Most sequences in the queue.
    """

    def __init__(
        self, pages: PageAllocators, prefixes: PrefixCache, *, budget: int, max_sequences: int, max_waiting: int
    ) -> None:
        self._shape = pages.shape
        self._local_pool = pages.local_pool
        self._prefixes = prefixes
        self._budget = max(budget, max_sequences)  # each running sequence gets its token
        self._max_sequences = max_sequences
        self._max_waiting = max_waiting
        self._arrivals = 0
        self._waiting: list[S] = []
        self._running: list[S] = []

    @property
    def capacity(self) -> int:
        """Most tokens that one sequence can hold when it has the cache for itself."""
        if self._shape.chunk is not None and self._shape.local_pages * self._shape.page_size < self._shape.chunk:
            return min(self._shape.global_pages, self._shape.local_pages) * self._shape.page_size
        return self._shape.global_pages * self._shape.page_size

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._waiting)

    @property
    def pages_in_use(self) -> tuple[int, int]:
        """Pages in the tables of running sequences, of the global and the local pool; shared ones count for each."""
        tables = [sequence.pages for sequence in self._running]
        return sum(len(table.global_pages) for table in tables), sum(len(table.local_pages) for table in tables)

    @property
    def idle(self) -> bool:
        """Whether no sequence could get a step, whatever `schedule` tried."""
        return all(sequence.paused for sequence in (*self._running, *self._waiting))

    def add(self, sequence: S) -> None:
        """Queue a sequence.

        Raises:
            ContextOverflow: It would not fit even if it had the cache for itself.
            Overloaded: The queue is full.
        """
        if sequence.limit > self.capacity:
            raise ContextOverflow(
                f"The cache holds {self.capacity} tokens and this request may come to {sequence.limit}; "
                "ask for fewer max_tokens or give the backend more memory=.",
                prompt_tokens=len(sequence.tokens),
                limit=self.capacity,
            )
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} requests are waiting already; try again later.")
        self._arrivals += 1
        priority = max(-HIGHEST_PRIORITY, min(HIGHEST_PRIORITY, sequence.priority))
        sequence.rank = (self._arrivals - HEAD_START * priority, self._arrivals)
        self._enqueue(sequence)

    def remove(self, sequence: S) -> None:
        """Forget a sequence and release its pages; does nothing for one that is gone."""
        for sequences in (self._running, self._waiting):
            if sequence in sequences:
                sequences.remove(sequence)
        self._release(sequence)

    def schedule(self, beside: int | None = None) -> ScheduledStep[S]:
        """Pick the next step's chunks and make room in the cache for them.

        Args:
            beside: Most prompt tokens where any sequence decodes; None for no other limit than the budget.
        """
        draft = _Draft[S](self._budget)
        ready = [sequence for sequence in self._running if not sequence.paused]
        draft.spare = draft.budget - len(ready)
        for sequence in ready:
            if sequence.left == 1:
                self._advance(draft, sequence, 1, self._fitting(draft, sequence))
        if draft.chunks and beside is not None:
            draft.budget = min(draft.budget, beside)
        prompts = [sequence for sequence in ready if sequence.left > 1]
        for place, sequence in enumerate(prompts, start=1):
            others = place < len(prompts) or bool(self._waiting)
            self._advance(draft, sequence, self._share(draft, sequence, others=others))
        self._admit(draft)
        return ScheduledStep(tuple(draft.chunks.values()), tuple(draft.copies), () if draft.chunks else self._stuck())

    def schedule_ahead(self, chunks: tuple[ScheduledChunk[S], ...]) -> ScheduledStep[S] | None:
        """Schedule the tokens that follow those which the in-flight step samples, before their values are known.

        None unless these chunks are all that could go on, every sequence goes on unless its own token ends it,
        and no sequence has to give pages up.

        Args:
            chunks: The in-flight step, with the last token of every sequence in it.
        """
        sequences = [chunk.sequence for chunk in chunks]
        full = len(self._running) >= self._max_sequences
        if len(sequences) != len(self._running) or (self._waiting and not full):
            return None
        running = set(map(id, self._running))
        if not all(id(sequence) in running and self._goes_on(sequence) for sequence in sequences):
            return None
        needed = [sequence.pages.pages_needed(1) for sequence in sequences]
        if not self._prefixes.make_room(sum(whole for whole, _ in needed), sum(local for _, local in needed)):
            return None
        starts = [sequence.pages.length for sequence in sequences]
        copies = [copy for sequence in sequences for copy in sequence.pages.extend(1)]
        return ScheduledStep(tuple(map(ScheduledChunk, sequences, starts, [1] * len(starts))), tuple(copies))

    def _goes_on(self, sequence: S) -> bool:
        """Whether a sequence whose next token is in flight needs the one after it too, in the same attention chunk."""
        length = sequence.pages.length
        edge = self._shape.chunk is not None and length % self._shape.chunk == 0
        return not sequence.paused and not edge and length + 1 < sequence.limit

    def settle(self, chunk: ScheduledChunk[S], accepted: int) -> ScheduledChunk[S]:
        """Make the first `accepted` drafted tokens the sequence's own, and give back the pages of the others.

        Returns:
            What the step computed of the sequence.
        """
        rejected = len(chunk.drafted) - accepted
        chunk.sequence.pages.retract(rejected)
        chunk.sequence.tokens.extend(chunk.drafted[:accepted])
        return ScheduledChunk(chunk.sequence, chunk.start, chunk.count - rejected)

    def computed(self, chunks: Iterable[ScheduledChunk[S]]) -> None:
        """Publish the pages that these chunks filled to the prefix cache, and leave attention chunks that are full."""
        for chunk in chunks:
            sequence = chunk.sequence
            # The page table may be a token ahead, see `schedule_ahead`.
            sequence.page_hashes.cover(sequence.tokens, chunk.end)
            hashes = sequence.page_hashes.hashes
            sequence.published = self._prefixes.publish(sequence.pages, hashes, sequence.published)
            if self._shape.chunk is not None and chunk.end % self._shape.chunk == 0:
                self._local_pool.release(sequence.pages.local_pages)
                sequence.pages.local_pages = []

    def distrust(self, sequence: S) -> None:
        """Take pages that this sequence computed or used out of the prefix cache, because its step failed."""
        self._prefixes.forget(sequence.page_hashes.hashes)

    def _share(self, draft: _Draft[S], sequence: S, *, others: bool) -> int:
        """Tokens of a prompt for this step; half of the budget is left to the sequences behind it."""
        count = max(_SMALLEST_SHARE, draft.budget // 2) if others else draft.budget
        room = sequence.pages.room_in_chunk()
        return min(count, draft.budget, sequence.left, sequence.left if room is None else room)

    def _fitting(self, draft: _Draft[S], sequence: S) -> tuple[int, ...]:
        """Return the drafted tokens that budget, limit, attention chunk and cache leave room for."""
        if not sequence.drafted:
            return ()
        room = sequence.pages.room_in_chunk()
        most = min(draft.spare, sequence.limit - len(sequence.tokens) - 1, draft.spare if room is None else room - 1)
        drafted = sequence.drafted[: max(most, 0)]
        if not self._prefixes.make_room(*sequence.pages.pages_needed(1 + len(drafted))):
            return ()
        draft.spare -= len(drafted)
        return drafted

    def _advance(self, draft: _Draft[S], sequence: S, count: int, drafted: tuple[int, ...] = ()) -> bool:
        """Put `count` tokens of a running sequence into the step, and drafted ones, if there is room for them."""
        count += len(drafted)
        if count < 1 or count > draft.budget or sequence in draft.preempted:
            return False
        while not self._prefixes.make_room(*sequence.pages.pages_needed(count)):
            victim = self._victim(sequence)
            if victim is None:
                return False
            self._preempt(draft, victim)
        start = sequence.pages.length
        draft.copies.extend(sequence.pages.extend(count))
        draft.chunks[sequence] = ScheduledChunk(sequence, start, count, drafted)
        draft.budget -= count
        return True

    def _victim(self, sequence: S) -> S | None:
        """The sequence whose pages a running one may take: one with a lagging reader, else one behind it in rank."""
        others = [other for other in self._running if other is not sequence]
        lagging = [other for other in others if other.paused]
        behind = [other for other in others if other.rank > sequence.rank]
        return (lagging or behind or [None])[-1]

    def _preempt(self, draft: _Draft[S], victim: S) -> None:
        """Send a running sequence back to the queue; its tokens are computed again later."""
        chunk = draft.chunks.pop(victim, None)
        draft.budget += chunk.count if chunk else 0
        draft.preempted.add(victim)
        draft.reserved = None
        self._running.remove(victim)
        self._release(victim)
        self._enqueue(victim)

    def _admit(self, draft: _Draft[S]) -> None:
        """Admit waiting sequences in order, while their prompts fit beside the needs of the running ones."""
        while draft.budget > 0:
            sequence = next((waiting for waiting in self._waiting if not waiting.paused), None)
            if sequence is None or not self._has_place(draft) or not self._fits(draft, sequence):
                return
            self._waiting.remove(sequence)
            draft.preempted.discard(sequence)
            insort(self._running, sequence, key=_rank)
            self._advance(draft, sequence, self._share(draft, sequence, others=bool(self._waiting)))
            if draft.reserved is not None:
                draft.reserved = _sum([draft.reserved, self._reserve(sequence)])

    def _has_place(self, draft: _Draft[S]) -> bool:
        if len(self._running) >= self._max_sequences:
            return self._preempt_lagging(draft)
        return True

    def _fits(self, draft: _Draft[S], sequence: S) -> bool:
        sequence.page_hashes.cover(sequence.tokens, len(sequence.tokens))
        # The last token is always computed: the answer begins with its logits.
        usable = (len(sequence.tokens) - 1) // self._shape.page_size
        reused = self._prefixes.attach(sequence.pages, sequence.page_hashes.hashes[:usable])
        while not self._prefixes.make_room(*self._pages_to_admit(draft, sequence)):
            if not self._preempt_lagging(draft):
                self._release(sequence)
                return False
        if sequence.reused is None:
            sequence.reused = reused
        return True

    def _pages_to_admit(self, draft: _Draft[S], sequence: S) -> tuple[int, int]:
        """Pages for a whole prompt, for those that the running ones lack, and one more for each of these."""
        if draft.reserved is None:
            draft.reserved = _sum(map(self._reserve, self._running))
        return _sum([draft.reserved, self._lacking(sequence)])

    def _reserve(self, running: S) -> tuple[int, int]:
        """Pages that a running sequence lacks, and one more in each pool."""
        whole, local = self._lacking(running)
        return whole + 1, local + 1 if self._shape.chunk is not None else 0

    def _lacking(self, sequence: S) -> tuple[int, int]:
        pages = sequence.pages
        whole = self._shape.pages_for(len(sequence.tokens)) - len(pages.global_pages)
        if self._shape.chunk is None:
            return whole, 0
        in_chunk = pages.length % self._shape.chunk + sequence.left
        return whole, self._shape.local_pages_for(in_chunk) - len(pages.local_pages)

    def _preempt_lagging(self, draft: _Draft[S]) -> bool:
        lagging = [sequence for sequence in self._running if sequence.paused]
        if lagging:
            self._preempt(draft, lagging[-1])
        return bool(lagging)

    def _stuck(self) -> tuple[S, ...]:
        """The sequence that has to end for anything to go on: sessions may pin pages too."""
        active = [sequence for sequence in (*self._running, *self._waiting) if not sequence.paused]
        return tuple(active[:1])

    def _enqueue(self, sequence: S) -> None:
        insort(self._waiting, sequence, key=_rank)

    def _release(self, sequence: S) -> None:
        sequence.pages.release()
        self._prefixes.touch(sequence.page_hashes.hashes)  # after, since pages in use have no place among the others
        sequence.published = 0


def _sum(pages: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the sum over sequences for each pool."""
    whole = local = 0
    for of_global, of_local in pages:
        whole, local = whole + of_global, local + of_local
    return whole, local


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank


@dataclass(slots=True)
class _Draft(Generic[S]):
    """A step that is being scheduled."""

    budget: int
    spare: int = 0  # tokens of the budget beside one for each sequence
    preempted: set[S] = field(default_factory=set[S])
    reserved: tuple[int, int] | None = None  # pages for the running sequences, once an admission asked for them
    chunks: dict[S, ScheduledChunk[S]] = field(default_factory=dict[S, ScheduledChunk[S]])
    copies: list[PageCopy] = field(default_factory=list[PageCopy])
