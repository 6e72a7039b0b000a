"""The harm categories of Llama Guard 3 and 4, with short names of our own."""

from __future__ import annotations

from typing import Final

# After MLCommons' taxonomy of hazards; S14 is the abuse of a code interpreter.
HARMS: Final = {
    "S1": "violent-crime",
    "S2": "other-crime",
    "S3": "sex-crime",
    "S4": "child-abuse",
    "S5": "defamation",
    "S6": "professional-advice",
    "S7": "privacy",
    "S8": "intellectual-property",
    "S9": "mass-weapons",
    "S10": "hate",
    "S11": "self-harm",
    "S12": "sexual-content",
    "S13": "elections",
    "S14": "code-abuse",
}
