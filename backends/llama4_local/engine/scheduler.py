"""Which tokens of which sequences the next step computes; no tensor is involved.

Every sequence has a rank, fixed when it is added: its turn of arrival, moved forward by its priority. A
priority thus is a head start, and nobody waits for ever. The sequence of smallest rank can always take what
it needs from the others, so something always goes on.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, field

from llama4_local.cache.page_table import PageAllocators, PageCopy, SequencePages
from llama4_local.cache.prefix_cache import PageHashes, PrefixCache
from llama4sdk.errors import ContextOverflow, Overloaded

HEAD_START = 64  # arrivals that one step of priority jumps over
HIGHEST_PRIORITY = 100  # beyond it a priority counts no more, so that the head start is bounded
_SMALLEST_SHARE = 32  # tokens of a prompt that are worth a step of their own


@dataclass(slots=True, eq=False)
class Sequence:
    """One prompt and its answer, as far as scheduling goes.

    Args:
        tokens: The prompt, then what was written; the engine appends.
        pages: Its page table; `pages.length` tokens are computed, or are by the end of the step.
        names: Names of its full pages.
        limit: Most tokens that it may come to hold.
        priority: Larger goes first.
        paused: Its reader lags behind, so it gets no step.
    """

    tokens: list[int]
    pages: SequencePages
    names: PageHashes
    limit: int
    priority: int = 0
    paused: bool = False
    rank: tuple[int, int] = (0, 0)
    reused: int | None = None  # tokens that the prefix cache had at its first admission
    published: int = field(default=0, init=False)

    @property
    def left(self) -> int:
        """Tokens yet to be computed."""
        return len(self.tokens) - self.pages.length


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """Tokens `start` to `start + count` of a sequence; they lie in one chunk."""

    sequence: Sequence
    start: int
    count: int

    @property
    def end(self) -> int:
        """One past its last token."""
        return self.start + self.count

    @property
    def samples(self) -> bool:
        """Whether the sequence's next token is chosen after this piece."""
        return self.end == len(self.sequence.tokens)


@dataclass(frozen=True, slots=True)
class ScheduledStep:
    """One step: page copies first, then the pieces as one flat batch.

    Args:
        pieces: What to compute; of each sequence at most one.
        copies: Pages to copy before.
        stuck: A sequence that cannot go on although nobody else can give way; it has to end.
    """

    pieces: tuple[ScheduledChunk, ...]
    copies: tuple[PageCopy, ...]
    stuck: tuple[Sequence, ...] = ()


class Scheduler:
    """Decodes first, then prompts within the token budget, then admits who waits.

    Args:
        pages: The cache's allocators.
        prefixes: Pages kept for their content.
        budget: Most tokens in a step.
        max_sequences: Most sequences under way at once.
        max_waiting: Most sequences in the queue.
    """

    def __init__(
        self, pages: PageAllocators, prefixes: PrefixCache, *, budget: int, max_sequences: int, max_waiting: int
    ) -> None:
        self._shape = pages.shape
        self._local_pool = pages.local_pool
        self._prefixes = prefixes
        self._budget = max(budget, max_sequences)  # each sequence under way gets its token
        self._max_sequences = max_sequences
        self._max_waiting = max_waiting
        self._arrivals = 0
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []

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
    def held(self) -> tuple[int, int]:
        """Pages in the tables of sequences, of the global and the local pool; shared ones count for each."""
        tables = [sequence.pages for sequence in self._running]
        return sum(len(table.global_pages) for table in tables), sum(len(table.local_pages) for table in tables)

    @property
    def idle(self) -> bool:
        """Whether no sequence could get a step, whatever `schedule` tried."""
        return all(sequence.paused for sequence in (*self._running, *self._waiting))

    def add(self, sequence: Sequence) -> None:
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

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and give its pages back; does nothing for one that is gone."""
        for sequences in (self._running, self._waiting):
            if sequence in sequences:
                sequences.remove(sequence)
        self._release(sequence)

    def schedule(self) -> ScheduledStep:
        """Choose the next step's pieces and make room in the cache for them."""
        step = _Step(self._budget)
        ready = [sequence for sequence in self._running if not sequence.paused]
        for sequence in ready:
            if sequence.left == 1:
                self._advance(step, sequence, 1)
        prompts = [sequence for sequence in ready if sequence.left > 1]
        for place, sequence in enumerate(prompts, start=1):
            others = place < len(prompts) or bool(self._waiting)
            self._advance(step, sequence, self._share(step, sequence, others=others))
        self._admit(step)
        return ScheduledStep(tuple(step.pieces.values()), tuple(step.copies), () if step.pieces else self._stuck())

    def again(self, pieces: tuple[ScheduledChunk, ...]) -> ScheduledStep | None:
        """Plan the tokens after those that these pieces choose, before they are known.

        None unless they are all that could go on, every sequence goes on unless it ends by what it says, and
        nobody has to give way.

        Args:
            pieces: The step under way, the last token of every sequence in it.
        """
        sequences = [piece.sequence for piece in pieces]
        full = len(self._running) >= self._max_sequences
        if len(sequences) != len(self._running) or (self._waiting and not full):
            return None
        if not all(self._goes_on(sequence) for sequence in sequences):
            return None
        wanted = [sequence.pages.pages_wanted(1) for sequence in sequences]
        if not self._prefixes.make_room(sum(whole for whole, _ in wanted), sum(local for _, local in wanted)):
            return None
        starts = [sequence.pages.length for sequence in sequences]
        copies = [copy for sequence in sequences for copy in sequence.pages.extend(1)]
        return ScheduledStep(tuple(map(ScheduledChunk, sequences, starts, [1] * len(starts))), tuple(copies))

    def _goes_on(self, sequence: Sequence) -> bool:
        """Whether a sequence whose next token is being chosen needs the one after it too, in the same chunk."""
        length = sequence.pages.length
        edge = self._shape.chunk is not None and length % self._shape.chunk == 0
        return sequence in self._running and not sequence.paused and not edge and length + 1 < sequence.limit

    def computed(self, pieces: Iterable[ScheduledChunk]) -> None:
        """Keep the pages that these pieces filled, for prompts that begin alike, and leave chunks that are full."""
        for piece in pieces:
            sequence = piece.sequence
            sequence.names.cover(sequence.tokens, piece.end)  # the pages may be a token ahead, see `again`
            sequence.published = self._prefixes.publish(sequence.pages, sequence.names.names, sequence.published)
            if self._shape.chunk is not None and piece.end % self._shape.chunk == 0:
                self._local_pool.release(sequence.pages.local_pages)
                sequence.pages.local_pages = []

    def distrust(self, sequence: Sequence) -> None:
        """Give up kept pages that this sequence computed or used, because something in it went wrong."""
        self._prefixes.forget(sequence.names.names)

    def _share(self, step: _Step, sequence: Sequence, *, others: bool) -> int:
        """Tokens of a prompt for this step: half of the budget goes to whoever comes behind."""
        count = max(_SMALLEST_SHARE, step.budget // 2) if others else step.budget
        room = sequence.pages.room_in_chunk()
        return min(count, step.budget, sequence.left, sequence.left if room is None else room)

    def _advance(self, step: _Step, sequence: Sequence, count: int) -> bool:
        """Put `count` tokens of a running sequence into the step, if there is room for them."""
        if count < 1 or count > step.budget or sequence not in self._running:
            return False
        while not self._prefixes.make_room(*sequence.pages.pages_wanted(count)):
            victim = self._victim(sequence)
            if victim is None:
                return False
            self._preempt(step, victim)
        start = sequence.pages.length
        step.copies.extend(sequence.pages.extend(count))
        step.pieces[sequence] = ScheduledChunk(sequence, start, count)
        step.budget -= count
        return True

    def _victim(self, sequence: Sequence) -> Sequence | None:
        """Whose pages a running sequence may take: of one whose reader lags, else of one behind it."""
        others = [other for other in self._running if other is not sequence]
        lagging = [other for other in others if other.paused]
        behind = [other for other in others if other.rank > sequence.rank]
        return (lagging or behind or [None])[-1]

    def _preempt(self, step: _Step, victim: Sequence) -> None:
        """Send a running sequence back to the queue; what it computed is computed again later."""
        piece = step.pieces.pop(victim, None)
        step.budget += piece.count if piece else 0
        self._running.remove(victim)
        self._release(victim)
        self._enqueue(victim)

    def _admit(self, step: _Step) -> None:
        """Let in who waits, in order, while prompts fit beside what the running ones still need."""
        while step.budget > 0:
            sequence = next((waiting for waiting in self._waiting if not waiting.paused), None)
            if sequence is None or not self._has_place(step) or not self._fits(step, sequence):
                return
            self._waiting.remove(sequence)
            insort(self._running, sequence, key=_rank)
            self._advance(step, sequence, self._share(step, sequence, others=bool(self._waiting)))

    def _has_place(self, step: _Step) -> bool:
        if len(self._running) >= self._max_sequences:
            return self._preempt_lagging(step)
        return True

    def _fits(self, step: _Step, sequence: Sequence) -> bool:
        sequence.names.cover(sequence.tokens, len(sequence.tokens))
        # The last token is always computed: its logits are what the answer begins with.
        usable = (len(sequence.tokens) - 1) // self._shape.page_size
        reused = self._prefixes.attach(sequence.pages, sequence.names.names[:usable])
        while not self._prefixes.make_room(*self._wanted(sequence)):
            if not self._preempt_lagging(step):
                self._release(sequence)
                return False
        if sequence.reused is None:
            sequence.reused = reused
        return True

    def _wanted(self, sequence: Sequence) -> tuple[int, int]:
        """Pages for a whole prompt, for what the running ones lack, and one more for each of these."""
        wanted = [self._lacking(sequence), *(self._lacking(other) for other in self._running)]
        ahead = len(self._running)
        local = 0 if self._shape.chunk is None else sum(lacking for _, lacking in wanted) + ahead
        return sum(lacking for lacking, _ in wanted) + ahead, local

    def _lacking(self, sequence: Sequence) -> tuple[int, int]:
        pages = sequence.pages
        whole = self._shape.pages_for(len(sequence.tokens)) - len(pages.global_pages)
        if self._shape.chunk is None:
            return whole, 0
        in_chunk = pages.length % self._shape.chunk + sequence.left
        return whole, self._shape.local_pages_for(in_chunk) - len(pages.local_pages)

    def _preempt_lagging(self, step: _Step) -> bool:
        lagging = [sequence for sequence in self._running if sequence.paused]
        if lagging:
            self._preempt(step, lagging[-1])
        return bool(lagging)

    def _stuck(self) -> tuple[Sequence, ...]:
        """Who must end for anything to go on: pages may be kept for other purposes than sequences."""
        going = [sequence for sequence in (*self._running, *self._waiting) if not sequence.paused]
        return tuple(going[:1])

    def _enqueue(self, sequence: Sequence) -> None:
        insort(self._waiting, sequence, key=_rank)

    def _release(self, sequence: Sequence) -> None:
        self._prefixes.touch(sequence.names.names)
        sequence.pages.release()
        sequence.published = 0


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank


@dataclass(slots=True)
class _Step:
    """A plan in the making."""

    budget: int
    pieces: dict[Sequence, ScheduledChunk] = field(default_factory=dict)
    copies: list[PageCopy] = field(default_factory=list)
