"""Rules of one's own: regular expressions with a time limit, secrets and personal data."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from llama4sdk.errors import BackendMissing, InvalidRequest
from llama4sdk.verdict import Action, Redaction, Stage, Verdict
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.guards.protocol import Item

PatternAction: TypeAlias = Literal["flag", "redact", "block", "ask"]
# A stretch of the text, and the rule that matched it.
Match: TypeAlias = tuple[int, int, str]
_Finder: TypeAlias = Callable[[str], Iterator[Match]]


class PatternGuard:
    """Applies rules to text.

        PatternGuard({"ticket": r"TICKET-[0-9]{6}"}, secrets=True, action="redact")

    Args:
        rules: Regular expressions by name; the name is the verdict's category.
        action: What a match leads to: `flag`, `redact`, `block` or, for tool calls, `ask`.
        secrets: Whether keys and tokens count as matches too; needs `detect-secrets`.
        personal: Whether personal data counts too; needs `presidio-analyzer` and its language model.
        language: Language of the text, for personal data.
        stages: The stages to check; all by default.
        seconds: Time limit of one rule on one item; needs `regex`, whose expressions can be stopped.
        name: The guard's name.

    Raises:
        InvalidRequest: For a rule that is no regular expression, or no rule at all.
        BackendMissing: A package that is needed is not installed.
    """

    sees_images = False

    def __init__(
        self,
        rules: Mapping[str, str] | None = None,
        *,
        action: PatternAction = "block",
        secrets: bool = False,
        personal: bool = False,
        language: str = "en",
        stages: Sequence[Stage] = ("input", "tool_call", "tool_result", "output"),
        seconds: float = 1.0,
        name: str = "patterns",
    ) -> None:
        self.name = name
        self.stages: tuple[Stage, ...] = tuple(stages)
        self.may_block = action != "flag"
        self.may_redact = action == "redact"
        self._action: Action = action
        self._finders: list[_Finder] = []
        if rules:
            self._finders += _compiled(rules, seconds)
        if secrets:
            self._finders.append(_secrets())
        if personal:
            self._finders.append(_personal(language))
        if not self._finders:
            raise InvalidRequest("A PatternGuard needs rules, secrets=True or personal=True.")

    async def check(self, item: Item) -> Verdict:
        """Return the action where a rule matches; in a worker thread, since rules may take their time."""
        matches = await run_in_daemon_thread(partial(self._matches, item.text))
        if not matches:
            return Verdict(coverage=item.inspected())
        categories = tuple(dict.fromkeys(rule for _, _, rule in matches))
        stretches = tuple(Redaction(start, end, f"[{rule}]") for start, end, rule in matches if start < end)
        action = self._action
        if action == "redact" and not stretches:  # only empty matches: there is nothing to replace
            action = "block"
        redactions = stretches if action == "redact" else ()
        return Verdict(action, categories=categories, coverage=item.inspected(), redactions=redactions)

    async def selftest(self) -> None:
        """Check that every rule runs to its end on a benign text within its time."""
        await run_in_daemon_thread(partial(self._matches, "The sky is blue, and water is wet."))

    def _matches(self, text: str) -> list[Match]:
        return [match for finder in self._finders for match in finder(text)]


def _compiled(rules: Mapping[str, str], seconds: float) -> Iterator[_Finder]:
    try:
        import regex
    except ImportError as error:
        raise BackendMissing(
            "Rules with a time limit need the package regex. Install it with: pip install 'llama4sdk[guards]'"
        ) from error
    for name, rule in rules.items():
        try:
            pattern: Any = regex.compile(rule)
        except (regex.error, TypeError) as error:
            raise InvalidRequest(f"The rule {name!r} is no regular expression: {error}.") from error
        yield partial(_by_pattern, pattern, name, seconds)


def _by_pattern(pattern: Any, name: str, seconds: float, text: str) -> Iterator[Match]:
    try:
        for match in pattern.finditer(text, timeout=seconds):
            yield match.start(), match.end(), name
    except TimeoutError as error:
        raise InvalidRequest(f"The rule {name!r} took longer than {seconds:g} s; simplify it.") from error


def _secrets() -> _Finder:
    try:
        from detect_secrets.core.scan import scan_line  # pyright: ignore[reportMissingImports]
        from detect_secrets.settings import default_settings  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BackendMissing("Secrets need detect-secrets. Install it with: pip install detect-secrets") from error

    lock = threading.Lock()  # the package keeps its settings for the whole process

    def find(text: str) -> Iterator[Match]:
        with lock, default_settings():
            offset = 0
            for line in text.splitlines(keepends=True):
                for secret in cast("Iterator[Any]", scan_line(line)):
                    value = str(secret.secret_value or "")
                    place = line.find(value) if value else -1
                    start, end = (place, place + len(value)) if place >= 0 else (0, len(line))
                    yield offset + start, offset + end, "secret"
                offset += len(line)

    return find


def _personal(language: str) -> _Finder:
    try:
        from presidio_analyzer import AnalyzerEngine  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BackendMissing(
            "Personal data needs presidio. Install it with: pip install presidio-analyzer, and its language model"
        ) from error
    engine: Any = AnalyzerEngine()

    def find(text: str) -> Iterator[Match]:
        for result in cast("list[Any]", engine.analyze(text=text, language=language)):
            yield result.start, result.end, str(result.entity_type).lower()

    return find
