"""The load of an engine, as the backend reports it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """The engine's load at the moment.

    Args:
        requests: Requests queued or running.
        waiting: Of these, those in the queue.
        global_pages: Cache pages in the tables of requests, of the global pool.
        local_pages: The same of the chunk-local pool.
    """

    requests: int = 0
    waiting: int = 0
    global_pages: int = 0
    local_pages: int = 0
