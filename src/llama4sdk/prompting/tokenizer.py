"""Text into token ids and back, as Llama 4's own tokenizer does it.

Two files give the same tokenizer: `tokenizer.json` of a checkpoint in Hugging Face form, and Meta's
`tokenizer.model`. Text is always just text: what looks like a special token is encoded letter by letter, and
the ids of special tokens are had by name only.
"""

from __future__ import annotations

import codecs
import hashlib
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from llama4sdk.errors import CheckpointError, InvalidRequest
from llama4sdk.prompting import tokenizer_cache
from llama4sdk.prompting.byte_level import to_bytes
from llama4sdk.prompting.decoding import IncrementalDecoder
from llama4sdk.prompting.engine import EngineError, from_json, from_ranks
from llama4sdk.prompting.pieces import pieces

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    import tokenizers

_MAX_BYTES = 256 * 1024 * 1024  # ten times the published tokenizer.json
_LFS_POINTER = b"version https://git-lfs"
_INLINE_CHARS = 4096  # a millisecond or two of work: cheaper on the loop than handed to a thread


class Tokenizer:
    """Byte-level BPE with Llama 4's special tokens; made by `from_file`, never changed afterwards.

    Safe to use from several threads at once. `encode` works for about half a second per megabyte, with
    Python's lock released for most of it: inside a running event loop await `encode_async`.
    """

    def __init__(
        self,
        engine: tokenizers.Tokenizer,
        specials: Mapping[str, int],
        fingerprint: str,
        words: Mapping[str, int] | None = None,
    ) -> None:
        self._engine = engine
        self._specials = MappingProxyType(dict(specials))
        self._names = {token_id: name for name, token_id in specials.items()}
        # Ordinary tokens that were added by name are stored as text, not in the byte-level alphabet.
        self._bytes: dict[int, bytes] = {token_id: word.encode() for word, token_id in (words or {}).items()}
        self._fingerprint = fingerprint

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, cache: bool = True) -> Tokenizer:
        """Read a tokenizer from `tokenizer.json`, from Meta's `tokenizer.model`, or from their folder.

        A `tokenizer.model` takes a few seconds the first time; what was built is then kept in the user's
        cache folder (`XDG_CACHE_HOME`, else the platform's), named by the SHA-256 of the file.

        The published vocabulary takes about a second even so, in which the tokenizers library does not let go
        of Python's lock: load it before serving, not in between.

        Args:
            path: The file, or a folder that holds one of the two.
            cache: Whether the user's cache folder may be read and written.

        Raises:
            CheckpointError: No such file, or not a byte-level BPE tokenizer.
        """
        file = _find(Path(path))
        try:
            if file.stat().st_size > _MAX_BYTES:
                raise CheckpointError(path, [f"{file.name} is larger than any tokenizer ({_MAX_BYTES >> 20} MiB)"])
            data = file.read_bytes()
        except OSError as exc:
            raise CheckpointError(path, [f"cannot read {file.name}: {exc.strerror}"]) from exc
        return cls.from_bytes(data, name=str(file), cache=cache)

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str = "tokenizer", cache: bool = True) -> Tokenizer:
        """Make a tokenizer of the bytes of such a file; `name` is how errors call it."""
        fingerprint = hashlib.sha256(data).hexdigest()
        folder = tokenizer_cache.cache_folder() if cache else None
        words: dict[str, int] = {}
        if data.startswith(_LFS_POINTER):
            raise CheckpointError(name, ["it is a pointer of Git LFS; fetch the files themselves with git lfs pull"])
        try:
            if data.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{" or name.endswith(".json"):
                engine, specials, words = from_json(data)
            else:
                engine, specials = from_ranks(data, folder, fingerprint)
        except EngineError as exc:
            raise CheckpointError(name, exc.problems) from exc
        return cls(engine, specials, fingerprint, words)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer's file, in hexadecimal."""
        return self._fingerprint

    @property
    def specials(self) -> Mapping[str, int]:
        """Ids of the special tokens by name."""
        return self._specials

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        ordinary = self._engine.get_vocab(with_added_tokens=False).values()
        return 1 + max([*ordinary, *self._specials.values(), *self._bytes])

    def special(self, name: str) -> int:
        """Return the id of a special token such as `<|eot|>`.

        Raises:
            InvalidRequest: This tokenizer has no special token of that name.
        """
        try:
            return self._specials[name]
        except KeyError:
            raise InvalidRequest(
                f"This tokenizer has no special token {name!r}; does the file belong to a Llama 4 model?"
            ) from None

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; never one of a special token.

        Raises:
            InvalidRequest: The text holds half of a surrogate pair, which is no character.
        """
        _check_characters(text)
        ids: list[int] = []
        for piece in pieces(text):
            ids += self._encode_piece(piece)
        return ids

    def _encode_piece(self, piece: str) -> list[int]:
        try:
            # Of the library's calls only those for batches let go of Python's lock while they work.
            return self._engine.encode_batch_fast([piece], add_special_tokens=False)[0].ids
        except BaseException as exc:
            if type(exc).__name__ != "PanicException":  # of the library's own, which is no `Exception`
                raise
            raise CheckpointError("tokenizer", ["its pattern gives up on this text; use the published one"]) from exc

    async def encode_async(self, text: str) -> list[int]:
        """Return the ids of a text, a long one without holding up the event loop."""
        if len(text) <= _INLINE_CHARS:
            return self.encode(text)
        from anyio import to_thread

        return await to_thread.run_sync(self.encode, text)

    def decode(self, token_ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Return the text of token ids; bytes that are no UTF-8 become U+FFFD.

        Args:
            token_ids: The ids, special ones among them or not.
            skip_special: Leave special tokens out instead of writing their names.

        Raises:
            InvalidRequest: An id is not in the vocabulary.
        """
        decoder = self.decoder(skip_special=skip_special)
        return decoder.push(token_ids) + decoder.flush()

    def decoder(self, *, skip_special: bool = False) -> IncrementalDecoder:
        """Return a decoder for ids that come one after the other."""
        return IncrementalDecoder(self.token_bytes, self._names.__getitem__, skip_special=skip_special)

    def token_bytes(self, token_id: int) -> bytes | None:
        """Return the bytes that a token stands for, `None` for a special token.

        Raises:
            InvalidRequest: The id is not in the vocabulary.
        """
        known = self._bytes.get(token_id)
        if known is not None:
            return known
        if token_id in self._names:
            return None
        data = self._bytes[token_id] = self._look_up(token_id)
        return data

    def has_id(self, token_id: int) -> bool:
        """Whether a token of the vocabulary, special or not, has this id."""
        return token_id in self._names or token_id in self._bytes or self._characters(token_id) is not None

    def _look_up(self, token_id: int) -> bytes:
        chars = self._characters(token_id)
        if chars is None:
            raise InvalidRequest(f"Token id {token_id!r} is not in the vocabulary of {self.vocab_size} tokens.")
        return to_bytes(chars)

    def _characters(self, token_id: int) -> str | None:
        try:
            return self._engine.id_to_token(token_id)
        except (OverflowError, TypeError):  # negative, too large, or no number
            return None

    def __repr__(self) -> str:
        return f"<Tokenizer {self._fingerprint[:12]}>"


def _find(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in ("tokenizer.json", "tokenizer.model"):
        if (path / name).is_file():
            return path / name
    raise CheckpointError(path, ["the folder holds neither tokenizer.json nor tokenizer.model"])


def _check_characters(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise InvalidRequest(
            f"The text holds half of a surrogate pair at position {exc.start}, which is no character; "
            "decode its source as UTF-8 or replace it."
        ) from None
