"""The two tokenizer files made into one kind of BPE engine, and a table of special tokens.

The engine itself knows no special token, or is told never to see one in a text.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from llama4sdk.prompting import tokenizer_cache
from llama4sdk.prompting.soundness import problems_of
from llama4sdk.prompting.special_tokens import published_special_tokens
from llama4sdk.prompting.tiktoken_file import MalformedRanksError, build_engine, read_ranks

if TYPE_CHECKING:
    from pathlib import Path

    import tokenizers

_PROBE = (
    "The quick brown fox: 1234 + 5678 = 6912!\n\n\tĀé漢字🙂  aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa "
    "\x00\x7f (){}[] don't WE'LL\r\n"
)


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


def from_json(data: bytes) -> tuple[tokenizers.Tokenizer, dict[str, int], dict[str, int]]:
    """Make the engine of a `tokenizer.json`.

    Returns:
        The engine; its special tokens, which it never sees in a text; and other tokens that were added by name, which
        it does see, as transformers has it.

    Raises:
        EngineError: The file cannot be read, or is not byte-level BPE.
    """
    try:
        text = data.decode("utf-8-sig")
        content: object = json.loads(text)
    except UnicodeDecodeError:
        raise EngineError("the file is not UTF-8") from None
    except (ValueError, RecursionError):
        raise EngineError("the file is not a tokenizer.json that the tokenizers library can read") from None
    tree = cast("dict[str, object]", content if isinstance(content, dict) else {})
    problems = problems_of(tree)
    if problems:
        raise EngineError(*problems)
    specials, words = _added_tokens(tree)
    # A post-processor may drop a text even where no special tokens are asked for.
    engine = _parse(text if tree.get("post_processor") is None else json.dumps(tree | {"post_processor": None}))
    _check_byte_level(engine)
    if not _hides_specials(engine, specials, words):
        engine = _parse(_without(tree, specials, words))
    if any(engine.model.id_to_token(token_id) is not None for token_id in specials.values()):
        raise EngineError("a special token has the id of an ordinary one")
    engine.encode_special_tokens = True
    engine.no_truncation()
    engine.no_padding()
    _check_probe(engine)
    return engine, specials, words


def _added_tokens(tree: dict[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    # From the file: the library numbers added tokens anew where they are not in the vocabulary.
    added = cast("list[dict[str, object]]", tree.get("added_tokens") or [])
    ids = {cast("str", token["content"]): cast("int", token["id"]) for token in added}
    if len(set(ids.values())) != len(added):
        raise EngineError("two added tokens share a name or an id")
    published = frozenset(published_special_tokens())
    special = {cast("str", token["content"]) for token in added if token.get("special", True)} | (published & set(ids))
    specials = {name: token_id for name, token_id in ids.items() if name in special}
    return specials, {name: token_id for name, token_id in ids.items() if name not in special}


def _hides_specials(engine: tokenizers.Tokenizer, specials: dict[str, int], words: dict[str, int]) -> bool:
    """Tell whether the engine can be told to overlook all special tokens in a text."""
    known = engine.get_added_tokens_decoder()
    return (
        all(token.special == (token.content in specials) for token in known.values())
        and {token.content: token_id for token_id, token in known.items()} == specials | words
        and not any(engine.model.token_to_id(name) is not None for name in specials)
    )


def _check_probe(engine: tokenizers.Tokenizer) -> None:
    """Encode a short text of every kind of character and compare it with what comes back."""
    try:
        ids = engine.encode(_PROBE, add_special_tokens=False).ids
        back = engine.decode(ids, skip_special_tokens=False)
    except BaseException as exc:
        raise _fault(exc) from exc
    if back != _PROBE:
        raise EngineError("a text that is encoded and decoded comes back as another one")


def _parse(text: str) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(text)
    except BaseException as exc:
        raise _fault(exc) from exc


def _fault(exc: BaseException) -> BaseException:
    # The library's panics are no `Exception`; what else is none, such as an interrupt, is not its own.
    if isinstance(exc, Exception) or type(exc).__name__ == "PanicException":
        return EngineError("the file is not a tokenizer.json that the tokenizers library can read")
    return exc


def _check_byte_level(engine: tokenizers.Tokenizer) -> None:
    from tokenizers import decoders, models

    if not isinstance(engine.model, models.BPE) or not isinstance(engine.decoder, decoders.ByteLevel):
        raise EngineError("the tokenizer is not byte-level BPE, as every Llama 4 tokenizer is")


def _without(tree: dict[str, object], specials: dict[str, int], words: dict[str, int]) -> str:
    """Take the special tokens out of a `tokenizer.json`, out of its vocabulary too; other added ones keep their ids."""
    model = cast("dict[str, dict[str, int]]", tree["model"])
    vocab = {token: token_id for token, token_id in model["vocab"].items() if token not in specials} | words
    added = [
        token for token in cast("list[dict[str, object]]", tree.get("added_tokens") or []) if token["content"] in words
    ]
    return json.dumps(tree | {"added_tokens": added, "post_processor": None, "model": model | {"vocab": vocab}})
