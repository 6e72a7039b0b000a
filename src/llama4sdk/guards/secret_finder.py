"""Keys, tokens and passwords in a text, by the detectors of `detect-secrets`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

from llama4sdk.errors import BackendMissing

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
_TOKEN: Final = re.compile(r"[A-Za-z0-9_+/=~-]+(?:\.[A-Za-z0-9_+/=~-]+)*")  # a detector may return a part of a key
_SHORTEST: Final = 8  # characters of a line that can hold a secret
_PASSWORD: Final = re.compile(r"(?=\D*\d)\S{8,}")
_UNUSED: Final = {"IPPublicDetector"}  # addresses are no secrets
_STRETCH: Final = 4096  # characters of a line that are searched at once, since expressions may be slow on long ones
_SHARED: Final = 512  # characters that neighbouring stretches share; longer than any key without a line's end


def secret_finder() -> Finder:
    """Return a function that yields the secrets of a text.

    The detectors are asked one by one, without the package's filters, one of which drops lines that bear a comment, and
    without its verification, which sends what it finds to the service that the key belongs to.

    Raises:
        BackendMissing: detect-secrets is not installed.
    """
    detectors = _detectors()

    def find(text: str) -> Iterator[Match]:
        for pattern in (_PRIVATE_KEY, _KEY):
            for key in pattern.finditer(text):
                yield key.start(), key.end(), "secret"
        for offset, stretch in _stretches(text):
            values = {value for detector in detectors for value in _values(detector, stretch)}
            tokens = list(_TOKEN.finditer(stretch)) if values else []
            for start, end in (place for value in values for place in _places(stretch, value)):
                inside = [token for token in tokens if token.start() < end and start < token.end()]
                yield (
                    offset + min([start, *(token.start() for token in inside)]),
                    offset + max([end, *(token.end() for token in inside)]),
                    "secret",
                )

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
        for start in range(
            0 if len(line.strip()) >= _SHORTEST else len(line), max(1, len(line) - _SHARED), _STRETCH - _SHARED
        ):
            yield offset + start, line[start : start + _STRETCH]
        offset += len(line)


def _places(text: str, value: str) -> Iterator[tuple[int, int]]:
    place = text.find(value)
    while place >= 0:
        yield place, place + len(value)
        place = text.find(value, place + len(value))
