"""Rules of one's own: regular expressions with a time limit, secrets and personal data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from llama4sdk.checks import check_number, shown
from llama4sdk.errors import BackendMissing, InvalidRequest
from llama4sdk.guards.folding import folded
from llama4sdk.guards.personal_data import CANARY as PERSON
from llama4sdk.guards.personal_data import Personal, personal_finder
from llama4sdk.guards.protocol import checked_stages
from llama4sdk.guards.secret_finder import CANARY as KEY
from llama4sdk.guards.secret_finder import secret_finder
from llama4sdk.verdict import Action, Redaction, Stage, Verdict
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llama4sdk.guards.matches import Finder, Match
    from llama4sdk.guards.protocol import Item

PatternAction: TypeAlias = Literal["flag", "redact", "block", "ask"]
_BENIGN = "The sky is blue, and water is wet."


class PatternGuard:
    """Applies rules to text as it is, and as a reader sees it: without invisible characters and look-alikes of letters.

        PatternGuard({"ticket": r"TICKET-[0-9]{6}"}, secrets=True, action="redact")

    Args:
        rules: Regular expressions by name; the name is the verdict's category.
        action: What a match leads to: `flag`, `redact`, `block` or, for tool calls, `ask`.
        secrets: Whether keys and tokens count as matches too; needs `detect-secrets`.
        personal: Whether personal data counts too; needs `presidio-analyzer` and a language model of spaCy's. With
            `patterns`, without a model: what has a form, such as card and phone numbers, but no names.
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
        personal: Personal = False,
        language: str = "en",
        stages: Sequence[Stage] = ("input", "tool_call", "tool_result", "output"),
        seconds: float = 1.0,
        name: str = "patterns",
    ) -> None:
        if action not in get_args(PatternAction):
            raise InvalidRequest(f"action is one of {', '.join(get_args(PatternAction))}; got {shown(action)}.")
        if cast("object", seconds) is None:
            raise InvalidRequest("seconds is a number; a rule without a time limit would hold a turn forever.")
        check_number("seconds", seconds, 0, 86_400, above=True)
        self.name = name
        self.stages: tuple[Stage, ...] = checked_stages(stages)
        self.may_block = action != "flag"
        self.may_redact = action == "redact"
        self._action: Action = action
        self._finders: list[Finder] = []
        if rules:
            self._finders += _compiled(rules, seconds)
        self._canaries: list[tuple[Finder, str]] = []
        if secrets:
            self._canaries.append((secret_finder(), KEY))
        if personal:
            self._canaries.append((personal_finder(language, by_patterns=personal == "patterns"), PERSON))
        self._finders += [finder for finder, _ in self._canaries]
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

    async def selftest(self) -> bool:
        """Return whether secrets and personal data are found, and only there, and rules run to their end in time."""
        return await run_in_daemon_thread(self._works)

    def _works(self) -> bool:
        self._matches(_BENIGN)
        return all(any(finder(text)) and not any(finder(_BENIGN)) for finder, text in self._canaries)

    def _matches(self, text: str) -> list[Match]:
        matches = [match for finder in self._finders for match in finder(text)]
        if plain := folded(text):
            for start, end, rule in (match for finder in self._finders for match in finder(plain.text)):
                matches.append((*plain.stretch(start, end), rule))
        return matches


def _compiled(rules: Mapping[str, str], seconds: float) -> Iterator[Finder]:
    try:
        import regex
    except ImportError as error:
        raise BackendMissing(
            "Rules with a time limit need the package regex. Install it with: pip install 'llama4sdk[guards]'"
        ) from error
    if not isinstance(cast("object", rules), Mapping):
        raise InvalidRequest(f'rules is a dict of regular expressions by name, as {{"key": r"sk-[a-z]+"}}; '
                             f"got {shown(rules)}.")  # fmt: skip
    for name, rule in rules.items():
        if not isinstance(cast("object", name), str) or not isinstance(cast("object", rule), str):
            raise InvalidRequest(f"A rule is a regular expression as text, by its name; got {shown((name, rule))}.")
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
