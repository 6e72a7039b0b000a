"""The two tokenizer files made into one kind of BPE engine, and a table of special tokens.

The engine itself knows no special token, or is told never to see one in a text.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from llama4sdk.prompting import tokenizer_cache
from llama4sdk.prompting.special_tokens import published_special_tokens
from llama4sdk.prompting.tiktoken_file import MalformedRanksError, build_engine, read_ranks

if TYPE_CHECKING:
    from pathlib import Path

    import tokenizers


class EngineError(ValueError):
    """A file that makes no tokenizer; `problems` says why."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


def from_ranks(data: bytes, folder: Path | None, fingerprint: str) -> tuple[tokenizers.Tokenizer, dict[str, int]]:
    """Make the engine of Meta's `tokenizer.model`, from the cache where it is there.

    Raises:
        EngineError: The file is not a list of ranks.
    """
    try:
        ranks = read_ranks(data)
    except MalformedRanksError as exc:
        raise EngineError(*exc.problems) from exc
    engine = _cached(folder, fingerprint, len(ranks))
    if engine is None:
        engine = build_engine(ranks)
        tokenizer_cache.store(folder, fingerprint, engine.to_str())
    specials = {name: place for place, name in enumerate(published_special_tokens(), start=len(ranks))}
    return engine, specials


def _cached(folder: Path | None, fingerprint: str, tokens: int) -> tokenizers.Tokenizer | None:
    kept = tokenizer_cache.load(folder, fingerprint)
    if kept is None:
        return None
    try:
        engine = _parse(kept)
    except EngineError:  # written by an engine library whose form this one does not read
        return None
    return engine if engine.get_vocab_size() == tokens else None


def from_json(data: bytes) -> tuple[tokenizers.Tokenizer, dict[str, int]]:
    """Make the engine of a `tokenizer.json`; special tokens are all those that were added by name.

    Raises:
        EngineError: The file cannot be read, or is not byte-level BPE.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise EngineError("the file is not UTF-8") from None
    engine = _parse(text)
    _check_byte_level(engine)
    tree = cast("dict[str, object]", json.loads(text))
    specials = _added_tokens(tree)
    if not _hides_specials(engine, specials):
        engine = _parse(_without(tree, specials))
    if any(engine.model.id_to_token(token_id) is not None for token_id in specials.values()):
        raise EngineError("a special token has the id of an ordinary one")
    engine.encode_special_tokens = True
    engine.no_truncation()
    engine.no_padding()
    return engine, specials


def _added_tokens(tree: dict[str, object]) -> dict[str, int]:
    # From the file: the library numbers added tokens anew where they are not in the vocabulary.
    added = cast("list[dict[str, object]]", tree.get("added_tokens") or [])
    specials = {cast("str", token["content"]): cast("int", token["id"]) for token in added}
    if len(set(specials.values())) != len(added):
        raise EngineError("two added tokens share a name or an id")
    return specials


def _hides_specials(engine: tokenizers.Tokenizer, specials: dict[str, int]) -> bool:
    """Tell whether the engine can be told to overlook all special tokens in a text."""
    known = engine.get_added_tokens_decoder()
    return (
        all(token.special for token in known.values())
        and {token.content: token_id for token_id, token in known.items()} == specials
        and not any(engine.model.token_to_id(name) is not None for name in specials)
    )


def _parse(text: str) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(text)
    except Exception as exc:
        raise EngineError("the file is not a tokenizer.json that the tokenizers library can read") from exc


def _check_byte_level(engine: tokenizers.Tokenizer) -> None:
    from tokenizers import decoders, models

    if not isinstance(engine.model, models.BPE) or not isinstance(engine.decoder, decoders.ByteLevel):
        raise EngineError("the tokenizer is not byte-level BPE, as every Llama 4 tokenizer is")


def _without(tree: dict[str, object], specials: dict[str, int]) -> str:
    """Take the added tokens out of a `tokenizer.json`, out of its vocabulary too."""
    model = cast("dict[str, dict[str, int]]", tree["model"])
    vocab = {token: token_id for token, token_id in model["vocab"].items() if token not in specials}
    return json.dumps(tree | {"added_tokens": [], "post_processor": None, "model": model | {"vocab": vocab}})
