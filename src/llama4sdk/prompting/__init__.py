"""Prompts: the tokenizer, and the template that turns messages into token ids.

Nothing heavy is imported until a tokenizer is made.
"""

from llama4sdk.prompting.template import PromptTemplate, Rendered, TokenCount
from llama4sdk.prompting.tokenizer import Tokenizer

__all__ = ["PromptTemplate", "Rendered", "TokenCount", "Tokenizer"]
