"""Random lives of an engine: whatever happens, pages come back and every answer is the request's own.

With `LLAMA4_LONG=1` it runs for tens of thousands of steps. `test_backend_stateful.py` does the same with a thread,
an event loop and files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llama4_local.engine.engine import EngineLimits
from llama4_local.engine.request import Prefix
from llama4_local.model.transformer import Model
from llama4sdk.errors import Overloaded
from llama4sdk.request import Sampling
from local.rank_threads import model_over_threads
from local.small_backends import Reader, SmallEngine, chatting, check_at_rest
from local.small_checkpoints import prompt
from long_runs import often

GREEDY = Sampling(temperature=0, max_tokens=6)
SEEDED = Sampling(temperature=1.0, top_p=0.9, seed=3, max_tokens=6)


DIVIDED = 2


@cache
def model_of(ranks: int) -> Model | None:
    """The network over ranks in threads; None for one that the engine makes."""
    return model_over_threads(chatting(stop_ids=()), ranks) if ranks > 1 else None


def teardown_module() -> None:
    if model_of.cache_info().currsize and (model := model_of(DIVIDED)) and model.ranks:
        model.ranks.close()


@cache
def alone(ranks: int) -> SmallEngine:
    """An engine with room for everything and nothing to share."""
    limits = EngineLimits(step_tokens=16, prefix_caching=False)
    return SmallEngine(chatting(stop_ids=()), limits=limits, model=model_of(ranks))


@cache
def said_alone(token_ids: tuple[int, ...], sampling: Sampling, ranks: int) -> str:
    return alone(ranks).answer(token_ids, sampling).text


@dataclass(eq=False)
class Talk:
    """A session as its owner sees it."""

    tokens: list[int] = field(default_factory=list[int])
    salt: str = ""
    reader: Reader | None = None


@dataclass(eq=False)
class Asked:
    """A request and what it must say."""

    reader: Reader
    tokens: tuple[int, ...]
    sampling: Sampling


class EngineLife(RuleBasedStateMachine):
    ranks = 1
    limits = EngineLimits(11, max_sequences=3, max_waiting=6)

    def __init__(self) -> None:
        super().__init__()
        self.small = SmallEngine(
            chatting(stop_ids=()),
            global_pages=40,
            local_pages=7,
            limits=self.limits,
            model=model_of(self.ranks),
        )
        self.asked: list[Asked] = []
        self.talks: list[Talk] = []

    def submit(self, tokens: list[int], sampling: Sampling, talk: Talk | None = None, room: int = 10**9) -> Asked:
        reader = self.small.submit(
            tokens, sampling, salt=talk.salt if talk else "", room=room, in_session=talk is not None
        )
        asked = Asked(reader, tuple(tokens), sampling)
        self.asked.append(asked)
        return asked

    @rule(kind=st.integers(0, 5), seeded=st.booleans(), slow=st.booleans())
    def ask(self, kind: int, *, seeded: bool, slow: bool) -> None:
        tokens = prompt(self.small.config, 3 + 6 * kind, seed=kind // 2)
        self.submit(tokens, SEEDED if seeded else GREEDY, room=6 if slow else 10**9)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        asked = data.draw(st.sampled_from(self.asked))
        assert asked.reader.engine_request
        self.small.engine.cancel(asked.reader.engine_request)

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.small.engine.step()

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.asked)).reader.read_all()

    @precondition(lambda self: len(self.talks) < 3)
    @rule()
    def begin(self) -> None:
        talk = Talk()
        self.talks.append(talk)
        talk.reader = self.submit(prompt(self.small.config, 15, seed=len(self.talks)), GREEDY, talk).reader

    @precondition(lambda self: self.talks)
    @rule(data=st.data(), new=st.integers(1, 9))
    def go_on(self, data: st.DataObject, new: int) -> None:
        talk = data.draw(st.sampled_from(self.talks))
        self.settle(talk)
        if talk.reader is None and len(talk.tokens) < 60:
            talk.reader = self.submit(talk.tokens + prompt(self.small.config, new, seed=new), GREEDY, talk).reader

    @precondition(lambda self: any(talk.reader for talk in self.talks))
    @rule(data=st.data())
    def wait_for_a_session(self, data: st.DataObject) -> None:
        self.wait_for(data.draw(st.sampled_from([talk for talk in self.talks if talk.reader])))

    def wait_for(self, talk: Talk) -> None:
        for _ in range(300):
            if talk.reader is None or talk.reader.over:
                break
            self.small.engine.step()
        self.settle(talk)

    def settle(self, talk: Talk) -> None:
        """Add a finished answer to the session."""
        if talk.reader and talk.reader.over:
            if talk.reader.done and talk.reader.engine_request:
                talk.tokens = [*talk.reader.engine_request.token_ids, *talk.reader.engine_request.written]
                self.small.engine.session_store.move(talk.reader.engine_request, talk)
            talk.reader = None

    @precondition(lambda self: self.talks)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        talk = data.draw(st.sampled_from(self.talks))
        self.settle(talk)
        if talk.reader is None and len(self.talks) < 5:
            twin = Talk(list(talk.tokens), talk.salt)
            self.small.engine.session_store.fork(talk, twin)
            self.talks.append(twin)

    @precondition(lambda self: self.talks)
    @rule(data=st.data())
    def save_and_restore(self, data: st.DataObject) -> None:
        talk = data.draw(st.sampled_from(self.talks))
        self.wait_for(talk)
        if talk.reader is not None or len(self.talks) >= 5:
            return
        copy = self.small.engine.session_store.read(talk, reader := object())
        while copy.advance():
            pass
        self.small.engine.session_store.unpin(reader)
        state = copy.state
        twin = Talk(list(talk.tokens), f"restored {len(self.asked)} {len(self.talks)}")
        try:
            back = self.small.engine.restore(Prefix(tuple(twin.tokens), (), 0, twin.salt, twin), state)
            while back.advance():
                pass
        except Overloaded:
            return
        self.talks.append(twin)
        twin.reader = self.submit([*twin.tokens, 7, 8], GREEDY, twin).reader

    @precondition(lambda self: self.talks)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        talk = data.draw(st.sampled_from(self.talks))
        if talk.reader and talk.reader.engine_request:
            self.small.engine.cancel(talk.reader.engine_request)
        self.small.engine.session_store.unpin(talk)
        self.talks.remove(talk)

    @invariant()
    def answers_are_their_own(self) -> None:
        for asked in self.asked:
            if asked.reader.done:
                assert asked.reader.text == said_alone(asked.tokens, asked.sampling, self.ranks)
            elif asked.reader.error:
                assert isinstance(asked.reader.error, Overloaded)
        self.asked = [asked for asked in self.asked if not asked.reader.over]

    @invariant()
    def pages_are_accounted_for(self) -> None:
        load = self.small.engine.load
        assert load.global_pages <= load.requests * self.small.shape.global_pages

    def teardown(self) -> None:
        for _ in range(500):
            self.small.run()
            for asked in self.asked:
                asked.reader.read_all()
            if self.small.engine.idle and self.small.engine.load.requests == 0:
                break
        self.answers_are_their_own()
        for talk in self.talks:
            self.settle(talk)
            self.small.engine.session_store.unpin(talk)
        check_at_rest(self.small)


class DividedEngineLife(EngineLife):
    """The same over two ranks, which are threads here."""

    ranks = DIVIDED


TestEngineLife = EngineLife.TestCase
TestEngineLife.settings = settings(max_examples=often(12, 200), stateful_step_count=often(50, 200), deadline=None)
TestDividedEngineLife = DividedEngineLife.TestCase
TestDividedEngineLife.settings = settings(max_examples=often(1, 200), stateful_step_count=often(40, 200), deadline=None)
