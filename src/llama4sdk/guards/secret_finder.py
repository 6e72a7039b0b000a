"""Keys, tokens and passwords in a text, by the detectors of `detect-secrets`."""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING, Any, Final, cast

from llama4sdk.errors import BackendMissing
from llama4sdk.guards.matches import Remembered, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llama4sdk.guards.matches import Finder, Match

CANARY: Final = 'aws_access_key_id = "AKIA' + 'Q7RNS2LM5VXD3WYT"'
"""A key that belongs to no account, which the self-test expects to be found."""
# Whole keys, where the detectors find the line alone that begins them.
_PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN (?P<kind>[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?)-----.*?(?:-----END (?P=kind)-----|\Z)", re.DOTALL
)
# Keys of a known beginning that the detectors leave out.
_KEY: Final = re.compile(r"\b(?:github_pat_|hf_|nvapi-|sk-ant-|sk-proj-|AIza)[A-Za-z0-9_-]{20,}")
_TOKEN: Final = frozenset(string.ascii_letters + string.digits + "_+/=~.-")
_SHORTEST: Final = 8  # characters of a line that can hold a secret
_PASSWORD: Final = re.compile(r"(?=\D*\d)\S{8,}")
_UNUSED: Final = {"IPPublicDetector"}  # addresses are no secrets
_STRETCH: Final = 1024  # characters of a line that are searched at once, since expressions may be slow on long ones
_SHARED: Final = 256  # characters that neighbouring stretches share


def secret_finder() -> Finder:
    """Return a function that yields the secrets of a text.

    The detectors are asked one by one, without the package's filters, one of which drops lines that bear a comment, and
    without its verification, which sends what it finds to the service that the key belongs to.

    Raises:
        BackendMissing: detect-secrets is not installed.
    """
    detectors = _detectors()

    def secrets_in(stretch: str) -> Iterator[Match]:
        for value in {value for detector in detectors for value in _values(detector, stretch)}:
            for place in re.finditer(re.escape(value), stretch):
                yield place.start(), place.end(), "secret"

    remembered = Remembered(secrets_in)

    def find(text: str) -> Iterator[Match]:
        for pattern in (_PRIVATE_KEY, _KEY):
            for key in pattern.finditer(text):
                yield key.start(), key.end(), "secret"
        for offset, stretch in _stretches(text):
            for start, end, rule in remembered(stretch):
                yield *_whole_token(text, offset + start, offset + end), rule

    return find


def _detectors() -> list[Any]:
    try:
        from detect_secrets.core.plugins.util import (  # pyright: ignore[reportMissingImports]
            get_mapping_from_secret_type_to_class,
        )
    except ImportError as error:
        raise BackendMissing("Secrets need detect-secrets. Install it with: pip install detect-secrets") from error
    classes = cast("dict[str, Any]", get_mapping_from_secret_type_to_class())
    return [_Unquoted(), *(detector() for detector in classes.values() if detector.__name__ not in _UNUSED)]


class _Unquoted:
    """Finds passwords without quotes, as configuration files have them."""

    def __init__(self) -> None:
        from detect_secrets.plugins import keyword  # pyright: ignore[reportMissingImports]

        self._detector: Any = keyword.KeywordDetector()
        self._expressions: Any = keyword.CONFIG_DENYLIST_REGEX_TO_GROUP

    def analyze_string(self, text: str) -> Iterator[str]:
        """Yield values without white space that are long and hold a digit, as words of a sentence do not."""
        for value in cast("Iterator[object]", self._detector.analyze_string(text, self._expressions)):
            if isinstance(value, str) and _PASSWORD.fullmatch(value):
                yield value


def _values(detector: Any, stretch: str) -> Iterator[str]:
    """Yield what a detector finds; of strings that look random, those whose entropy exceeds its limit."""
    limit = getattr(detector, "entropy_limit", None)
    for value in cast("Iterator[object]", detector.analyze_string(stretch)):
        if isinstance(value, str) and value and (limit is None or detector.calculate_shannon_entropy(value) > limit):
            yield value


def _stretches(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text with their offsets, long ones in pieces that overlap."""
    offset = 0
    for line in text.splitlines(keepends=True):
        if len(line.strip()) >= _SHORTEST:
            for start, stretch in pieces(line, size=_STRETCH, shared=_SHARED):
                yield offset + start, stretch
        offset += len(line)


def _whole_token(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a stretch with the rest of the tokens at its ends: a detector may return a part of a key."""
    while start > 0 and text[start] in _TOKEN and text[start - 1] in _TOKEN:
        start -= 1
    while end < len(text) and text[end - 1] in _TOKEN and text[end] in _TOKEN:
        end += 1
    return start, len(text[:end].rstrip(".")) if text[end - 1] == "." else end
