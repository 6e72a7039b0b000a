"""Compiles one grammar in a subprocess, whose hang, crash or lack of memory harms no other request.

Run as a script: the grammar comes in, and what is wrong with it goes out; nothing when it is fine.
Deeply nested alternatives and long chains of references make the compiler take exponential time, or all of
its stack, and nothing inside a process can stop that.
"""

from __future__ import annotations

import sys
from contextlib import suppress

_CPU_SECONDS = 5
_MEMORY = 2 << 30  # bytes


class _Bytes:
    """A vocabulary of the 256 bytes and one token that ends."""

    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)
    tokens = (*(bytes([value]) for value in range(256)), b"<|end|>")

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def main() -> None:
    """Read a grammar, compile it, and write the first line of what is wrong."""
    _limit()
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

    grammar = LLMatcher.grammar_from_lark(sys.stdin.buffer.read().decode("utf-8"))
    limits = LLParserLimits(verbose_errors=False)
    matcher = LLMatcher(LLTokenizer(TokenizerWrapper(_Bytes())), grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        sys.stdout.write(matcher.get_error().partition("\n")[0][:200])


def _limit() -> None:
    try:
        import resource
    except ImportError:  # not on this platform; the parent's patience is the only limit
        return
    for what, most in ((resource.RLIMIT_CPU, _CPU_SECONDS), (resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_CORE, 0)):
        with suppress(ValueError, OSError):  # some systems know the limit and do not take it
            resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    main()
