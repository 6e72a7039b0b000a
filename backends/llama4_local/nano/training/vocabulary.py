"""nano's tokenizer: byte-level BPE trained on its own data, with the published names of special tokens.

Words lie in the vocabulary without the space before them, so that a word is the same token in a question,
in a declaration and in a call, and copying it is easy for a small network. Only the commonest little words
carry their space. Digits stand alone; every byte has a token, so any text can be written.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from llama4_local.nano.training.data import mixture
from llama4sdk.messages import AssistantMessage
from llama4sdk.models import system_prompt
from llama4sdk.prompting import special_tokens as names
from llama4sdk.prompting.tool_format import with_declarations, write_calls

if TYPE_CHECKING:
    from collections.abc import Iterator

VOCABULARY = 2048
_CORPUS_SAMPLES = 40_000
_SPACED = (
    "a|an|the|is|are|am|was|of|in|on|at|to|for|from|with|and|or|that|this|it|what|which|how|who|where|do|does|did|can|could"
    "|you|your|me|my|I|there|have|has|not|no|be|by|as|about|many|picture|capital|name|remember|will|would|tell|shapes?"
)
_SIGN = r"[^\s\p{L}\p{M}\p{N}]"
_PATTERN = rf" (?:{_SPACED})(?![\p{{L}}\p{{M}}_])|[\p{{L}}\p{{M}}]+|\p{{N}}|{_SIGN}+(?: {_SIGN}+)* ?|\n\n|\s"
# Ids follow the text tokens in this order; those at the end are spare.
SPECIALS = (
    names.BEGIN_OF_TEXT,
    names.END_OF_TEXT,
    names.FIM_PREFIX,
    names.FIM_MIDDLE,
    names.FIM_SUFFIX,
    names.HEADER_START,
    names.HEADER_END,
    names.EOM,
    names.EOT,
    names.STEP,
    names.PYTHON_START,
    names.PYTHON_END,
    names.PAD,
    names.IMAGE_START,
    names.IMAGE_END,
    names.TILE_X_SEPARATOR,
    names.TILE_Y_SEPARATOR,
    names.IMAGE,
    names.PATCH,
    names.THINKING_START,
    names.THINKING_END,
    *(f"<|text_post_train_reserved_special_token_{number}|>" for number in range(6)),
    *(f"<|vision_reserved_special_token_{number}|>" for number in range(5)),
)


def train_tokenizer(seed: int = 0) -> Tokenizer:
    """Return nano's tokenizer, trained on the texts of the training data; the same for the same seed."""
    return tokenizer_of(_texts(seed), _PATTERN, VOCABULARY)


def tokenizer_of(texts: Iterator[str], pattern: str, size: int) -> Tokenizer:
    """Return a tokenizer with the published special tokens, trained on texts.

    Args:
        texts: What it is trained on.
        pattern: A regular expression of the pieces that no token reaches beyond.
        size: Tokens of the vocabulary, special ones included.
    """
    engine = Tokenizer(models.BPE(byte_fallback=False))
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    engine.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    engine.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=24,
    )
    engine.train_from_iterator(texts, trainer=trainer)
    engine.add_special_tokens(list(SPECIALS))
    if engine.get_vocab_size() != size:
        raise RuntimeError(f"The tokenizer has {engine.get_vocab_size()} tokens in place of {size}.")
    return engine


def _texts(seed: int) -> Iterator[str]:
    for name in ("nano", "Llama 4"):
        yield from [system_prompt(name)] * 20
    yield from ["system", "user", "assistant", "ipython", "\n\n"] * 1000
    for sample in islice(mixture(seed), _CORPUS_SAMPLES):
        for message in with_declarations(
            sample.messages, tools=sample.tools, choice=sample.choice, output=sample.output
        ):
            if message.text:
                yield message.text
            if isinstance(message, AssistantMessage) and message.tool_calls:
                yield write_calls(message.tool_calls)
