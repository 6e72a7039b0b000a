"""A step's batch as a message, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from llama4_local.ops.batch import Batch, PoolTable, Segment
from llama4_local.parallel.channel import Message

if TYPE_CHECKING:
    from llama4_local.cache.page_table import PoolName


def step_message(batch: Batch, cache: int) -> Message:
    """Return the message that lets another rank run the same step."""
    tensors = [batch.token_ids, batch.positions, batch.starts, batch.image_rows]
    for table in batch.tables.values():
        tensors += [table.slots, table.pages, table.context_lengths]
    if batch.image_features is not None:
        tensors.append(batch.image_features)
    fields = {
        "cache": cache,
        "segments": [[each.start, each.length, each.position] for each in batch.segments],
        "contexts": {pool: list(table.contexts) for pool, table in batch.tables.items()},
    }
    return Message("step", fields, tuple(tensor.cpu() for tensor in tensors))


def step_batch(message: Message) -> Batch:
    """Return the batch that a message was made of."""
    token_ids, positions, starts, image_rows, *rest = message.tensors
    tables: dict[PoolName, PoolTable] = {}
    for pool, contexts in message.fields["contexts"].items():
        slots, pages, lengths, *rest = rest
        tables[cast("PoolName", pool)] = PoolTable(slots, pages, tuple(contexts), lengths)
    return Batch(
        token_ids=token_ids,
        positions=positions,
        segments=tuple(Segment(*each) for each in message.fields["segments"]),
        starts=starts,
        tables=tables,
        image_rows=image_rows,
        image_features=rest[0] if rest else None,
    )
