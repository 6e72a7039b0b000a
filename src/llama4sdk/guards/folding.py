"""Texts in plain letters: without invisible characters, with what looks like Latin letters as these."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

# Control characters, characters without a width (UTS 39 lists them as ignorable), tag characters among them, the blank
# of Braille, and marks over letters.
_INVISIBLE: Final = (
    "\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u2800\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\u00ad\u0300-\u036f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\U000e0000-\U000e0fff"
)
# Letters of other scripts that look like Latin ones, pair by pair: Cyrillic, Greek, Armenian, Cherokee, Lisu, and the
# small capitals and variants of phonetic alphabets.
_PAIRS: Final = (
    "АA ВB ЕE КK МM НH ОO РP СC ТT ХX УY ІI ЈJ ЅS аa еe оo рp сc хx уy іi јj ѕs ԁd һh ԛq ԝw "
    "ΑA ΒB ΕE ΖZ ΗH ΙI ΚK ΜM ΝN ΟO ΡP ΤT ΥY ΧX οo νv ρp αa ιi κk "
    "օo սu հh զq ոn ցg յj ՏS ՕO Լl ᎪA ᏴB ᏟC ᎠD ᎬE ᏀG ᎻH ᎫJ ᏦK ᏞL ᎷM ᏢP ᎡR ᏚS ᎢT ᏙV ᎳW ᏃZ "
    "ꓐB ꓑP ꓓD ꓔT ꓖG ꓗK ꓙJ ꓚC ꓜZ ꓝF ꓟM ꓠN ꓡL ꓢS ꓣR ꓦV ꓧH ꓪW ꓫX ꓬY ꓮA ꓰE ꓲI ꓳO ꓴU "
    "ᴀa ʙb ᴄc ᴅd ᴇe ꜰf ɢg ʜh ɪi ᴊj ᴋk ʟl ᴍm ɴn ᴏo ᴘp ʀr ꜱs ᴛt ᴜu ᴠv ᴡw ʏy ᴢz ɑa ɡg ıi ȷj"
)
# Letters in filled circles and squares, which have no plain form by NFKC.
_FILLED: Final = {chr(first + place): chr(65 + place) for first in (0x1F150, 0x1F170) for place in range(26)}
_LOOKS_LIKE: Final = {pair[0]: pair[1] for pair in _PAIRS.split()} | _FILLED
_HIDDEN: Final = re.compile(f"[{_INVISIBLE}]")
# Full-width, small, raised and lowered forms, letters in circles or squares, and letters of mathematics stand for plain
# ones by NFKC.
_FORMS: Final = (
    "\u00b2\u00b3\u00b9\u02b0-\u02b8\u02e1-\u02e3\u1d2c-\u1d6a\u2070-\u209c\u2100-\u214f\u2160-\u217f\u2460-\u24ff\ufe50-\ufe6b\uff01-\uff5e"
    "\U0001d400-\U0001d7ff\U0001f110-\U0001f14f"
)
_ODD: Final = re.compile(f"[{_INVISIBLE}]+|[{''.join(_LOOKS_LIKE)}{_FORMS}]")


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded text.

    Args:
        text: The text.
        places: Offsets in the folded text, rising, with the offsets in the original that they stand for.
    """

    text: str
    places: Sequence[tuple[int, int]]

    def stretch(self, start: int, end: int) -> tuple[int, int]:
        """Return the stretch of the original that a stretch of the folded text stands for."""
        return self._original(start), self._original(end - 1) + 1 if end > start else self._original(start)

    def _original(self, offset: int) -> int:
        low, high = 0, len(self.places)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.places[middle][0] <= offset else (low, middle)
        folded, original = self.places[low]
        return original + offset - folded


def folded(text: str) -> Folded | None:
    """Return a text folded; None where there is nothing to fold."""
    if text.isascii() and not _HIDDEN.search(text):
        return None
    pieces: list[str] = []
    places: list[tuple[int, int]] = [(0, 0)]
    place = length = 0
    for odd in _ODD.finditer(text):
        plain = _plain(odd[0])
        pieces += [text[place : odd.start()], plain]
        length += odd.start() - place
        places.append((length, odd.start()))
        length += len(plain)
        place = odd.end()
        places.append((length, place))
    if len(places) == 1:
        return None
    pieces.append(text[place:])
    kept = [one for one, after in pairwise(places) if one[0] < after[0]] + places[-1:]
    return Folded("".join(pieces), kept)


def _plain(odd: str) -> str:
    if len(odd) > 1 or _HIDDEN.fullmatch(odd):
        return "".join(chr(ord(one) - 0xE0000) for one in odd if "\U000e0020" <= one <= "\U000e007e")
    plain = _LOOKS_LIKE.get(odd) or unicodedata.normalize("NFKC", odd)
    return plain[1] if len(plain) == 3 and plain[0] == "(" else plain  # a letter in parentheses is one character
