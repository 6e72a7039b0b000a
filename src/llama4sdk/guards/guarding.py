"""The guards of one client: self-tested before their first use, timed, counted, and held to their coverage."""

from __future__ import annotations

from collections import Counter
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import anyio
from anyio import lowlevel

from llama4sdk.checks import shown
from llama4sdk.errors import GuardUnavailable, InvalidRequest, LlamaError
from llama4sdk.guards.hidden import HiddenCharacters
from llama4sdk.guards.inspected import Inspected
from llama4sdk.guards.policy import GuardPolicy
from llama4sdk.guards.protocol import Guard, Item, checked_stages, may_block, sees_images
from llama4sdk.guards.ruling import Ruling
from llama4sdk.verdict import Coverage, Stage, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence


class Guarding:
    """Applies guards, beside the checks that are always on, under one policy.

    Args:
        guards: The guards; may be empty.
        policy: How they are applied.

    Raises:
        InvalidRequest: For an object that is no guard, or two of one name.
    """

    def __init__(self, guards: Sequence[Guard] = (), policy: GuardPolicy | None = None) -> None:
        self.policy = _checked_policy(policy)
        if isinstance(guards, str) or not hasattr(guards, "__iter__"):
            raise InvalidRequest('guards is a list of guards, such as [PatternGuard(…)], "auto", or None for none.')
        self._guards: tuple[Guard, ...] = (HiddenCharacters(self.policy.hidden_characters), *guards)
        for guard in self._guards:
            _check_form(guard)
        names = [guard.name for guard in self._guards]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidRequest(f"Guards must have different names; given twice: {', '.join(twice)}.")
        self.inspected = Inspected()
        """The messages that were cleared so far, and what was replaced in them."""
        self._attended = True
        self._started: set[str] = set()
        self._works: set[str] = set()
        self._testing = {name: anyio.Lock() for name in names}
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """How often each guard came to each result: (guard, stage, action), with `error` for checks that failed and
        `error allowed` for those among them after which the turn went on."""

    @property
    def guards(self) -> tuple[Guard, ...]:
        """All guards, the one that is always on first."""
        return self._guards

    def checks(self, stage: Stage) -> bool:
        """Return whether any guard checks items of a stage."""
        return any(stage in guard.stages for guard in self._guards)

    def holds(self, stage: Stage) -> bool:
        """Return whether a guard that may block checks items of a stage."""
        return any(stage in guard.stages and may_block(guard) for guard in self._guards)

    def unattended(self) -> Guarding:
        """Return the same guards for answers where no person can be asked about a call: to ask is to block."""
        other = copy(self)
        other._attended = False
        return other

    async def rule(self, item: Item) -> Ruling:
        """Return the verdicts of all guards on one item, checked at the same time.

        Raises:
            GuardUnavailable: One gives no verdict that counts, none of the others blocks, and the policy says `block`.
        """
        if len(item.text) > self.policy.max_characters:
            return Ruling(item, (self._too_large(item),))
        guards = [guard for guard in self._guards if item.stage in guard.stages]
        results: dict[str, Verdict | GuardUnavailable] = {}

        async def ask(guard: Guard) -> None:
            results[guard.name] = await self._ask(guard, item)

        await ask(self._guards[0])  # the one that is always on has its verdict at once
        others = [guard for guard in guards if guard is not self._guards[0]]
        if others:
            async with anyio.create_task_group() as tasks:
                for guard in others:
                    tasks.start_soon(ask, guard)
        return self._ruling(item, guards, results)

    async def aclose(self) -> None:
        """Close the guards that have something to close; of those with a start, the ones that were started here."""
        failures: list[Exception] = []
        for guard in self._guards:
            close = cast("Callable[[], Awaitable[None]] | None", getattr(guard, "aclose", None))
            if close is None or (hasattr(guard, "start") and guard.name not in self._started):
                continue
            try:
                await close()
            except Exception as error:  # noqa: BLE001 - raised below, when the others are closed
                failures.append(error)
        if failures:
            raise failures[0]

    def _ruling(self, item: Item, guards: Sequence[Guard], results: dict[str, Verdict | GuardUnavailable]) -> Ruling:
        # A check that was cancelled from within left no result.
        every = [results.get(guard.name) or _unavailable(guard, item, "its check was given up") for guard in guards]
        for guard, result in zip(guards, every, strict=True):
            outcome = result.action if isinstance(result, Verdict) else "error"
            self.counts[guard.name, item.stage, outcome] += 1
        verdicts = tuple(result for result in every if isinstance(result, Verdict))
        failures = [result for result in every if isinstance(result, GuardUnavailable)]
        ruling = Ruling(item, verdicts, self._attended)
        if not failures or ruling.blocking is not None:
            return ruling
        if self.policy.on_error == "block":
            raise failures[0]
        for failure in failures:
            self.counts[failure.guard, item.stage, "error allowed"] += 1
        passed = tuple(
            Verdict(status="error", reason=str(each), guard=each.guard, stage=item.stage) for each in failures
        )
        return Ruling(item, (*verdicts, *passed), self._attended)

    async def _ask(self, guard: Guard, item: Item) -> Verdict | GuardUnavailable:
        begun = anyio.current_time()
        try:
            await self._test(guard)
            begun = anyio.current_time()
            present = item.copied(images=sees_images(guard))
            with anyio.fail_after(self.policy.timeout):
                verdict = cast("object", await guard.check(present))
            if anyio.current_time() - begun > self.policy.timeout:  # a guard that blocked the loop, or went on
                raise TimeoutError  # noqa: TRY301
            if not isinstance(verdict, Verdict):
                return _unavailable(guard, item, f"its check returned {type(verdict).__name__}, which is no Verdict")
            if problem := _problem(verdict, item, images=len(item.images) if sees_images(guard) else 0):
                return _unavailable(guard, item, problem)
            return replace(verdict, guard=guard.name, stage=item.stage, seconds=anyio.current_time() - begun)
        except TimeoutError:
            return _unavailable(guard, item, f"it gave no verdict within {self.policy.timeout:g} s")
        except _UntestedError as error:
            return _unavailable(guard, item, str(error), error)
        except LlamaError as error:
            return _unavailable(guard, item, f"its check failed with {type(error).__name__}: {error}", error)
        except BaseException as error:  # noqa: BLE001 - a cancellation is raised again
            await _reraise_ends(error)
            return _unavailable(guard, item, f"its check failed with {type(error).__name__}", error)

    async def _test(self, guard: Guard) -> None:
        """Start a guard and run its self-test, once; one that fails is tried again with the next item."""
        if guard.name in self._works:
            return
        async with self._testing[guard.name]:
            if guard.name in self._works:
                return
            begun = anyio.current_time()
            try:
                with anyio.fail_after(self.policy.selftest_timeout):
                    await self._start(guard)
                    passed = await guard.selftest()
                if anyio.current_time() - begun > self.policy.selftest_timeout:
                    raise TimeoutError  # noqa: TRY301
            except TimeoutError:
                raise _UntestedError(f"its self-test did not end within {self.policy.selftest_timeout:g} s") from None
            except BaseException as error:
                await _reraise_ends(error)
                raise _UntestedError(f"its self-test failed with {type(error).__name__}: {error}") from error
            if passed is False:
                raise _UntestedError("its self-test failed")
            self._works.add(guard.name)

    async def _start(self, guard: Guard) -> None:
        start = cast("Callable[[], Awaitable[None]] | None", getattr(guard, "start", None))
        if start is not None and guard.name not in self._started:
            await start()
            self._started.add(guard.name)

    def _too_large(self, item: Item) -> Verdict:
        self.counts["size-limit", item.stage, "block"] += 1
        coverage = Coverage((0, len(item.text)), images=(0, len(item.images)))
        reason = f"more than {self.policy.max_characters} characters"
        return Verdict("block", categories=("size",), coverage=coverage, reason=reason, guard="size-limit",
                       stage=item.stage)  # fmt: skip


def _check_form(guard: object) -> None:
    if isinstance(guard, type) or not isinstance(guard, Guard):
        name = guard.__name__ if isinstance(guard, type) else type(guard).__name__
        raise InvalidRequest(f"A guard has a name, stages, check() and selftest(); {name} does not.")
    if not isinstance(cast("object", guard.name), str) or not guard.name:
        raise InvalidRequest(f"A guard's name is text; {type(guard).__name__} has {shown(guard.name)}.")
    checked_stages(guard.stages)


def _problem(verdict: Verdict, item: Item, *, images: int) -> str | None:
    """Return why a verdict does not count, in words; None when it does. A block counts whatever its coverage."""
    if verdict.status == "error":
        return f"it reports an error{f': {verdict.reason}' if verdict.reason else ''}"
    if verdict.action == "block":
        return None
    coverage = Coverage.__add__(verdict.coverage, Coverage())  # of no other class
    if coverage.characters[1] != len(item.text) or coverage.images[1] != images:
        return (
            f"its coverage is of {coverage.characters[1]} characters and {coverage.images[1]} images, "
            f"the item has {len(item.text)} and {images}"
        )
    if any(one.end > len(item.text) for one in verdict.redactions):
        return "it replaces text beyond the end of the item"
    if verdict.status == "waiting" and item.final:
        return "it waits for more of an item that is complete"
    if verdict.status == "waiting":  # for more text; all else that there is must have been inspected
        coverage = replace(coverage, characters=(0, 0))
    if not coverage.complete:
        parts = {name: getattr(coverage, name) for name in ("characters", "windows", "images", "files")}
        less = [f"{part[0]} of {part[1]} {name}" for name, part in parts.items() if part[0] < part[1]]
        return f"it inspected only {', '.join(less)}"
    return None


def _unavailable(guard: Guard, item: Item, problem: str, cause: BaseException | None = None) -> GuardUnavailable:
    error = GuardUnavailable(
        f"The guard {guard.name} gave no verdict on the {item.stage}: {problem}. Mend it, or let turns pass without "
        'it with GuardPolicy(on_error="allow").',
        guard=guard.name,
        stage=item.stage,
        request_id=item.request_id or None,
    )
    error.__cause__ = cause
    return error


async def _reraise_ends(error: BaseException) -> None:
    """Raise an exception again that is a cancellation or an interrupt; any other that leaves a guard is no verdict.

    So is `SystemExit`, which would end the event loop; some libraries raise it where a download fails. A group of
    cancellations gives way to the task's own, and is no verdict where the task was not cancelled.
    """
    if isinstance(error, anyio.get_cancelled_exc_class() | KeyboardInterrupt):
        raise error
    if isinstance(error, BaseExceptionGroup):
        if interrupts := error.subgroup(KeyboardInterrupt):
            raise interrupts
        await lowlevel.checkpoint_if_cancelled()


class _UntestedError(Exception):
    """A self-test that did not pass, in words."""


def _checked_policy(policy: Any) -> GuardPolicy:
    if policy is None:
        return GuardPolicy()
    if not isinstance(policy, GuardPolicy):
        raise InvalidRequest('guard_policy is a GuardPolicy, such as GuardPolicy(streaming="final").')
    return policy
