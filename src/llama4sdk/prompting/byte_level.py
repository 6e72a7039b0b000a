"""The byte-level alphabet: one printable character for each of the 256 bytes.

Byte-level BPE vocabularies (GPT-2's and all of its descendants, Llama 4's among them) are stored as text.
Bytes that print as themselves in Latin-1 stand for themselves, the others are numbered upwards from U+0100.
"""

from __future__ import annotations


def _alphabet() -> dict[int, str]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    shifted = {byte: chr(0x100 + place) for place, byte in enumerate(others)}
    return {byte: shifted.get(byte, chr(byte)) for byte in range(256)}


ALPHABET = _alphabet()
_BYTES = {ord(char): byte for byte, char in ALPHABET.items()}


def to_chars(token: bytes) -> str:
    """Write the bytes of a token in the alphabet."""
    return token.decode("latin-1").translate(ALPHABET)


def to_bytes(chars: str) -> bytes:
    """Read a token written in the alphabet.

    Raises:
        KeyError: A character is not of the alphabet.
    """
    return bytes(_BYTES[ord(char)] for char in chars)
