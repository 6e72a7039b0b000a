"""One turn under guards: three tasks, which read the backend, judge, and release what is cleared."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from llama4sdk.errors import GuardBlocked, GuardUnavailable
from llama4sdk.events import Done, Event, GuardFlag, Started, Switched, TextDelta
from llama4sdk.guards.admission import Admission
from llama4sdk.guards.held import Held
from llama4sdk.guards.items import answer_item, call_item, unfinished_call_item
from llama4sdk.guards.record import Record
from llama4sdk.messages import AssistantMessage
from llama4sdk.tools.events import CallEvents, call_ids, may_call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llama4sdk.backend import Answers
    from llama4sdk.guards.guarding import Guarding
    from llama4sdk.guards.protocol import Item
    from llama4sdk.guards.ruling import Ruling
    from llama4sdk.messages import Message, ToolCall
    from llama4sdk.request import Request
    from llama4sdk.verdict import Redaction

_AHEAD = 4  # windows of an answer that may be held back before the backend has to wait


class GuardedTurn:
    """Runs one request and hands over its events, each when it is cleared.

    The input is judged while the backend computes the prompt; tools' results, and input that a guard may replace, are
    judged before the backend gets them. Where a guard replaces text without notice, the request is begun anew.

    Args:
        inner: What runs the request.
        guarding: The guards.
        request: The request.
        deliver: Takes each released event.
        before: The messages before the request's, in a session.
    """

    def __init__(
        self,
        inner: Answers,
        guarding: Guarding,
        request: Request,
        deliver: Callable[[Event], Awaitable[None]],
        before: tuple[Message, ...] = (),
    ) -> None:
        self._inner = inner
        self._guarding = guarding
        self._request = request
        self._deliver = deliver
        self._before = before
        self._record = Record()
        self._started = False
        self._released = 0  # characters of the answer that the reader has
        self._early: list[GuardFlag] = []  # reports from before the backend was asked
        self.block: object = None
        """The block of the inner backend, once it is entered."""
        self.said = before
        """The conversation, once all of it was cleared."""

    async def run(self) -> None:
        """Run the request to its end.

        Raises:
            GuardBlocked: A guard blocks; the generation has been stopped and left.
            GuardUnavailable: A guard gives no verdict that counts, under `on_error="block"`.
            Exception: Whatever the backend raises.
        """
        admission = Admission(self._guarding, self._request, self._before)
        if admission.goes_first:
            await self._attempt(await admission.admit(self._note))
            return
        again = await self._attempt(admission.request, admission)
        if again is not None:
            await self._attempt(again)

    def _note(self, ruling: Ruling) -> None:
        self._early += [GuardFlag(verdict) for verdict in self._record.add(ruling)]

    async def _attempt(self, request: Request, admission: Admission | None = None) -> Request | None:
        """Run a request, and judge its input beside it; return what takes its place where the input is replaced."""
        attempt = _Attempt(self._guarding, request, self._record, admission, self._before)
        failure: Exception | None = None
        for flag in self._early:
            attempt.add(flag)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, attempt)
            tasks.start_soon(attempt.judge)
            try:
                await self._release(attempt)
            except Exception as error:  # noqa: BLE001 - raised below, when the generation was left
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        self.said = (*attempt.conversation, attempt.answer)
        return attempt.replaced

    async def _read(self, attempt: _Attempt) -> None:
        request = attempt.request
        calls = CallEvents(request.tools, call_ids(request)) if may_call(request) else None
        try:
            self.block = block = self._inner.open(request)
            async with block as events:
                async for event in events:
                    if isinstance(event, Started):
                        if self._started:
                            continue
                        self._started = True
                    for made in calls.add(event) if calls else (event,):
                        attempt.add(made)
                    if isinstance(event, Done):
                        break
                    await attempt.room()
        except Exception as error:  # noqa: BLE001 - raised by the releasing task
            attempt.broken = error
        finally:
            attempt.end_of_events()

    async def _release(self, attempt: _Attempt) -> None:
        while True:
            self._stop_at_failure(attempt)
            if attempt.replaced is not None:
                return
            events = attempt.take()
            for event in events:
                if isinstance(event, Done):
                    event = replace(event, verdicts=self._record.verdicts)
                await self._deliver(event)
                self._count(event)
                if isinstance(event, Done):
                    return
                self._stop_at_failure(attempt)
            if events:  # more may have been cleared meanwhile
                continue
            if attempt.over:
                if attempt.broken is not None:
                    raise attempt.broken
                return  # events without an end, which the reader treats as an error
            await attempt.changed()

    def _count(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self._released += len(event.text)
        elif isinstance(event, Switched) and event.withdrawn:
            self._released = 0

    def _stop_at_failure(self, attempt: _Attempt) -> None:
        if isinstance(attempt.failure, GuardBlocked):
            attempt.failure.released_characters = self._released
        if attempt.failure is not None:
            raise attempt.failure


class _Attempt:
    """One run of a request: the state that its three tasks share."""

    def __init__(
        self,
        guarding: Guarding,
        request: Request,
        record: Record,
        admission: Admission | None,
        before: tuple[Message, ...],
    ) -> None:
        self.request = request
        self.conversation = (*before, *request.messages)
        self.failure: Exception | None = None
        self.broken: Exception | None = None
        self.replaced: Request | None = None
        self.over = False
        self._guarding = guarding
        self._policy = guarding.policy
        self._record = record
        self._admission = admission  # None where the input was judged before
        self._held = Held(at_once=self._policy.streaming == "observe" or not guarding.holds("output"))
        self._checked = 0
        self._read_all = False
        self._changed = anyio.Event()

    @property
    def answer(self) -> AssistantMessage:
        """The answer as the reader has it, with what it began with."""
        return AssistantMessage(self.request.answer_so_far + self._held.replaced, tool_calls=self._held.calls)

    def add(self, event: Event) -> None:
        self._held.add(event)
        self._notify()

    def take(self) -> list[Event]:
        events = self._held.take()
        if events:
            self._notify()
        return events

    async def room(self) -> None:
        """Wait while so much is held that the backend should not run further ahead."""
        held = self._held
        while max(held.waiting_for_reader, self._unchecked()) > _AHEAD * max(self._policy.window, self._least()):
            await self.changed()

    def end_of_events(self) -> None:
        self._read_all = True
        self._notify()

    async def changed(self) -> None:
        await self._changed.wait()

    async def judge(self) -> None:
        """Judge the input, then calls and text as they come, then the whole answer."""
        judged = False
        try:
            if self._admission is not None:
                admitted = await self._admission.admit(self._note)
                self.replaced = None if admitted is self.request else admitted
            if self.replaced is None:
                self._held.admitted = True
                self._notify()
                while await self._judge_next():
                    pass
            judged = True
        except Exception as error:  # noqa: BLE001 - raised by the releasing task
            self.failure = error
        finally:
            if not judged and self.failure is None:
                self.failure = GuardUnavailable("The judging of the turn was given up; ask again.", guard="all")
            self.over = True
            self._notify()

    async def _judge_next(self) -> bool:
        """Judge the next thing that is due; return False when there is nothing more."""
        for index, call in self._held.calls_to_check():
            await self._judge_call(index, call_item(self.conversation, call, self.request.request_id), call)
            return True
        ended = self._read_all or self._held.ended
        if self._text_is_due():
            await self._judge_text(final=False)
            return True
        if not ended:
            await self.changed()
            return True
        if self.broken is not None or not self._held.ended:
            return False
        for index, text in self._held.unfinished_calls().items():
            await self._judge_call(index, unfinished_call_item(self.conversation, text, self.request.request_id), None)
            return True
        if self._held.answer and self._guarding.checks("output"):
            await self._judge_text(final=True)
        self._held.complete = True
        return False

    def _unchecked(self) -> int:
        """Return how many characters a check is due for; held to the end, none is."""
        if self._held.admitted and self._policy.streaming == "final":
            return 0
        return len(self._held.answer) - self._checked

    def _text_is_due(self) -> bool:
        held = self._held
        if self._held.ended or not self._guarding.checks("output") or len(held.answer) <= self._checked:
            return False
        if len(held.answer) > self._policy.max_characters:
            return True
        if self._policy.streaming == "final":
            return False
        fresh = len(held.answer) - self._checked
        if fresh < self._least():
            return False
        return fresh >= self._policy.window or held.sentence_ends_behind(self._checked)

    def _least(self) -> int:
        """Return by how many characters the answer must have grown before its next check."""
        return int(self._policy.growth * self._checked)

    async def _judge_call(self, index: int, item: Item, call: ToolCall | None) -> None:
        epoch = self._held.epoch
        ruling = await self._guarding.rule(item)
        if epoch != self._held.epoch:
            return
        ruling.check()
        self._note(ruling, call)
        if call is not None:
            self._remember(AssistantMessage("", tool_calls=(call,)), ruling)
        self._held.clear_call(index)
        self._notify()

    async def _judge_text(self, *, final: bool) -> None:
        held = self._held
        epoch, checked, before = held.epoch, len(held.answer), self.request.answer_so_far
        text, named = before + held.answer[:checked], self.request.request_id
        ruling = await self._guarding.rule(answer_item(self.conversation, text, named, final=final))
        if epoch != held.epoch:
            self._checked = 0
            return
        ruling.check()
        redactions = [_moved(one, -len(before)) for one in ruling.redactions if one.end > len(before)]
        if any(held.is_out(one) for one in redactions):
            self._refuse_late(ruling)
        self._note(ruling)
        limit = min(checked, max(0, ruling.cleared - len(before)))
        if not final:
            limit = min(limit, held.boundary(checked, self._policy.overlap))
        held.clear(limit, redactions)
        if final:
            self._remember(AssistantMessage(self.answer.content), ruling)
        self._checked = checked
        self._notify()

    def _remember(self, message: Message, ruling: Ruling) -> None:
        """Remember a part of the answer, as the reader has it and may send it again."""
        if ruling.sound:
            self._guarding.inspected.remember(message, salt=self.request.cache_salt)

    def _refuse_late(self, ruling: Ruling) -> None:
        """Stop an answer of which a stretch that should be replaced is out already."""
        verdict = next(each for each in ruling.verdicts if each.action == "redact")
        raise GuardBlocked(
            f"The guard {verdict.guard} replaces text of the answer that is out already; the answer was stopped. "
            'Hold answers back to the end with GuardPolicy(streaming="final") where stretches are long.',
            stage="output",
            guard=verdict.guard,
            categories=verdict.categories,
            request_id=self.request.request_id,
        )

    def _note(self, ruling: Ruling, call: ToolCall | None = None) -> None:
        for verdict in self._record.add(ruling):
            self._held.report(GuardFlag(verdict, call))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _moved(one: Redaction, by: int) -> Redaction:
    return replace(one, start=max(0, one.start + by), end=one.end + by)
