"""Small tokenizers in both file forms, for tests that need no published vocabulary."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Sequence

WORDS = (b"he", b"ll", b"hell", b"hello", b" w", b"or", b" wor", b"ld", b" world", b"aa", b"aaaa", b"aaa", b"  ")
NAMES = ("<|begin_of_text|>", "<|eot|>", "<|header_start|>", "<|image|>", "<|patch|>")


def ranks() -> dict[bytes, int]:
    """All single bytes, then a few words."""
    return {token: rank for rank, token in enumerate([*(bytes([b]) for b in range(256)), *WORDS])}


def rank_file() -> bytes:
    """The ranks in the text form of `tokenizer.model`."""
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks().items())
    return "".join(lines).encode()


def json_file(
    specials: Sequence[str] = NAMES,
    *,
    special: bool = True,
    in_vocabulary: bool = False,
    first: int = 0,
    words: dict[bytes, int] | None = None,
) -> bytes:
    """A `tokenizer.json` of the same words, or others, whose special tokens stand at ids from `first` on."""
    from llama4sdk.prompting.tiktoken_file import build_engine

    tree = json.loads(build_engine(words or ranks()).to_str())
    model = cast("dict[str, dict[str, int]]", tree["model"])
    places = {name: first + place for place, name in enumerate(specials)}
    moved = len(places) if first == 0 else 0  # specials first, as a trainer puts them
    vocab = {token: token_id + moved for token, token_id in model["vocab"].items()}
    model["vocab"] = vocab | places if in_vocabulary else vocab
    tree["added_tokens"] = [_added(name, token_id, special) for name, token_id in places.items()]
    return json.dumps(tree).encode()


def _added(name: str, token_id: int, special: bool) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": name, "special": special, **flags}
