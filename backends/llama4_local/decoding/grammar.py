"""Constrained decoding: answers that cannot leave their form, by masks over the vocabulary (llguidance)."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llama4_local.decoding.json_grammar import JSON, Rules, Values
from llama4_local.decoding.tool_call_grammar import add_calls, add_words
from llama4sdk.errors import BackendMissing, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llguidance import LLMatcher, LLTokenizer

    from llama4sdk.prompting import Tokenizer
    from llama4sdk.request import Request

_KEPT: Final = 64  # compiled grammars
_MAX_GRAMMAR: Final = 500_000  # characters
_PLAIN_LENGTH: Final = 20_000  # characters
_PLAIN_RULES: Final = 300
_PLAIN_ALTERNATIVES: Final = 8
_TRIAL: Final = Path(__file__).with_name("grammar_sandbox.py")
_PATIENCE: Final = 30.0  # seconds, on a machine that may be busy; the trial limits its own work


class Grammars:
    """Compiles the form that a request asks for, and keeps what was compiled lately.

    May be used from several threads; compiling takes its time, so do it in one that may wait.

    Args:
        tokenizer: The model's tokenizer.
        vocab_size: Columns of the model's scores.
        end_ids: Tokens that end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._end_ids = list(end_ids)
        self._lock = threading.Lock()
        self._known: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def mask_for(self, request: Request) -> GrammarMask | None:
        """Return what keeps a request's answer in its form; None when any answer will do.

        Raises:
            InvalidRequest: For a form that cannot be compiled, or takes too much to compile.
            BackendMissing: When llguidance is not installed.
        """
        grammar = grammar_of(request)
        if grammar is None:
            return None
        if not self._end_ids:
            raise InvalidRequest("This checkpoint names no token that ends an answer, so its form cannot be kept.")
        if request.sampling.min_tokens:
            raise InvalidRequest("min_tokens cannot be kept together with tools or a typed answer; leave it out.")
        return GrammarMask(self._matcher(grammar).deep_copy(), self._vocab_size)

    def _matcher(self, grammar: str) -> LLMatcher:
        with self._lock:
            matcher = self._compiled.get(grammar)
            if matcher is not None:
                self._compiled.move_to_end(grammar)
                return matcher
        matcher = self._compile(grammar)
        with self._lock:
            self._compiled[grammar] = matcher
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return matcher

    def _compile(self, grammar: str) -> LLMatcher:
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ImportError as error:
            raise BackendMissing(
                "Keeping an answer to a form needs llguidance. Install it with: pip install 'llama4sdk[local]'"
            ) from error
        if not _is_plain(grammar):
            _try_out(grammar)
        limits = LLParserLimits(verbose_errors=False)
        matcher = LLMatcher(self._vocabulary(), LLMatcher.grammar_from_lark(grammar), log_level=0, limits=limits)
        tried = matcher.deep_copy()  # some errors show only with the first mask
        tried.compute_bitmask()
        if tried.is_error():
            raise _refusal(tried.get_error().partition("\n")[0][:200])
        return matcher

    def _vocabulary(self) -> LLTokenizer:
        with self._lock:
            if self._known is None:
                self._known = _vocabulary(self._tokenizer, self._vocab_size, self._end_ids)
            return self._known


def _is_plain(grammar: str) -> bool:
    """Return whether a grammar is too simple to be hard to compile."""
    alternatives = sum(grammar.count(word) for word in ('"anyOf"', '"oneOf"', '"allOf"', '"$ref"'))
    return len(grammar) <= _PLAIN_LENGTH and grammar.count("\n") <= _PLAIN_RULES and alternatives <= _PLAIN_ALTERNATIVES


def _try_out(grammar: str) -> None:
    """Compile a grammar in a process of its own first.

    Raises:
        InvalidRequest: When it cannot be compiled there, or not within the limits.
    """
    if len(grammar) > _MAX_GRAMMAR:
        raise _refusal("it is too large")
    try:
        tried = subprocess.run(
            [sys.executable, "-P", str(_TRIAL)],
            input=grammar.encode(),
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError):
        raise _refusal("it takes too long to compile") from None
    if tried.returncode or tried.stdout:
        raise _refusal(tried.stdout.decode("utf-8", "replace") or "it takes too much to compile")


def _refusal(problem: str) -> InvalidRequest:
    return InvalidRequest(f"The form of the answer cannot be kept while it is written ({problem}); make it simpler.")


class GrammarMask:
    """Rules out every token that would lead one answer out of its form.

    Args:
        matcher: The compiled grammar at its beginning; owned by this mask.
        vocab_size: Columns of the scores.
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._nothing = bytes((vocab_size + 7) // 8)
        self._read = 0
        self._allowed: bytes | None = None

    @property
    def problem(self) -> str | None:
        """Why the answer cannot go on, when it cannot."""
        if not self._matcher.is_error():
            return None
        return "The form of the answer came to a place where nothing fits, or got too hard to follow; make it simpler."

    def allowed(self, written: Sequence[int]) -> bytes:
        """Return a bit for each token, lowest first; none is set when the form got too hard to follow."""
        if self._allowed is None or len(written) > self._read:
            for token in written[self._read :]:
                self._matcher.consume_token(token)
            self._read = len(written)
            bits = self._matcher.compute_bitmask()
            # A matcher that has failed allows the end, as if the answer were complete.
            self._allowed = self._nothing if self._matcher.is_error() else bits
        return self._allowed


def grammar_of(request: Request) -> str | None:
    """Return the grammar of a request's answer; None when any answer will do.

    Raises:
        InvalidRequest: For schemas that cannot be used.
    """
    tools = () if request.tool_choice == "none" else request.tools
    forced = request.tool_choice not in ("auto", "none")
    if request.tool_choice not in ("auto", "none", "required"):
        tools = tuple(tool for tool in tools if tool.name == request.tool_choice)
    options = ["calls"] if tools else []
    if request.output is not None and not forced:
        options.append("answer")
    elif tools and not forced:
        options.append("words")
    if not options:
        return None
    rules = Rules()
    rules.add(" | ".join(options), "start")
    if tools:
        add_calls(rules, tools)
    if "answer" in options and request.output is not None:
        schema = request.output.schema
        rules.add(Values(schema, rules, JSON).value(schema), "answer")
    if "words" in options:
        add_words(rules, tools)
    return rules.text


class _Vocabulary:
    """The tokenizer as llguidance asks for it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_id: int) -> None:
        self._tokenizer = tokenizer
        names = {token_id: name for name, token_id in tokenizer.specials.items()}
        self.eos_token_id = end_id
        self.bos_token_id: int | None = None
        self.special_token_ids = sorted(names)
        self.tokens = [self._bytes(token_id, names) for token_id in range(max(vocab_size, tokenizer.vocab_size))]

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))

    def _bytes(self, token_id: int, names: dict[int, str]) -> bytes:
        if token_id in names:
            return names[token_id].encode()
        try:
            return self._tokenizer.token_bytes(token_id) or b""
        except InvalidRequest:  # a column of the scores that stands for no token
            return b""


def _vocabulary(tokenizer: Tokenizer, vocab_size: int, end_ids: Sequence[int]) -> LLTokenizer:
    from llguidance import LLTokenizer, TokenizerWrapper

    wrapped = TokenizerWrapper(_Vocabulary(tokenizer, vocab_size, end_ids[0]))
    return LLTokenizer(wrapped, n_vocab=max(vocab_size, tokenizer.vocab_size), eos_token=list(end_ids))
