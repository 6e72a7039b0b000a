"""Tools: from functions to what the model is told, and from its text to calls."""

from llama4sdk.tools.calls import CallReader
from llama4sdk.tools.declared import Tool, ToolLike, declared, read_calls, specs_of, tool
from llama4sdk.tools.whole_text import CallsRead

__all__ = ["CallReader", "CallsRead", "Tool", "ToolLike", "declared", "read_calls", "specs_of", "tool"]
