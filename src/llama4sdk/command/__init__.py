"""The command `llama4`, also `python -m llama4sdk`: chat, serve, plan, pack, pull, doctor, bench."""

from llama4sdk.command.app import main

__all__ = ["main"]
