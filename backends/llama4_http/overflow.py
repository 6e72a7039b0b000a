"""The token counts of a context overflow, out of the words and fields of real servers: pure.

Each pattern names the numbers by their role, so that the order and the size of the numbers play no part. The
words are those of vLLM (old and new), SGLang, llama.cpp, TGI, TensorRT-LLM, OpenAI and the routers in front of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_OVERFLOW = re.compile(
    r"context[ _-]?(length|window|size|limit)|exceed_context_size|max_model_len|max_seq_len"
    r"|maximum (model|context|input|allowed|sequence) length"
    r"|(prompt|input|request)( \(.{0,40}\))? (is |are )?too (long|large)|too large for model"
    r"|exceeds? the (available )?context|longer than the (maximum )?model"
    r"|max_(new_)?tokens['\"`]*"
    r"(?: or ['\"`]\w+['\"`])? is too large"
    r"|(?<!name )(?<!salt )exceeds? (the )?max(imum)?[ _](allowed |input |prompt |number of |num_|input_)?"
    r"(tokens?|length)"
    r"|(sequence|prompt) length \(?[\d.]+\)?.{0,60}(exceeds the maximum|max_num_tokens)|(is|too) many tokens"
    r"|token count of \d+ (exceeds|cannot exceed)|(input|prompt) tokens \d+ (exceeds?|cannot exceed)"
    r"|exceed(s|ed) (the )?model (token )?limit|larger than the model (input|context)|maximum prompt length"
    r"|max_(completion_|new_)?tokens\W{1,3}must be less than"
    r"|not exceed max_(num|input)_tokens|reduce the length of the (messages|prompt|input)|token limit exceeded"
    r"|`?inputs`? (tokens )?(\+|must have)|max_tokens must be at least 1, got -|input tokens exceed",
    re.IGNORECASE,
)
# Limits of rates speak of tokens and of too large requests too.
_RATE = re.compile(r"per (second|minute|hour|day|month)|\b[TR]P[MD]\b|rate[ _-]?limit|quota", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<=\d)[,_\u00a0\u202f](?=\d{3}(?!\d))")
_N = r"(\d{1,9})(?:\.0)?"


def _any(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE | re.DOTALL) for pattern in patterns)


# Words that are about `max_tokens` alone, though the prompt's length is not told.
_OUTPUT = re.compile(
    r"max_(completion_|new_)?tokens\W{1,3}(must be less|is too large)|maximum tokens you requested"
    r"|completion tokens exceed",
    re.IGNORECASE,
)

_LIMIT = _any(
    rf"at most {_N} (?:completion|output) tokens",
    rf"\d >=? {_N}\b(?! -)",
    rf"greater than max_(?:model|seq)_len {_N}",
    rf"must be less than or equal to\W{{1,3}}{_N}",
    rf"exceed context limit: \d+ \+ \d+ > {_N}",
    rf"(?:maximum|max|model'?s?|available|allowed)\W{{0,3}}(?:context|model|sequence|input|allowed)?\W?"
    rf"(?:length|size|window)\W{{0,3}}(?:is|of|:|=|only|\()?\s*(?:only )?\(?{_N}",
    rf"context (?:length|size|window|limit)\W{{0,3}}(?:is |of |:|=|\()?\s*(?:only )?\(?{_N}",
    rf"max_(?:model|seq)_len\W{{0,3}}(?:\(|=|of )?\s*{_N}",
    rf"max_(?:num|input)_tokens\W{{0,3}}{_N}",
    rf"maximum number of (?:input )?tokens(?: allowed)?\W{{0,3}}{_N}",
    rf"\b(?:limit|maximum):? (?:is |of )?{_N}\b(?! (?:in|from|output))",
    rf"with {_N} maximum context length",
    rf"\bcontext:? {_N}\b",
    rf"`max_new_tokens` must be <= {_N}",
    rf"must have less than {_N} tokens",
    rf"tokens > {_N}(?: maximum)?",
    rf"context size has been exceeded.{{0,20}}\(?{_N}",
)
_PROMPT = _any(
    rf"(?:messages|prompt|input) resulted in {_N}",
    rf"(?:=>|:) {_N} >=? \d",
    rf"length {_N} (?:is (?:greater|longer|larger)|exceeds)",
    rf"token count of {_N}",
    rf"(?:input|prompt) tokens {_N}",
    rf"current length is {_N}",
    rf"token count \({_N}\)",
    rf"\(?{_N} (?:tokens )?(?:in|from|of)(?: the| your)? (?:input )?(?:messages|prompt|text input|input)\b",
    rf"(?:has|contains|passed|contains at least|have)(?: at least)? {_N} (?:input |prompt )?tokens",
    rf"at least {_N} input tokens",
    rf"{_N} input tokens",
    rf"{_N} `inputs` tokens",
    rf"(?:prompt|input)(?: length)?\s?\((?:length )?{_N}",
    rf"splited_prompt_len \({_N}",
    rf"request \({_N} tokens\)",
    rf"(?<!tokens is )(?:too long|too large)\W{{1,3}}{_N}\b",
    rf"exceed context limit: {_N} \+",
    rf"\. Given: {_N}\b(?! `)",
)
_ASKED = _any(
    rf"{_N} (?:tokens )?(?:in|for|of)(?:\s+the|\s+your)?\s+(?:completion|output)",
    rf"requested {_N} output tokens",
    rf"(?:plus|and) {_N} '?max_tokens",
    rf"{_N} `max_new_tokens`",
    rf"max_(?:completion_|new_)?tokens['\"`]?\s?(?:is too large: |\(|=|: |(?=\d))\(?{_N}",
    rf"exceed context limit: \d+ \+ {_N}",
)
_TOTAL = _any(
    rf"requested (?:about )?(?:a total of )?{_N} tokens(?! for)",
    rf"requested:? {_N}\b",
    rf"(?:got|(?<!limit )exceeded by) {_N}\b",
)


@dataclass(frozen=True, slots=True)
class Overflow:
    """The counts of an overflow, each None where the server does not give it.

    Args:
        limit: Tokens that the context holds.
        prompt: Tokens of the prompt.
        asked: Tokens that `max_tokens` asks for.
        output: Whether the words are about `max_tokens` alone.
    """

    limit: int | None = None
    prompt: int | None = None
    asked: int | None = None
    output: bool = False

    @property
    def is_about_max_tokens(self) -> bool:
        """Whether the prompt alone fits, so that `max_tokens` is too large."""
        if self.limit is None or self.prompt is None:
            return self.output or (self.asked is not None and self.limit is not None and self.asked >= self.limit)
        return self.prompt < self.limit

    @property
    def advice(self) -> str:
        """The counts and the remedy in words."""
        held = f" of {self.limit} tokens" if self.limit is not None else ""
        if not self.is_about_max_tokens:
            length = f", which has {self.prompt} tokens," if self.prompt is not None else ""
            return f"The prompt{length} is longer than the server's context{held}; shorten the conversation."
        asked = f" of {self.asked}" if self.asked is not None else ""
        if self.limit is None or self.prompt is None:
            return f"max_tokens{asked} is too large for the server's context{held}; lower Sampling(max_tokens=…)."
        return (
            f"The prompt of {self.prompt} tokens fits into the server's context{held}, but max_tokens{asked} does not "
            f"fit beside it; ask for at most Sampling(max_tokens={self.limit - self.prompt})."
        )


def overflow_of(text: str, code: str, fields: Mapping[str, Any]) -> Overflow | None:
    """Return the overflow that an error reports, or None when it is about something else.

    Args:
        text: The server's words.
        code: Its error code or type.
        fields: The fields of the error object, as llama.cpp's `n_prompt_tokens` and `n_ctx`.
    """
    limit, prompt = _count(fields.get("n_ctx")), _count(fields.get("n_prompt_tokens"))
    if limit is not None and prompt is not None:
        return Overflow(limit, prompt)
    if not (_OVERFLOW.search(text) or _OVERFLOW.search(code)) or _RATE.search(text):
        return None
    text = _THOUSANDS.sub("", text[:2000])
    limit = limit if limit is not None else _first(_LIMIT, text)
    asked, output = _first(_ASKED, text), _OUTPUT.search(text) is not None
    prompt = prompt if prompt is not None else _kinds_of_input(text) or _first(_PROMPT, text)
    if output and prompt is None:
        return Overflow(limit, None, asked, output)
    if prompt is None:
        total = _first(_TOTAL, text)
        prompt = total if total is None or asked is None else max(0, total - asked)
    if limit is None or prompt is None:
        limit, prompt = _by_size(text, limit, prompt, asked)
    return Overflow(limit, prompt, asked)


def _kinds_of_input(text: str) -> int | None:
    """Return the prompt's tokens where they are told apart by kind: text, tools, images."""
    return sum(int(count) for count in re.findall(r"(\d{1,9}) of \w+ input\b", text)) or None


def _by_size(text: str, limit: int | None, prompt: int | None, asked: int | None) -> tuple[int | None, int | None]:
    """Return limit and prompt for words that no pattern fits: of two further numbers, the smaller is the limit."""
    known = {limit, prompt, asked}
    numbers = sorted({int(n) for n in re.findall(r"\b\d{1,9}\b", text) if int(n) >= 16 and int(n) not in known})
    if limit is None and prompt is None:
        return (numbers[0], numbers[-1]) if len(numbers) == 2 else (None, None)
    if limit is None and prompt is not None and len(numbers) == 1 and numbers[0] < prompt:
        return numbers[0], prompt
    if prompt is None and limit is not None and asked is None and len(numbers) == 1 and numbers[0] > limit:
        return limit, numbers[0]
    return limit, prompt


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> int | None:
    for pattern in patterns:
        match = pattern.search(text)
        if match:
            return int(match[1])
    return None


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**53 else None
