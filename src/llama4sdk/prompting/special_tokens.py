"""Names of Llama 4's special tokens, in the order of their ids.

In Meta's tokenizer they follow the 200,000 text tokens: 2048 names from id 200000 on. A tokenizer with
another vocabulary may put the same names at other ids, so the rest of the SDK asks a `Tokenizer` for an id
by name and never writes a number down.
"""

from __future__ import annotations

BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
FIM_PREFIX = "<|fim_prefix|>"
FIM_MIDDLE = "<|fim_middle|>"
FIM_SUFFIX = "<|fim_suffix|>"
HEADER_START = "<|header_start|>"
HEADER_END = "<|header_end|>"
EOM = "<|eom|>"
EOT = "<|eot|>"
STEP = "<|step|>"
PYTHON_START = "<|python_start|>"
PYTHON_END = "<|python_end|>"
PAD = "<|finetune_right_pad|>"
IMAGE_START = "<|image_start|>"
IMAGE_END = "<|image_end|>"
TILE_X_SEPARATOR = "<|tile_x_separator|>"
TILE_Y_SEPARATOR = "<|tile_y_separator|>"
IMAGE = "<|image|>"
PATCH = "<|patch|>"
THINKING_START = "<|reasoning_thinking_start|>"
THINKING_END = "<|reasoning_thinking_end|>"

STOP_TOKENS = (END_OF_TEXT, EOM, EOT)
TURN_TOKENS = (BEGIN_OF_TEXT, HEADER_START, HEADER_END, EOT)  # without which no conversation is rendered
SPECIAL_TOKEN_COUNT = 2048


def published_special_tokens() -> tuple[str, ...]:
    """Return the 2048 names; the first stands at id 200000 of the published vocabulary."""
    named = (*_BASIC, *_text(), *_vision(), *_reasoning())
    return (*named, *_reserved("", 0, SPECIAL_TOKEN_COUNT - len(named)))


_BASIC = (BEGIN_OF_TEXT, END_OF_TEXT, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX)


def _text() -> tuple[str, ...]:  # ids 200005 to 200079
    group = "text_post_train_"
    turns = (HEADER_START, HEADER_END, EOM, EOT, STEP)
    # Numbers 6 and 7 were given up when the code tokens got their names.
    return (*turns, *_reserved(group, 0, 6), PYTHON_START, PYTHON_END, PAD, *_reserved(group, 8, 69))


def _vision() -> tuple[str, ...]:  # ids 200080 to 201133
    group = "vision_"
    return (
        *(IMAGE_START, IMAGE_END),
        *_reserved(group, 0, 2),
        *(TILE_X_SEPARATOR, TILE_Y_SEPARATOR),
        *_reserved(group, 2, 6),
        IMAGE,
        *_reserved(group, 6, 7),
        PATCH,
        *_reserved(group, 7, 1048),
    )


def _reasoning() -> tuple[str, ...]:  # ids 201134 to 201143
    return (*_reserved("reasoning_", 0, 8), THINKING_START, THINKING_END)


def _reserved(group: str, first: int, end: int) -> tuple[str, ...]:
    return tuple(f"<|{group}reserved_special_token_{number}|>" for number in range(first, end))
