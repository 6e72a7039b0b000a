"""Bulk work: many prompts, a bounded number at a time, each with an outcome of its own.

async with llama.map(prompts, concurrency=16, journal="answers.jsonl") as outcomes:
    async for outcome in outcomes:
        print(outcome.index, outcome.reply or outcome.error)

map_prompts  the same for any client that can chat
Bulk         the running work: an async iterator inside its block
Outcome      what became of one prompt: Answered or Failed
Tally        how far the work is
"""

from llama4sdk.bulk.asking import Chats
from llama4sdk.bulk.mapping import Bulk, map_prompts
from llama4sdk.bulk.outcome import Answered, Failed, Outcome, Tally

__all__ = ["Answered", "Bulk", "Chats", "Failed", "Outcome", "Tally", "map_prompts"]
