"""Refuses a `tokenizer.json` that is not byte-level BPE as Llama 4 has it, before the library reads it.

The library, written in Rust, aborts the process or raises outside Python's `Exception` on some files, and follows
others into endless work or a prompt that lacks text. So only parts that lose no text and add none are let through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from llama4sdk.prompting.byte_level import ALPHABET
from llama4sdk.prompting.split_patterns import backtracking_branch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Json = dict[str, object]

_LARGEST_ID = 2**24  # eighty times the published vocabulary
_MOST_PATTERN = 10_000  # characters
_TEMPLATES = {"ByteLevel", "TemplateProcessing", "Sequence"}


def problems_of(tree: Mapping[str, object]) -> list[str]:
    """Return what makes a `tokenizer.json` unfit, one sentence each; only its form is looked at."""
    model = tree.get("model")
    if not isinstance(model, dict):
        return ["the file is not a tokenizer.json that can be read: it has no model"]
    return [
        *_model(cast("Json", model)),
        *_normalizer(tree.get("normalizer")),
        *_pre_tokenizer(tree.get("pre_tokenizer")),
        *_post_processor(tree.get("post_processor")),
        *_added(tree.get("added_tokens")),
    ]


def _model(model: Json) -> Iterator[str]:
    if model.get("type", "BPE") != "BPE":
        yield "the tokenizer is not byte-level BPE, as every Llama 4 tokenizer is"
        return
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "unk_token", "dropout", "byte_fallback"):
        if model.get(name):
            yield f"model.{name} has no place in byte-level BPE, got {str(model[name])[:80]!r}"
    vocab = model.get("vocab")
    if not isinstance(vocab, dict):
        yield "model.vocab must be an object of tokens and ids"
        return
    entries = cast("dict[str, object]", vocab)
    if not all(_is_id(token_id) for token_id in entries.values()):
        yield f"model.vocab has ids that are no whole numbers from 0 to {_LARGEST_ID}"
    elif len(set(entries.values())) != len(entries):
        yield "two tokens of model.vocab share an id"
    missing = [char for char in ALPHABET.values() if char not in entries]
    if missing:
        yield f"the tokenizer is not byte-level BPE: {len(missing)} of 256 bytes are missing, which texts would lose"


def _normalizer(part: object) -> Iterator[str]:
    if part is not None and not (isinstance(part, dict) and cast("Json", part).get("normalizers") == []):
        yield "a normalizer changes texts, and Llama 4 has none"


def _pre_tokenizer(part: object) -> Iterator[str]:
    steps = [part]
    if isinstance(part, dict) and cast("Json", part).get("type") == "Sequence":
        inner = cast("Json", part).get("pretokenizers")
        steps = cast("list[object]", inner) if isinstance(inner, list) else [inner]
    kinds = [cast("Json", step).get("type") if isinstance(step, dict) else None for step in steps]
    if not kinds or kinds[-1] != "ByteLevel" or not set(kinds[:-1]) <= {"Split"}:
        yield "the pre-tokenizer must split by patterns and end with ByteLevel"
        return
    if cast("Json", steps[-1]).get("add_prefix_space"):
        yield "a ByteLevel pre-tokenizer with add_prefix_space adds text"
    for step in steps[:-1]:
        yield from _split(cast("Json", step))


def _split(step: Json) -> Iterator[str]:
    if step.get("behavior") not in ("Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        yield f"a Split whose behavior is {str(step.get('behavior'))[:80]!r} takes text away"
    pattern = step.get("pattern")
    texts = list(cast("Json", pattern).values()) if isinstance(pattern, dict) else []
    if len(texts) != 1 or not isinstance(texts[0], str) or not 0 < len(texts[0]) <= _MOST_PATTERN:
        yield f"a Split needs a pattern of 1 to {_MOST_PATTERN:,} characters"
    elif "Regex" in cast("Json", pattern):
        branch = backtracking_branch(texts[0])
        if branch is not None:
            yield (
                f"a Split by {branch[:80]!r} may search some text without end, or is not understood: write it without "
                "repeated groups and with nothing that must follow a repetition, or take the published pattern"
            )


def _post_processor(part: object) -> Iterator[str]:
    kind = cast("Json", part).get("type") if isinstance(part, dict) else None
    if part is not None and kind not in _TEMPLATES:
        yield f"a post-processor of the kind {str(kind)[:80]!r} is not read"


def _added(part: object) -> Iterator[str]:
    if part is None:
        return
    tokens = cast("list[object]", part) if isinstance(part, list) else [None]
    for token in tokens:
        fields = cast("Json", token) if isinstance(token, dict) else {}
        content = fields.get("content")
        if not isinstance(content, str) or not content or not _is_id(fields.get("id")):
            yield f"an added token needs content and an id from 0 to {_LARGEST_ID}, got {str(token)[:80]}"
            return


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_ID
